"""The image of the kernels pixel by pixel, its file, and the share of color."""

import full_disk
import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf.reporting import kernels

WHITE = 255
GRAY = 128


def tower(count, height=3, width=2, seed=0):
    return np.random.default_rng(seed).standard_normal([height, width, 3, count]).astype(np.float32)


def paint(weights, columns, scale, gap):
    """Paints each pixel of each kernel on a white image."""
    height, width = weights[0].shape[:2]
    places = []
    row = 0
    for each in weights:
        for number in range(each.shape[-1]):
            places.append((row + number // columns, number % columns, each[..., number].astype(np.float64)))
        row += -(-each.shape[-1] // columns)
    sheet = np.full([scale * (row * (height + gap) + gap), scale * (columns * (width + gap) + gap), 3], WHITE, np.uint8)
    for place, column, kernel in places:
        for y, x, color in np.ndindex(height, width, 3):
            value = round(255 * (0.5 + kernel[y, x, color] / np.abs(kernel).max() / 2))
            top = scale * (gap + place * (height + gap) + y)
            left = scale * (gap + column * (width + gap) + x)
            sheet[top : top + scale, left : left + scale, color] = value
    return sheet


@pytest.mark.parametrize("columns, scale, gap", [(4, 1, 1), (4, 3, 2), (5, 2, 0), (16, 1, 1)])
def test_tiles_equal_kernels_painted_pixel_by_pixel(columns, scale, gap):
    weights = [tower(6), tower(5, seed=1)]
    picture = kernels.tile(weights, columns=columns, scale=scale, gap=gap)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, paint(weights, columns, scale, gap))


def test_two_towers_of_48_kernels_have_three_rows_each():
    weights = [tower(48, 11, 11), tower(48, 11, 11, seed=1)]
    picture = kernels.tile(weights)
    assert picture.shape == (8 * (6 * 12 + 1), 8 * (16 * 12 + 1), 3)
    # The second tower begins with the fourth row.
    below = 8 * 3 * 12
    np.testing.assert_array_equal(picture[below:], kernels.tile(weights[1:]))
    np.testing.assert_array_equal(picture[: below + 8], kernels.tile(weights[:1]))


def test_zero_is_gray_and_the_largest_value_is_black_or_white():
    kernel = np.zeros([1, 4, 3, 1], np.float32)
    kernel[0, 0, 0, 0] = 0.02
    kernel[0, 1, 1, 0] = -0.02
    kernel[0, 2, 2, 0] = 0.01
    picture = kernels.tile([kernel], columns=1, scale=1, gap=0)
    assert picture[0].tolist() == [[255, GRAY, GRAY], [GRAY, 0, GRAY], [GRAY, GRAY, 191], [GRAY] * 3]


def test_each_kernel_is_scaled_separately():
    small = tower(1)
    both = np.concatenate([small, 1000 * small], axis=-1)
    picture = kernels.tile([both], columns=2, scale=1, gap=0)
    np.testing.assert_array_equal(picture[:, :2], picture[:, 2:])


def test_kernel_of_zeros_is_gray():
    picture = kernels.tile([np.zeros([3, 3, 3, 2], np.float32)], columns=2, scale=1, gap=0)
    assert np.unique(picture).tolist() == [GRAY]


def test_file_contains_the_image(tmp_path):
    picture = kernels.tile([tower(20)])
    kernels.save_png(picture, tmp_path / "kernels.png")
    np.testing.assert_array_equal(tf.io.decode_png((tmp_path / "kernels.png").read_bytes()), picture)
    assert [path.name for path in tmp_path.iterdir()] == ["kernels.png"]


def test_interrupted_write_leaves_the_previous_file(tmp_path):
    path = tmp_path / "kernels.png"
    noise = np.random.default_rng(0).integers(0, 256, [100, 100, 3], np.uint8)
    with full_disk.full_disk(1000), pytest.raises(OSError):
        kernels.save_png(noise, path)
    assert not path.exists()
    kernels.save_png(noise, path)
    before = path.read_bytes()
    with full_disk.full_disk(1000), pytest.raises(OSError):
        kernels.save_png(255 - noise, path)
    assert path.read_bytes() == before


def test_color_share_of_gray_colored_and_random_kernels():
    generator = np.random.default_rng(0)
    shades = generator.standard_normal([11, 11, 1, 48])
    assert kernels.color_share(np.repeat(shades, 3, axis=2)) == pytest.approx(0, abs=1e-12)
    # Green minus magenta has no gray component.
    assert kernels.color_share(shades * np.reshape([-1, 2, -1], [1, 1, 3, 1])) == pytest.approx(1)
    assert kernels.color_share(generator.standard_normal([11, 11, 3, 960])) == pytest.approx(2 / 3, abs=0.005)
    assert kernels.color_share(np.zeros([1, 1, 3, 1])) == 0


def test_kernels_of_a_fully_connected_layer_are_as_large_as_the_images():
    weights = tower(5, 4, 4)
    np.testing.assert_array_equal(kernels.as_images(weights.reshape(4 * 4 * 3, 5), 4), weights)
    assert kernels.as_images(weights, 32) is weights
