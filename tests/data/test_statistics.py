"""Mean image and color components against NumPy on all pixels at once, and their file."""

import os

import numpy as np
import pytest

from alexnet_tf.data import statistics


def photographs(count=7, height=32, width=24, seed=0):
    """Returns random images with correlated colors and a bright upper half."""
    generator = np.random.default_rng(seed)
    gray = generator.normal(0, 40, [count, height, width, 1])
    tint = generator.normal(0, 1, [count, height, width, 3]) * [15, 5, 25]
    light = np.linspace(150, 90, height)[None, :, None, None]
    return np.clip(light + gray + tint, 0, 255).astype(np.uint8)


def statistics_of(images, sizes):
    """Returns the statistics of the images, accumulated in batches of these sizes."""
    accumulator = statistics.Accumulator()
    begin = 0
    for size in sizes:
        accumulator.add(images[begin : begin + size])
        begin += size
    assert begin == len(images)
    return accumulator.result()


def test_mean_image_and_components_are_those_of_all_pixels():
    images = photographs()
    result = statistics_of(images, [7])
    assert result.num_examples == 7
    for field in (result.mean_image, result.directions, result.standard_deviations, result.components):
        assert field.dtype == np.float32
    np.testing.assert_allclose(result.mean_image, images.astype(np.float64).mean(axis=0), rtol=1e-6)

    covariance = np.cov(images.reshape(-1, 3).astype(np.float64), rowvar=False, bias=True)
    directions, deviations = result.directions, result.standard_deviations
    np.testing.assert_allclose(directions @ directions.T, np.eye(3), atol=1e-6)
    assert (np.diff(deviations) < 0).all()
    np.testing.assert_allclose(covariance @ directions.T, directions.T * deviations**2, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(result.components.T @ result.components, covariance, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(result.components, axis=1), deviations, rtol=1e-6)


def test_largest_coordinate_of_each_direction_is_positive():
    for seed in range(5):
        directions = statistics_of(photographs(count=2, seed=seed), [2]).directions
        assert (directions[np.arange(3), np.abs(directions).argmax(axis=1)] > 0).all()


@pytest.mark.parametrize("sizes", [[1] * 7, [3, 4], [6, 1], [2, 0, 5]])
def test_batches_of_any_size_give_identical_statistics(sizes):
    images = photographs()
    for one, other in zip(statistics_of(images, [7]), statistics_of(images, sizes), strict=True):
        np.testing.assert_array_equal(one, other)


def test_order_of_images_does_not_matter():
    images = photographs()
    for one, other in zip(statistics_of(images, [7]), statistics_of(images[::-1], [7]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_gray_photographs_have_one_component():
    gray = np.repeat(photographs()[..., :1], 3, axis=-1)
    result = statistics_of(gray, [7])
    np.testing.assert_allclose(result.directions[0], [3**-0.5] * 3, rtol=1e-6)
    np.testing.assert_allclose(result.standard_deviations[0], 3**0.5 * gray[..., 0].std(), rtol=1e-5)
    # The square root of float64's error in a difference of numbers near 1e4.
    assert (result.standard_deviations[1:] < 1e-4).all()


def test_one_color_has_no_components():
    result = statistics_of(np.full([2, 8, 8, 3], [10, 200, 30], np.uint8), [2])
    np.testing.assert_array_equal(result.mean_image, np.broadcast_to(np.float32([10, 200, 30]), [8, 8, 3]))
    assert (result.standard_deviations < 1e-4).all()
    assert np.isfinite(result.components).all()


def test_no_images_raise():
    with pytest.raises(ValueError, match="Expected at least one image"):
        statistics.Accumulator().result()


def test_statistics_are_loaded_as_saved(tmp_path):
    path = tmp_path / "statistics.npz"
    before = statistics_of(photographs(), [7])
    statistics.save(before, path)
    after = statistics.load(path)
    assert isinstance(after.num_examples, int)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    assert os.listdir(tmp_path) == ["statistics.npz"]


def test_saving_replaces_the_previous_file(tmp_path):
    path = tmp_path / "statistics.npz"
    statistics.save(statistics_of(photographs(), [7]), path)
    statistics.save(statistics_of(photographs(count=3), [3]), path)
    assert statistics.load(path).num_examples == 3


def test_partial_files_never_have_the_final_name(tmp_path, monkeypatch):
    path = tmp_path / "statistics.npz"
    result = statistics_of(photographs(), [7])

    def full_disk(file, **fields):
        file.write(b"half")
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full_disk)
        with pytest.raises(OSError, match="No space left"):
            statistics.save(result, path)
    assert not path.exists()
    statistics.save(result, path)
    assert statistics.load(path).num_examples == 7


def corrupt_files(folder):
    whole = folder / "whole.npz"
    statistics.save(statistics_of(photographs(), [7]), whole)
    content = whole.read_bytes()
    flipped = bytearray(content)
    flipped[len(flipped) // 2] ^= 0xFF
    np.save(folder / "array.npy", np.zeros(3))
    np.savez(folder / "other.npz", mean_image=np.zeros(3))
    np.savez(folder / "objects.npz", mean_image=np.array([None]))
    return {
        "empty": b"",
        "text": b"mean 123.68, 116.78, 103.94\n",
        "half": content[: len(content) // 2],
        "one byte": bytes(flipped),
        **{name: (folder / name).read_bytes() for name in ("array.npy", "other.npz", "objects.npz")},
    }


def test_corrupt_file_raises(tmp_path):
    path = tmp_path / "statistics.npz"
    for name, content in corrupt_files(tmp_path).items():
        path.write_bytes(content)
        try:
            statistics.load(path)
        except ValueError as error:
            assert str(error).startswith(f"Expected statistics of a training set in {path}. Received: "), name
        else:
            pytest.fail(f"{name} is taken for statistics")


def test_missing_file_raises(tmp_path):
    with pytest.raises(FileNotFoundError):
        statistics.load(tmp_path / "statistics.npz")
