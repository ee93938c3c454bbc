"""Registration with Keras in both orders of import, and what is said about another Keras than the package needs."""

import importlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import alexnet_tf
from alexnet_tf.models import alexnet
from alexnet_tf.models import keras_import

ROOT = pathlib.Path(__file__).resolve().parents[2]
OLD_FILES = ROOT / "tests" / "data" / "version_0_1"


def python(program, *arguments, **environment):
    """Runs a program in a process of its own, in which nothing has been imported."""
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT), **environment},
    )


# The import of both


IMPORTS = {
    "keras_last": "import alexnet_tf, importlib.util\nimportlib.util.find_spec('keras')\nimport keras",
    "keras_first": "import keras\nimport alexnet_tf",
    "network_first": "import warnings\nwarnings.simplefilter('error', UserWarning)\n"
    "import alexnet_tf\nalexnet_tf.AlexNet\nimport keras",
    "tensorflow_last": "import alexnet_tf\nimport tensorflow as tf\nkeras = tf.keras",
}
LOAD = """
import json, sys
for file in sys.argv[1:]:
    model = keras.models.load_model(file)
assert not [finder for finder in sys.meta_path if type(finder).__module__.startswith("alexnet_tf")], sys.meta_path
assert "exec_module" not in vars(sys.modules["keras"].__spec__.loader)
import numpy
images = numpy.random.default_rng(0).normal(0, 50, (4, 32, 32, 3)).astype("float32")
print(json.dumps(numpy.asarray(model(images)).tolist()))
"""


# Keras and NumPy 2 cause it whenever a variable is saved.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    "order",
    # Tests that load a file in this process have imported Keras first.
    [pytest.param(order, marks=[pytest.mark.slow] * (order != "keras_last")) for order in IMPORTS],
)
def test_models_are_loaded_after_the_import_of_both(order, tmp_path):
    model = alexnet.AlexNet(2, devices=("/CPU:0", "/CPU:0"), image_size=32, jit_compile=False, seed=1)
    keras.models.clone_model(model).save(tmp_path / "clone.keras")
    files = (OLD_FILES / "cifar10_18.keras", tmp_path / "clone.keras", OLD_FILES / "alexnet.keras")
    done = python(IMPORTS[order] + LOAD, *files)
    assert done.returncode == 0, done.stderr
    expected = json.loads((OLD_FILES / "logits.json").read_text())["alexnet"]
    np.testing.assert_allclose(json.loads(done.stdout), expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def without_keras(monkeypatch):
    """As in a process that has not imported Keras."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "keras"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def stand_in(without_keras, tmp_path, monkeypatch):
    """A finder on ``sys.meta_path``, the list of registrations, and a package in place of Keras."""
    (tmp_path / "keras").mkdir()
    (tmp_path / "keras" / "__init__.py").write_text(
        "import os\nif 'STAND_IN_FAILS' in os.environ: raise ImportError\nready = True\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    registrations = []
    monkeypatch.setattr(keras_import, "register", lambda: registrations.append(sys.modules["keras"].ready))
    finder = keras_import.Finder()
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    return finder, registrations


def imported(name):
    return importlib.import_module(name)


def test_finder_registers_after_the_import_and_removes_itself(stand_in):
    finder, registrations = stand_in
    importlib.util.find_spec("keras")
    assert imported("json.tool") and finder in sys.meta_path and not registrations
    module = imported("keras")
    assert registrations == [True] and finder not in sys.meta_path
    assert "exec_module" not in vars(module.__spec__.loader) and module.__loader__ is module.__spec__.loader
    importlib.reload(module)
    assert registrations == [True]


def test_finder_waits_for_an_import_that_succeeds(stand_in, monkeypatch):
    finder, registrations = stand_in
    monkeypatch.setenv("STAND_IN_FAILS", "1")
    for _ in range(2):
        with pytest.raises(ImportError):
            imported("keras")
        assert finder in sys.meta_path and not registrations
    monkeypatch.delenv("STAND_IN_FAILS")
    imported("keras")
    assert registrations == [True] and finder not in sys.meta_path


def test_finder_does_not_mind_that_keras_is_not_installed(without_keras, monkeypatch):
    finder = keras_import.Finder()
    monkeypatch.setattr(sys, "meta_path", [finder])
    with pytest.raises(ModuleNotFoundError, match="keras"):
        imported("keras")
    assert sys.meta_path == [finder]


def test_an_error_while_registering_does_not_prevent_the_import_of_keras(monkeypatch):
    monkeypatch.setattr(keras_import.importlib, "import_module", lambda name: 1 / 0)
    with pytest.warns(UserWarning, match="load_model cannot load networks of alexnet_tf: ZeroDivisionError"):
        keras_import.register()


def test_import_is_fast_and_shows_the_public_names():
    program = "import time; t = time.perf_counter(); import alexnet_tf; print(time.perf_counter() - t, dir(alexnet_tf))"
    runs = [python(program).stdout.split(maxsplit=1) for _ in range(3)]
    assert min(float(seconds) for seconds, _ in runs) < 0.2
    assert {"AlexNet", "LocalResponseNormalization", "__version__"} <= set(dir(alexnet_tf))
    assert set(alexnet_tf.__all__) == {name for name in dir(alexnet_tf) if not name.startswith("_")}
    assert all("'AlexNet'" in names for _, names in runs)


# Another Keras

ENVIRONMENTS = {
    "jax": ({"KERAS_BACKEND": "jax"}, "Expected KERAS_BACKEND to be tensorflow or unset. Received: KERAS_BACKEND=jax."),
    "torch": ({"KERAS_BACKEND": "torch"}, "Received: KERAS_BACKEND=torch. Run `unset KERAS_BACKEND` first."),
    "legacy": (
        {"TF_USE_LEGACY_KERAS": "1"},
        "Expected TF_USE_LEGACY_KERAS to be unset, because alexnet_tf needs Keras",
    ),
    "true": ({"TF_USE_LEGACY_KERAS": "true"}, "TF_USE_LEGACY_KERAS=true. Run `unset TF_USE_LEGACY_KERAS` first."),
}
SETTINGS = {
    "backend": ({"backend": "jax"}, "Expected the backend in .*keras.json to be tensorflow. Received: 'jax'. Change"),
    "no_object": (["tensorflow"], "keras.json to contain a JSON object. Received: .'tensorflow'.. Remove the file"),
    "floatx": ({"floatx": "float8"}, "floatx in .*keras.json to be one of float16, .* Received: 'float8'. Change it"),
    "format": ({"image_data_format": 1}, "image_data_format in .* to be one of channels_first, .* Received: 1. Change"),
    "epsilon": ({"epsilon": 1}, "epsilon in .*keras.json to be a float. Received: 1. Change it"),
}


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """A function that sets environment variables; there are no settings of the user."""
    for name in ("KERAS_BACKEND", "TF_USE_LEGACY_KERAS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    return lambda variables: [monkeypatch.setenv(*each) for each in variables.items()]


@pytest.mark.parametrize("variables, message", ENVIRONMENTS.values(), ids=list(ENVIRONMENTS))
def test_public_names_need_the_right_keras(variables, message, environment, without_keras):
    environment(variables)
    for name in alexnet_tf.__all__:
        with pytest.raises(ImportError) as caught:
            getattr(alexnet_tf, name)
        assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("settings, message", SETTINGS.values(), ids=list(SETTINGS))
def test_settings_of_the_user_are_checked(settings, message, environment, without_keras, tmp_path):
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    with pytest.raises(ImportError, match=message) as caught:
        alexnet_tf.AlexNet  # noqa: B018
    assert "\n" not in str(caught.value)
    environment({"KERAS_BACKEND": "tensorflow"})
    assert (keras_import.problem() is None) == (message == SETTINGS["backend"][1])


@pytest.mark.parametrize("variables", [{}, {"KERAS_BACKEND": ""}, {"TF_USE_LEGACY_KERAS": "0"}], ids=str)
@pytest.mark.parametrize(
    "text", [None, "{", "{}", '{"image_data_format": "channels_first", "floatx": "float64", "epsilon": 1e-3}']
)
def test_harmless_settings_are_accepted(variables, text, environment, without_keras, tmp_path):
    environment(variables)
    if text is not None:
        (tmp_path / "keras.json").write_text(text)
    assert keras_import.problem() is None


def test_settings_are_where_keras_looks_for_them(environment, monkeypatch, tmp_path):
    assert keras_import._settings_path() == str(tmp_path / "keras.json")
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert keras_import._settings_path() == str(tmp_path / ".keras" / "keras.json")


def test_keras_that_is_already_imported_decides(environment, monkeypatch):
    environment({"KERAS_BACKEND": "jax"})
    assert keras_import.problem() is None
    monkeypatch.setattr(keras.config, "backend", lambda: "torch")
    assert "Received: Keras, already imported, with torch. Start Python with" in keras_import.problem()
    # Without an error: whoever uses that Keras may import this package for something else.
    monkeypatch.setattr(keras_import.registry, "load_class", lambda network: pytest.fail("imported a network"))
    keras_import.register()


@pytest.mark.parametrize("name", ["train", "placement", "evaluate"])
@pytest.mark.parametrize("variables, message", [ENVIRONMENTS["jax"], ENVIRONMENTS["legacy"]], ids=["jax", "legacy"])
def test_programs_end_with_one_line(name, variables, message):
    program = f"import sys; from alexnet_tf.commands import {name}; {name}.main(['{name}', *sys.argv[1:]])"
    done = python(program, *(["--workdir=none"] if name != "placement" else []), **variables)
    assert done.returncode == 1
    assert message in done.stderr and done.stderr.count("\n") == 1 and not done.stdout
