"""The way from photographs to batches: what is skipped, who is drawn when, and resuming at any step."""

import types

import numpy as np
import PIL.Image
import psutil
import pytest
import tensorflow as tf

from alexnet_tf.data import photograph
from alexnet_tf.data import pipeline
from alexnet_tf.data import prepare
from alexnet_tf.data import prepared
from alexnet_tf.data import sources
from alexnet_tf.data import statistics

ROWS, COLUMNS = np.mgrid[:256, :256]


def telling(index):
    """An image whose pixels tell their row, their column and the image's number."""
    rows = tf.range(256)[:, None] + tf.zeros([1, 256], tf.int32)
    numbers = tf.fill([256, 256], tf.cast(index, tf.int32))
    return tf.cast(tf.stack([rows, tf.transpose(rows), numbers], axis=-1), tf.uint8)


def telling_examples(count):
    """`telling` images, decoded one by one."""

    def decode(index, offset, size):
        return tf.slice(telling(index), tf.concat([offset, [0]], axis=0), [size, size, 3])

    return pipeline.Examples(np.arange(count) * 3, lambda indices, offsets, size: indices, tf.int64, decode)


def blank_examples(count):
    """For what does not concern the pixels."""
    fetch = lambda indices, offsets, size: np.broadcast_to(np.uint8(0), [len(indices), size, size, 3])
    return pipeline.Examples(np.arange(count), fetch, tf.uint8)


def batches(examples, first_step=0, steps=1, batch_size=4, seed=7, without=(), **options):
    dataset = pipeline.training_batches(
        examples, batch_size=batch_size, seed=seed, first_step=first_step, steps=steps, **options
    )
    return [
        {name: values for name, values in batch.items() if name not in without} for batch in dataset.as_numpy_iterator()
    ]


def gathered(found, name):
    return np.concatenate([batch[name] for batch in found])


@pytest.fixture(scope="module")
def draws():
    """22,000 draws of everything that is drawn, 110 epochs of one batch."""
    # All crops together have three gigabytes.
    found = batches(blank_examples(200), batch_size=200, steps=110, flips="both", without=["crops"])
    return {name: gathered(found, name) for name in ("offsets", "flips", "labels", "noise")}


def photographs(folder):
    """Eight files, three of which cannot be read, and a name under which there is none."""
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, [280, 300, 3], dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{number}.jpg")
    (folder / "1.jpg").write_text("This is no photograph.")
    (folder / "4.jpg").write_bytes((folder / "4.jpg").read_bytes()[:5000])
    (folder / "6.jpg").write_bytes(b"")
    paths = [folder / f"{number}.jpg" for number in range(9)]
    return sources.Split(
        labels=np.arange(9) % 3,
        read=lambda index: tf.io.read_file(tf.gather(tf.constant([str(path) for path in paths]), index)),
        name_of=lambda index: paths[index].name,
    )


def read_all(examples):
    dataset = pipeline.evaluation_batches(examples, batch_size=4)
    return np.concatenate([images for images, _ in dataset.as_numpy_iterator()])


@pytest.mark.parametrize("cache", ["memory", "none", "auto"])
def test_photographs_that_cannot_be_read_are_skipped_and_named(tmp_path, cache):
    split = photographs(tmp_path)
    examples, skipped, facts = pipeline.load(split, cache=cache)
    assert facts is None
    assert len(examples) == 5
    np.testing.assert_array_equal(examples.labels, [0, 2, 0, 2, 1])
    expected = [photograph.prepare_image(split.read(index)) for index in (0, 2, 3, 5, 7)]
    np.testing.assert_array_equal(read_all(examples), expected)

    reasons = dict(skipped)
    assert list(reasons) == ["1.jpg", "4.jpg", "6.jpg", "8.jpg"]
    assert reasons["1.jpg"].startswith("Unknown image file format")
    assert reasons["4.jpg"].startswith("jpeg::Uncompress failed")
    assert reasons["6.jpg"] == "Input is empty."
    assert "No such file" in reasons["8.jpg"]
    for reason in reasons.values():
        assert "\n" not in reason
        assert "function_node" not in reason


def test_statistics_are_those_of_the_photographs_that_can_be_read(tmp_path):
    examples, _, found = pipeline.load(photographs(tmp_path), collect_statistics=True)
    accumulator = statistics.Accumulator()
    accumulator.add(read_all(examples))
    for one, other in zip(found, accumulator.result(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_progress_is_told_until_the_end(tmp_path):
    told = []
    pipeline.load(photographs(tmp_path), progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 9


def test_no_readable_photograph_is_a_value_error(tmp_path):
    split = photographs(tmp_path)
    with pytest.raises(ValueError, match=r"Received: 3 unreadable files, the first 1.jpg \(Unknown image file format"):
        pipeline.load(sources.subset(split, np.array([1, 4, 6])))


def small_photographs(folder, count=6):
    """Files of 32 x 32 without loss, and their pixels."""
    folder.mkdir(exist_ok=True)
    pixels = [np.random.default_rng(number).integers(0, 256, [32, 32, 3], dtype=np.uint8) for number in range(count)]
    paths = [folder / f"{number}.png" for number in range(count)]
    for path, image in zip(paths, pixels, strict=True):
        PIL.Image.fromarray(image).save(path)
    split = sources.Split(
        labels=np.arange(count) % 2,
        read=lambda index: tf.io.read_file(tf.gather(tf.constant([str(path) for path in paths]), index)),
        name_of=lambda index: paths[index].name,
    )
    return split, np.stack(pixels)


@pytest.mark.parametrize("cache", ["memory", "none", "auto"])
def test_images_of_another_size_are_whole_and_in_order(tmp_path, cache):
    split, pixels = small_photographs(tmp_path)
    (tmp_path / "4.png").write_text("This is no photograph.")
    examples, skipped, found = pipeline.load(split, image_size=32, cache=cache, collect_statistics=True)
    assert examples.image_size == 32
    assert [each.name for each in skipped] == ["4.png"]
    dataset = pipeline.evaluation_batches(examples, batch_size=3)
    assert dataset.element_spec[0] == tf.TensorSpec([None, 32, 32, 3], tf.uint8)
    assert [len(labels) for _, labels in dataset] == [3, 2]
    good = pixels[[0, 1, 2, 3, 5]]
    np.testing.assert_array_equal(read_all(examples), good)
    np.testing.assert_allclose(found.mean_image, good.mean(axis=0, dtype=np.float64), atol=255e-6)


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_photographs_become_the_squares_of_the_size_asked_for(tmp_path, cache):
    split = photographs(tmp_path)
    examples, _, _ = pipeline.load(split, image_size=32, cache=cache)
    expected = [photograph.prepare_image(split.read(index), 32) for index in (0, 2, 3, 5, 7)]
    np.testing.assert_array_equal(read_all(examples), expected)


@pytest.mark.parametrize("kept", [True, False])
def test_small_images_take_little_of_what_is_free(tmp_path, monkeypatch, kept):
    split, _ = small_photographs(tmp_path)
    free = 2 * 6 * 32 * 32 * 3 - (not kept)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=free))
    examples, _, _ = pipeline.load(split, image_size=32)
    assert (examples.decode is None) == kept


@pytest.mark.parametrize("cache", ["memory", "none"])
@pytest.mark.parametrize("crops", ["random", "center"])
def test_crops_of_24_of_32_are_the_pixels_at_their_offsets(tmp_path, cache, crops):
    split, pixels = small_photographs(tmp_path)
    split = split._replace(labels=np.arange(6))
    examples, _, _ = pipeline.load(split, image_size=32, cache=cache)
    found = batches(examples, batch_size=6, steps=40, crop_size=24, crops=crops)
    for batch in found[:5]:
        assert batch["crops"].shape == (6, 24, 24, 3)
        assert sorted(batch["labels"]) == list(range(6))
        for crop, (top, left), label in zip(batch["crops"], batch["offsets"], batch["labels"], strict=True):
            np.testing.assert_array_equal(crop, pixels[label][top : top + 24, left : left + 24])
    offsets = gathered(found, "offsets")
    # Of 240 draws every one of nine rows and columns is among them, but for once in ten billion runs.
    for axis in (0, 1):
        assert sorted(set(offsets[:, axis].tolist())) == (list(range(9)) if crops == "random" else [4])


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_crops_as_large_as_the_images_are_all_of_them(tmp_path, cache):
    split, pixels = small_photographs(tmp_path)
    split = split._replace(labels=np.arange(6))
    examples, _, _ = pipeline.load(split, image_size=32, cache=cache)
    for batch in batches(examples, batch_size=3, steps=4, crop_size=32):
        assert not batch["offsets"].any()
        np.testing.assert_array_equal(batch["crops"], pixels[batch["labels"]])


@pytest.mark.parametrize("storage", prepare.STORAGES)
def test_prepared_images_have_the_size_they_have(tmp_path, storage):
    for number in range(4):
        path = tmp_path / "photographs" / "train" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(telling(number).numpy()).save(path)
    source = sources.folder(tmp_path / "photographs")
    prepare.prepare(source, tmp_path / "made", prepare.Options(storage=storage))
    split = prepared.open_data_dir(tmp_path / "made")[0].splits["train"]
    for cache in ("auto", "memory", "none"):
        assert len(pipeline.load(split, cache=cache)[0]) == 4
        with pytest.raises(ValueError) as caught:
            pipeline.load(split, image_size=32, cache=cache)
        assert str(caught.value) == "Expected image_size to be 256, as prepared images are. Received: 32"


@pytest.mark.parametrize("cache, kept", [("memory", True), ("none", False), ("auto", True), ("auto", False)])
def test_images_are_kept_if_they_fit(tmp_path, monkeypatch, cache, kept):
    split = photographs(tmp_path)
    # Nine images fill half of what is free, or a byte more than that.
    free = 2 * 9 * 256 * 256 * 3 - (not kept)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=free))
    examples, _, _ = pipeline.load(split, cache=cache)
    before = read_all(examples)
    for path in tmp_path.iterdir():
        path.unlink()
    if kept:
        np.testing.assert_array_equal(read_all(examples), before)
    else:
        with pytest.raises(tf.errors.NotFoundError):
            read_all(examples)


def test_images_are_kept_once():
    """Neither making the table nor reading it in a data set holds its 118 MB a second time."""
    count = 600
    split = sources.Split(np.arange(count), telling, str)
    pipeline.load(sources.subset(split, np.arange(8)), cache="memory")
    before = psutil.Process().memory_info().rss
    examples, _, _ = pipeline.load(split, cache="memory")
    found = batches(examples, steps=2)
    assert len(found) == 2
    assert psutil.Process().memory_info().rss - before < 1.5 * count * 256 * 256 * 3
    np.testing.assert_array_equal(examples.fetch(np.array([599]), np.zeros([1, 2], int), 256)[0], telling(599))


def test_what_a_training_batch_is():
    dataset = pipeline.training_batches(telling_examples(10), batch_size=4, seed=7, first_step=0, steps=3)
    assert dataset.element_spec == {
        "crops": tf.TensorSpec([4, 224, 224, 3], tf.uint8),
        "offsets": tf.TensorSpec([4, 2], tf.int32),
        "flips": tf.TensorSpec([4, 2], tf.bool),
        "labels": tf.TensorSpec([4], tf.int64),
        "noise": tf.TensorSpec([4, 3], tf.float32),
    }
    assert len(list(dataset)) == 3


def test_crops_are_the_pixels_at_their_offsets():
    for batch in batches(telling_examples(10), steps=4):
        for crop, (top, left), label in zip(batch["crops"], batch["offsets"], batch["labels"], strict=True):
            np.testing.assert_array_equal(crop[:, :, 0], (top + ROWS)[:224, :224])
            np.testing.assert_array_equal(crop[:, :, 1], (left + COLUMNS)[:224, :224])
            # The label belongs to the image.
            assert (crop[:, :, 2] == label / 3).all()


@pytest.mark.parametrize("count, batch_size", [(10, 4), (12, 4), (5, 5), (1, 1), (97, 10)])
def test_an_epoch_visits_distinct_images_in_a_new_order(count, batch_size):
    steps = count // batch_size
    found = batches(blank_examples(count), batch_size=batch_size, steps=4 * steps)
    epochs = gathered(found, "labels").reshape(4, -1)
    for epoch in epochs:
        assert len(set(epoch.tolist())) == steps * batch_size
        assert set(epoch.tolist()) <= set(range(count))
    if count > 1:
        assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4


def test_who_is_left_out_of_an_epoch_changes():
    found = batches(blank_examples(10), steps=40)
    seen = [set(epoch) for epoch in gathered(found, "labels").reshape(20, 8).tolist()]
    missing = [number for epoch in seen for number in set(range(10)) - epoch]
    assert set(missing) == set(range(10))


def test_the_seed_decides_everything_that_is_drawn():
    one, same, other = (batches(telling_examples(50), steps=2, batch_size=20, seed=seed) for seed in (7, 7, 8))
    for name in one[0]:
        np.testing.assert_array_equal(gathered(one, name), gathered(same, name))
        assert (gathered(one, name) != gathered(other, name)).any()


@pytest.mark.parametrize("first_step", range(7))
def test_a_resumed_run_gets_the_batches_of_an_uninterrupted_one(first_step):
    """Two batches an epoch, so within epochs and across their borders."""
    whole = batches(telling_examples(10), steps=7)
    rest = batches(telling_examples(10), first_step=first_step, steps=7)
    assert len(rest) == 7 - first_step
    for expected, batch in zip(whole[first_step:], rest, strict=True):
        for name in expected:
            np.testing.assert_array_equal(batch[name], expected[name])


def test_steps_without_end_cost_nothing_at_the_start():
    """Step 900,001 of ImageNet's 1.28 million photographs, without what was before."""
    examples = blank_examples(1_281_167)
    (late,) = batches(examples, first_step=900_000, steps=900_001, batch_size=128)
    assert len(set(late["labels"].tolist())) == 128
    assert late["labels"].max() > 1_000_000


@pytest.mark.parametrize("device", [None, "/CPU:1"])
def test_batches_copied_ahead_are_the_same(device):
    dataset = pipeline.training_batches(telling_examples(9), batch_size=4, seed=7, first_step=0, steps=3)
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


def test_half_of_the_images_are_flipped_each_way(draws):
    # Five standard errors.
    assert (np.abs(draws["flips"].mean(axis=0) - 0.5) < 5 * 0.5 / np.sqrt(22_000)).all()


@pytest.mark.parametrize("flips, upended, mirrored", [("none", 0, 0), ("horizontal", 0, 1), ("both", 1, 1)])
def test_flips_that_are_not_wanted_do_not_occur(flips, upended, mirrored):
    found = gathered(batches(blank_examples(100), batch_size=100, steps=3, flips=flips), "flips")
    np.testing.assert_array_equal(found.any(axis=0), [upended, mirrored])
    assert not found.all(axis=0).any()


def test_noise_is_standard_normal(draws):
    noise = draws["noise"].astype(np.float64)
    # Five standard errors of a mean, a standard deviation and a fourth moment.
    reach = 5 / np.sqrt(22_000)
    assert (np.abs(noise.mean(axis=0)) < reach).all()
    assert (np.abs(noise.std(axis=0) - 1) < reach / np.sqrt(2)).all()
    assert (np.abs((noise**4).mean(axis=0) - 3) < reach * np.sqrt(96)).all()


def test_what_is_drawn_does_not_go_together(draws):
    columns = np.column_stack([draws["offsets"], draws["flips"], draws["labels"], draws["noise"]]).astype(np.float64)
    # A correlation of independent columns has a standard error of 1 / sqrt(22,000).
    assert np.abs(np.corrcoef(columns, rowvar=False) - np.eye(8)).max() < 5 / np.sqrt(22_000)


@pytest.mark.parametrize("name", ["offsets", "flips", "noise"])
def test_an_epoch_draws_anew(draws, name):
    epochs = draws[name].reshape(110, 200, -1).astype(np.float64)
    same_place = np.corrcoef(epochs[:-1].ravel(), epochs[1:].ravel())[0, 1]
    next_place = np.corrcoef(epochs[:, :-1].ravel(), epochs[:, 1:].ravel())[0, 1]
    assert max(abs(same_place), abs(next_place)) < 5 / np.sqrt(22_000)
    assert len({epoch.tobytes() for epoch in epochs}) == 110


def test_central_crops_stay_in_the_centre():
    for batch in batches(telling_examples(10), crops="center"):
        assert (batch["offsets"] == 16).all()
        np.testing.assert_array_equal(batch["crops"][0, :, :, 0], (16 + ROWS)[:224, :224])


def test_images_in_a_row_may_share_their_crop_and_mirroring():
    """The original's habit: one draw for 32 images, whatever the size of the batch."""
    found = batches(blank_examples(100), batch_size=50, steps=2, images_per_draw=32, flips="both")
    geometry = np.column_stack([gathered(found, "offsets"), gathered(found, "flips")])
    for first in (0, 32, 64, 96):
        assert (geometry[first : first + 32] == geometry[first]).all()
    assert len({tuple(row) for row in geometry.tolist()}) == 4
    assert len({tuple(row) for row in gathered(found, "noise").tolist()}) == 100


def test_without_reshuffling_the_first_order_comes_again_and_again():
    """The original's habit. Nobody is left out for good: each epoch begins where the one before ended."""
    found = gathered(batches(blank_examples(10), steps=10, reshuffle=False), "labels")
    np.testing.assert_array_equal(found, np.resize(found[:10], 40))
    assert sorted(found[:10]) == list(range(10))


def test_the_noise_goes_off_when_it_is_told():
    found = batches(blank_examples(10), steps=8, noise_epochs=2.5)
    silent = [not batch["noise"].any() for batch in found]
    assert silent == [False] * 5 + [True] * 3
    np.testing.assert_array_equal(gathered(found, "offsets"), gathered(batches(blank_examples(10), steps=8), "offsets"))


@pytest.mark.parametrize("options", [{}, {"images_per_draw": 3}, {"reshuffle": False}])
def test_workers_share_the_batches_of_one(options):
    whole = batches(telling_examples(26), batch_size=12, steps=5, **options)
    parts = [batches(telling_examples(26), batch_size=12, steps=5, worker=(part, 3), **options) for part in range(3)]
    for expected, *shares in zip(whole, *parts, strict=True):
        for name, values in expected.items():
            np.testing.assert_array_equal(np.concatenate([share[name] for share in shares]), values)


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_workers_together_evaluate_every_example_once(workers):
    seen = []
    for part in range(workers):
        dataset = pipeline.evaluation_batches(telling_examples(10), batch_size=3, worker=(part, workers))
        for images, labels in dataset.as_numpy_iterator():
            np.testing.assert_array_equal(3 * images[:, 0, 0, 2].astype(int), labels)
            seen += labels.tolist()
    assert sorted(seen) == [3 * number for number in range(10)]


def test_wrong_arguments_are_value_errors(tmp_path):
    with pytest.raises(ValueError, match="Expected batch_size to be a multiple of the 3 workers. Received: 4"):
        batches(telling_examples(10), worker=(0, 3))
    with pytest.raises(ValueError, match="Expected batch_size to be at most the 10 training images. Received: 11"):
        batches(telling_examples(10), batch_size=11)
    with pytest.raises(ValueError, match="Expected crops to be one of random, center. Received: crops='centre'"):
        batches(telling_examples(10), crops="centre")
    with pytest.raises(ValueError, match="Expected flips to be one of none, .* Received: flips='vertical'"):
        batches(telling_examples(10), flips="vertical")
    with pytest.raises(ValueError, match="Expected cache to be one of auto, memory, none. Received: cache='disk'"):
        pipeline.load(photographs(tmp_path), cache="disk")


@pytest.mark.parametrize("count, sizes", [(10, [4, 4, 2]), (8, [4, 4]), (3, [3])])
def test_evaluation_sees_every_example_once_in_order(count, sizes):
    dataset = pipeline.evaluation_batches(telling_examples(count), batch_size=4)
    assert dataset.element_spec == (
        tf.TensorSpec([None, 256, 256, 3], tf.uint8),
        tf.TensorSpec([None], tf.int64),
    )
    found = list(dataset.as_numpy_iterator())
    assert [len(labels) for _, labels in found] == sizes
    images = np.concatenate([images for images, _ in found])
    np.testing.assert_array_equal(images[:, 0, 0, 2], np.arange(count))
    np.testing.assert_array_equal(images[-1], telling(count - 1))
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in found]), 3 * np.arange(count))
