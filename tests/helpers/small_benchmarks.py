"""Small requests for the rows of the benchmark."""

import contextlib

from alexnet_tf import config
from alexnet_tf.benchmarks import hardware
from alexnet_tf.benchmarks import measuring
from alexnet_tf.benchmarks import network_peers
from alexnet_tf.benchmarks import sides


@contextlib.contextmanager
def in_this_process(*builds):
    """Replaces `measuring.in_subprocesses`."""
    yield {name: side for build, *arguments in builds for name, side in build(*arguments).items()}


def without_xla(model):
    """Disables XLA in Keras's training step, which takes longer to compile than everything else that is measured."""
    model.jit_compile = False
    return model


def shrink(patch):
    """Patches the benchmark to do everything once, in this process; returns a request for two small images."""
    keras_alexnet = network_peers.keras_alexnet
    patch.setattr(measuring, "in_subprocesses", in_this_process)
    patch.setattr(network_peers, "keras_alexnet", lambda: without_xla(keras_alexnet()))
    patch.setattr(sides, "WARM_UP", 0)
    patch.setattr(hardware, "MATRIX_SIDE", 64)
    patch.setattr(hardware, "COPIED_BYTES", 1 << 16)
    small = config.Config(batch_size=2, devices=(), image_size=40, crop_size=32, initialization="he", input_scale=0.02)
    return measuring.Request(small, rounds=1, seconds=0.0)
