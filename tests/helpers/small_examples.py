"""Examples whose pixels reveal where they come from, and the batches drawn from them."""

import numpy as np
import tensorflow as tf

from alexnet_tf.data import examples
from alexnet_tf.data import pipeline
from alexnet_tf.data import sampling


def coded_image(index):
    """Returns an image whose three channels hold the row, the column and the image's index."""
    rows = tf.range(256)[:, None] + tf.zeros([1, 256], tf.int32)
    numbers = tf.fill([256, 256], tf.cast(index, tf.int32))
    return tf.cast(tf.stack([rows, tf.transpose(rows), numbers], axis=-1), tf.uint8)


def coded_examples(count):
    """Returns `coded_image` examples that are decoded one by one; their labels are three times their indices."""

    def decode(index, offset, size):
        return tf.slice(coded_image(index), tf.concat([offset, [0]], axis=0), [size, size, 3])

    return examples.Examples(np.arange(count) * 3, lambda indices, offsets, size: indices, tf.int64, decode)


def blank_examples(count, image_size=256):
    """Returns black examples, for tests that do not concern pixels; their labels are their indices."""
    fetch = lambda indices, offsets, size: np.broadcast_to(np.uint8(0), [len(indices), size, size, 3])
    return examples.Examples(np.arange(count), fetch, tf.uint8, image_size=image_size)


def sampled(data, first_step=0, steps=1, batch_size=4, seed=7, **options):
    """Returns a list of training batches, dicts of arrays."""
    chosen = sampling.Sampling(batch_size=batch_size, seed=seed, first_step=first_step, steps=steps, **options)
    return list(pipeline.training_batches(data, chosen).as_numpy_iterator())


def gathered(batches, name):
    """Returns a column of all batches as one array."""
    return np.concatenate([batch[name] for batch in batches])


def read_all(data):
    """Returns the images of all examples in order."""
    dataset = pipeline.evaluation_batches(data, batch_size=4)
    return np.concatenate([images for images, _ in dataset.as_numpy_iterator()])
