"""Batches: which images are drawn when, how they are cropped and flipped, and resuming at any step."""

import dataclasses

import numpy as np
import pytest
import small_examples
import tensorflow as tf

from alexnet_tf.data import pipeline
from alexnet_tf.data import sampling

ROWS, COLUMNS = np.mgrid[:256, :256]


@pytest.fixture(scope="module")
def draws():
    """Returns 22,000 draws of each kind: 110 epochs of one batch."""
    # Draws depend on the margin of 32 pixels alone, so the crops are small.
    data = small_examples.blank_examples(200, image_size=40)
    found = small_examples.sampled(data, batch_size=200, steps=110, flips="both", crop_size=8)
    return {name: small_examples.gathered(found, name) for name in ("offsets", "flips", "labels", "noise")}


def test_element_spec_of_training_batches():
    options = sampling.Sampling(batch_size=4, seed=7, first_step=0, steps=3)
    dataset = pipeline.training_batches(small_examples.coded_examples(10), options)
    assert dataset.element_spec == {
        "crops": tf.TensorSpec([4, 224, 224, 3], tf.uint8),
        "offsets": tf.TensorSpec([4, 2], tf.int32),
        "flips": tf.TensorSpec([4, 2], tf.bool),
        "labels": tf.TensorSpec([4], tf.int64),
        "noise": tf.TensorSpec([4, 3], tf.float32),
    }
    assert len(list(dataset)) == 3


def test_crops_are_the_pixels_at_their_offsets():
    for batch in small_examples.sampled(small_examples.coded_examples(10), steps=4):
        for crop, (top, left), label in zip(batch["crops"], batch["offsets"], batch["labels"], strict=True):
            np.testing.assert_array_equal(crop[:, :, 0], (top + ROWS)[:224, :224])
            np.testing.assert_array_equal(crop[:, :, 1], (left + COLUMNS)[:224, :224])
            # The label belongs to the image.
            assert (crop[:, :, 2] == label / 3).all()


def test_padded_crops_come_with_the_nearest_square_within_the_image():
    data = small_examples.coded_examples(10)
    outside = 0
    for batch in small_examples.sampled(data, steps=20, crop_size=250, pad=5):
        assert np.abs(batch["offsets"] - 3).max() <= 8
        outside += np.count_nonzero((batch["offsets"] < 0) | (batch["offsets"] > 6))
        for crop, (top, left) in zip(batch["crops"], batch["offsets"].clip(0, 6), strict=True):
            np.testing.assert_array_equal(crop[:, :, 0], (top + ROWS)[:250, :250])
            np.testing.assert_array_equal(crop[:, :, 1], (left + COLUMNS)[:250, :250])
    assert outside > 20


def test_crops_of_random_area_come_with_the_entire_image():
    data = small_examples.coded_examples(10)
    batches = small_examples.sampled(data, steps=4, crops="area")
    for batch in batches:
        assert batch["crops"].shape[1:] == (256, 256, 3)
        for crop in batch["crops"]:
            np.testing.assert_array_equal(crop[:, :, 0], ROWS)
        assert ((batch["offsets"] >= 0) & (batch["offsets"] + batch["sizes"] <= 256)).all()
    assert len(np.unique(small_examples.gathered(batches, "sizes"), axis=0)) > 8


@pytest.mark.parametrize("count, batch_size", [(10, 4), (12, 4), (5, 5), (1, 1), (97, 10)])
def test_each_epoch_visits_distinct_images_in_a_new_order(count, batch_size):
    steps = count // batch_size
    found = small_examples.sampled(small_examples.blank_examples(count), batch_size=batch_size, steps=4 * steps)
    epochs = small_examples.gathered(found, "labels").reshape(4, -1)
    for epoch in epochs:
        assert len(set(epoch.tolist())) == steps * batch_size
        assert set(epoch.tolist()) <= set(range(count))
    if count > 1:
        assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4


def test_images_dropped_from_an_epoch_vary():
    found = small_examples.sampled(small_examples.blank_examples(10), steps=40)
    seen = [set(epoch) for epoch in small_examples.gathered(found, "labels").reshape(20, 8).tolist()]
    missing = [number for epoch in seen for number in set(range(10)) - epoch]
    assert set(missing) == set(range(10))


def test_seed_determines_all_draws():
    one, same, other = (
        small_examples.sampled(small_examples.coded_examples(50), steps=2, batch_size=20, seed=seed)
        for seed in (7, 7, 8)
    )
    for name in one[0]:
        np.testing.assert_array_equal(small_examples.gathered(one, name), small_examples.gathered(same, name))
        assert (small_examples.gathered(one, name) != small_examples.gathered(other, name)).any()


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("first_step", range(7))
def test_resumed_run_gets_the_batches_of_an_uninterrupted_one(first_step, balanced):
    """Two batches an epoch, so this covers resuming within an epoch and at its end."""
    whole = small_examples.sampled(small_examples.coded_examples(10), steps=7, balanced=balanced)
    rest = small_examples.sampled(small_examples.coded_examples(10), first_step=first_step, steps=7, balanced=balanced)
    assert len(rest) == 7 - first_step
    for expected, batch in zip(whole[first_step:], rest, strict=True):
        for name in expected:
            np.testing.assert_array_equal(batch[name], expected[name])


def test_late_step_needs_no_replay():
    """Step 900,001 on ImageNet's 1.28 million photographs."""
    examples = small_examples.blank_examples(1_281_167)
    (late,) = small_examples.sampled(examples, first_step=900_000, steps=900_001, batch_size=128)
    assert len(set(late["labels"].tolist())) == 128
    assert late["labels"].max() > 1_000_000


@pytest.mark.parametrize("device", [None, "/CPU:1"])
def test_prefetching_to_a_device_keeps_the_batches(device):
    options = sampling.Sampling(batch_size=4, seed=7, first_step=0, steps=3)
    dataset = pipeline.training_batches(small_examples.coded_examples(9), options)
    ahead = list(pipeline.prefetch_to_device(dataset, device))
    for batch, expected in zip(ahead, dataset.as_numpy_iterator(), strict=True):
        assert batch["crops"].device.endswith((device or "/CPU:0")[1:])
        assert batch.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(batch[name], values)


def test_offsets_are_uniform_over_all_positions(draws):
    counts = np.zeros([33, 33])
    np.add.at(counts, tuple(draws["offsets"].T), 1)
    assert (counts > 0).all()
    expected = counts.sum() / counts.size
    # Chi-square with 1,088 degrees of freedom: mean 1,088, standard deviation 47; five of them.
    assert abs(((counts - expected) ** 2 / expected).sum() - 1088) < 5 * np.sqrt(2 * 1088)


def test_half_of_the_images_are_flipped_along_each_axis(draws):
    # Five standard errors.
    assert (np.abs(draws["flips"].mean(axis=0) - 0.5) < 5 * 0.5 / np.sqrt(22_000)).all()


@pytest.mark.parametrize("flips, upended, mirrored", [("none", 0, 0), ("horizontal", 0, 1), ("both", 1, 1)])
def test_only_requested_flips_occur(flips, upended, mirrored):
    found = small_examples.gathered(
        small_examples.sampled(small_examples.blank_examples(100), batch_size=100, steps=3, flips=flips), "flips"
    )
    np.testing.assert_array_equal(found.any(axis=0), [upended, mirrored])
    assert not found.all(axis=0).any()


def test_noise_is_standard_normal(draws):
    noise = draws["noise"].astype(np.float64)
    # Five standard errors of a mean, a standard deviation and a fourth moment.
    reach = 5 / np.sqrt(22_000)
    assert (np.abs(noise.mean(axis=0)) < reach).all()
    assert (np.abs(noise.std(axis=0) - 1) < reach / np.sqrt(2)).all()
    assert (np.abs((noise**4).mean(axis=0) - 3) < reach * np.sqrt(96)).all()


def test_draws_are_uncorrelated(draws):
    columns = np.column_stack([draws["offsets"], draws["flips"], draws["labels"], draws["noise"]]).astype(np.float64)
    # A correlation of independent columns has a standard error of 1 / sqrt(22,000).
    assert np.abs(np.corrcoef(columns, rowvar=False) - np.eye(8)).max() < 5 / np.sqrt(22_000)


@pytest.mark.parametrize("name", ["offsets", "flips", "noise"])
def test_each_epoch_draws_independently(draws, name):
    epochs = draws[name].reshape(110, 200, -1).astype(np.float64)
    same_place = np.corrcoef(epochs[:-1].ravel(), epochs[1:].ravel())[0, 1]
    next_place = np.corrcoef(epochs[:, :-1].ravel(), epochs[:, 1:].ravel())[0, 1]
    assert max(abs(same_place), abs(next_place)) < 5 / np.sqrt(22_000)
    assert len({epoch.tobytes() for epoch in epochs}) == 110


def test_center_crops_are_central():
    for batch in small_examples.sampled(small_examples.coded_examples(10), crops="center"):
        assert (batch["offsets"] == 16).all()
        np.testing.assert_array_equal(batch["crops"][0, :, :, 0], (16 + ROWS)[:224, :224])


def test_consecutive_images_can_share_crop_and_mirroring():
    """Original #145 makes one draw for 32 images, regardless of the batch size."""
    found = small_examples.sampled(
        small_examples.blank_examples(100), batch_size=50, steps=2, images_per_draw=32, flips="both"
    )
    geometry = np.column_stack([small_examples.gathered(found, "offsets"), small_examples.gathered(found, "flips")])
    for first in (0, 32, 64, 96):
        assert (geometry[first : first + 32] == geometry[first]).all()
    assert len({tuple(row) for row in geometry.tolist()}) == 4
    assert len({tuple(row) for row in small_examples.gathered(found, "noise").tolist()}) == 100


def test_without_reshuffling_the_first_order_repeats():
    """As in original #145. No image is left out for good: each epoch continues where the one before ended."""
    found = small_examples.gathered(
        small_examples.sampled(small_examples.blank_examples(10), steps=10, reshuffle=False), "labels"
    )
    np.testing.assert_array_equal(found, np.resize(found[:10], 40))
    assert sorted(found[:10]) == list(range(10))


def test_noise_stops_at_the_given_epoch():
    found = small_examples.sampled(small_examples.blank_examples(10), steps=8, noise_epochs=2.5)
    silent = [not batch["noise"].any() for batch in found]
    assert silent == [False] * 5 + [True] * 3
    np.testing.assert_array_equal(
        small_examples.gathered(found, "offsets"),
        small_examples.gathered(small_examples.sampled(small_examples.blank_examples(10), steps=8), "offsets"),
    )


def test_balanced_epochs_have_as_many_steps_and_each_class_equally_often():
    """Of 13 images in classes of 10, 2 and 1, three batches of four are an epoch."""
    data = dataclasses.replace(small_examples.blank_examples(13), labels=np.repeat([0, 1, 2], [10, 2, 1]))
    found = small_examples.gathered(small_examples.sampled(data, steps=6, balanced=True), "labels").reshape(2, 12)
    assert [np.bincount(epoch).tolist() for epoch in found] == [[4, 4, 4], [4, 4, 4]]
    with pytest.raises(ValueError, match="Expected reshuffle to be True for balanced=True"):
        small_examples.sampled(data, balanced=True, reshuffle=False)


@pytest.mark.parametrize("options", [{}, {"images_per_draw": 3}, {"reshuffle": False}, {"balanced": True}])
def test_workers_split_the_batches_of_one_worker(options):
    whole = small_examples.sampled(small_examples.coded_examples(26), batch_size=12, steps=5, **options)
    parts = [
        small_examples.sampled(small_examples.coded_examples(26), batch_size=12, steps=5, worker=(part, 3), **options)
        for part in range(3)
    ]
    for expected, *shares in zip(whole, *parts, strict=True):
        for name, values in expected.items():
            np.testing.assert_array_equal(np.concatenate([share[name] for share in shares]), values)


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_workers_together_evaluate_every_example_once(workers):
    seen = []
    for part in range(workers):
        dataset = pipeline.evaluation_batches(small_examples.coded_examples(10), batch_size=3, worker=(part, workers))
        for images, labels in dataset.as_numpy_iterator():
            np.testing.assert_array_equal(3 * images[:, 0, 0, 2].astype(int), labels)
            seen += labels.tolist()
    assert sorted(seen) == [3 * number for number in range(10)]


def test_batch_larger_than_the_data_raises():
    message = "Expected batch_size to be at most the 10 training images. Received: batch_size=11"
    with pytest.raises(ValueError, match=message):
        small_examples.sampled(small_examples.coded_examples(10), batch_size=11)


@pytest.mark.parametrize("count, sizes", [(10, [4, 4, 2]), (8, [4, 4]), (3, [3])])
def test_evaluation_reads_every_example_once_in_order(count, sizes):
    dataset = pipeline.evaluation_batches(small_examples.coded_examples(count), batch_size=4)
    assert dataset.element_spec == (
        tf.TensorSpec([None, 256, 256, 3], tf.uint8),
        tf.TensorSpec([None], tf.int64),
    )
    found = list(dataset.as_numpy_iterator())
    assert [len(labels) for _, labels in found] == sizes
    images = np.concatenate([images for images, _ in found])
    np.testing.assert_array_equal(images[:, 0, 0, 2], np.arange(count))
    np.testing.assert_array_equal(images[-1], small_examples.coded_image(count - 1))
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in found]), 3 * np.arange(count))
