"""Every test process: TensorFlow without its chatter, and two logical CPU devices for the two towers.

`enable_op_determinism` stays off, though it costs nothing measurable: users do not run with it, and with it a
test of "resumed equals uninterrupted" would not notice an operation that is not deterministic by itself.
"""

import gc
import os
import sys

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf  # noqa: E402 (the log level is read when TensorFlow is imported)

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


@pytest.fixture(autouse=True, scope="session")
def without_measuring_the_machine():
    """A report at the end of every run tells what the machine can do, which takes a second of all its cores."""
    from alexnet_tf import report

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "MATRIX_SIDE", 64)
        yield


@pytest.fixture(autouse=True, scope="module")
def without_the_networks_of_other_modules():
    """Frees what a module's tests have built.

    TensorFlow registers every gradient of `tf.custom_gradient` for good, and with it the graph and all variables that
    it reads: a quarter of a gigabyte for each whole network that was trained. A user's process has one, this dozens.
    """
    yield
    registered = sys.modules["tensorflow.python.framework.ops"].gradient_registry._registry
    for name in [name for name in registered if name.startswith("CustomGradient-")]:
        del registered[name]
    tf.keras.backend.clear_session()
    gc.collect()
