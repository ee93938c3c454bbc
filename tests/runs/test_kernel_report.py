"""The report's section about the first layer."""

import types

import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf.reporting import pages
from alexnet_tf.runs import kernel_report


@pytest.fixture
def towers():
    """A stand-in for a network with two towers: the kernels of the first are gray, those of the second noise."""
    generator = np.random.default_rng(0)
    gray = np.repeat(generator.normal(size=(5, 5, 1, 8)), 3, axis=2)
    layers = {"conv1_a": gray, "conv1_b": generator.normal(size=(5, 5, 3, 8)), "conv2_a": gray}
    return types.SimpleNamespace(
        input_shape=(None, 32, 32, 3),
        layers=[types.SimpleNamespace(name=name, kernel=tf.Variable(each)) for name, each in layers.items()],
    )


def records(count):
    return [
        {"kind": "kernels", "step": step, "epoch": float(step), "color_share": {"conv1_a": 0.6 / step, "conv1_b": 0.6}}
        for step in range(1, count + 1)
    ]


def pictures(blocks):
    return [block for block in blocks if isinstance(block, pages.Picture)]


def test_shares_are_those_of_each_tower(towers):
    shares = kernel_report.color_shares(towers, "alexnet")
    assert shares == {"conv1_a": pytest.approx(0, abs=1e-9), "conv1_b": pytest.approx(2 / 3, abs=0.1)}


@pytest.mark.parametrize(["epochs", "expected"], [(0, 1), (1, 1), (3, 2)])
def test_specialization_is_plotted_from_the_second_epoch_on(towers, tmp_path, epochs, expected):
    (tmp_path / "figures").mkdir()
    found = pictures(kernel_report.blocks(tmp_path, "alexnet", towers, records(epochs)))
    assert len(found) == expected
    assert "Color accounts for 0.00 and 0.6" in found[0].caption
    assert all((tmp_path / picture.path).read_bytes().startswith(b"\x89PNG") for picture in found)


def test_records_of_other_layers_are_ignored(towers, tmp_path):
    others = [{**each, "color_share": {"conv1_a": 0.5}} for each in records(3)]
    assert len(pictures(kernel_report.blocks(tmp_path, "alexnet", towers, others))) == 1


def test_a_network_without_kernels_has_no_section(tmp_path):
    assert not list(
        kernel_report.blocks(
            tmp_path, "alexnet", types.SimpleNamespace(input_shape=(None, 32, 32, 3), layers=[]), records(3)
        )
    )
