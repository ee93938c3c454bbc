"""Sets of intervals against sets of unit cells."""

import numpy as np
import pytest

from alexnet_tf.profiling import intervals


def random_intervals(generator):
    starts = generator.integers(0, 30, generator.integers(0, 8))
    return [(int(start), int(start + generator.integers(0, 9))) for start in starts]


def cells(given):
    return {cell for start, end in given for cell in range(start, end)}


@pytest.mark.parametrize("seed", range(20))
def test_set_operations_agree_with_sets_of_cells(seed):
    generator = np.random.default_rng(seed)
    first, second = random_intervals(generator), random_intervals(generator)
    assert cells(intervals.merge(first)) == cells(first)
    assert cells(intervals.intersect(first, second)) == cells(first) & cells(second)
    assert cells(intervals.subtract(first, second)) == cells(first) - cells(second)
    assert intervals.total_length(first) == len(cells(first))


@pytest.mark.parametrize("seed", range(20))
def test_merged_intervals_are_disjoint_ascending_and_not_empty(seed):
    merged = intervals.merge(random_intervals(np.random.default_rng(seed)))
    assert all(start < end for start, end in merged)
    assert all(before[1] < after[0] for before, after in zip(merged, merged[1:]))
