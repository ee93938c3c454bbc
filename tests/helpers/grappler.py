"""TensorFlow's optimizer of graphs, which takes a fifth of the time of a small run.

The tests' own process does without it. Programs that tests start have it, as those of users do.
"""

import contextlib

import tensorflow as tf


def disable():
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@contextlib.contextmanager
def enabled():
    """Optimizes graphs as in a program."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})
    try:
        yield
    finally:
        disable()


@contextlib.contextmanager
def untraced():
    """Calls functions without tracing them."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)
