"""Which Keras a process has or will have, and registration of the package's classes with it.

Keras loads a saved file of a class that it finds in its register. So the classes are registered as soon as both Keras
and this package are imported, in any order. This module itself imports neither Keras nor TensorFlow.
"""

import importlib
import json
import os
import sys
import warnings

from alexnet_tf.models import registry

# Values that Keras accepts in its file of settings.
_ACCEPTED = {
    "floatx": ("float16", "float32", "float64"),
    "image_data_format": ("channels_first", "channels_last"),
}


def problem() -> str | None:
    """Returns what is wrong with the Keras of this process, and what to do, in one line; None if nothing is."""
    legacy = os.environ.get("TF_USE_LEGACY_KERAS")
    # As TensorFlow reads it.
    if legacy in ("true", "True", "1"):
        return (
            "Expected TF_USE_LEGACY_KERAS to be unset, because alexnet_tf needs Keras 3. "
            f"Received: TF_USE_LEGACY_KERAS={legacy}. Run `unset TF_USE_LEGACY_KERAS` first."
        )
    if config := getattr(sys.modules.get("keras"), "config", None):
        if config.backend() == "tensorflow":
            return None
        return (
            "Expected Keras with its TensorFlow backend. "
            f"Received: Keras, already imported, with {config.backend()}. Start Python with KERAS_BACKEND=tensorflow."
        )
    backend = os.environ.get("KERAS_BACKEND")
    if backend not in (None, "", "tensorflow"):
        return (
            "Expected KERAS_BACKEND to be tensorflow or unset. "
            f"Received: KERAS_BACKEND={backend}. Run `unset KERAS_BACKEND` first."
        )
    return _problem_of_settings(is_backend_given=bool(backend))


def _settings_path():
    """Returns the file in which Keras looks for settings of the user."""
    home = os.path.expanduser("~")
    folder = os.environ.get("KERAS_HOME", os.path.join(home if os.access(home, os.W_OK) else "/tmp", ".keras"))
    return os.path.expanduser(os.path.join(folder, "keras.json"))


def _problem_of_settings(is_backend_given):
    """Returns what is wrong with the user's settings of Keras; the backend does not matter if it is given elsewhere."""
    path = _settings_path()
    try:
        with open(path, encoding="utf-8") as file:
            settings = json.load(file)
    except (OSError, ValueError):
        # Keras uses its defaults.
        return None
    if not isinstance(settings, dict):
        return f"Expected {path} to contain a JSON object. Received: {settings!r:.40}. Remove the file."
    backend = settings.get("backend", "tensorflow")
    if backend != "tensorflow" and not is_backend_given:
        return (
            f"Expected the backend in {path} to be tensorflow. Received: {backend!r:.40}. "
            "Change it, or set KERAS_BACKEND=tensorflow, which precedes the file."
        )
    for name, accepted in _ACCEPTED.items():
        if settings.get(name, accepted[0]) not in accepted:
            received = f"{settings[name]!r:.40}"
            return f"Expected {name} in {path} to be one of {', '.join(accepted)}. Received: {received}. Change it."
    if not isinstance(settings.get("epsilon", 1e-7), float):
        return f"Expected epsilon in {path} to be a float. Received: {settings['epsilon']!r:.40}. Change it."
    return None


def register() -> None:
    """Registers the layers and networks with Keras by importing them, unless Keras has another backend."""
    if problem():
        return
    try:
        for network in registry.NETWORKS.values():
            # The module only: it has no class yet if it is the one that imports Keras first.
            importlib.import_module(network.path.partition(":")[0])
    except Exception as error:  # noqa: BLE001 (whoever imports Keras for another purpose goes on)
        message = f"keras.models.load_model cannot load networks of alexnet_tf: {type(error).__name__}: {error}"
        warnings.warn(message, stacklevel=2)


class Finder:
    """An entry of ``sys.meta_path`` that calls `register` once Keras has been imported, and removes itself then.

    It finds nothing itself: it asks the other finders for Keras, and completes the import that they describe.
    """

    def find_spec(self, fullname, path, target=None):
        if fullname != "keras":
            return None
        others = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in others)), None)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            self._register_after(spec.loader)
        return spec

    def _register_after(self, loader):
        """Makes a loader of Keras call `register` after the import, which may never begin, or fail."""
        original = loader.exec_module

        def exec_module(module):
            vars(loader).pop("exec_module", None)
            original(module)
            # A new list, because another thread may be iterating over this one.
            sys.meta_path = [finder for finder in sys.meta_path if finder is not self]
            register()

        loader.exec_module = exec_module
