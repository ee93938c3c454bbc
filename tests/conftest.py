"""Every test process: TensorFlow without its chatter, and two logical CPU devices for the two towers.

Where there is a GPU, it is two logical ones, with whole float32 products.

`enable_op_determinism` stays off, though it costs nothing measurable: users do not run with it, and with it a
test of "resumed equals uninterrupted" would not notice an operation that is not deterministic by itself.
"""

import ctypes
import gc
import os
import pathlib
import sys

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# XLA computes the same without optimizing machine code, which takes a third of the time of tests that compile.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

# Importing is faster without it; see `pytest_collection_finish`.
gc.disable()

TESTS = pathlib.Path(__file__).parent
# Modules that take longest, in this order, which begin first: a process that has one left at the end works alone.
LONGEST = (
    "models/test_variants.py",
    "runs/test_train.py",
    "runs/test_freezing.py",
    "runs/test_faults.py",
    "test_documents.py",
    "models/test_network.py",
    "data/test_prepare.py",
    "data/test_loading.py",
    "runs/test_export.py",
    "runs/test_report.py",
    "export/test_saved_model.py",
    "models/test_recipes_of_others.py",
    "commands/test_tools.py",
    "runs/test_neighbours.py",
    "runs/test_loaded.py",
    "models/test_registry.py",
    "runs/test_data_record.py",
    "runs/test_evaluate.py",
    "models/test_alexnet.py",
    "commands/test_installed.py",
    "runs/test_workers.py",
    "benchmarks/test_rows.py",
    "models/test_normalizations.py",
    "models/test_placement.py",
    "training/test_distribution.py",
    "runs/test_initialization.py",
    "runs/test_version_0_1.py",
    "profiling/test_trace.py",
)


def pytest_configure(config):
    distributes = getattr(config.option, "numprocesses", 0) and not hasattr(config, "workerinput")
    # The process that only gives tests to others starts them four seconds sooner.
    if not distributes or config.option.collectonly:
        configure_tensorflow()


def configure_tensorflow():
    """Makes the devices of the tests."""
    import grappler
    import tensorflow as tf

    grappler.disable()
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    for gpu in tf.config.list_physical_devices("GPU")[:1]:
        # In MB: of each of the two, and there may be several test processes.
        tf.config.set_logical_device_configuration(gpu, [tf.config.LogicalDeviceConfiguration(memory_limit=4096)] * 2)
        tf.config.set_visible_devices(gpu, "GPU")
        tf.config.experimental.enable_tensor_float_32_execution(False)


def pytest_collection_modifyitems(items):
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.relative_to(TESTS).as_posix(), len(order)))


def pytest_collection_finish():
    # What is loaded stays, and need not be looked through whenever garbage is collected.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)
    gc.enable()


@pytest.fixture(scope="module")
def optimized_graphs():
    """Optimizes graphs as in a program, until the end of the module."""
    import grappler

    with grappler.enabled():
        yield


@pytest.fixture(autouse=True, scope="session")
def without_measuring_the_machine():
    """The report at the end of a run measures the machine."""
    from alexnet_tf.runs import costs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(costs, "MATRIX_SIDES", {"CPU": 64, "GPU": 64})
        yield


@pytest.fixture
def keras_setting():
    """A function of a name and a value that changes a setting of Keras until the end of the test."""
    from keras import config

    before = {}

    def change(name, value):
        before.setdefault(name, getattr(config, name)())
        getattr(config, f"set_{name}")(value)

    yield change
    for name, value in before.items():
        getattr(config, f"set_{name}")(value)


@pytest.fixture(autouse=True)
def without_the_networks_of_other_tests():
    """Frees the networks that a test has built.

    TensorFlow registers every gradient of `tf.custom_gradient` for good, and with it the graph and all variables that
    it reads: a quarter of a gigabyte for each whole network that was trained. A user's process has one, this dozens.
    """
    yield
    registered = sys.modules["tensorflow.python.framework.ops"].gradient_registry._registry
    if names := [name for name in registered if name.startswith("CustomGradient-")]:
        for name in names:
            del registered[name]
        gc.collect()


@pytest.fixture(autouse=True, scope="module")
def without_the_networks_of_other_modules():
    """Frees what a module's fixtures have built, too."""
    yield
    import tensorflow as tf

    tf.keras.backend.clear_session()
    gc.collect()
    # Back to the system, where the C library can: the processes would grow to several gigabytes each.
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
