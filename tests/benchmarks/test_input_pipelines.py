"""Our input pipelines and those of others do the same work, and what is missing is reported."""

import functools
import importlib.util
import itertools

import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf import config
from alexnet_tf.benchmarks import input_pipelines
from alexnet_tf.benchmarks import measuring
from alexnet_tf.benchmarks import pipeline_peers
from alexnet_tf.benchmarks import sides
from alexnet_tf.data import examples
from alexnet_tf.data import pipeline
from alexnet_tf.data import prepared
from alexnet_tf.data import sampling
from alexnet_tf.data import statistics

IMAGES, BATCH = 6, 4
CONFIG = config.Config(batch_size=BATCH, cache="none")
MEAN = np.array([120, 110, 100], np.float32)
# Color components that are large enough to be distinguished from rounding.
STATISTICS = statistics.Statistics(
    np.broadcast_to(MEAN, [256, 256, 3]).copy(), np.eye(3, dtype=np.float32), np.full(3, 50, np.float32), IMAGES
)
OURS = [input_pipelines.JPEG, input_pipelines.RAW, input_pipelines.CACHED]
TORCH = pytest.param(
    input_pipelines.TORCH,
    marks=pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="torch is not installed"),
)
PEERS = [input_pipelines.TF_DATA, input_pipelines.KERAS, TORCH]


@pytest.fixture(scope="module")
def splits(data_dirs):
    opened = [prepared.open_data_dir(directory)[0].splits["train"] for directory in data_dirs]
    return {split.is_raw: split for split in opened}


@pytest.fixture(scope="module")
def folder(splits, tmp_path_factory):
    directory = tmp_path_factory.mktemp("folder")
    input_pipelines.write_folder(splits[False], directory)
    return directory


@pytest.fixture(scope="module")
def our_batches(splits):
    """A function from the color noise to our pipelines, each of which is built once."""
    return functools.cache(
        lambda color_noise: input_pipelines.our_batches(
            config.Config(batch_size=BATCH, color_noise=color_noise).resolved(), splits, STATISTICS
        )
    )


@pytest.fixture(scope="module")
def originals(splits):
    """All images of the splits, float32 ``[images, 256, 256, 3]``, by whether they are raw."""
    batches = {
        is_raw: pipeline.evaluation_batches(examples.from_records(split), batch_size=IMAGES)
        for is_raw, split in splits.items()
    }
    return {is_raw: next(each.as_numpy_iterator())[0].astype(np.float32) for is_raw, each in batches.items()}


def find(image, originals):
    """Finds the crop of the originals that an image is, up to a shift of its color.

    Returns:
      (index, top, left, mirrored); the shift, float32 ``[3]``; and the mean absolute difference that remains, in gray
      levels.
    """
    # Every possible crop, one pixel in 32 in both directions: [originals, rows, columns, 3, 7, 7].
    crops = np.lib.stride_tricks.sliding_window_view(originals, [224, 224], axis=[1, 2])[..., ::32, ::32]
    found = []
    for mirrored in (False, True):
        upright = image[:, ::-1] if mirrored else image
        difference = upright[::32, ::32].transpose(2, 0, 1) - crops
        difference = np.abs(difference - difference.mean(axis=(4, 5), keepdims=True)).mean(axis=(3, 4, 5))
        index, top, left = np.unravel_index(np.argmin(difference), difference.shape)
        remaining = upright - originals[index, top : top + 224, left : left + 224]
        shift = remaining.mean(axis=(0, 1))
        found.append(((index, top, left, mirrored), shift, np.abs(remaining - shift).mean()))
    return min(found, key=lambda each: each[2])


def peer_images(side, folder, count, **values):
    """Returns the first batches of a peer's pipeline: lists of float32 ``[batch, 224, 224, 3]`` and of labels."""
    run_config = config.Config(**values).resolved()
    found, _ = input_pipelines.peer_batches(folder, run_config, STATISTICS)
    batches = [[np.asarray(value) for value in batch] for batch in itertools.islice(found[side](), count)]
    images, labels = zip(*batches)
    return [each.transpose(0, 2, 3, 1) if side == input_pipelines.TORCH else each for each in images], labels


@pytest.mark.parametrize("side", [*OURS, *PEERS])
@pytest.mark.parametrize("color_noise", [0.0, 0.1])
def test_every_side_does_the_same_work(side, color_noise, splits, folder, our_batches, originals):
    """Each image is a crop of an original, mirrored or not, mean subtracted, with one shift of its color."""
    if side in OURS:
        images, labels = (np.asarray(value) for value in next(iter(our_batches(color_noise)[side]())))
    else:
        (images,), (labels,) = peer_images(side, folder, 1, batch_size=BATCH, color_noise=color_noise)
    assert images.shape == (BATCH, 224, 224, 3) and images.dtype == np.float32
    assert labels.shape == (BATCH,) and set(labels.tolist()) <= {0, 1}
    is_raw = side == input_pipelines.RAW
    places, shifts, remaining = zip(*[find(image + MEAN, originals[is_raw]) for image in images])
    # Pillow decodes more precisely than TensorFlow's default, which is off by 1.3 gray levels in red and blue.
    tolerance = 2 if side == input_pipelines.TORCH else 1
    assert max(remaining) < tolerance
    assert len({place[0] for place in places}) == BATCH, "an image twice in an epoch"
    np.testing.assert_array_equal([splits[False].labels[place[0]] for place in places], labels)
    if color_noise:
        # Three colors of four images, each with a standard deviation of 5.
        assert 1 < np.std(shifts) < 15
        assert len(np.unique(np.round(shifts, 3))) == 3 * BATCH
    else:
        assert np.abs(shifts).max() < tolerance


@pytest.mark.parametrize("side", PEERS)
def test_peers_draw_crops_and_mirror_images(side, folder, originals):
    batches, _ = peer_images(side, folder, 12, batch_size=1, color_noise=0.0)
    places = [find(images[0] + MEAN, originals[False])[0] for images in batches]
    assert len({place[1:3] for place in places}) > 6
    # The chance of twelve equal draws is 1 in 2,048.
    assert {place[3] for place in places} == {False, True}


def test_missing_torch_is_reported(monkeypatch, folder):
    monkeypatch.setattr(input_pipelines, "_is_installed", lambda name: False)
    found, missing = input_pipelines.peer_batches(folder, CONFIG.resolved(), STATISTICS)
    assert missing == ["torch: not installed"]
    assert list(found) == [input_pipelines.TF_DATA, input_pipelines.KERAS]


def test_labels_of_a_folder_are_its_classes_in_order(splits, folder):
    paths, labels = pipeline_peers.files_and_labels(folder)
    assert len(paths) == IMAGES
    assert labels.tolist() == sorted(splits[False].labels.tolist())


def test_ready_batches_are_measured_on_all_sides(data_dirs, monkeypatch):
    monkeypatch.setattr(input_pipelines, "WARM_UP_BATCHES", 1)
    found = input_pipelines.ready_batches(measuring.Request(CONFIG, data_dirs, rounds=1, seconds=0.0)).to_dict()
    assert {*OURS, input_pipelines.TF_DATA, input_pipelines.KERAS} <= set(found["medians"])
    assert all(rate > 0 for rates in found["rates"].values() for rate in rates)
    targets = {(ratio["numerator"], ratio["denominator"]): ratio["target"] for ratio in found["ratios"]}
    assert targets[input_pipelines.CACHED, input_pipelines.TF_DATA] == 6
    assert targets[input_pipelines.JPEG, input_pipelines.TF_DATA] == 1.7


def test_missing_raw_records_are_reported(data_dirs, monkeypatch):
    monkeypatch.setattr(input_pipelines, "WARM_UP_BATCHES", 1)
    found = input_pipelines.ready_batches(measuring.Request(CONFIG, data_dirs[:1], rounds=1, seconds=0.0))
    assert input_pipelines.RAW not in found.rates
    assert f"{input_pipelines.RAW}: not run: needs --data_dir=JPEG,RAW" in found.notes


@pytest.mark.parametrize("measure", [input_pipelines.ready_batches, input_pipelines.training])
def test_row_is_not_run_without_data(measure):
    with pytest.raises(measuring.NotRunError, match="needs --data_dir"):
        measure(measuring.Request(CONFIG))


def test_row_is_not_run_with_raw_records_only(data_dirs):
    with pytest.raises(measuring.NotRunError, match="JPEG records"):
        input_pipelines.ready_batches(measuring.Request(CONFIG, data_dirs[1:]))


def test_two_data_sets_of_a_kind_are_rejected(data_dirs):
    with pytest.raises(ValueError, match="Received: two of JPEG"):
        input_pipelines.ready_batches(measuring.Request(CONFIG, [data_dirs[0]] * 2))


@pytest.mark.slow  # test_rows.py measures training, and another test here the batches alone.
def test_training_is_measured(data_dirs, monkeypatch):
    monkeypatch.setattr(input_pipelines, "WARM_UP_STEPS", 0)
    found = input_pipelines.training(measuring.Request(CONFIG, data_dirs, rounds=1, seconds=0.0)).to_dict()
    assert list(found["medians"]) == ["training from JPEG records", "on one batch"]
    assert found["ratios"][0]["target"] == 0.97


def test_synthetic_batch_has_the_shapes_of_a_real_one(splits):
    data = examples.from_records(splits[True])
    real = pipeline.training_batches(data, sampling.Sampling(batch_size=BATCH, seed=0, first_step=0, steps=1))
    noise = sides.synthetic_batch(CONFIG.resolved(), 2)
    assert {name: (value.shape, value.dtype) for name, value in noise.items()} == {
        name: (spec.shape, spec.dtype) for name, spec in real.element_spec.items()
    }
    assert tf.reduce_min(noise["offsets"]) >= 0 and tf.reduce_max(noise["offsets"]) <= 32
