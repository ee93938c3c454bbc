"""Damaged and malformed versions of a file, always the same ones: other types, other values, other bytes."""

import copy
import io
import json
import random

import numpy as np

# What another program, or a person with an editor, may leave in the place of a value.
OTHERS = (None, True, -1, 0, 10**30, 1e308, float("nan"), "text", "a\x1b[31m\nb", [], {}, [[]], [{"a": None}])
ARRAYS = {
    "nan": lambda array: np.full(array.shape, np.nan),
    "huge": lambda array: np.full(array.shape, 1e300),
    "negative": lambda array: np.full(array.shape, -1),
    "zero": lambda array: np.zeros(array.shape, array.dtype),
    "text": lambda array: np.full(array.shape, "text"),
    "bytes": lambda array: np.full(array.shape, b"text"),
    "truth": lambda array: np.ones(array.shape, bool),
    "complex": lambda array: np.ones(array.shape, complex),
    "dates": lambda array: np.zeros(array.shape, "M8[s]"),
    "flat": lambda array: array.reshape(-1)[:1],
    "empty": lambda array: array.reshape(-1)[:0],
    "scalar": lambda array: array.reshape(-1)[0] if array.size else np.float64(0),
    "deep": lambda array: array[None],
    "object": lambda array: np.array([None], object),
}


def _places(value, path=()):
    """Yields the path of every value within a JSON value."""
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in pairs:
        yield from _places(each, (*path, key))


def _changed(value, path, new, *, remove=False):
    if not path:
        return new
    value = copy.deepcopy(value)
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    if remove:
        del parent[path[-1]]
    else:
        parent[path[-1]] = new
    return value


def of_json(content, count):
    """Returns `count` texts with another value, or none, somewhere in a JSON text: all of them if there are fewer."""
    value = json.loads(content)
    found = []
    for path in _places(value):
        found += [json.dumps(_changed(value, path, new)).encode() for new in OTHERS]
        if path:
            found.append(json.dumps(_changed(value, path, None, remove=True)).encode())
    # A zero in the place of a zero is no change.
    found = [text for text in found if text != json.dumps(value).encode()]
    return random.Random(0).sample(found, min(count, len(found)))


def of_lines(content, count):
    """As `of_json`, for a line of a file of JSON lines."""
    lines = content.splitlines(keepends=True)
    chosen = random.Random(0)
    found = []
    for number, line in enumerate(lines):
        for changed in of_json(line, 40):
            found.append(b"".join([*lines[:number], changed + b"\n", *lines[number + 1 :]]))
    return chosen.sample(found, min(count, len(found)))


def of_bytes(content, count):
    """Returns `count` versions with some bytes changed, zeroed, removed or added; all differ from the original."""
    chosen = random.Random(0)
    found = [b"", b"\0" * len(content), b"[" * 100_000, content[: len(content) // 2], content[1:]]
    while len(found) < count:
        place, length = chosen.randrange(len(content)), chosen.choice((1, 4, 16))
        changed = bytearray(content)
        change = chosen.choice(("zero", "flip", "cut", "add", "remove"))
        if change == "zero":
            changed[place : place + length] = bytes(len(changed[place : place + length]))
        elif change == "flip":
            changed[place] ^= 1 << chosen.randrange(8)
        elif change == "cut":
            del changed[place:]
        elif change == "add":
            changed[place:place] = chosen.randbytes(length)
        else:
            del changed[place : place + length]
        if changed != content:
            found.append(bytes(changed))
    return found


def of_npz(content):
    """Returns archives with another array, or none, in the place of each."""
    with np.load(io.BytesIO(content)) as archive:
        arrays = dict(archive)
    found = []
    for name, array in arrays.items():
        for change in ARRAYS.values():
            found.append(_npz({**arrays, name: change(array)}))
        found.append(_npz({other: each for other, each in arrays.items() if other != name}))
    return [version for version in found if version != content]


def _npz(arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()
