"""Reads the JSON and npz files that the package writes, and checks that they are what was written.

The expected structure of a file is an object of one of the classes below, such as
``Object({"step": Number(low=0, integer=True), "names": List(Text())})``. Whatever is wrong with a file, the reader
raises a ValueError of one line that names the file and the place within it. This module does not load TensorFlow.
"""

import hashlib
import json
import math
import os
import reprlib
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any
from typing import NamedTuple
from typing import Protocol

import numpy as np

# Errors that NumPy raises for a file that is not a complete archive of arrays: a TypeError for a single array, a
# RuntimeError for apparent encryption or an unknown compression, a MemoryError or an OverflowError for an array that
# claims to be larger than memory, a TokenError for an array description without an end.
_NUMPY_ERRORS = (
    *(OSError, ValueError, KeyError, EOFError, TypeError, RuntimeError, MemoryError, OverflowError),
    *(AttributeError, IndexError, SyntaxError),
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError),
)
# The key of an object that contains the checksum of all other keys.
SEAL = "sha256"
# Larger numbers overflow when they are added, multiplied or formatted.
_MAX_INTEGER, _MAX_NUMBER = 2**63 - 1, 1e100

_repr = reprlib.Repr()
_repr.maxlevel, _repr.maxdict, _repr.maxlist, _repr.maxstring, _repr.maxlong = 2, 3, 3, 40, 40


class Structure(Protocol):
    """What a value must be."""

    def problem(self, value: Any, place: str) -> str:
        """Returns what is wrong with a value at a place in a file, such as ``splits.train``; empty if nothing is."""


class Anything(NamedTuple):
    """Any value."""

    def problem(self, value: Any, place: str) -> str:
        return ""


class Number(NamedTuple):
    """A finite number in a range."""

    low: float = -math.inf
    high: float = math.inf
    integer: bool = False
    positive: bool = False

    def problem(self, value: Any, place: str) -> str:
        kind = "an integer" if self.integer else "a number"
        if isinstance(value, bool) or not isinstance(value, int if self.integer else (int, float)):
            return f"{_describe(value, place)}, not {kind}"
        return "" if self.fit([value]) else f"{_describe(value, place)}, not {kind} {self._range(value)}"

    def _range(self, value):
        if abs(value) > (_MAX_INTEGER if self.integer else _MAX_NUMBER) and abs(value) != math.inf:
            return "of a usual size"
        if self.positive:
            return "above 0"
        if self.low == -math.inf:
            return "that is finite"
        return f"of at least {self.low:g}" if self.high == math.inf else f"from {self.low:g} to {self.high:g}"

    def fit(self, values: list) -> bool:
        """Returns whether all values fit, without the time of a call for each; False if that takes a closer look."""
        if not set(map(type, values)) <= ({int} if self.integer else {int, float}):
            return False
        limit = _MAX_INTEGER if self.integer else _MAX_NUMBER
        # Comparisons with NaN are false.
        if not all(-limit <= value <= limit for value in values):
            return False
        smallest, largest = min(values, default=1), max(values, default=1)
        return not values or (
            self.low <= smallest and largest <= self.high and (not self.positive or smallest >= 1 / _MAX_NUMBER)
        )


class Text(NamedTuple):
    """A string; one of `choices` if there are any."""

    choices: tuple[str, ...] = ()

    def problem(self, value: Any, place: str) -> str:
        if not isinstance(value, str):
            return f"{_describe(value, place)}, not text"
        if self.choices and value not in self.choices:
            return f"{_describe(value, place)}, not one of {', '.join(self.choices)}"
        return ""

    def fit(self, values: list) -> bool:
        """As `Number.fit`."""
        return not self.choices and set(map(type, values)) <= {str}


class Truth(NamedTuple):
    """True or false."""

    def problem(self, value: Any, place: str) -> str:
        return "" if isinstance(value, bool) else f"{_describe(value, place)}, not true or false"


class Nullable(NamedTuple):
    """Null or a value of a structure."""

    structure: Structure

    def problem(self, value: Any, place: str) -> str:
        return "" if value is None else self.structure.problem(value, place)


class List(NamedTuple):
    """A list of values of the same structure, of any length or a given one."""

    item: Structure = Anything()
    length: int | None = None

    def problem(self, value: Any, place: str) -> str:
        if not isinstance(value, list):
            return f"{_describe(value, place)}, not a list"
        if self.length is not None and len(value) != self.length:
            return f"{_describe(value, place)}, not a list of {self.length}"
        if hasattr(self.item, "fit") and self.item.fit(value):
            return ""
        found = (self.item.problem(each, f"{place}[{number}]") for number, each in enumerate(value))
        return next(filter(None, found), "")


class Map(NamedTuple):
    """An object with any keys, some of which may be required, whose values have the same structure."""

    value: Structure = Anything()
    required: tuple[str, ...] = ()

    def problem(self, value: Any, place: str) -> str:
        if not isinstance(value, dict):
            return f"{_describe(value, place)}, not an object"
        if missing := [name for name in self.required if name not in value]:
            return f"no {missing[0]!r}{f' in {place}' if place else ''}"
        return next(filter(None, (self.value.problem(each, _inside(place, key)) for key, each in value.items())), "")


class Object(NamedTuple):
    """An object with required and optional keys. Other keys, which a later version may add, are allowed."""

    required: Mapping[str, Structure]
    optional: Mapping[str, Structure] = {}

    def problem(self, value: Any, place: str) -> str:
        if not isinstance(value, dict):
            return f"{_describe(value, place)}, not an object"
        for name, structure in {**self.required, **self.optional}.items():
            if name in value:
                if found := structure.problem(value[name], _inside(place, name)):
                    return found
            elif name in self.required:
                return f"no {name!r}{f' in {place}' if place else ''}"
        return ""


class Array(NamedTuple):
    """A NumPy array."""

    kinds: str  # of ``numpy.dtype.kind``, such as "iu"
    shape: tuple[int | None, ...] | None = None  # None for any, or for any size of an axis
    low: float = -math.inf  # of all numbers, which are finite
    high: float = math.inf

    def problem(self, value: np.ndarray, place: str) -> str:
        """As `Structure.problem`."""
        if value.dtype.kind not in self.kinds:
            return f"{place} of type {value.dtype}"
        if not self._has_shape(value.shape):
            return f"{place} of shape {list(value.shape)}, not {list(self.shape)}"
        if value.dtype.kind in "iuf" and value.size:
            # Comparisons with NaN are false.
            if not (self.low <= value.min() and value.max() <= self.high and np.isfinite(value).all()):
                limits = f"from {self.low:g} to {self.high:g}" if self.high < math.inf else "that are finite"
                return f"{place} from {value.min()} to {value.max()}, not numbers {limits}"
        return ""

    def _has_shape(self, shape):
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(size in (None, own) for size, own in zip(self.shape, shape))


def _describe(value, place):
    return f"{place} = {_repr.repr(value)}" if place else _repr.repr(value)


def _inside(place, key):
    key = key if key.isidentifier() else _repr.repr(key)
    return f"{place}.{key}" if place else key


def check(value: Any, structure: Structure, what: str, where: str | os.PathLike, remedy: str = "") -> None:
    """Checks a value that was read from a file.

    Args:
      value: of JSON.
      structure: the expected structure.
      what: the expected contents, such as "the classes", for the message.
      where: the path of the file.
      remedy: what to do, for the end of the message.

    Raises:
      ValueError: if the value has another structure.
    """
    if found := structure.problem(value, ""):
        raise error(what, where, found, remedy)


def error(what: str, where: str | os.PathLike, received: object, remedy: str = "") -> ValueError:
    """Returns the ValueError for a file that is not as expected: one line; see `check` for the arguments."""
    received = " ".join(str(received).split()) or type(received).__name__
    return ValueError(f"Expected {what} in {where}. Received: {received}{'; ' * bool(remedy)}{remedy}")


def parse(text: str | bytes, structure: Structure, what: str, where: str | os.PathLike, remedy: str = "") -> Any:
    """Returns the value of a JSON text.

    Args:
      text: the text, or its bytes in UTF-8.
      structure, what, where, remedy: as in `check`.

    Raises:
      ValueError: if it is not JSON, is nested deeper than Python's parser allows, or has another structure.
    """
    try:
        value = json.loads(text.decode("utf-8") if isinstance(text, bytes) else text)
    except UnicodeDecodeError as failed:
        raise error(what, where, f"bytes that are not UTF-8, at {failed.start}", remedy) from None
    except ValueError as failed:
        # Also for a number with more digits than Python converts.
        raise error(what, where, f"text that is not JSON ({failed})", remedy) from None
    except RecursionError:
        raise error(what, where, "JSON that is nested too deeply", remedy) from None
    check(value, structure, what, where, remedy)
    return value


def read_json(path: str | os.PathLike, structure: Structure, what: str, remedy: str = "") -> Any:
    """Returns the value in a JSON file.

    Args:
      path: path of the file.
      structure, what, remedy: as in `check`.

    Raises:
      OSError: if the file cannot be read.
      ValueError: as `parse`.
    """
    with open(path, "rb") as file:
        content = file.read()
    return parse(content, structure, what, path, remedy)


def read_npz(
    path: str | os.PathLike,
    arrays: Mapping[str, Array],
    what: str,
    remedy: str = "",
    *,
    optional: Mapping[str, Array] | None = None,
) -> dict[str, np.ndarray]:
    """Returns arrays of an npz file by name. Nothing is unpickled, and zip's own checksums are compared.

    Args:
      path: path of the file.
      arrays: the expected arrays by name; others are not read.
      what, remedy: as in `check`.
      optional: arrays that may be missing.

    Raises:
      FileNotFoundError: if there is no file.
      ValueError: if it is damaged, or an array is missing or is not as expected.
    """
    optional = optional or {}
    try:
        # Opened here, because NumPy does not close a file that it cannot read.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            missing = [name for name in arrays if name not in archive.files]
            if missing:
                raise ValueError(f"no {missing[0]!r}")
            names = [*arrays, *(name for name in optional if name in archive.files)]
            found = {name: archive[name] for name in names}
        problems = ((arrays | optional)[name].problem(value, name) for name, value in found.items())
        if problem := next(filter(None, problems), ""):
            raise ValueError(problem)
        return found
    except FileNotFoundError:
        raise
    except _NUMPY_ERRORS as failed:
        raise error(what, path, failed, remedy) from None


def read_array(path: str | os.PathLike, what: str) -> np.ndarray:
    """Returns the array in an npy file. Nothing is unpickled.

    Args:
      path: path of the file.
      what: as in `check`.

    Raises:
      FileNotFoundError: if there is no file.
      ValueError: if it is damaged, or another kind of file.
    """
    try:
        with open(path, "rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except FileNotFoundError:
        raise
    except _NUMPY_ERRORS as failed:
        raise error(what, path, failed) from None


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an object for JSON with a checksum of itself, under the key `SEAL`; `check_seal` compares it."""
    values = {name: value for name, value in values.items() if name != SEAL}
    return {**values, SEAL: hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()}


def check_seal(values: Mapping[str, Any], what: str, where: str | os.PathLike, remedy: str = "") -> None:
    """Checks that an object is as `sealed` returned it. One without a checksum, of an older version, passes.

    Raises:
      ValueError: if it differs.
    """
    if SEAL in values and sealed(values)[SEAL] != values[SEAL]:
        raise error(what, where, "contents that differ from those that were written", remedy)
