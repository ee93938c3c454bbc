"""The gradient of max pooling by comparisons, compared with TensorFlow's."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf.models import pooling
from alexnet_tf.models import tower_layers


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(
    ("size", "stride", "shape"),
    [(3, 2, (2, 9, 8, 3)), (3, 2, (1, 6, 7, 2)), (2, 2, (2, 5, 6, 3)), (3, 1, (1, 4, 5, 2)), (2, 3, (1, 8, 9, 1))],
)
def test_gradient_is_that_of_tensorflow_also_where_maxima_are_equal(size, stride, shape, padding):
    random = np.random.default_rng(0)
    # Four values in windows of four to nine positions; sums of integers do not depend on their order.
    images = tf.constant(random.integers(-2, 2, shape), tf.float32)
    layer = pooling.MaxPooling2D(size, stride, padding=padding, data_format="channels_last")
    gradients = []
    for in_compiled_step in (False, True):
        layer.in_compiled_step = in_compiled_step
        with tf.GradientTape() as tape:
            tape.watch(images)
            pooled = layer(images)
        upstream = tf.constant(np.random.default_rng(1).integers(1, 9, pooled.shape), tf.float32)
        gradients.append(tape.gradient(pooled, images, upstream))
    assert np.count_nonzero(gradients[0])
    np.testing.assert_array_equal(*gradients)


def test_gradient_of_bfloat16_keeps_the_dtype():
    images = tf.constant(np.random.default_rng(0).standard_normal((1, 7, 7, 2)), tf.bfloat16)
    pooled = tf.nn.max_pool2d(images, 3, 2, "VALID")
    gradient = pooling.max_pool_gradient(images, pooled, tf.ones_like(pooled), 3, 2)
    assert gradient.dtype == tf.bfloat16
    assert gradient.shape == images.shape
    assert np.sum(gradient.numpy().astype(np.float32)) == 3 * 3 * 2


def test_layer_is_saved_as_its_arguments_and_leaves_out_the_choice_of_the_gradient(tmp_path):
    layer = pooling.MaxPooling2D(3, 2, data_format="channels_last", name="pool1")
    layer.in_compiled_step = True
    model = keras.Sequential([keras.Input((9, 9, 1)), layer])
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras").get_layer("pool1")
    assert loaded.get_config() == layer.get_config()
    assert type(loaded) is pooling.MaxPooling2D and not loaded.in_compiled_step


def test_models_that_were_saved_with_the_pooling_of_keras_are_loaded(tmp_path):
    old = tower_layers.KerasMaxPooling2D(3, 2, data_format="channels_last", device=None, name="pool1_a")
    assert keras.saving.get_registered_name(type(old)) == "alexnet_tf>Placed(MaxPooling2D)"
    keras.Sequential([keras.Input((9, 9, 1)), old]).save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras").get_layer("pool1_a")
    assert type(loaded) is tower_layers.KerasMaxPooling2D
