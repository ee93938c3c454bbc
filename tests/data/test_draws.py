"""Draws against the generator's definition in plain Python, and against themselves from other first positions."""

import math

import numpy as np
import pytest

from alexnet_tf.data import draws

MASK = 2**64 - 1


def philox(counter, key):
    """Philox4x64-10 as Salmon et al. (2011) define it: four numbers for a counter of four words and a key of two."""
    counter, key = list(counter), list(key)
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * counter[0], 0xCA5A826395121157 * counter[2]
        counter = [
            (second >> 64) ^ counter[1] ^ key[0],
            second & MASK,
            (first >> 64) ^ counter[3] ^ key[1],
            first & MASK,
        ]
        key = [(key[0] + 0x9E3779B97F4A7C15) & MASK, (key[1] + 0xBB67AE8584CAA73B) & MASK]
    return counter


def numbers(seed, stream, epoch, position):
    # NumPy increments the counter before it draws.
    return philox([position + 1, 0, epoch, 0], [seed, stream])


def sorted_by_numbers(count, seed, stream, epoch):
    drawn = [number for block in range(-(-count // 4)) for number in numbers(seed, stream, epoch, block)]
    return sorted(range(count), key=lambda index: drawn[index])


@pytest.mark.parametrize("count", [1, 2, 5, 64, 1001])
def test_order_has_each_index_once(count):
    for seed, epoch in [(0, 0), (0, 1), (3, 0), (2**40, 10**6)]:
        np.testing.assert_array_equal(np.sort(draws.order(count, seed, epoch)), np.arange(count))
    np.testing.assert_array_equal(np.sort(draws.order_on_disk(count, 3)), np.arange(count))


def test_orders_differ_between_seeds_and_epochs():
    orders = [draws.order(50, seed, epoch) for seed in range(4) for epoch in range(4)]
    orders += [draws.order_on_disk(50, seed) for seed in range(4)]
    assert len({order.tobytes() for order in orders}) == len(orders)
    # Nor are they shifted copies: two orders agree in about one place, and hardly ever in more than ten.
    for i, one in enumerate(orders):
        assert all((one == other).sum() <= 10 for other in orders[:i])


@pytest.mark.parametrize("count, seed, epoch", [(1, 0, 0), (7, 0, 0), (64, 11, 3), (101, 2**63, 90)])
def test_order_sorts_the_numbers_of_the_generators_definition(count, seed, epoch):
    """Therefore no version of NumPy changes the meaning of an old run's seed."""
    np.testing.assert_array_equal(draws.order(count, seed, epoch), sorted_by_numbers(count, seed, 0, epoch))
    np.testing.assert_array_equal(draws.order_on_disk(count, seed), sorted_by_numbers(count, seed, 3, 0))


@pytest.mark.parametrize("sizes, length", [((50, 3, 1, 10), 64), ((7, 2), 9), ((1, 1, 1), 2), ((5,), 5)])
def test_a_balanced_order_draws_classes_equally_often_over_any_number_of_epochs(sizes, length):
    # Label 1 has no images.
    labels = np.random.default_rng(0).permutation(np.repeat([0, *range(2, len(sizes) + 1)], sizes))
    drawn = np.concatenate([draws.balanced_order(labels, 3, epoch, length) for epoch in range(12)])
    for end in range(length, len(drawn) + 1, length):
        per_class = np.bincount(labels[drawn[:end]], minlength=len(sizes) + 1)
        counts = per_class[np.unique(labels)]
        assert counts.sum() == end and counts.max() - counts.min() <= 1
        # The images of a class are equally often drawn, too.
        per_image = np.bincount(drawn[:end], minlength=len(labels))
        for label in np.unique(labels):
            own = per_image[labels == label]
            assert own.max() - own.min() <= (2 if end < len(drawn) and length < len(labels) else 1), (label, own)


def test_a_balanced_order_follows_from_the_generators_definition():
    labels = np.array([4, 4, 2, 4, 4, 2, 4])
    # Epochs of 7: the third one has places 14 to 20, of which the even ones belong to label 2.
    of_two, of_four = (
        [np.flatnonzero(labels == label)[place] for place in _permutations(11, label, count, 11)]
        for label, count in ((2, 2), (4, 5))
    )
    turns = [of_two[7], of_four[7], of_two[8], of_four[8], of_two[9], of_four[9], of_two[10]]
    expected = [turns[place] for place in sorted_by_numbers(7, 11, 0, 2)]
    np.testing.assert_array_equal(draws.balanced_order(labels, 11, 2, 7), expected)


def _permutations(seed, label, count, length):
    """The first places of an endless sequence of permutations of the images of a class."""
    drawn = [number for block in range(length) for number in numbers(seed, 4, label, block)]
    rounds = [drawn[first : first + count] for first in range(0, length + count, count)]
    return [place for each in rounds for place in sorted(range(count), key=lambda index: each[index])][:length]


def test_balanced_orders_differ_between_seeds_and_epochs():
    labels = np.arange(60) % 3
    orders = [draws.balanced_order(labels, seed, epoch, 60) for seed in range(3) for epoch in range(3)]
    assert len({order.tobytes() for order in orders}) == len(orders)


def test_cached_order_is_read_only():
    kept = draws.order(10, 0, 0)
    with pytest.raises(ValueError, match="read-only"):
        kept[0] = 5
    kept_on_disk = draws.order_on_disk(10, 0)
    kept_on_disk[:] = 0
    assert len(set(draws.order_on_disk(10, 0).tolist())) == 10


@pytest.mark.parametrize("images_per_draw", [1, 3])
def test_draws_follow_from_the_generators_definition(images_per_draw):
    seed, epoch, margin = 5, 7, 32
    found = draws.draw(seed, epoch, range(11, 31), margin=margin, flips="both", images_per_draw=images_per_draw)
    for position, offsets, flips, noise in zip(range(11, 31), *found, strict=True):
        row, column, upended, mirrored = numbers(seed, 1, epoch, position // images_per_draw)
        assert offsets.tolist() == [(word >> 32) * (margin + 1) >> 32 for word in (row, column)]
        assert flips.tolist() == [word >= 2**63 for word in (upended, mirrored)]
        uniform = [((word >> 11) + 0.5) / 2**53 for word in numbers(seed, 2, epoch, position)]
        radii = [math.sqrt(-2 * math.log(each)) for each in uniform[:2]]
        angles = [2 * math.pi * each for each in uniform[2:]]
        normal = [
            radii[0] * math.cos(angles[0]),
            radii[1] * math.cos(angles[1]),
            radii[0] * math.sin(angles[0]),
        ]
        np.testing.assert_allclose(noise, normal, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("images_per_draw", [1, 32])
@pytest.mark.parametrize("crops, flips", [("random", "both"), ("random", "horizontal"), ("center", "none")])
def test_draws_of_a_range_are_those_of_the_entire_epoch(images_per_draw, crops, flips):
    options = {"margin": 32, "crops": crops, "flips": flips, "images_per_draw": images_per_draw}
    whole = draws.draw(9, 2, range(130), **options)
    for first, stop in [(0, 1), (0, 130), (1, 130), (31, 33), (32, 64), (33, 63), (30, 97), (64, 65), (129, 130)]:
        part = draws.draw(9, 2, range(first, stop), **options)
        for name, values in part._asdict().items():
            expected = getattr(whole, name)[first:stop]
            assert values.dtype == expected.dtype
            np.testing.assert_array_equal(values, expected, err_msg=f"{name} of [{first}, {stop})")


def test_32_consecutive_images_share_all_but_the_noise():
    drawn = draws.draw(1, 0, range(20, 148), margin=32, flips="both", images_per_draw=32)
    geometry = np.column_stack([drawn.offsets, drawn.flips])
    # Positions 20 to 31 belong to the first group of 32.
    groups = np.arange(20, 148) // 32
    for group in np.unique(groups):
        assert len(np.unique(geometry[groups == group], axis=0)) == 1
    assert len(np.unique(geometry, axis=0)) == len(np.unique(groups)) == 5
    assert len(np.unique(drawn.noise, axis=0)) == 128
    each_alone = draws.draw(1, 0, range(20, 148), margin=32, flips="both")
    np.testing.assert_array_equal(drawn.noise, each_alone.noise)


def test_draws_differ_between_seeds_and_epochs():
    found = [draws.draw(seed, epoch, range(40), margin=32, flips="both") for seed in range(3) for epoch in range(3)]
    for name in draws.Draws._fields:
        assert len({getattr(each, name).tobytes() for each in found}) == 9


@pytest.mark.parametrize("margin", [0, 1, 31, 32])
def test_crops_are_within_the_margin(margin):
    offsets = draws.draw(0, 0, range(500), margin=margin).offsets
    assert offsets.min() == 0
    assert offsets.max() == margin
    centered = draws.draw(0, 0, range(3), margin=margin, crops="center").offsets
    np.testing.assert_array_equal(centered, np.full([3, 2], margin // 2))


@pytest.mark.parametrize("margin, pad", [(0, 4), (8, 3)])
def test_crops_extend_past_the_edges_by_the_padding(margin, pad):
    padded = draws.draw(0, 0, range(2000), margin=margin, pad=pad)
    counts = np.bincount(padded.offsets.ravel() + pad, minlength=margin + 2 * pad + 1)
    assert len(counts) == margin + 2 * pad + 1
    # 4,000 draws: five standard deviations of the count at one place.
    expected = 4000 / len(counts)
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)
    assert padded.offsets.dtype == np.int32
    # The same random numbers as for an image that is larger by the padding.
    larger = draws.draw(0, 0, range(2000), margin=margin + 2 * pad)
    np.testing.assert_array_equal(padded.offsets, larger.offsets - pad)
    np.testing.assert_array_equal(padded.flips, larger.flips)


def test_areas_and_shapes_are_uniform_and_crops_within_the_image():
    side, count = 256, 20000
    drawn = draws.areas(3, 1, range(count), side=side)
    assert drawn.sizes.dtype == drawn.offsets.dtype == np.int32
    assert drawn.sizes.min() >= 1 and drawn.offsets.min() == 0
    assert (drawn.offsets + drawn.sizes).max() == side
    height, width = drawn.sizes.T.astype(float)
    # Nothing is cut off at a share of less than 3/4: the longer side is at most the image's.
    small = height * width < 0.7 * side**2
    share, aspect = (height * width / side**2)[small], (height / width)[small]
    # Means of uniform numbers, within five standard errors.
    assert share.mean() == pytest.approx((0.08 + 0.7) / 2, abs=5 * 0.62 / np.sqrt(12 * small.sum()))
    assert aspect.mean() == pytest.approx((3 / 4 + 4 / 3) / 2, abs=5 * (7 / 12) / np.sqrt(12 * small.sum()))
    assert 0.078 < share.min() < 0.082 and 0.74 < aspect.min() < 0.76 and 1.32 < aspect.max() < 1.35
    assert np.count_nonzero(small) / count == pytest.approx(0.62 / 0.92, abs=5 * 0.5 / np.sqrt(count))
    # Any place is as probable as another.
    room = side - drawn.sizes
    assert (drawn.offsets[room > 0] / room[room > 0]).mean() == pytest.approx(0.5, abs=0.01)
    # Those of a part of an epoch are those of the entire epoch, also if several images share them.
    for values, expected in zip(draws.areas(3, 1, range(70, 90), side=side), drawn):
        np.testing.assert_array_equal(values, expected[70:90])
    shared = draws.areas(3, 1, range(70, 90), side=side, images_per_draw=20)
    np.testing.assert_array_equal(shared.sizes, drawn.sizes[[3] * 10 + [4] * 10])


def test_flips_option_only_masks_flips():
    both, horizontal, none = (
        draws.draw(4, 1, range(60), margin=32, flips=flips) for flips in ("both", "horizontal", "none")
    )
    assert both.flips.any(axis=0).all()
    np.testing.assert_array_equal(horizontal.flips, both.flips & [False, True])
    assert not none.flips.any()
    for other in (horizontal, none):
        np.testing.assert_array_equal(other.offsets, both.offsets)
        np.testing.assert_array_equal(other.noise, both.noise)
