"""AlexNet (Krizhevsky, Sutskever and Hinton, 2012) in TensorFlow and Keras."""

import importlib
import sys

from alexnet_tf.models import keras_import

__version__ = "0.2.0"

# Importing TensorFlow takes seconds, so the public names are resolved on first use.
_MODULES = {
    "AlexNet": "alexnet_tf.models.alexnet",
    "LocalResponseNormalization": "alexnet_tf.models.normalizations",
    "load": "alexnet_tf.runs.loaded",
}

__all__ = ["AlexNet", "LocalResponseNormalization", "load"]

# `keras.models.load_model` finds the package's classes once Keras is imported, before or after this package. This is
# the only side effect of the import.
if "keras" in sys.modules:
    keras_import.register()
else:
    sys.meta_path.insert(0, keras_import.Finder())


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if message := keras_import.problem():
        raise ImportError(message)
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__():
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
