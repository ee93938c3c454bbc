"""AlexNet (Krizhevsky, Sutskever, Hinton 2012) in TensorFlow and Keras."""

import importlib

__version__ = "0.1.0"

# TensorFlow takes seconds to load; a program's --help should not.
_HOMES = {"AlexNet": "alexnet_tf.models.alexnet", "LocalResponseNormalization": "alexnet_tf.models.layers"}

__all__ = ["AlexNet", "LocalResponseNormalization"]


def __getattr__(name):
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
