"""The source executes no input, and every dependency has a known version."""

import ast
import importlib.metadata
import pathlib
import re

import packaging.requirements
import packaging.utils
import pytest
import source_code

ROOT = pathlib.Path(__file__).parents[1]

# Forbidden names, and their alternatives.
FORBIDDEN = {
    r"(pickle|_pickle|cloudpickle|dill|joblib|marshal|shelve)(\..+)?": "store arrays in .npz files, the rest in JSON",
    r"(yaml|ruamel)(\..+)?": "store it in JSON or a flagfile",
    r"os\.(system|popen|exec\w+|spawn\w+|posix_spawn\w*)|pty\.\w+": "run a list of arguments with subprocess",
    r"subprocess(\..+)?": "call the function, or add a row to ALLOWED for a process without a shell",
    r"(tensorflow\.)?keras\.(models|saving)\.(load|deserialize|model_from)\w*|(tensorflow\.)?keras\.models\.\w+_from_\w+"
    r"|(tensorflow\.)?keras\.config\.enable_unsafe_deserialization|(tensorflow\.)?keras\.layers\.(Lambda|TFSMLayer)": (
        "build the network from its configuration and read its weights from a checkpoint"
    ),
    r"tensorflow\.(compat\.v1\.)?saved_model(\.loader)?\.load": "a SavedModel is a program; use serving.client",
    r"(urllib|urllib3|requests|httpx|aiohttp|http\.client|ftplib)(\..+)?|(tensorflow\.)?keras\.utils\.get_file": (
        "download nothing; let the user name a file"
    ),
    r"zipfile\.(ZipFile|main)|shutil\.unpack_archive": "read members by index, as alexnet_tf.data.archives does",
    r"tempfile\.mktemp": "create the file or directory at once: tempfile.mkdtemp, NamedTemporaryFile",
}

# Exceptions: our own programs, started with lists of arguments; servers and exports that the user names or a benchmark
# makes; the network of a benchmark; imports of names that are listed in the source; a file just written.
ALLOWED = {
    "alexnet_tf/experiments/runner.py": ["subprocess"],
    "alexnet_tf/utils/machine.py": ["subprocess"],
    "alexnet_tf/benchmarks/rows.py": ["importlib.import_module", "subprocess"],
    "alexnet_tf/benchmarks/gpu.py": ["subprocess"],
    "alexnet_tf/benchmarks/starting.py": ["subprocess"],
    "alexnet_tf/benchmarks/serving.py": ["subprocess", "tensorflow.saved_model.load"],
    "alexnet_tf/benchmarks/network_peers.py": ["keras.layers.Lambda"],
    "alexnet_tf/benchmarks/measuring.py": ["importlib.import_module"],
    "alexnet_tf/__init__.py": ["importlib.import_module"],
    "alexnet_tf/models/registry.py": ["importlib.import_module"],
    "alexnet_tf/models/keras_import.py": ["importlib.import_module"],
    "alexnet_tf/weights/formats.py": ["importlib.import_module"],
    "alexnet_tf/runs/weights.py": ["keras.saving.load_model"],
    "alexnet_tf/serving/client.py": ["urllib", "http.client", "tensorflow.saved_model.load"],
    "alexnet_tf/serving/stub_model.py": ["tensorflow.compat.v1.saved_model.loader.load"],
}


def keyword(call, name):
    """Returns the constant passed for a keyword, None without the keyword, ... for any other expression."""
    for each in call.keywords:
        if each.arg == name:
            return each.value.value if isinstance(each.value, ast.Constant) else ...
    return None


def check_call(call, name):
    """Yields what is wrong with the call of a dotted name or a built-in."""
    method = name.rpartition(".")[2] or getattr(call.func, "attr", "")
    if name in ("eval", "exec", "compile"):
        yield f"calls {name}: never execute text; parse values with ast.literal_eval or json.loads"
    if name == "numpy.load" and keyword(call, "allow_pickle") is not False:
        yield "calls numpy.load: pass allow_pickle=False"
    elif keyword(call, "allow_pickle") not in (None, False):
        yield "allows pickles: pass allow_pickle=False"
    if keyword(call, "shell") not in (None, False):
        yield "calls a shell: pass a list of arguments"
    if method in ("extract", "extractall"):
        yield f"calls {method}: read members by index, as alexnet_tf.data.archives does"


def violations(path, source):
    """Returns the violations in a file, one line each; `path` is relative to the repository."""
    tree = ast.parse(source)
    uses = source_code.Uses(path, tree)
    found = []
    for line, name, _, _ in uses.found:
        for pattern, alternative in FORBIDDEN.items():
            is_allowed = any(source_code.is_at_or_below(name, each) for each in ALLOWED.get(path, []))
            if re.fullmatch(pattern, name) and not is_allowed:
                found.append((line, f"uses {name}: {alternative}"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = uses.dotted(node.func) or getattr(node.func, "id", "")
            found += [(node.lineno, message) for message in check_call(node, name)]
            is_given = node.args and not isinstance(node.args[0], ast.Constant)
            if name in ("importlib.import_module", "__import__") and is_given and name not in ALLOWED.get(path, []):
                found.append((node.lineno, f"calls {name}: import modules by name"))
    return [f"{path}:{line} {message}" for line, message in dict.fromkeys(found)]


@pytest.mark.parametrize("path", [path for path in source_code.FILES if not path.startswith("tests/")])
def test_source_executes_no_input(path):
    assert violations(path, (ROOT / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source, message",
    [
        ("import pickle", "store arrays in .npz"),
        ("from pickle import loads", "store arrays in .npz"),
        ("def f():\n  import dill as d\n  d.load", "2 uses dill"),
        ("import joblib\njoblib.load('a')", "uses joblib.load"),
        ("import marshal", "uses marshal"),
        ("import shelve", "uses shelve"),
        ("import yaml\nyaml.load(text)", "store it in JSON"),
        ("eval('1')", "calls eval: never execute text"),
        ("exec(text)", "calls exec"),
        ("compile(text, 'a', 'exec')", "calls compile"),
        ("import os\nos.system('ls')", "a list of arguments"),
        ("from os import popen", "a list of arguments"),
        ("import subprocess", "add a row to ALLOWED"),
        ("f(['ls'], shell=True)", "calls a shell"),
        ("f('ls', shell=flag)", "calls a shell"),
        ("import numpy as np\nnp.load('a.npy')", "pass allow_pickle=False"),
        ("import numpy as np\nnp.load('a.npy', allow_pickle=True)", "pass allow_pickle=False"),
        ("import numpy\nnumpy.load('a.npy', allow_pickle=given)", "pass allow_pickle=False"),
        ("read('a.npy', allow_pickle=True)", "pass allow_pickle=False"),
        ("import keras\nkeras.models.load_model('a')", "read its weights from a checkpoint"),
        ("import tensorflow as tf\ntf.keras.models.load_model('a')", "read its weights from a checkpoint"),
        ("from keras import saving\nsaving.load_model('a')", "read its weights from a checkpoint"),
        ("import keras\nkeras.models.model_from_json(text)", "read its weights from a checkpoint"),
        ("import keras\nkeras.config.enable_unsafe_deserialization()", "read its weights from a checkpoint"),
        ("import keras\nkeras.layers.Lambda(f)", "read its weights from a checkpoint"),
        ("import tensorflow as tf\ntf.saved_model.load('a')", "a SavedModel is a program"),
        ("archive.extractall('a')", "read members by index"),
        ("import tarfile\ntarfile.open('a').extract(member)", "read members by index"),
        ("import zipfile\nzipfile.ZipFile('a')", "read members by index"),
        ("import shutil\nshutil.unpack_archive('a')", "read members by index"),
        ("import urllib.request\nurllib.request.urlopen(url)", "download nothing"),
        ("import requests", "download nothing"),
        ("import keras\nkeras.utils.get_file('a')", "download nothing"),
        ("import tempfile\ntempfile.mktemp()", "tempfile.mkdtemp"),
        ("import importlib\nimportlib.import_module(name)", "import modules by name"),
    ],
)
def test_unsafe_source_is_reported_with_an_alternative(source, message):
    for path in ("alexnet_tf/data/sources.py", "tools/train.py"):
        found = violations(path, source)
        assert any(message in each for each in found), found


@pytest.mark.parametrize(
    "path, source",
    [
        ("alexnet_tf/experiments/runner.py", "import subprocess\nsubprocess.Popen(command)"),
        ("alexnet_tf/data/archives.py", "import tarfile\narchive = tarfile.open('a')\narchive.extractfile(member)"),
        ("alexnet_tf/data/prepared.py", "import numpy as np\nnp.load(file, allow_pickle=False)"),
        (
            "alexnet_tf/data/prepared.py",
            "import re\nre.compile('a')\nmodel.compile()\nimport zipfile\nzipfile.BadZipFile",
        ),
    ],
)
def test_safe_source_has_no_violations(path, source):
    assert violations(path, source) == []


def requirements():
    """Returns the requirements in setup.py: pairs of the extra, or "", and a requirement."""
    call = next(
        node.value
        for node in ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    )
    values = {each.arg: each.value for each in call.keywords}
    extras = {"": ast.literal_eval(values["install_requires"]), **ast.literal_eval(values["extras_require"])}
    return [(extra, packaging.requirements.Requirement(text)) for extra, texts in extras.items() for text in texts]


def pins():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_constraints_satisfy_every_requirement():
    versions = pins()
    for extra, requirement in requirements():
        name = packaging.utils.canonicalize_name(requirement.name)
        if extra in ("", "cpu", "test", "figures") and (requirement.marker is None or requirement.marker.evaluate()):
            assert versions[name] in requirement.specifier, requirement


def test_installed_versions_satisfy_every_requirement():
    for extra, requirement in requirements():
        if extra in ("", "cpu", "test", "figures") and (requirement.marker is None or requirement.marker.evaluate()):
            assert importlib.metadata.version(requirement.name) in requirement.specifier, requirement


def test_constraints_are_sorted_versions():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ") and "pip install -c constraints.txt" in lines[0]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in lines[1:])
    assert lines[1:] == sorted(set(lines[1:]))
    assert not {"torch", "tensorflow-serving-api", "alexnet-tf", "pip"} & set(pins())
