"""How sides are measured against each other: in turns, in this process or each in one of its own.

Sides take turns, round by round, so that what else happens on the machine happens to all of them. A side begins each of
its turns anew and is closed behind it, so that nothing is read ahead in another's time; the first pieces of work of a
turn and the whole first round are not counted.
"""

import contextlib
import importlib
import multiprocessing
import os
import statistics
import time
from typing import NamedTuple

from alexnet_tf import config as configuration

# What a found value may be beside what the design wants: one of them.
AT_LEAST, AT_MOST, EXACTLY = "at least", "at most", "exactly"
# Of a measured share that is to be exact.
TOLERANCE = 1e-3


class NotRunError(Exception):
    """A row that cannot be measured here; the message is the reason."""


class Request(NamedTuple):
    """What is to be measured, and how thoroughly."""

    config: configuration.Config
    data_dirs: tuple = ()  # of prepared data sets, at most one of JPEG records and one of raw ones
    rounds: int = 7  # that are counted, after one that is not
    seconds: float = 2.0  # a side's turn, at least; a whole number of pieces of work, be it one


class Ratio(NamedTuple):
    """One side against another."""

    above: str
    below: str
    reach: float | None = None  # what the design wants; None where nothing is claimed
    bound: str = AT_LEAST  # how the ratio is to stand to it


class Figure(NamedTuple):
    """A value that is no ratio of two rates."""

    what: str
    value: float
    unit: str
    reach: float | None = None
    bound: str = AT_LEAST


class Result(NamedTuple):
    """What a row found."""

    what: str
    unit: str
    rates: dict  # by side: a list of floats, one a round
    ratios: list  # of `Ratio`
    notes: list = []  # of str: sides that are missing and why
    figures: list = []  # of `Figure`


def is_reached(value, reach, bound):
    """Whether a value is what the design wants; None where it wants nothing."""
    if reach is None:
        return None
    return {
        AT_LEAST: value >= reach,
        AT_MOST: value <= reach,
        EXACTLY: abs(value - reach) <= TOLERANCE * abs(reach),
    }[bound]


def as_dict(result):
    """A `Result` for machines: each side's rates and median, each ratio's median, least and most over the rounds."""
    ratios = []
    for ratio in result.ratios:
        values = [a / b for a, b in zip(result.rates[ratio.above], result.rates[ratio.below])]
        median = statistics.median(values)
        found = {"median": median, "least": min(values), "most": max(values)}
        ratios.append({**ratio._asdict(), **found, "reached": is_reached(median, ratio.reach, ratio.bound)})
    return {
        "what": result.what,
        "unit": result.unit,
        "medians": {side: statistics.median(rates) for side, rates in result.rates.items()},
        "rates": result.rates,
        "ratios": ratios,
        "figures": [
            {**each._asdict(), "reached": is_reached(each.value, each.reach, each.bound)} for each in result.figures
        ],
        "notes": list(result.notes),
    }


def interleave(sides, *, rounds, seconds, warm_up):
    """Measures sides in turns.

    Args:
      sides: dict of functions by name; each returns a generator that does one piece of work a time and yields how
        much that was, such as how many images.
      rounds: int, that are counted; one more goes before.
      seconds: float, the least length of a turn.
      warm_up: int, pieces of work at the start of a turn that are not counted; none in the round that is not.

    Returns:
      A dict by name of work a second, a list with a float a round.
    """
    rates = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, start in sides.items():
            with contextlib.closing(start()) as work:
                rate = _rate(work, seconds, warm_up if number else 0)
            if number:
                rates[name].append(rate)
    return rates


def _rate(work, seconds, warm_up):
    for _ in range(warm_up):
        next(work)
    amount = 0
    began = time.perf_counter()
    while not amount or time.perf_counter() - began < seconds:
        amount += next(work)
    return amount / (time.perf_counter() - began)


@contextlib.contextmanager
def elsewhere(*builds):
    """Sides in processes of their own, with the threads and settings that their library has by default.

    The programs give TensorFlow's threads and operations settings that suit our network, and a process has but one
    set. A piece of work begun there waits for nothing but a message, tens of microseconds.

    Args:
      *builds: a tuple for each process, all of which start at once: a function of a module that returns a dict of
        sides, as `interleave` takes them, and its arguments, that can be pickled.

    Yields:
      A dict of the sides of all, in the order of the builds, that do their work there; until the end of the context.

    Raises:
      ChildProcessError: with what went wrong there.
    """
    with contextlib.ExitStack() as context:
        started = [context.enter_context(_process(*build)) for build in builds]
        yield {name: work for sides in started for name, work in sides().items()}


@contextlib.contextmanager
def _process(build, *arguments):
    """One process of `elsewhere`; yields a function that waits for it and returns its sides."""
    context = multiprocessing.get_context("spawn")
    connection, other_end = context.Pipe()
    # By name, or the module would be imported before the process is silent.
    what = (build.__module__, build.__qualname__, arguments)
    process = context.Process(target=_serve, args=(other_end, *what), daemon=True)
    process.start()
    other_end.close()

    def ask(message=None):
        try:
            if message is not None:
                connection.send(message)
            answer = connection.recv()
        except (EOFError, OSError):
            raise ChildProcessError(
                f"Expected {build.__qualname__} to go on in its process. Received: its end"
            ) from None
        if isinstance(answer, str):
            raise ChildProcessError(f"Expected {build.__qualname__} to work in its process. Received: {answer}")
        return answer

    def side(name):
        def work():
            ask(["begin", name])
            while True:
                yield ask(["next"])

        return work

    try:
        yield lambda: {name: side(name) for name in ask()}
    finally:
        connection.close()
        process.join(timeout=10)
        process.kill()
        process.join()
        process.close()


def _serve(connection, module, name, arguments):
    """The other end of `elsewhere`: an answer is a str if it is an error."""
    # TensorFlow writes to standard error when it is loaded.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        sides = getattr(importlib.import_module(module), name)(*arguments)
        connection.send(list(sides))
        work = None
        while True:
            order, *rest = connection.recv()
            if order == "begin":
                if work is not None:
                    work.close()
                work = sides[rest[0]]()
                connection.send(0)
            else:
                connection.send(next(work))
    except EOFError:
        # The measurement is over.
        return
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")
