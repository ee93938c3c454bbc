"""Which module may import or use what, checked in the source. Every message names an alternative."""

import ast
import re
import subprocess
import sys

import pytest
import source_code

ROOT = source_code.ROOT

# What a module, or a package without a more specific row, may import from this package. Data flow from the data to the
# network, training, evaluation and serving, never backwards. Evaluation and export receive a network, not build it.
MAY_IMPORT = {
    "alexnet_tf": ["alexnet_tf.models.keras_import"],
    "alexnet_tf.flagfiles": ["alexnet_tf.config", "alexnet_tf.utils.pathnames", "alexnet_tf.utils.text_files"],
    "alexnet_tf.config": ["alexnet_tf.models.registry"],
    "alexnet_tf.models": [],
    "alexnet_tf.models.registry": [],
    "alexnet_tf.models.keras_import": ["alexnet_tf.models.registry"],
    "alexnet_tf.models.network": [],
    "alexnet_tf.models.placement": [],
    "alexnet_tf.models.layers": ["alexnet_tf.models.random_keys"],
    "alexnet_tf.models.normalizations": ["alexnet_tf.models.layers"],
    "alexnet_tf.models.pooling": [],
    "alexnet_tf.models.variants": ["alexnet_tf.models.layers", "alexnet_tf.models.normalizations"],
    "alexnet_tf.models.tower_layers": [
        "alexnet_tf.models.layers",
        "alexnet_tf.models.normalizations",
        "alexnet_tf.models.placement",
        "alexnet_tf.models.pooling",
        "alexnet_tf.models.variants",
    ],
    "alexnet_tf.models.alexnet": [
        "alexnet_tf.models.network",
        "alexnet_tf.models.placement",
        "alexnet_tf.models.tower_layers",
        "alexnet_tf.models.variants",
    ],
    "alexnet_tf.models.alexnet_owt": [
        "alexnet_tf.models.layers",
        "alexnet_tf.models.network",
        "alexnet_tf.models.pooling",
    ],
    "alexnet_tf.models.cifar10": [
        "alexnet_tf.models.layers",
        "alexnet_tf.models.network",
        "alexnet_tf.models.normalizations",
        "alexnet_tf.models.pooling",
    ],
    "alexnet_tf.models.mlp": ["alexnet_tf.models.layers", "alexnet_tf.models.network"],
    "alexnet_tf.models.vgg": [
        "alexnet_tf.models.layers",
        "alexnet_tf.models.network",
        "alexnet_tf.models.normalizations",
        "alexnet_tf.models.pooling",
    ],
    "alexnet_tf.models.googlenet": [
        "alexnet_tf.models.layers",
        "alexnet_tf.models.network",
        "alexnet_tf.models.normalizations",
        "alexnet_tf.models.pooling",
    ],
    "alexnet_tf.models.residual_layers": ["alexnet_tf.models.layers"],
    "alexnet_tf.models.resnet": [
        "alexnet_tf.models.layers",
        "alexnet_tf.models.network",
        "alexnet_tf.models.pooling",
        "alexnet_tf.models.residual_layers",
    ],
    "alexnet_tf.models.cifar10_resnet": [
        "alexnet_tf.models.layers",
        "alexnet_tf.models.network",
        "alexnet_tf.models.residual_layers",
    ],
    "alexnet_tf.data": ["alexnet_tf.config", "alexnet_tf.utils", "alexnet_tf.data"],
    "alexnet_tf.data.augmentation": [],
    "alexnet_tf.training": ["alexnet_tf.utils", "alexnet_tf.training"],
    "alexnet_tf.training.trainer": [],
    "alexnet_tf.training.loop": [],
    "alexnet_tf.training.optimizer": [],
    "alexnet_tf.training.schedules": [],
    "alexnet_tf.training.parameter_groups": ["alexnet_tf.training.optimizer", "alexnet_tf.training.schedules"],
    "alexnet_tf.profiling": ["alexnet_tf.utils", "alexnet_tf.profiling"],
    "alexnet_tf.evaluation": ["alexnet_tf.config", "alexnet_tf.utils", "alexnet_tf.data", "alexnet_tf.evaluation"],
    "alexnet_tf.evaluation.ensembles": ["alexnet_tf.evaluation.errors"],
    "alexnet_tf.reporting": ["alexnet_tf.utils", "alexnet_tf.evaluation", "alexnet_tf.reporting"],
    "alexnet_tf.export": [
        "alexnet_tf.data",
        "alexnet_tf.evaluation",
        "alexnet_tf.export",
        "alexnet_tf.serving.protocol",
        "alexnet_tf.utils",
    ],
    "alexnet_tf.serving": ["alexnet_tf.serving", "alexnet_tf.utils"],
    # Files of other frameworks. It knows arrays by name, not Keras models.
    "alexnet_tf.weights": ["alexnet_tf.utils", "alexnet_tf.weights"],
    "alexnet_tf.utils": ["alexnet_tf.utils"],
    # A configuration becomes a run.
    "alexnet_tf.runs": ["alexnet_tf"],
    # Many runs, each in a separate process.
    "alexnet_tf.experiments": [
        "alexnet_tf.config",
        "alexnet_tf.experiments",
        "alexnet_tf.flagfiles",
        "alexnet_tf.models.registry",
        "alexnet_tf.training.metrics",
        "alexnet_tf.utils",
    ],
    "alexnet_tf.benchmarks": ["alexnet_tf"],
    "alexnet_tf.commands": ["alexnet_tf"],
    "tools": [],
}

# Libraries: the files that may import them (a folder with a trailing slash), and the alternative for other files.
ONLY_IN = {
    "tensorflow_datasets": (["alexnet_tf/data/"], "get images from alexnet_tf.data.sources"),
    "elpv_dataset": (["alexnet_tf/data/"], "get images from alexnet_tf.data.sources"),
    "xprof": (["alexnet_tf/profiling/trace.py"], "read profiles with alexnet_tf.profiling.trace"),
    "matplotlib": (
        ["alexnet_tf/reporting/figures.py", "alexnet_tf/reporting/analysis_figures.py"],
        "return numbers and let alexnet_tf.reporting.figures draw",
    ),
    "cv2": (["alexnet_tf/evaluation/fisher_vectors.py"], "read images with alexnet_tf.data.photograph"),
    "skimage": (["alexnet_tf/evaluation/fisher_vectors.py"], "read images with alexnet_tf.data.photograph"),
    "sklearn": (["alexnet_tf/evaluation/fisher_vectors.py"], "compute figures in alexnet_tf.evaluation"),
    "h5py": (["alexnet_tf/weights/", "alexnet_tf/export/"], "read files of other frameworks with alexnet_tf.weights"),
    "onnx": (["alexnet_tf/weights/", "alexnet_tf/export/"], "read files of other frameworks with alexnet_tf.weights"),
    "safetensors": (["alexnet_tf/weights/"], "read files of other frameworks with alexnet_tf.weights"),
}

# Where command-line flags may be used.
FLAG_PLACES = ("alexnet_tf/commands/", "alexnet_tf/flagfiles.py")

# TF 2 has no other public names for these.
COMPAT_V1 = {
    "alexnet_tf/profiling/executed_graph.py": ["tensorflow.compat.v1.Event", "tensorflow.compat.v1.RunMetadata"],
    "alexnet_tf/serving/stub_model.py": [
        "tensorflow.compat.v1.Session",
        "tensorflow.compat.v1.saved_model.loader.load",
    ],
}

# Names of standard library modules that are safe here, because no file of these folders is run as a program.
STANDARD_NAMES = ["alexnet_tf/data/statistics.py", "alexnet_tf/profiling/trace.py"]

NAMES_FROM = ["typing", "collections.abc"]

PROCESS_WIDE = re.compile(
    r"tensorflow\.config\.(.+\.)?(set|enable|disable|run_functions_eagerly)\w*"
    r"|tensorflow\.(random\.set_\w+|get_logger|autograph\.set_\w+|debugging\.(enable|disable)_\w+)"
    r"|(tensorflow\.)?keras\.(utils\.set_random_seed|(config|backend|mixed_precision)\.(set|enable|disable)_\w+)"
    r"|numpy\.random\.seed|random\.seed"
    r"|absl\.logging\.(set_\w+|use_\w+)|logging\.(basicConfig|disable)|warnings\.(filterwarnings|simplefilter)"
    r"|os\.(putenv|unsetenv|environ\.(__setitem__|setdefault|update|pop|clear))|signal\.signal"
)


def check_our_imports(path, uses):
    module = source_code.module_of(path)
    if not any(source_code.is_at_or_below(module, package) for package in ("alexnet_tf", "tools")):
        return
    row = module
    while row and row not in MAY_IMPORT:
        row = row.rpartition(".")[0]
    # The first row applies to alexnet_tf/__init__.py only.
    if row == "alexnet_tf" and module != row:
        yield 1, f"{module} has no row in MAY_IMPORT: add one that lists what it may import"
        return
    for line, name, _, is_import in uses.found:
        if is_import and source_code.is_at_or_below(name, "alexnet_tf.commands"):
            if not path.startswith(("alexnet_tf/commands/", "tools/")):
                yield line, f"imports {name}: commands call the package, and nothing calls them"
        elif is_import and source_code.is_at_or_below(name, "alexnet_tf"):
            if not any(source_code.is_at_or_below(name, allowed) for allowed in MAY_IMPORT[row]):
                yield (
                    line,
                    f"imports {name}: receive what you need as an argument, from runs/builders.py or a command",
                )


def check_libraries(path, uses):
    for line, name, _, _ in uses.found:
        for library, (places, alternative) in ONLY_IN.items():
            if source_code.is_at_or_below(name, library) and not path.startswith(tuple(places)):
                yield line, f"uses {name}: {alternative}"


def check_flags(path, uses):
    for line, name, _, _ in uses.found:
        if source_code.is_at_or_below(name, "absl.flags") and not path.startswith(FLAG_PLACES):
            yield line, f"uses {name}: only commands use flags; take plain values as arguments"


def check_private_names(path, uses):
    for line, name, _, _ in uses.found:
        first, *rest = name.split(".")
        private = any(part.startswith("_") and not part.startswith("__") for part in rest)
        if source_code.is_at_or_below(name, "tensorflow.python") or source_code.is_at_or_below(name, "keras.src"):
            yield line, f"uses {name}: use the public name in tf. or keras."
        elif private and first in ("tensorflow", "keras", "tensorflow_datasets", "numpy", "rich", "absl"):
            yield line, f"uses {name}: private names change without notice; use a public one"


def check_compat_v1(path, uses):
    for line, name, _, _ in uses.found:
        if source_code.is_at_or_below(name, "tensorflow.compat.v1"):
            if not any(source_code.is_at_or_below(name, allowed) for allowed in COMPAT_V1.get(path, [])):
                yield line, f"uses {name}: use TF 2, or justify it in a comment and add a row to COMPAT_V1"


def check_process_wide_settings(path, uses):
    if path.startswith("alexnet_tf/commands/") or path in ("tests/conftest.py", "tests/helpers/grappler.py"):
        return
    for line, name, _, _ in uses.found:
        if PROCESS_WIDE.fullmatch(name):
            yield line, f"uses {name}: only commands/ and conftest.py change settings of the process"


def check_imports_of_names(path, tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module not in NAMES_FROM:
            for alias in node.names:
                target = ROOT / (node.module or "").replace(".", "/") / alias.name
                of_ours = target.with_suffix(".py").exists() or (target / "__init__.py").exists()
                if node.level or not (of_ours or f"{node.module}.{alias.name}" == "absl.flags"):
                    yield (
                        node.lineno,
                        (
                            f"imports {alias.name} from {'.' * node.level}{node.module or ''}: "
                            "import the module by its full name and write module.name"
                        ),
                    )


def check_work_at_import(path, tree, uses):
    """Reports function calls and tensors at import time."""
    for node in tree.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield node.lineno, "calls a function at import: leave the call to the caller"
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value:
            for call in ast.walk(node.value):
                if isinstance(call, ast.Call) and (uses.dotted(call.func) or "").startswith(("tensorflow", "keras")):
                    yield node.lineno, "computes with TensorFlow at import: move it into a function"


def check_file_name(path):
    if path.rpartition("/")[2].removesuffix(".py") in sys.stdlib_module_names and path not in STANDARD_NAMES:
        yield 1, f"{path} has the name of a standard library module and hides it: rename it"


def violations(path, source):
    """Returns the violations in a file, one line each; `path` is relative to the repository."""
    tree = ast.parse(source)
    uses = source_code.Uses(path, tree)
    found = [*check_file_name(path), *check_process_wide_settings(path, uses)]
    if not path.startswith("tests/"):
        found += check_our_imports(path, uses)
        found += check_libraries(path, uses)
        found += check_flags(path, uses)
        found += check_private_names(path, uses)
        found += check_compat_v1(path, uses)
        found += check_imports_of_names(path, tree)
    if path.startswith("alexnet_tf/"):
        found += check_work_at_import(path, tree, uses)
    return [f"{path}:{line} {message}" for line, message in dict.fromkeys(found)]


@pytest.mark.parametrize("path", source_code.FILES)
def test_file_respects_the_layering(path):
    assert violations(path, (ROOT / path).read_text(encoding="utf-8")) == []


def test_every_folder_is_checked():
    assert {"alexnet_tf/__init__.py", "alexnet_tf/training/trainer.py", "tools/train.py", "tests/conftest.py"} <= set(
        source_code.FILES
    )


@pytest.mark.parametrize(
    "path, source, message",
    [
        ("alexnet_tf/config.py", "from alexnet_tf.models import alexnet", "receive what you need as an argument"),
        ("alexnet_tf/models/layers.py", "from alexnet_tf import config", "imports alexnet_tf.config"),
        ("alexnet_tf/models/registry.py", "from alexnet_tf import config", "imports alexnet_tf.config"),
        ("alexnet_tf/models/placement.py", "from . import layers", "imports alexnet_tf.models.layers"),
        (
            "alexnet_tf/models/alexnet.py",
            "from alexnet_tf.data import augmentation",
            "imports alexnet_tf.data.augmentation",
        ),
        ("alexnet_tf/data/augmentation.py", "from alexnet_tf import config", "imports alexnet_tf.config"),
        ("alexnet_tf/data/pipeline.py", "import alexnet_tf.training.trainer", "imports alexnet_tf.training.trainer"),
        ("alexnet_tf/training/trainer.py", "from alexnet_tf import config", "imports alexnet_tf.config"),
        ("alexnet_tf/training/trainer.py", "from ..data import pipeline", "imports alexnet_tf.data.pipeline"),
        (
            "alexnet_tf/training/actions.py",
            "from alexnet_tf.models import alexnet",
            "imports alexnet_tf.models.alexnet",
        ),
        (
            "alexnet_tf/evaluation/errors.py",
            "from alexnet_tf.models import alexnet",
            "imports alexnet_tf.models.alexnet",
        ),
        ("alexnet_tf/evaluation/errors.py", "import alexnet_tf", "imports alexnet_tf:"),
        (
            "alexnet_tf/export/saved_model.py",
            "def f():\n  from alexnet_tf.models import alexnet",
            "saved_model.py:2 imports alexnet_tf.models.alexnet",
        ),
        (
            "alexnet_tf/export/saved_model.py",
            "from alexnet_tf.runs import builders",
            "imports alexnet_tf.runs.builders",
        ),
        ("alexnet_tf/helpers.py", "", "has no row in MAY_IMPORT"),
        ("alexnet_tf/models/alexnet.py", "import tensorflow_datasets as tfds", "alexnet_tf.data.sources"),
        (
            "alexnet_tf/runs/builders.py",
            "import importlib\ndef f():\n  return importlib.import_module('tensorflow_datasets')",
            "alexnet_tf.data.sources",
        ),
        ("tools/figures.py", "import matplotlib.pyplot as plt", "let alexnet_tf.reporting.figures draw"),
        ("alexnet_tf/training/trainer.py", "from absl import flags", "take plain values as arguments"),
        ("alexnet_tf/config.py", "from absl import flags", "take plain values as arguments"),
        (
            "alexnet_tf/config.py",
            "def from_flags():\n  import absl.flags as f\n  f.FLAGS",
            "config.py:3 uses absl.flags.FLAGS",
        ),
        ("alexnet_tf/models/layers.py", "from tensorflow.python.ops import nn", "use the public name"),
        ("alexnet_tf/models/layers.py", "import tensorflow as tf\ntf.python.ops", "uses tensorflow.python.ops"),
        ("alexnet_tf/models/layers.py", "from keras.src import ops", "use the public name"),
        ("tools/train.py", "import keras\nkeras.layers.Layer._name", "use a public one"),
        ("tools/train.py", "from alexnet_tf.runs import train", "imports alexnet_tf.runs.train"),
        ("tools/train.py", "from absl import flags", "only commands use flags"),
        ("alexnet_tf/runs/train.py", "from alexnet_tf.commands import program", "nothing calls them"),
        ("alexnet_tf/models/layers.py", "import tensorflow as tf\ntf.compat.v1.get_variable", "use TF 2"),
        ("alexnet_tf/models/layers.py", "import tensorflow.compat.v1 as tf", "use TF 2"),
        (
            "alexnet_tf/profiling/executed_graph.py",
            "import tensorflow as tf\ntf.compat.v1.Session",
            "add a row to COMPAT_V1",
        ),
        (
            "alexnet_tf/models/alexnet.py",
            "import tensorflow as tf\ndef f():\n  tf.random.set_seed(1)",
            "only commands/",
        ),
        (
            "alexnet_tf/models/alexnet.py",
            "import tensorflow\nx = tensorflow.config.set_visible_devices",
            "set_visible_devices",
        ),
        (
            "alexnet_tf/models/alexnet.py",
            "from tensorflow.config import threading as t\nt.set_intra_op",
            "threading.set_intra_op",
        ),
        (
            "alexnet_tf/models/alexnet.py",
            "import tensorflow as tf\ntf.config.experimental.enable_op_determinism",
            "determinism",
        ),
        ("alexnet_tf/models/alexnet.py", "import keras\nkeras.utils.set_random_seed", "only commands/"),
        ("alexnet_tf/data/sources.py", "import numpy as np\nnp.random.seed", "only commands/"),
        ("alexnet_tf/data/sources.py", "import os\ndef f():\n  os.environ['A'] = 'b'", "uses os.environ.__setitem__"),
        ("alexnet_tf/data/sources.py", "import os\nos.environ.setdefault", "only commands/"),
        (
            "tests/models/test_alexnet.py",
            "import tensorflow as tf\ntf.config.set_soft_device_placement",
            "conftest.py change",
        ),
        ("alexnet_tf/runs/builders.py", "from alexnet_tf.models.alexnet import AlexNet", "import the module"),
        ("alexnet_tf/runs/builders.py", "from os.path import join", "import the module"),
        ("alexnet_tf/runs/builders.py", "from . import train", "by its full name"),
        ("alexnet_tf/models/alexnet.py", "print('loaded')", "leave the call to the caller"),
        ("alexnet_tf/models/alexnet.py", "import tensorflow as tf\nMEAN = [tf.zeros([3])]", "move it into a function"),
        ("tools/profile.py", "", "rename it"),
        ("alexnet_tf/training/logging.py", "", "rename it"),
    ],
)
def test_layering_violations_are_reported_with_an_alternative(path, source, message):
    found = violations(path, source)
    assert found
    assert any(message in each for each in found), found


@pytest.mark.parametrize(
    "path, source",
    [
        (
            "alexnet_tf/models/alexnet.py",
            "from alexnet_tf.models import network\nfrom alexnet_tf.models import placement",
        ),
        ("alexnet_tf/flagfiles.py", "from absl import flags\ndef f():\n  return flags.FlagValues"),
        ("alexnet_tf/profiling/executed_graph.py", "import tensorflow as tf\ntf.compat.v1.Event.FromString"),
        (
            "alexnet_tf/training/trainer.py",
            "from typing import NamedTuple\nimport tensorflow as tf\ntf.config.list_logical_devices",
        ),
        ("alexnet_tf/training/trainer.py", "config = 1\nconfig.set_seed\nself._x"),
        ("alexnet_tf/data/sources.py", "import os\nhome = os.environ.get\ndef f():\n  import tensorflow_datasets"),
        (
            "alexnet_tf/commands/program.py",
            "import tensorflow as tf\ntf.config.set_visible_devices\nfrom absl import flags",
        ),
    ],
)
def test_valid_source_has_no_violations(path, source):
    assert violations(path, source) == []


def test_package_and_configuration_import_without_tensorflow():
    program = (
        "import sys, alexnet_tf, alexnet_tf.config; sys.exit('tensorflow' in sys.modules or 'absl' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
