"""Every test process: TensorFlow without its chatter, and two logical CPU devices for the two towers.

`enable_op_determinism` stays off, though it costs nothing measurable: users do not run with it, and with it a
test of "resumed equals uninterrupted" would not notice an operation that is not deterministic by itself.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf  # noqa: E402 (the log level is read when TensorFlow is imported)

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
