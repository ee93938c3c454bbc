"""How large the gradient of the loss is in each layer: what saturating activation functions make vanish."""

import keras
import numpy as np
import tensorflow as tf

from alexnet_tf.evaluation import activations


def kernel_gradients(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Computes the norm of the gradient of each layer's kernels.

    Args:
      model: a functional model from images to logits. Dropout and batch normalization work as in training.
      images: float32 ``[batch, height, width, 3]``, preprocessed.
      labels: int ``[batch]``.

    Returns:
      From the name of each layer that has kernels, as of `activations.names`, to the Euclidean norm of the gradient of
      the mean cross-entropy with respect to these kernels, in the order of computation.
    """
    names = [name for name in activations.names(model) if _kernels(model, name)]
    kernels = {name: _kernels(model, name) for name in names}

    @tf.function(autograph=False)
    def compute(images, labels):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            for own in kernels.values():
                tape.watch(own)
            # Networks with auxiliary heads have several outputs in training; the first is the classifier's.
            logits = tf.nest.flatten(model(images, training=True))[0]
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        # float64, because the squares of a vanished gradient are too small for float32.
        gradients = tf.nest.map_structure(lambda each: tf.cast(each, tf.float64), tape.gradient(loss, kernels))
        return {
            name: tf.sqrt(tf.add_n([tf.reduce_sum(tf.square(each)) for each in own])) for name, own in gradients.items()
        }

    found = compute(tf.constant(images), tf.constant(labels, tf.int64))
    return {name: float(found[name]) for name in names}


def _kernels(model, name):
    """Returns the kernels that a name stands for, as TensorFlow's variables."""
    return [
        layer.kernel.value for layer in activations.layers(model, name) if getattr(layer, "kernel", None) is not None
    ]
