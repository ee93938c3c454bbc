"""The placement report against the paper's arithmetic, and for placements that are wrong."""

import functools
import json
import math

import keras
import pytest
import tensorflow as tf

from alexnet_tf.models import alexnet
from alexnet_tf.models import placement
from alexnet_tf.profiling import operation_names
from alexnet_tf.profiling import placement_report
from alexnet_tf.training import optimizer
from alexnet_tf.training import trainer

pytestmark = pytest.mark.usefixtures("optimized_graphs")

BATCH = 2
DEVICES = ("CPU:0", "CPU:1")

# Positions of a layer's output and kernel of one tower; the product of all is the multiply-adds per image.
LAYERS = {
    "conv1": (55 * 55, [11, 11, 3, 48]),
    "conv2": (27 * 27, [5, 5, 48, 128]),
    "conv3": (13 * 13, [3, 3, 256, 192]),
    "conv4": (13 * 13, [3, 3, 192, 192]),
    "conv5": (13 * 13, [3, 3, 192, 128]),
    "fc6": (1, [9216, 2048]),
    "fc7": (1, [4096, 2048]),
}
FC8 = (1, [4096, 1000])
EXPECTED = {f"{name}_{tower}": layer for name, layer in LAYERS.items() for tower in "ab"} | {"fc8": FC8}
# Activations of one tower that the other reads: after pool2, after pool5 and after fc6.
EXCHANGES = (13 * 13 * 128, 6 * 6 * 128, 2048)


def trainer_of(network, preprocess, jit_compile=True):
    variables = [variable.value for variable in network.trainable_variables]
    rules = [optimizer.Rule(group=0, weight_decay=0.0005)] * len(variables)
    sgd = optimizer.MomentumSGD(variables, rules, jit_compile=jit_compile)
    return trainer.Trainer(network, sgd, preprocess)


def alexnet_report(recipe, devices, jit_compile=True):
    network = alexnet.AlexNet(recipe=recipe, devices=devices, seed=0)
    learner = trainer_of(network, lambda batch: (tf.cast(batch[0], tf.float32) - 120.0, batch[1]), jit_compile)
    batch = tf.zeros([BATCH, 224, 224, 3], tf.uint8), tf.zeros([BATCH], tf.int64)
    observed = placement_report.placement_report(learner.step, batch, tf.constant([0.01]))
    assert learner.traces == 1
    return observed


@functools.cache
def report_of(recipe):
    return alexnet_report(recipe, ("/CPU:0", "/CPU:1"))


# Small networks of both recipes are in models/test_variants.py.
@pytest.fixture(scope="module", params=["paper", pytest.param("original", marks=pytest.mark.slow)])
def two_devices(request):
    return report_of(request.param)


@pytest.fixture(scope="module")
def one_device():
    return alexnet_report("paper", None, jit_compile=False)


def check_layers(observed):
    """FLOPs and parameters of every layer match its description, and there are no others."""
    for layer, (positions, kernel) in EXPECTED.items():
        product = 2 * BATCH * positions * math.prod(kernel)
        # A gradient of the weights and one of the input, which the first layer does not need.
        gradients = 1 if layer.startswith("conv1") else 2
        assert placement_report.total(observed, "flops", layer=layer, phase="forward") == product, layer
        assert placement_report.total(observed, "flops", layer=layer, phase="backward") == gradients * product, layer
        assert placement_report.total(observed, "parameters", layer=layer) == math.prod(kernel) + kernel[-1], layer
    assert placement_report.total(observed, "flops", phase="forward") == 2 * 724_406_816 * BATCH
    assert placement_report.total(observed, "flops", exclude=EXPECTED) == 0
    assert placement_report.total(observed, "parameters") == 60_965_224


def test_flops_and_parameters_are_the_papers(two_devices):
    check_layers(two_devices)
    assert placement_report.total(two_devices, "flops") / BATCH == pytest.approx(4.1356e9, rel=1e-5)


def test_each_device_does_half_of_each_phase(two_devices):
    for device, tower in zip(DEVICES, "ab"):
        layers = {each.layer for each in two_devices.operations if each.flops and each.device == device}
        assert layers - {"fc8"} == {f"{name}_{tower}" for name in LAYERS}
    for phase in ("forward", "backward"):
        a, b = (
            placement_report.total(two_devices, "flops", device=device, phase=phase, exclude=("fc8",))
            for device in DEVICES
        )
        assert a == b > 0, phase
    a, b = (placement_report.total(two_devices, "parameters", device=device, exclude=("fc8",)) for device in DEVICES)
    assert a == b == (60_965_224 - 4_097_000) // 2
    assert placement_report.total(two_devices, "parameters", device="CPU:0", layer="fc8") == 4_097_000


def test_only_activations_and_their_gradients_are_transferred(two_devices):
    # Both towers' outputs and their gradients at three exchanges; then tower b's outputs to fc8, and their gradients.
    expected = [elements for elements in EXCHANGES for _ in range(4)] + [2048, 2048]
    crossed = [each for each in two_devices.transfers if not each.is_input]
    assert sorted(math.prod(each.shape) for each in crossed) == sorted(BATCH * each for each in expected)
    assert {each.dtype for each in crossed} == {"float32"}
    assert placement_report.transferred_bytes(two_devices, is_input=False) == 4 * BATCH * sum(expected)
    # At the paper's batch of 128.
    assert 4 * 128 * sum(expected) == 60_030_976
    for source, destination in (DEVICES, DEVICES[::-1]):
        one_way = [each for each in crossed if (each.source, each.destination) == (source, destination)]
        assert sum(each.bytes for each in one_way) == 2 * BATCH * sum(expected)
        assert sum(each.name.startswith("gradient of ") for each in one_way) == len(EXCHANGES) + (source == "CPU:0")


def test_input_is_distinguished(two_devices):
    inputs = {each.name: each for each in two_devices.transfers if each.is_input}
    assert {name: each.shape for name, each in inputs.items()} == {
        "preprocess/images": (BATCH, 224, 224, 3),
        "learning_rates": (1,),
    }
    assert placement_report.transferred_bytes(two_devices, is_input=True) == 4 * BATCH * 224 * 224 * 3 + 4
    everything = placement_report.transferred_bytes(two_devices)
    assert everything == sum(placement_report.transferred_bytes(two_devices, is_input=kind) for kind in (True, False))


def test_memory_is_what_the_gradients_read(two_devices):
    a, b = (placement_report.memory(two_devices, device) for device in DEVICES)
    tower = 4 * (60_965_224 - 4_097_000) // 2
    assert a["weights"] == a["velocities"] == tower + 4 * 4_097_000 and b["weights"] == b["velocities"] == tower
    layers = {each.layer for each in two_devices.kept if each.device == "CPU:1"}
    # Tower b also keeps what it has received of tower a.
    assert {layer for layer in layers if not layer.endswith("_b")} == set()
    # fc8 reads both towers' outputs; the loss keeps probabilities.
    assert a["activations"] == b["activations"] + 4 * BATCH * (4096 + 1000)


def test_activations_of_the_paper_are_counted_by_hand():
    observed = report_of("paper")
    # Inputs of the products, of the poolings and of the normalizations; outputs of the ReLUs, most of which are such.
    maps = 227 * 227 * 3 + 55 * 55 * 48 * 2 + 27 * 27 * 48 + 27 * 27 * 128 * 2 + 13 * 13 * (128 + 256)
    maps += 13 * 13 * (192 + 192 + 128) + 6 * 6 * 128
    units = 9216 + 2048 + 4096 + 2048
    masks = 2 * 2048
    (kept,) = [placement_report.memory(observed, device)["activations"] for device in DEVICES[1:]]
    assert kept == BATCH * (4 * (maps + units) + masks)


def test_nothing_is_transferred_on_one_device(one_device):
    check_layers(one_device)
    assert one_device.devices == ("CPU:0",)
    assert one_device.transfers == ()
    assert "total, all" in placement_report.table(one_device)


def test_table_and_dictionary_agree(two_devices):
    values = json.loads(json.dumps(placement_report.as_dict(two_devices)))
    lines = placement_report.table(two_devices).splitlines()
    assert max(map(len, lines)) <= 110
    rows = {line[:34].strip(): line[34:].replace("%", " ").split() for line in lines}
    assert rows["Work"] == list(values["devices"])
    for number, device in enumerate(values["devices"].values()):
        for phase in operation_names.PHASES:
            assert int(rows[f"operations, {phase}"][2 * number]) == device["operations"][phase]
        for phase in ("forward", "backward"):
            assert rows[f"GFLOP, {phase}"][2 * number] == f"{device['flops'][phase] / 1e9:.3f}"
            assert rows[f"GFLOP, {phase}, without fc8"][2 * number + 1] == "50.0"
        assert rows["parameters updated"][2 * number] == f"{device['parameters']:,d}"
        for kind, size in device["memory"].items():
            assert rows[f"MB, {kind}"][2 * number] == f"{size / 1e6:.1f}"
    for name, size in values["crossing_bytes"].items():
        assert rows[f"total, {name.replace('beside the', 'other than')}"] == [f"{size / 1e6:.6f}"]
    for each in values["crossings"]:
        row = [each["source"], each["destination"], "x".join(map(str, each["shape"])), each["dtype"]]
        assert any(line.startswith(each["name"]) and line.split()[-5:-1] == row for line in lines), each
    assert set(values["layers"]) == set(EXPECTED)


def naive(layer_class):
    """A layer whose variables and forward operations are on a device, by scopes only."""

    class Naive(layer_class):
        def __init__(self, *args, device, **kwargs):
            super().__init__(*args, **kwargs)
            self.device = device

        def build(self, input_shape):
            with tf.device(self.device):
                super().build(input_shape)

        def call(self, inputs):
            with tf.device(self.device):
                return super().call(inputs)

    return Naive


def small_report(make):
    """The report of a step of two small towers whose layers are of `make(layer class)`."""
    images = keras.Input([16, 16, 3])
    towers = []
    for tower, device in zip("ab", ("/CPU:0", "/CPU:1")):
        x = make(keras.layers.Conv2D)(8, 3, device=device, name=f"conv_{tower}")(images)
        x = make(keras.layers.Flatten)(device=device, name=f"flatten_{tower}")(x)
        towers.append(make(keras.layers.Dense)(16, device=device, name=f"dense_{tower}")(x))
    logits = placement.on_device(keras.layers.Add)(device="/CPU:0", name="logits")(towers)
    learner = trainer_of(keras.Model(images, logits), lambda batch: batch)
    return placement_report.placement_report(
        learner.step, (tf.ones([4, 16, 16, 3]), tf.zeros([4], tf.int64)), tf.constant([0.01])
    )


def flops_by_device(observed, phase):
    return [placement_report.total(observed, "flops", device=device, phase=phase) for device in DEVICES]


def test_backward_pass_on_the_wrong_device_is_visible():
    placed, scoped = small_report(placement.on_device), small_report(naive)
    half = 2 * 4 * (14 * 14 * 3 * 3 * 3 * 8 + 14 * 14 * 8 * 16)
    for observed in (placed, scoped):
        assert flops_by_device(observed, "forward") == [half, half]
        a, b = (placement_report.total(observed, "parameters", device=device) for device in DEVICES)
        assert a == b
    assert len(set(flops_by_device(placed, "backward"))) == 1
    assert flops_by_device(scoped, "backward")[1] == 0
    # The gradients of weights are transferred, which should never happen.
    names = [each.name for each in scoped.transfers]
    assert "gradient of conv_b/Conv2DBackpropFilter" in names and "gradient of dense_b/MatMul_1" in names
    assert placement_report.transferred_bytes(scoped, is_input=False) > 2 * placement_report.transferred_bytes(
        placed, is_input=False
    )


def test_device_scope_around_the_construction_is_visible():
    def scoped_construction(layer_class):
        def construct(*args, device, **kwargs):
            layer = layer_class(*args, **kwargs)

            def connect(inputs):
                with tf.device(device):
                    return layer(inputs)

            return connect

        return construct

    observed = small_report(scoped_construction)
    assert flops_by_device(observed, "forward")[1] == flops_by_device(observed, "backward")[1] == 0


def test_results_of_arguments_alone_are_input():
    weights = tf.Variable(tf.ones([5, 3]))

    def step(batch):
        narrow = tf.cast(batch, tf.bfloat16)
        with tf.device("/CPU:0"):
            product = tf.cast(narrow, tf.float32) @ weights
        with tf.device("/CPU:1"):
            return tf.reduce_sum(narrow), tf.reduce_sum(product)

    observed = placement_report.placement_report(tf.function(step), tf.ones([7, 5]))
    sent = {(each.shape, each.dtype, each.bytes): each.is_input for each in observed.transfers}
    assert sent[(7, 5), "bfloat16", 70] and not sent[(7, 3), "float32", 84]


def looped(x):
    return tf.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, y @ y), [tf.constant(0), x])[1]


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda x: tf.einsum("ij,jk->ik", x, x) + tf.linalg.band_part(x, 0, 0), "Einsum"),
        (lambda x: tf.function(lambda y: tf.square(y @ y), jit_compile=True)(x), "MatMul"),
        (looped, "NextIteration"),
    ],
)
def test_product_that_cannot_be_counted_is_rejected(function, named):
    with pytest.raises(ValueError, match=f"Expected only Conv2D and MatMul, not compiled.*{named}"):
        placement_report.placement_report(tf.function(function), tf.eye(3))


def test_only_a_first_run_can_be_observed():
    function = tf.function(lambda x: x + 1)
    placement_report.placement_report(function, tf.ones([2]))
    with pytest.raises(ValueError, match="not called before"):
        placement_report.placement_report(function, tf.ones([2]))


def test_function_compiled_as_one_program_is_rejected():
    with pytest.raises(ValueError, match="not compiled as one program"):
        placement_report.placement_report(tf.function(lambda x: x @ x, jit_compile=True), tf.eye(3))


def test_failing_function_leaves_no_trace_running():
    def fails(x):
        raise RuntimeError("as it should")

    with pytest.raises(RuntimeError, match="as it should"):
        placement_report.placement_report(tf.function(fails), tf.ones([2]))
    observed = placement_report.placement_report(tf.function(lambda x: x @ x), tf.ones([4, 4]))
    assert placement_report.total(observed, "flops", phase="forward") == 2 * 4**3
