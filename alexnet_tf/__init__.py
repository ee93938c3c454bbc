"""AlexNet (Krizhevsky, Sutskever and Hinton, 2012) in TensorFlow and Keras."""

import importlib

__version__ = "0.2.0"

# Importing TensorFlow takes seconds, so the public names are resolved on first use.
_MODULES = {"AlexNet": "alexnet_tf.models.alexnet", "LocalResponseNormalization": "alexnet_tf.models.layers"}

__all__ = ["AlexNet", "LocalResponseNormalization"]


def __getattr__(name):
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
