"""The counted claims of docs/article.md, from built networks."""

import functools
import pathlib
import re

import keras
import numpy as np
import pytest

import alexnet_tf
from alexnet_tf.data import draws

ARTICLE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "article.md"


@functools.cache
def network(towers="two"):
    return alexnet_tf.AlexNet(towers=towers, initialization="zeros")


def units(model, name):
    """The outputs of a layer, in all towers."""
    layers = [layer for layer in model.layers if layer.name in (name, f"{name}_a", f"{name}_b")]
    return sum(int(np.prod(layer.output.shape[1:])) for layer in layers)


def says(text):
    return " ".join(text.split()) in " ".join(ARTICLE.read_text(encoding="utf-8").split())


def test_parameters_with_and_without_the_split():
    for towers in ("two", "one"):
        assert says(f"{network(towers).count_params():,}")


def test_shares_of_a_layer():
    model = network()
    names = [f"conv{number}" for number in range(1, 6)]
    parameters = {
        name: sum(layer.count_params() for layer in model.layers if layer.name in (f"{name}_a", f"{name}_b"))
        for name in names
    }
    counted = {name: units(model, name) for name in (*names, "fc6", "fc7", "fc8")}
    total = sum(counted.values())
    assert says(f"Of the {total:,} units, each tower has {(total - 1000) // 2:,}")
    for name in names:
        share, unit_share = parameters[name] / model.count_params(), counted[name] / total
        assert says(f"| {name} | {parameters[name]:,} | {share:.2%} | {counted[name]:,} | {unit_share:.2%} |")


def test_kernels_grow_in_number_and_shrink_in_size():
    model = network("one")
    kernels = [model.get_layer(f"conv{number}").kernel.shape for number in range(1, 6)]
    assert says("{}, {}, {}, {} and {} kernels".format(*(shape[-1] for shape in kernels)))
    assert says(", ".join(f"{height} x {width}" for height, width, *_ in kernels))
    sides = [model.get_layer(f"conv{number}").output.shape[1] for number in range(1, 6)]
    assert says("that of the maps, " + ", ".join(map(str, sides)))


def test_normalized_values_exceed_one():
    activations = np.linspace(0, 1000, 10_001, dtype=np.float32).reshape(-1, 1, 1, 1)
    normalized = keras.ops.convert_to_numpy(alexnet_tf.LocalResponseNormalization()(activations)).ravel()
    highest = int(np.argmax(normalized))
    assert says(f"rises to {normalized[highest]:.1f} at a = {activations.ravel()[highest]:.0f}")
    assert (np.diff(normalized[highest:]) < 0).all()
    assert normalized[50] == pytest.approx(5 / 2**0.75, rel=0.001) and says(f"2^0.75 = {2**0.75:.2f}")


def test_crops_begin_at_more_positions_than_the_paper_counts():
    drawn = draws.draw(0, 0, range(30_000), margin=256 - 224)
    positions = {(*offsets, flip) for offsets, flip in zip(drawn.offsets.tolist(), drawn.flips.any(axis=1).tolist())}
    assert len(positions) == 33 * 33 * 2 and says(f"{len(positions):,} with reflections")


def test_three_small_kernels_have_fewer_weights_than_a_large_one():
    def weights(size, count, maps=16):
        layers = [keras.layers.Conv2D(maps, size, use_bias=False) for _ in range(count)]
        model = keras.Sequential([keras.Input([16, 16, maps]), *layers])
        # They see the same part of the image.
        assert model.output_shape[1] == 16 - 7 + 1
        return model.count_params()

    small, large = weights(3, 3), weights(7, 1)
    assert says(f"That is {1 - small / large:.1%} fewer, or {large / small - 1:.0%} more")


def test_every_verdict_has_a_section():
    text = ARTICLE.read_text(encoding="utf-8")
    anchors = re.findall(r"^\| \[.+?\]\(#(.+?)\)", text, flags=re.M)
    titles = [
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^## (.+)$", text, re.M)
    ]
    assert anchors == titles
