"""Photographs that are in the training set and in a held-out split: files of the same bytes."""

import collections
import contextlib
import hashlib
import os

import numpy as np

from alexnet_tf.data import sources
from alexnet_tf.utils import escaping

# Pairs that are named.
_MAX_LISTED = 5
# Bytes at the end of a file, which differ between almost all photographs of the same size.
_END = 4096
_BLOCK = 1 << 20


def describe(source: sources.Source) -> list[str]:
    """Returns a line for each held-out split that has photographs of the training set; none if they are not files."""
    train, lines = source.splits["train"], []
    for name, split in source.splits.items():
        if name == "train":
            continue
        pairs = find(train, split)
        if not pairs:
            continue
        shown = [f"{_name(split, own, source)} is {_name(train, other, source)}" for own, other in pairs[:_MAX_LISTED]]
        others = sum(bool(split.labels[own] != train.labels[other]) for own, other in pairs)
        place = f"{'is' if len(pairs) == 1 else 'are'} also in the training set, with the same bytes"
        lines.append(
            f"{len(pairs)} of the {len(split.labels)} {name} images {place}"
            + (f" and {others} of them with another label" if others else "")
            + f", which makes the {name} error optimistic: {', '.join(shown)}{', ...' * (len(pairs) > _MAX_LISTED)}"
        )
    return lines


def _name(split, index, source):
    return escaping.one_line(split.name_of(index).removeprefix(f"{source.root}/"))


def find(train: sources.Split, held_out: sources.Split) -> list[tuple[int, int]]:
    """Finds the files of one split that have the same bytes as a file of another.

    Only files of the same size and with the same end are read completely.

    Args:
      train, held_out: the splits.

    Returns:
      Pairs of the index of a held-out file and that of the first training file of the same bytes; an empty list if the
      photographs are not files.
    """
    if not (train.file_of and held_out.file_of):
        return []
    sizes, own_sizes = train.sizes(), held_out.sizes()
    shared = np.intersect1d(sizes[sizes > 0], own_sizes)
    by_end = collections.defaultdict(list)
    for index in np.flatnonzero(np.isin(sizes, shared)).tolist():
        if end := _end(train.file_of(index)):
            by_end[sizes[index], end].append(index)
    pairs = []
    for own in np.flatnonzero(np.isin(own_sizes, shared)).tolist():
        path = held_out.file_of(own)
        candidates = by_end.get((own_sizes[own], _end(path)), [])
        digest = candidates and _digest(path)
        same = (other for other in candidates if digest and _digest(train.file_of(other)) == digest)
        if (other := next(same, None)) is not None:
            pairs.append((own, other))
    return pairs


def _end(path):
    """Returns a digest of the end of a file; empty if it cannot be read, which its reader reports."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        file.seek(-min(_END, os.fstat(file.fileno()).st_size), os.SEEK_END)
        return hashlib.blake2b(file.read(), digest_size=16).digest()
    return b""


def _digest(path):
    digest = hashlib.blake2b(digest_size=32)
    with contextlib.suppress(OSError), open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
        return digest.digest()
    return b""
