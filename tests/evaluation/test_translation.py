"""Features under translation, against maxima and distances in NumPy."""

import keras
import numpy as np
import numpy_layers
import pytest
import tensorflow as tf

from alexnet_tf.evaluation import translation


@pytest.fixture(scope="module")
def model():
    x = keras.Input([8, 8, 3])
    pooled = keras.layers.MaxPooling2D(3, 2, name="pool1")(x)
    logits = keras.layers.Dense(2, name="fc")(keras.layers.Flatten(name="flatten")(pooled))
    return keras.Model(x, logits)


def view(pixels):
    return tf.cast(pixels, tf.float32) / 255


def measure(model, pixels, **options):
    options = {"crop_size": 8, "shifts": (1, 2), "layers": ("pool1", "fc")} | options
    return translation.movement(model, view, [pixels[:3], pixels[3:]], **options)


def test_distances_are_those_of_crops_relative_to_other_images(model):
    pixels = np.random.default_rng(1).integers(0, 256, [5, 11, 11, 3], dtype=np.uint8)
    found = measure(model, pixels)
    weights, bias = (each.numpy() for each in model.get_layer("fc").weights)

    def features(top, left):
        # The margin is 3 pixels, the largest shift 2, so crops begin at 0.
        pooled = numpy_layers.max_pooling(pixels[:, top : top + 8, left : left + 8] / 255, 3, 2).reshape(5, -1)
        return pooled, pooled @ weights + bias

    before = features(0, 0)
    others = [[2, 0, 1], [4, 3]]
    apart = [sum(np.linalg.norm(each[i] - each[j]) for i, j in enumerate(sum(others, []))) for each in before]
    for row, shift in enumerate((1, 2)):
        shifted = features(0, shift), features(shift, 0)
        moved = [
            sum(np.linalg.norm(before[place] - after[place], axis=1).sum() for after in shifted) / 2 for place in (0, 1)
        ]
        np.testing.assert_allclose(found.distances[row], np.divide(moved, apart), rtol=1e-5)
        classes = [each[1].argmax(axis=1) for each in (before, *shifted)]
        assert found.same_class[row] == pytest.approx(np.mean([classes[0] == each for each in classes[1:]]))
    assert found.layers == ["pool1", "fc"]


def test_constant_images_do_not_move(model):
    pixels = np.tile(np.arange(5, dtype=np.uint8)[:, None, None, None], [1, 10, 10, 3])
    found = measure(model, pixels)
    assert not found.distances.any() and (found.same_class == 1).all()


def test_default_layers_pool_or_are_fully_connected(model):
    assert translation.default_layers(model) == ["pool1", "fc"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"shifts": (1, 4)}, "Expected shifts of 1 to 3 pixels, the margin around crops of 8 x 8. Received: 4"),
        ({"layers": ("conv9",)}, "Expected layers among pool1, flatten, fc. Received: 'conv9'"),
    ],
)
def test_invalid_arguments_are_one_line(model, options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        measure(model, np.zeros([5, 11, 11, 3], np.uint8), **options)
