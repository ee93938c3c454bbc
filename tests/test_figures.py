"""The picture of the kernels, pixel by pixel, the diagram of the batch, value by value, and their way to the disk."""

import importlib.util

import full_disk
import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf.evaluation import figures

WHITE = 255
GREY = 128


def tower(kernels, height=3, width=2, seed=0):
    return np.random.default_rng(seed).standard_normal([height, width, 3, kernels]).astype(np.float32)


def picture_by_hand(weights, columns, scale, gap):
    """Paints each pixel of each kernel on a white sheet."""
    height, width = weights[0].shape[:2]
    places = []
    row = 0
    for kernels in weights:
        for number in range(kernels.shape[-1]):
            places.append((row + number // columns, number % columns, kernels[..., number].astype(np.float64)))
        row += -(-kernels.shape[-1] // columns)
    sheet = np.full([scale * (row * (height + gap) + gap), scale * (columns * (width + gap) + gap), 3], WHITE, np.uint8)
    for place, column, kernel in places:
        for y, x, color in np.ndindex(height, width, 3):
            value = round(255 * (0.5 + kernel[y, x, color] / np.abs(kernel).max() / 2))
            top = scale * (gap + place * (height + gap) + y)
            left = scale * (gap + column * (width + gap) + x)
            sheet[top : top + scale, left : left + scale, color] = value
    return sheet


@pytest.mark.parametrize("columns, scale, gap", [(4, 1, 1), (4, 3, 2), (5, 2, 0), (16, 1, 1)])
def test_kernels_are_painted_where_and_as_they_should_be(columns, scale, gap):
    weights = [tower(6), tower(5, seed=1)]
    picture = figures.kernels(weights, columns=columns, scale=scale, gap=gap)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, picture_by_hand(weights, columns, scale, gap))


def test_papers_figure_has_two_towers_of_three_rows():
    weights = [tower(48, 11, 11), tower(48, 11, 11, seed=1)]
    picture = figures.kernels(weights)
    assert picture.shape == (8 * (6 * 12 + 1), 8 * (16 * 12 + 1), 3)
    # The second tower begins with the fourth row.
    below = 8 * 3 * 12
    np.testing.assert_array_equal(picture[below:], figures.kernels(weights[1:]))
    np.testing.assert_array_equal(picture[: below + 8], figures.kernels(weights[:1]))


def test_zero_is_grey_and_the_largest_value_full_in_either_direction():
    kernel = np.zeros([1, 4, 3, 1], np.float32)
    kernel[0, 0, 0, 0] = 0.02
    kernel[0, 1, 1, 0] = -0.02
    kernel[0, 2, 2, 0] = 0.01
    picture = figures.kernels([kernel], columns=1, scale=1, gap=0)
    assert picture[0].tolist() == [[255, GREY, GREY], [GREY, 0, GREY], [GREY, GREY, 191], [GREY] * 3]


def test_each_kernel_has_its_own_range():
    small = tower(1)
    both = np.concatenate([small, 1000 * small], axis=-1)
    picture = figures.kernels([both], columns=2, scale=1, gap=0)
    np.testing.assert_array_equal(picture[:, :2], picture[:, 2:])


def test_kernel_of_zeros_is_grey():
    picture = figures.kernels([np.zeros([3, 3, 3, 2], np.float32)], columns=2, scale=1, gap=0)
    assert np.unique(picture).tolist() == [GREY]


def test_picture_comes_back_from_its_file(tmp_path):
    picture = figures.kernels([tower(20)])
    figures.save_png(picture, tmp_path / "kernels.png")
    np.testing.assert_array_equal(tf.io.decode_png((tmp_path / "kernels.png").read_bytes()), picture)
    assert [path.name for path in tmp_path.iterdir()] == ["kernels.png"]


def test_half_written_picture_never_has_the_final_name(tmp_path):
    path = tmp_path / "kernels.png"
    noise = np.random.default_rng(0).integers(0, 256, [100, 100, 3], np.uint8)
    with full_disk.full_disk(1000), pytest.raises(OSError):
        figures.save_png(noise, path)
    assert not path.exists()
    figures.save_png(noise, path)
    before = path.read_bytes()
    with full_disk.full_disk(1000), pytest.raises(OSError):
        figures.save_png(255 - noise, path)
    assert path.read_bytes() == before


SIZES, SECONDS, PEAKS = [1, 8, 512], [0.0731, 0.158, 5.94], [1.54e9, 1.61e9, 7.08e9]
needs_matplotlib = pytest.mark.skipif(
    not importlib.util.find_spec("matplotlib"), reason="needs matplotlib: pip install -e '.[figures]'"
)


@needs_matplotlib
def test_growth_shows_the_values_that_it_is_given():
    times, memory, speeds = figures.growth(SIZES, SECONDS, PEAKS).axes
    for axes, label, values in (
        (times, "step, ms", [73.1, 158.0, 5940.0]),
        (speeds, "images/s", [1 / 0.0731, 8 / 0.158, 512 / 5.94]),
        (memory, "peak memory, GB", [1.54, 1.61, 7.08]),
    ):
        (line,) = axes.lines
        assert axes.get_ylabel() == label
        np.testing.assert_array_equal(line.get_xdata(), SIZES)
        np.testing.assert_allclose(line.get_ydata(), values, rtol=1e-12)
    assert times.get_yscale() == "log" and memory.get_xscale() == "log"
    assert [label.get_text() for label in memory.get_xticklabels()] == ["1", "8", "512"]


@needs_matplotlib
def test_diagram_comes_back_from_its_file_and_is_whole_or_not_there(tmp_path):
    figure = figures.growth(SIZES, SECONDS, PEAKS)
    path = tmp_path / "growth.png"
    with full_disk.full_disk(1000), pytest.raises(OSError):
        figures.save_figure(figure, path)
    assert not list(tmp_path.iterdir())
    figures.save_figure(figure, path)
    assert tf.io.decode_png(path.read_bytes()).shape == [720, 840, 4]


@needs_matplotlib
def test_training_curves_show_means_and_ranges_of_seeds():
    seeds = [
        {"epoch": [1.0, 2.0, 3.0], "train_error": [0.6, 0.4, 0.2]},
        {"epoch": [1.0, 2.0], "train_error": [0.5, 0.1]},
    ]
    one = [{"epoch": [1.0, 2.0, 3.0], "train_error": [0.9, 0.8, 0.7]}]
    (axes,) = figures.training_curves({"ReLU": seeds, "tanh": one}, threshold=0.25).axes
    relu, tanh, level = axes.lines
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["ReLU", "tanh"]
    np.testing.assert_allclose(relu.get_xydata(), [[1, 0.55], [2, 0.25]], rtol=1e-12)
    np.testing.assert_allclose(tanh.get_xydata(), [[1, 0.9], [2, 0.8], [3, 0.7]], rtol=1e-12)
    assert relu.get_linestyle() != tanh.get_linestyle()
    np.testing.assert_array_equal(level.get_ydata(), [0.25, 0.25])
    (band,) = axes.collections
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices.tolist()}
    assert {(1.0, 0.5), (1.0, 0.6), (2.0, 0.1), (2.0, 0.4)} <= corners


def test_without_matplotlib_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    expected = r"^Expected matplotlib for a diagram: pip install -e '\.\[figures\]'$"
    with pytest.raises(ModuleNotFoundError, match=expected):
        figures.growth(SIZES, SECONDS, PEAKS)
