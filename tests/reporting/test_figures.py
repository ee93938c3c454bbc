"""Figures show the values that they are given."""

import importlib.util

import full_disk
import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf.evaluation import calibration
from alexnet_tf.reporting import figures

SIZES, SECONDS, PEAKS = [1, 8, 512], [0.0731, 0.158, 5.94], [1.54e9, 1.61e9, 7.08e9]
needs_matplotlib = pytest.mark.skipif(
    not importlib.util.find_spec("matplotlib"), reason="needs matplotlib: pip install -e '.[figures]'"
)


@needs_matplotlib
def test_growth_shows_the_given_values():
    times, memory, speeds = figures.growth(SIZES, SECONDS, PEAKS).axes
    for axes, label, values in (
        (times, "step (ms)", [73.1, 158.0, 5940.0]),
        (speeds, "images/s", [1 / 0.0731, 8 / 0.158, 512 / 5.94]),
        (memory, "peak memory (GB)", [1.54, 1.61, 7.08]),
    ):
        (line,) = axes.lines
        assert axes.get_ylabel() == label
        np.testing.assert_array_equal(line.get_xdata(), SIZES)
        np.testing.assert_allclose(line.get_ydata(), values, rtol=1e-12)
    assert times.get_yscale() == "log" and memory.get_xscale() == "log"
    assert [label.get_text() for label in memory.get_xticklabels()] == ["1", "8", "512"]


@needs_matplotlib
def test_figure_is_written_completely_or_not_at_all(tmp_path):
    figure = figures.growth(SIZES, SECONDS, PEAKS)
    path = tmp_path / "growth.png"
    with full_disk.full_disk(1000), pytest.raises(OSError):
        figures.save_figure(figure, path)
    assert not list(tmp_path.iterdir())
    figures.save_figure(figure, path)
    assert tf.io.decode_png(path.read_bytes()).shape == [720, 840, 4]


@needs_matplotlib
def test_training_curves_show_mean_and_range_over_seeds():
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


def test_missing_matplotlib_is_reported_with_the_command_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    expected = r"^Expected matplotlib for a figure: pip install -e '\.\[figures\]'$"
    with pytest.raises(ModuleNotFoundError, match=expected):
        figures.growth(SIZES, SECONDS, PEAKS)


def pictures(count):
    return np.random.default_rng(0).integers(0, 256, [count, 5, 5, 3]).astype(np.uint8)


@needs_matplotlib
def test_error_curves_show_the_given_values():
    training = {"epoch": [1.0, 2.0], "error": [0.5, 0.25], "loss": [2.0, 1.0]}
    monitored = {"epoch": [2.0], "error": [0.4], "loss": [1.5]}
    top, bottom = figures.error_curves(training, monitored, name="test").axes
    for panel, key, scale in ((top, "error", 100), (bottom, "loss", 1)):
        for line, expected, label in zip(panel.lines, (training, monitored), ("training", "test"), strict=True):
            np.testing.assert_allclose(line.get_xdata(), expected["epoch"])
            np.testing.assert_allclose(line.get_ydata(), scale * np.array(expected[key]))
            assert line.get_label() == label


@needs_matplotlib
def test_predictions_have_bars_in_order_with_the_true_class_in_red():
    import matplotlib.colors

    images, true_names = pictures(3), ["cat", "dog", "$x$"]
    predicted = [[("cat", 0.9), ("dog", 0.1)], [("cat", 0.6), ("dog", 0.4)], [("cat", 0.5), ("dog", 0.3)]]
    figure = figures.predictions(images, true_names, predicted, columns=2)
    panels = np.reshape(figure.axes, [4, 2])
    for place in range(3):
        row, column = divmod(place, 2)
        top, bottom = panels[2 * row, column], panels[2 * row + 1, column]
        np.testing.assert_array_equal(top.images[0].get_array(), images[place])
        assert top.get_title() == true_names[place]
        assert [text.get_text() for text in bottom.texts] == [name for name, _ in predicted[place]]
        assert [bar.get_width() for bar in bottom.patches] == [share for _, share in predicted[place]]
        heights = [bar.get_y() for bar in bottom.patches]
        assert heights == sorted(heights, reverse=True)
        red = [matplotlib.colors.to_hex(bar.get_facecolor()) == "#d62728" for bar in bottom.patches]
        assert red == [name == true_names[place] for name, _ in predicted[place]]
    assert not panels[2, 1].images


@needs_matplotlib
def test_confusion_matrix_shows_percentages_of_the_true_class():
    matrix = np.array([[6, 2, 0], [0, 0, 0], [1, 0, 3]])
    axes, _ = figures.confusion_matrix(matrix, ["a", "$b$", "c"]).axes
    expected = [[75, 25, 0], [0, 0, 0], [25, 0, 75]]
    np.testing.assert_allclose(axes.images[0].get_array(), expected)
    assert [text.get_text() for text in axes.texts] == [str(value) for value in np.ravel(expected)]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "$b$", "c"]


def contrast(first, second):
    """Returns the contrast of two RGB colors by WCAG 2.1; 4.5 is its minimum for text."""

    def luminance(color):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color[:3]]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    darker, brighter = sorted((luminance(first), luminance(second)))
    return (brighter + 0.05) / (darker + 0.05)


@needs_matplotlib
@pytest.mark.parametrize("share", range(0, 101, 5))
def test_percentages_of_a_confusion_matrix_are_readable(share):
    import matplotlib.colors

    axes, _ = figures.confusion_matrix(np.array([[share, 100 - share], [0, 100]]), ["a", "b"]).axes
    background = axes.images[0].cmap(share / 100)
    text = axes.texts[0]
    assert text.get_text() == str(share)
    assert contrast(background, matplotlib.colors.to_rgb(text.get_color())) >= 4.5


@needs_matplotlib
def test_reliability_shows_bins_with_images():
    edges, nan = np.linspace(0, 1, 4), np.nan
    curves = {
        "as trained": calibration.Reliability(
            edges, np.array([0, 3, 9]), np.array([nan, 0.5, 0.9]), np.array([nan, 0.4, 0.8])
        ),
        "temperature 2": calibration.Reliability(
            edges, np.array([0, 12, 0]), np.array([nan, 0.6, nan]), np.array([nan, 0.7, nan])
        ),
    }
    top, bottom = figures.reliability(curves).axes
    _, first, second = top.lines
    np.testing.assert_array_equal(first.get_xydata(), [[0.5, 0.4], [0.9, 0.8]])
    np.testing.assert_array_equal(second.get_xydata(), [[0.6, 0.7]])
    assert [text.get_text() for text in top.get_legend().get_texts()] == list(curves)
    assert [bar.get_height() for bar in bottom.patches] == [0, 25, 75]


@needs_matplotlib
def test_a_percentage_in_a_caption_stays_with_its_number():
    (panel,) = figures.gallery(pictures(1), ["a name of thirty-two letters it is: 12.5%"], columns=1).axes
    assert panel.texts[0].get_text() == "a name of thirty-two letters it is:\n12.5%"


@needs_matplotlib
@pytest.mark.parametrize("count, named, numbered", [(12, True, True), (13, True, False), (41, False, False)])
def test_confusion_matrix_of_many_classes_omits_names_and_numbers(count, named, numbered):
    axes, _ = figures.confusion_matrix(np.eye(count), [str(number) for number in range(count)]).axes
    assert bool(axes.get_xticklabels()) == named
    assert bool(axes.texts) == numbered


@needs_matplotlib
def test_gallery_shows_each_image_with_its_caption():
    images = pictures(3)
    panels = figures.gallery(images, ["one", "two\nlines", "$three"], columns=2).axes
    for panel, image, caption in zip(panels, images, ["one", "two\nlines", "$three"]):
        np.testing.assert_array_equal(panel.images[0].get_array(), image)
        assert panel.texts[0].get_text() == caption
    assert len(panels) == 4 and not panels[3].images


@needs_matplotlib
def test_names_with_markup_and_long_names_can_be_drawn(tmp_path):
    names = ["$", "$\\frac{", "a" * 100]
    for place, figure in enumerate(
        (
            figures.predictions(pictures(3), names, [[(name, 0.5) for name in names]] * 3),
            figures.confusion_matrix(np.eye(3), names),
            figures.gallery(pictures(3), names),
        )
    ):
        figures.save_figure(figure, tmp_path / f"{place}.png")
        assert tf.io.decode_png((tmp_path / f"{place}.png").read_bytes()).shape[0] > 100
