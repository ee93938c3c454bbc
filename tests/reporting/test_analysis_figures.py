"""Figures of analyses show the values that they are given."""

import importlib.util

import numpy as np
import pytest

from alexnet_tf.reporting import analysis_figures

pytestmark = pytest.mark.skipif(
    not importlib.util.find_spec("matplotlib"), reason="needs matplotlib: pip install -e '.[figures]'"
)


def test_gradients_show_geometric_means_and_ranges_by_layer():
    panels = {"relu": {"a": [[1.0, 2.0], [4.0, 2.0]], "b": [[3.0, 3.0, 3.0]]}, "sigmoid": {"a": [[1e-9, 1.0]]}}
    relu, sigmoid = analysis_figures.gradients(panels).axes
    first, second = relu.lines
    np.testing.assert_allclose(first.get_xydata(), [[1, 2], [2, 2]])
    np.testing.assert_allclose(second.get_xydata(), [[1, 3], [2, 3], [3, 3]])
    assert {tuple(point) for point in relu.collections[0].get_paths()[0].vertices} >= {(1, 1), (1, 4)}
    np.testing.assert_allclose(sigmoid.lines[0].get_ydata(), [1e-9, 1])
    assert [axes.get_title() for axes in (relu, sigmoid)] == ["relu", "sigmoid"]
    assert relu.get_yscale() == "log" and relu.get_ylim() == sigmoid.get_ylim()
    assert [text.get_text() for text in relu.get_legend().get_texts()] == ["a", "b"]


def test_translation_shows_each_layer_and_the_shares():
    curves = {
        "a": (["pool1", "fc7"], np.array([[0.1, 0.2], [0.3, 0.4]]), np.array([0.9, 0.8])),
        "b": (["pool1"], np.array([[0.5], [0.6]]), np.array([0.7, 0.6])),
    }
    pool1, fc7, classes = analysis_figures.translation([1, 2], curves).axes
    assert [axes.get_title() for axes in (pool1, fc7, classes)] == ["pool1", "fc7", "same most probable class"]
    for axes, expected in ((pool1, [[0.1, 0.3], [0.5, 0.6]]), (fc7, [[0.2, 0.4]]), (classes, [[90, 80], [70, 60]])):
        np.testing.assert_allclose([line.get_ydata() for line in axes.lines], expected)
        assert all(line.get_xdata().tolist() == [1, 2] for line in axes.lines)
    assert pool1.get_ylim() == fc7.get_ylim() == (0, pytest.approx(0.63))


def test_errors_by_size_show_means_ranges_and_references():
    curves = {"validation": {10: [80.0, 90.0], 40: [60.0]}, "training": {10: [5.0, 5.0], 40: [20.0]}}
    figure = analysis_figures.errors_by_size(curves, {"study": {40: 70.0, 160: 50.0}})
    (axes,), (legend,) = figure.axes, figure.legends
    lines = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_linestyle() != "None"]
    np.testing.assert_allclose(
        [line.get_xydata() for line in lines],
        [[[10, 85], [40, 60]], [[10, 5], [40, 20]], [[40, 70], [160, 50]]],
    )
    bars = axes.collections[0].get_segments()
    np.testing.assert_allclose(bars, [[[10, 80], [10, 90]], [[40, 60], [40, 60]]])
    assert axes.get_xscale() == "log"
    assert [text.get_text() for text in axes.get_xticklabels()] == ["10", "40", "160"]
    assert [text.get_text() for text in legend.get_texts()] == ["validation", "training", "study"]
