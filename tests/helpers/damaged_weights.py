"""Checks readers of weight files on damaged and hostile files."""

import time
import tracemalloc

import mutations
import pytest

from alexnet_tf.weights import contents

# Of what a reader needs besides the arrays: its buffers and an index of the fields.
CONSTANT = 8 << 20


def check_refused(read, path, content, message="Expected"):
    """Checks that a file is refused with one line that names it."""
    path.write_bytes(content)
    with pytest.raises(contents.FormatError, match=message) as caught:
        measured(read, path)
    check_line(caught.value, path)


def check_line(error, path):
    text = str(error)
    assert "\n" not in text and "\x1b" not in text and len(text) < 1000, text
    assert path.name in text, text


def measured(read, path):
    """Reads a file; its arrays and buffers may take twice its size and a constant."""
    tracemalloc.start()
    try:
        return read(path)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2 * path.stat().st_size + CONSTANT, f"{peak:,} bytes for {path.stat().st_size:,}"


def check_mutations(read, path, content, count=200):
    """Reads damaged versions of a file: each is refused with one line, or read. Returns how many are refused."""
    refused = 0
    for version in mutations.of_bytes(content, count):
        path.write_bytes(version)
        start = time.monotonic()
        try:
            found = measured(read, path)
            assert all(array.dtype.kind in "fiub" for array in found.arrays.values())
        except contents.FormatError as error:
            check_line(error, path)
            refused += 1
        assert time.monotonic() - start < 5
    return refused
