"""Measures sides in alternation, in this process or each in a process of its own.

A side is one of the implementations that a row compares. Sides take turns, round by round, so that other load on the
machine affects all of them. Each turn starts its side anew and closes it at the end, so that no side prefetches during
another's turn. The first round, and the first calls of each turn, are not counted.
"""

import contextlib
import importlib
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

from alexnet_tf import config

# Starts a generator that does one piece of work per step and yields its amount, such as a number of images.
Side = Callable[[], Iterator[float]]

# How a value is compared with its target.
AT_LEAST, AT_MOST, EXACTLY = "at least", "at most", "exactly"
# Relative tolerance of `EXACTLY`.
TOLERANCE = 1e-3
# Calls that are queued before the device is waited for, as many as training has steps between two reports.
MIN_QUEUED = 20
# Queued calls are counted once this many of them in a row have taken equally long, up to a factor.
STEADY_CALLS, STEADY_FACTOR = 3, 1.2
# At most this many calls, or seconds, are waited for that.
MAX_WARM_UP, MAX_WARM_UP_SECONDS = 30, 60.0


class NotRunError(Exception):
    """A row cannot be measured here; the message is the reason."""


class Request(NamedTuple):
    """What to measure, and how thoroughly."""

    config: config.Config
    data_dirs: tuple[str, ...] = ()  # prepared data sets, at most one of JPEG records and one of raw records
    rounds: int = 7  # counted rounds, after one that is not counted
    seconds: float = 2.0  # minimum length of a side's turn, which has at least one piece of work
    batches: tuple[int, ...] = ()  # batch sizes of the row gpu
    keep: Callable[["Result"], None] = lambda result: None  # called with what a row has measured before it ends


class Ratio(NamedTuple):
    """The ratio of two sides' rates."""

    numerator: str
    denominator: str
    target: float | None = None  # None for no target
    bound: str = AT_LEAST


class Value(NamedTuple):
    """A value that is not a ratio of two rates."""

    name: str
    value: float
    unit: str
    target: float | None = None
    bound: str = AT_LEAST


class Result(NamedTuple):
    """The measurements of a row."""

    description: str
    unit: str
    rates: dict[str, list[float]]  # by side, one rate per round
    ratios: list[Ratio]
    notes: list[str] = []  # such as which sides are missing and why
    values: list[Value] = []

    def to_dict(self) -> dict[str, Any]:
        """Returns a dict for JSON, with the median of each side and the median and range of each ratio over rounds."""
        ratios = []
        for ratio in self.ratios:
            values = [a / b for a, b in zip(self.rates[ratio.numerator], self.rates[ratio.denominator])]
            median = statistics.median(values)
            summary = {"median": median, "min": min(values), "max": max(values)}
            ratios.append({**ratio._asdict(), **summary, "is_met": is_met(median, ratio.target, ratio.bound)})
        return {
            "description": self.description,
            "unit": self.unit,
            "medians": {side: statistics.median(rates) for side, rates in self.rates.items()},
            "rates": self.rates,
            "ratios": ratios,
            "values": [
                {**each._asdict(), "is_met": is_met(each.value, each.target, each.bound)} for each in self.values
            ],
            "notes": list(self.notes),
        }


def is_met(value: float, target: float | None, bound: str) -> bool | None:
    """Returns whether a value meets its target; None without a target."""
    if target is None:
        return None
    return {
        AT_LEAST: value >= target,
        AT_MOST: value <= target,
        EXACTLY: abs(value - target) <= TOLERANCE * abs(target),
    }[bound]


def interleave(sides: Mapping[str, Side], *, rounds: int, seconds: float, warm_up: int) -> dict[str, list[float]]:
    """Measures sides in alternation.

    Args:
      sides: dict of `Side` by name.
      rounds: int, number of counted rounds, after one that is not counted.
      seconds: float, minimum length of a turn.
      warm_up: int, pieces of work at the start of each counted turn that are not counted.

    Returns:
      A dict by name of lists of rates, the amount of work per second in each round.
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
    start = time.perf_counter()
    while not amount or time.perf_counter() - start < seconds:
        amount += next(work)
    return amount / (time.perf_counter() - start)


class Queued(NamedTuple):
    """The speed of calls that a device takes one after the other."""

    rates: list[float]  # amount of work per second in each round
    first_seconds: float  # of the first call, which traces and compiles


def queued(
    calls: Mapping[str, Callable[[], Any]],
    synchronize: Callable[[], Any],
    amount: float,
    *,
    rounds: int,
    seconds: float,
    skipped: int = 0,
) -> dict[str, Queued]:
    """Measures calls that a device is given without waiting for the previous ones, as a training loop does.

    The calls are first waited for one by one, until they take equally long: compiling and choosing algorithms are over.

    Args:
      calls: functions by name that return before the device has done their work.
      synchronize: waits for the device.
      amount: work done per call, such as a number of images.
      rounds: number of rounds, in each of which all functions take turns.
      seconds: minimum length of a turn, which has at least `MIN_QUEUED` calls.
      skipped: calls at the start of each turn that are not counted.

    Returns:
      A dict of `Queued` by name.
    """
    warm_ups = {name: _warm_up(call, synchronize) for name, call in calls.items()}
    rates = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            count = max(MIN_QUEUED, math.ceil(seconds / warm_ups[name][-1]))
            for _ in range(skipped):
                call()
            synchronize()
            start = time.perf_counter()
            for _ in range(count):
                call()
            synchronize()
            rates[name].append(count * amount / (time.perf_counter() - start))
    return {name: Queued(rates[name], warm_ups[name][0]) for name in calls}


def _warm_up(call, synchronize):
    """Calls until calls take equally long; returns the seconds of each."""
    durations = []
    while len(durations) < MAX_WARM_UP and sum(durations) < MAX_WARM_UP_SECONDS and not _is_steady(durations):
        start = time.perf_counter()
        call()
        synchronize()
        durations.append(time.perf_counter() - start)
    return durations


def _is_steady(durations):
    # The first call compiles.
    last = durations[1:][-STEADY_CALLS:]
    return len(last) == STEADY_CALLS and max(last) <= STEADY_FACTOR * min(last)


def merge(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merges the dicts of one row measured in several processes, whose sides and values have different names."""
    merged = dict(rows[0])
    for row in rows[1:]:
        for key in ("medians", "rates"):
            merged[key] = {**merged[key], **row[key]}
        for key in ("ratios", "values", "notes"):
            merged[key] = [*merged[key], *(each for each in row[key] if each not in merged[key])]
    return merged


@contextlib.contextmanager
def in_subprocesses(*builds: tuple) -> Iterator[dict[str, Side]]:
    """Runs sides in other processes, with the default threads and settings of their libraries.

    The programs set TensorFlow's threads and options for our network, and a process has only one set of them. A call
    to a side in another process costs one message there and back, tens of microseconds.

    Args:
      *builds: one tuple per process, all of which start at once: a module's function that returns a dict of `Side` by
        name, and its arguments, which must be picklable.

    Yields:
      A dict of all sides, in the order of the builds; they are valid until the end of the context.

    Raises:
      ChildProcessError: if a process fails, with its error.
    """
    with contextlib.ExitStack() as context:
        started = [context.enter_context(_process(*build)) for build in builds]
        yield {name: work for sides in started for name, work in sides().items()}


@contextlib.contextmanager
def _process(build, *arguments):
    """Starts one process of `in_subprocesses`; yields a function that waits for its sides and returns them."""
    context = multiprocessing.get_context("spawn")
    connection, other_end = context.Pipe()
    # The module is passed by name: unpickling it would import it before the process has silenced TensorFlow.
    what = (build.__module__, build.__qualname__, arguments)
    process = context.Process(target=_serve, args=(other_end, *what), daemon=True)
    process.start()
    other_end.close()

    def call(message=None):
        try:
            if message is not None:
                connection.send(message)
            answer = connection.recv()
        except (EOFError, OSError):
            raise ChildProcessError(f"The process of {build.__qualname__} exited unexpectedly") from None
        if isinstance(answer, str):
            raise ChildProcessError(f"{build.__qualname__} failed in its process: {answer}")
        return answer

    def side(name):
        def work():
            call(["start", name])
            while True:
                yield call(["next"])

        return work

    try:
        yield lambda: {name: side(name) for name in call()}
    finally:
        connection.close()
        process.join(timeout=10)
        process.kill()
        process.join()
        process.close()


def _serve(connection, module, name, arguments):
    """Runs in the process of `in_subprocesses`; an answer of type str is an error."""
    # TensorFlow writes to standard error when it is imported.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        sides = getattr(importlib.import_module(module), name)(*arguments)
        connection.send(list(sides))
        work = None
        while True:
            command, *rest = connection.recv()
            if command == "start":
                if work is not None:
                    work.close()
                work = sides[rest[0]]()
                connection.send(0)
            else:
                connection.send(next(work))
    except EOFError:
        # The context has ended.
        return
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")
