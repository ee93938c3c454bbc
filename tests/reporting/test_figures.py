"""The picture of the kernels, pixel by pixel, the diagram of the batch, value by value, and their way to the disk."""

import importlib.util

import full_disk
import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf.reporting import figures

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


def test_color_share_is_that_of_each_kind_of_kernel():
    generator = np.random.default_rng(0)
    shades = generator.standard_normal([11, 11, 1, 48])
    assert figures.color_share(np.repeat(shades, 3, axis=2)) == pytest.approx(0, abs=1e-12)
    # Green against magenta has no grey in it.
    assert figures.color_share(shades * np.reshape([-1, 2, -1], [1, 1, 3, 1])) == pytest.approx(1)
    assert figures.color_share(generator.standard_normal([11, 11, 3, 960])) == pytest.approx(2 / 3, abs=0.005)
    assert figures.color_share(np.zeros([1, 1, 3, 1])) == 0


def pictures(count):
    return np.random.default_rng(0).integers(0, 256, [count, 5, 5, 3]).astype(np.uint8)


@needs_matplotlib
def test_error_curves_are_drawn_as_given():
    training = {"epoch": [1.0, 2.0], "error": [0.5, 0.25], "loss": [2.0, 1.0]}
    watched = {"epoch": [2.0], "error": [0.4], "loss": [1.5]}
    above, below = figures.error_curves(training, watched, name="test").axes
    for panel, key, scale in ((above, "error", 100), (below, "loss", 1)):
        for line, expected, label in zip(panel.lines, (training, watched), ("training", "test"), strict=True):
            np.testing.assert_allclose(line.get_xdata(), expected["epoch"])
            np.testing.assert_allclose(line.get_ydata(), scale * np.array(expected[key]))
            assert line.get_label() == label


@needs_matplotlib
def test_answers_have_bars_in_order_and_the_right_one_in_red():
    import matplotlib.colors

    images, right = pictures(3), ["cat", "dog", "$x$"]
    named = [[("cat", 0.9), ("dog", 0.1)], [("cat", 0.6), ("dog", 0.4)], [("cat", 0.5), ("dog", 0.3)]]
    figure = figures.answers(images, right, named, columns=2)
    panels = np.reshape(figure.axes, [4, 2])
    for place in range(3):
        row, column = divmod(place, 2)
        above, below = panels[2 * row, column], panels[2 * row + 1, column]
        np.testing.assert_array_equal(above.images[0].get_array(), images[place])
        assert above.get_title() == right[place]
        assert [text.get_text() for text in below.texts] == [name for name, _ in named[place]]
        assert [bar.get_width() for bar in below.patches] == [share for _, share in named[place]]
        heights = [bar.get_y() for bar in below.patches]
        assert heights == sorted(heights, reverse=True)
        red = [matplotlib.colors.to_hex(bar.get_facecolor()) == "#d62728" for bar in below.patches]
        assert red == [name == right[place] for name, _ in named[place]]
    assert not panels[2, 1].images


@needs_matplotlib
def test_confusion_shows_shares_of_the_right_class():
    matrix = np.array([[6, 2, 0], [0, 0, 0], [1, 0, 3]])
    axes, _ = figures.confusion(matrix, ["a", "$b$", "c"]).axes
    expected = [[75, 25, 0], [0, 0, 0], [25, 0, 75]]
    np.testing.assert_allclose(axes.images[0].get_array(), expected)
    assert [text.get_text() for text in axes.texts] == [str(value) for value in np.ravel(expected)]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "$b$", "c"]


@needs_matplotlib
@pytest.mark.parametrize("count, named, numbered", [(12, True, True), (13, True, False), (41, False, False)])
def test_confusion_of_many_classes_leaves_out_what_could_not_be_read(count, named, numbered):
    axes, _ = figures.confusion(np.eye(count), [str(number) for number in range(count)]).axes
    assert bool(axes.get_xticklabels()) == named
    assert bool(axes.texts) == numbered


@needs_matplotlib
def test_gallery_has_each_picture_with_its_caption():
    images = pictures(3)
    panels = figures.gallery(images, ["one", "two\nlines", "$three"], columns=2).axes
    for panel, image, caption in zip(panels, images, ["one", "two\nlines", "$three"]):
        np.testing.assert_array_equal(panel.images[0].get_array(), image)
        assert panel.texts[0].get_text() == caption
    assert len(panels) == 4 and not panels[3].images


@needs_matplotlib
def test_pictures_with_awkward_names_can_be_saved(tmp_path):
    names = ["$", "$\\frac{", "a" * 100]
    for place, figure in enumerate(
        (
            figures.answers(pictures(3), names, [[(name, 0.5) for name in names]] * 3),
            figures.confusion(np.eye(3), names),
            figures.gallery(pictures(3), names),
        )
    ):
        figures.save_figure(figure, tmp_path / f"{place}.png")
        assert tf.io.decode_png((tmp_path / f"{place}.png").read_bytes()).shape[0] > 100
