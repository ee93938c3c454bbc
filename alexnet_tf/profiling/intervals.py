"""Sets of intervals: lists of (start, end), here in microseconds."""

import math
from collections.abc import Iterable

Interval = tuple[float, float]


def merge(intervals: Iterable[Interval]) -> list[Interval]:
    """Returns the union of intervals: disjoint, ascending, without empty ones."""
    merged = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif end > start:
            merged.append((start, end))
    return merged


def intersect(first: Iterable[Interval], second: Iterable[Interval]) -> list[Interval]:
    """Returns what two sets of intervals have in common."""
    first, second = merge(first), merge(second)
    shared = []
    i = j = 0
    while i < len(first) and j < len(second):
        start, end = max(first[i][0], second[j][0]), min(first[i][1], second[j][1])
        if end > start:
            shared.append((start, end))
        if first[i][1] < second[j][1]:
            i += 1
        else:
            j += 1
    return shared


def subtract(first: Iterable[Interval], second: Iterable[Interval]) -> list[Interval]:
    """Returns the parts of the first intervals that are outside the second."""
    outside = []
    edge = -math.inf
    for start, end in [*merge(second), (math.inf, math.inf)]:
        outside.append((edge, start))
        edge = end
    return intersect(first, outside)


def total_length(intervals: Iterable[Interval]) -> float:
    """Returns the total length, counting overlaps once."""
    return sum(end - start for start, end in merge(intervals))
