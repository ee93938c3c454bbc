"""A configuration and batches for a few training steps of the entire network."""

import numpy as np
import tensorflow as tf

from alexnet_tf import config
from alexnet_tf.data import statistics

CONFIG = config.Config(
    recipe="original",
    initialization="he",
    input_scale=0.02,
    batch_size=8,
    dropout=0.0,
    color_noise=0.0,
    learning_rate=0.0001,
    bias_learning_rate_factor=1.0,
).resolved()
BLANK = statistics.Statistics(
    np.full([256, 256, 3], 127.5, np.float32), np.eye(3, dtype=np.float32), np.ones(3, np.float32), 0
)


def batch(size, crop_size=224):
    generator = np.random.default_rng(0)
    return {
        "crops": tf.constant(generator.integers(0, 256, [size, crop_size, crop_size, 3], dtype=np.uint8)),
        "offsets": tf.constant(generator.integers(0, 33, [size, 2]).astype(np.int32)),
        "flips": tf.zeros([size, 2], tf.bool),
        "labels": tf.constant(generator.integers(0, 10, size)),
        "noise": tf.zeros([size, 3]),
    }
