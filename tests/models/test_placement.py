"""The devices of the towers: equal results on one and on two, and every operation on the device of its tower.

The devices of operations are read from the executed partition graphs, as what Python requested proves nothing.
"""

import collections
import re

import keras
import numpy as np
import pytest
import reference_network
import tensorflow as tf

from alexnet_tf.models import placement
from alexnet_tf.models.alexnet import AlexNet

pytestmark = pytest.mark.usefixtures("optimized_graphs")

Node = collections.namedtuple("Node", "op, name, inputs, device, compiled")


def device_of(tensor_or_variable):
    """Returns the short name of the device of an eager tensor or a variable."""
    return tensor_or_variable.device.rpartition("device:")[2]


def executed_nodes(directory, function, *arguments):
    """Calls `function` for the first time, and returns its results and the nodes that TensorFlow executed.

    A node's `device` is, for example, "CPU:1" or "GPU:1". `compiled` is true if XLA ran it.
    """
    # TensorFlow continues to collect graphs after the end of a trace, and the next trace would include them.
    tf.summary.trace_on(graph=True)
    with tf.summary.create_noop_writer().as_default():
        tf.summary.trace_export("discarded", step=0)
    writer = tf.summary.create_file_writer(str(directory))
    tf.summary.trace_on(graph=True)
    results = function(*arguments)
    with writer.as_default():
        tf.summary.trace_export("trace", step=0)
    writer.close()
    nodes = []
    (path,) = directory.iterdir()
    for record in tf.data.TFRecordDataset(str(path)):
        for value in tf.compat.v1.Event.FromString(record.numpy()).summary.value:
            metadata = tf.compat.v1.RunMetadata.FromString(tf.make_ndarray(value.tensor).item())
            for graph in metadata.function_graphs:
                for partition in graph.partition_graphs:
                    for node in partition.node:
                        device = node.device.rpartition("device:")[2]
                        compiled = node.attr["_XlaMustCompile"].b
                        nodes.append(Node(node.op, node.name, list(node.input), device, compiled))
    return results, nodes


class Step:
    """A network with large weights, and the results of the forward and backward pass of a training step."""

    def __init__(self, devices, directory):
        self.model = AlexNet(num_classes=20, recipe="original", devices=devices, image_size=32, seed=3)
        self.initial_weights = self.model.get_weights()
        dense = [layer for layer in self.model.layers if layer.get_weights()]
        weights = reference_network.large_weights({layer.name: layer.kernel.shape for layer in dense}, seed=1)
        for layer in dense:
            layer.set_weights(weights[layer.name])
        images = tf.constant(reference_network.random_images(2, seed=2, size=32))
        self.logits = self.model(images).numpy()

        @tf.function
        def step(images):
            with tf.GradientTape() as tape:
                logits = self.model(images, training=True)
                loss = tf.reduce_mean(tf.nn.log_softmax(logits / 100.0)[:, 0])
            return logits, tape.gradient(loss, self.model.trainable_variables)

        (self.training_logits, self.gradients), self.nodes = executed_nodes(directory, step, images)


@pytest.fixture(scope="module", params=["CPU", "GPU"])
def tower_devices(request):
    """The devices of the towers, such as "CPU:0" and "CPU:1"."""
    if len(tf.config.list_logical_devices(request.param)) < 2:
        pytest.skip("needs a GPU")
    return tuple(f"{request.param}:{index}" for index in range(2))


@pytest.fixture(scope="module")
def one(tower_devices, tmp_path_factory):
    # TensorFlow would choose a GPU if there is one.
    with placement.device_scope(tower_devices[0] if tf.config.list_logical_devices("GPU") else None):
        return Step(None, tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def two(tower_devices, tmp_path_factory):
    return Step([f"/{device}" for device in tower_devices], tmp_path_factory.mktemp("two"))


def test_variables_have_the_same_names_and_values(one, two):
    assert [variable.path for variable in one.model.variables] == [v.path for v in two.model.variables]
    assert [layer.name for layer in one.model.layers] == [layer.name for layer in two.model.layers]
    for variable, a, b in zip(one.model.weights, one.initial_weights, two.initial_weights, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=variable.path)


def test_logits_and_gradients_are_the_same(one, two):
    # The same kernels compute on the same numbers, and sums of two gradients do not depend on the order. The tolerance,
    # the rounding of a few additions, only allows for libraries that split sums by the number of free threads.
    np.testing.assert_allclose(two.logits, one.logits, rtol=0, atol=1e-6 * np.max(np.abs(one.logits)))
    scale = np.max(np.abs(one.training_logits))
    # In training, dropout uses the same random numbers.
    np.testing.assert_allclose(two.training_logits, one.training_logits, rtol=0, atol=1e-6 * scale)
    for variable, a, b in zip(one.model.trainable_variables, one.gradients, two.gradients, strict=True):
        scale = np.max(np.abs(a))
        assert scale > 0, variable.path
        # The gradient of a bias sums over all positions; without AVX-512, one differed by 1.03e-6.
        tolerance = 1.5e-6 if variable.name == "bias" else 1e-6
        np.testing.assert_allclose(b, a, rtol=0, atol=tolerance * scale, err_msg=variable.path)


def test_checkpoints_fit_any_number_of_devices(one, two, tmp_path):
    path = tf.train.Checkpoint(model=two.model).write(str(tmp_path / "two"))
    fresh = AlexNet(num_classes=20, recipe="original", image_size=32, seed=4)
    tf.train.Checkpoint(model=fresh).read(path).assert_consumed()
    for a, b in zip(fresh.variables, two.model.variables, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=a.path)


def test_variables_are_on_the_device_of_their_tower(two, tower_devices):
    for variable in two.model.variables:
        expected = tower_devices[bool(re.match(r"[a-z]+\d_b/", variable.path))]
        assert device_of(variable.value) == expected, variable.path
    counts = collections.Counter(device_of(variable.value) for variable in two.model.trainable_variables)
    assert counts == {tower_devices[0]: 16, tower_devices[1]: 14}  # fc8's two are with tower a


KINDS = (
    "Conv2DBackpropFilter",
    "Conv2DBackpropInput",
    "Conv2D",
    "MaxPoolGrad",
    "MaxPool",
    "ReluGrad",
    "MatMul",
    "AddN",
)


def kind_of(node):
    """Returns the kind of a node, also if a library has fused it with others; None for cheap operations."""
    if node.compiled:
        return "keys of dropout" if "dropout" in node.name else "normalization"
    return next((kind for kind in KINDS if kind in node.op), None)


def tower_of(node):
    """Returns the tower of a node, from the layer in its name or in the names of its inputs."""
    for name in (node.name, *node.inputs):
        found = re.search(r"(?:^|/)[a-z]+\d_([ab])(?:_\d+)?/", name)
        if found:
            return found[1]
        if re.search(r"(?:^|/)fc8(?:_\d+)?/", name):
            return "a"
    return None


def test_expensive_operations_run_on_the_device_of_their_tower(two, tower_devices):
    counts = {"a": collections.Counter(), "b": collections.Counter()}
    for node in two.nodes:
        kind = kind_of(node)
        if kind is None or kind == "AddN":
            continue
        tower = tower_of(node)
        assert tower, node
        assert node.device == tower_devices["ab".index(tower)], node
        counts[tower][kind] += 1
    expected = {
        "Conv2D": 5,
        "Conv2DBackpropFilter": 5,
        "Conv2DBackpropInput": 4,  # the gradient of the images is not needed
        "MaxPool": 3,
        "MaxPoolGrad": 3,
        "ReluGrad": 7,
        "normalization": 6,  # two LRN and one same-map, forward and backward
        "keys of dropout": 2,
    }
    # fc6 and fc7 forward, and the gradients of their inputs and weights; fc8 belongs to tower a.
    assert counts == {"a": {**expected, "MatMul": 9}, "b": {**expected, "MatMul": 6}}


def test_all_other_operations_run_on_the_device_of_their_tower(two, tower_devices):
    """Includes even reshapes, but not sends and receives, which connect devices."""
    for node in two.nodes:
        if node.op in ("_Send", "_Recv"):
            continue
        found = re.search(r"(?:^|/)[a-z]+\d_([ab])(?:_\d+)?/", node.name)
        if found:
            assert node.device == tower_devices["ab".index(found[1])], node


def test_gradients_of_readers_are_summed_on_the_device_of_the_tensor(two, tower_devices):
    """There are three exchanges, each with two readers, and one sum on each device."""
    sums = collections.Counter(node.device for node in two.nodes if node.op == "AddN")
    assert sums == {tower_devices[0]: 3, tower_devices[1]: 3}


def test_one_device_uses_one_device(one, tower_devices):
    # With a GPU, operations on shapes run on its host.
    heavy = {node.device for node in one.nodes if kind_of(node)}
    assert heavy == {tower_devices[0]} and {node.device for node in one.nodes} <= {tower_devices[0], "CPU:0"}


# run_on_device

KERNEL = np.random.default_rng(0).standard_normal([3, 3, 2, 4]).astype(np.float32)
IMAGES = np.random.default_rng(1).standard_normal([2, 6, 6, 2]).astype(np.float32)
UPSTREAM = np.random.default_rng(2).standard_normal([2, 6, 6, 4]).astype(np.float32)

in_each_mode = pytest.mark.parametrize("mode", [lambda f: f, tf.function], ids=["eager", "function"])


def outputs_and_gradients(function, inputs, variables=(), upstream=None):
    """Returns the outputs of `function` and the gradients of its inputs (a tensor or a list) and variables."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = function(inputs)
    return outputs, tape.gradient(outputs, [inputs, *variables], output_gradients=upstream)


def assert_same(received, expected):
    for a, b in zip(tf.nest.flatten(received), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@in_each_mode
def test_lists_of_inputs_and_outputs(mode):
    def function(tensors):
        a, b = tensors
        return [a * b, tf.reduce_sum(a**2) * b]

    inputs = [tf.constant([1.0, 2.0, 3.0]), tf.constant([4.0, 5.0, 6.0])]
    upstream = [tf.constant([1.0, -2.0, 0.5]), tf.constant([0.25, 3.0, 1.0])]
    plain = outputs_and_gradients(function, inputs, upstream=upstream)
    placed = mode(
        lambda tensors: outputs_and_gradients(
            lambda x: placement.run_on_device("/CPU:1", function, x), tensors, upstream=upstream
        )
    )(inputs)
    assert isinstance(placed[0], list) and isinstance(placed[1][0], list)
    assert_same(placed, plain)


@in_each_mode
def test_function_with_variables(mode):
    with tf.device("/CPU:1"):
        kernel, bias = tf.Variable(KERNEL), tf.Variable(tf.ones([4]))

    def function(x):
        return tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME") + bias)

    variables = [kernel, bias]
    images, upstream = tf.constant(IMAGES), tf.constant(UPSTREAM)
    plain = outputs_and_gradients(function, images, variables, upstream)
    placed = mode(
        lambda x: outputs_and_gradients(
            lambda y: placement.run_on_device("/CPU:1", function, y), x, variables, upstream
        )
    )(images)
    assert_same(placed, plain)


@in_each_mode
def test_gradient_of_an_unused_input_is_zero(mode):
    inputs = [tf.constant([1.0, 2.0]), tf.constant([3.0, 4.0])]
    _, ((used, unused),) = mode(
        lambda tensors: outputs_and_gradients(
            lambda x: placement.run_on_device("/CPU:1", lambda pair: 2.0 * pair[0], x), tensors
        )
    )(inputs)
    np.testing.assert_array_equal(used, [2.0, 2.0])
    np.testing.assert_array_equal(unused, [0.0, 0.0])


def test_eager_operations_run_on_the_device_forward_and_backward():
    devices = {"forward": [], "backward": []}

    @tf.custom_gradient
    def witness(x):
        y = 2.0 * x
        devices["forward"].append(device_of(y))

        def gradient(upstream):
            result = 2.0 * upstream
            devices["backward"].append(device_of(result))
            return result

        return y, gradient

    x = tf.constant([1.0, 2.0])
    y, (gradient,) = outputs_and_gradients(lambda x: placement.run_on_device("/CPU:1", witness, x), x)
    # Each ran once: the gradient reuses the activations.
    assert devices == {"forward": ["CPU:1"], "backward": ["CPU:1"]}
    assert device_of(y) == "CPU:1"
    np.testing.assert_array_equal(gradient, [2.0, 2.0])


def convolution_devices(nodes):
    return {(kind_of(node), node.device) for node in nodes if "Conv2D" in node.op}


def test_operations_of_a_function_run_on_the_device_forward_and_backward(tmp_path):
    with tf.device("/CPU:1"):
        kernel = tf.Variable(KERNEL)

    @tf.function
    def step(images):
        def convolve(x):
            return tf.nn.conv2d(x, kernel, 1, "SAME")

        return outputs_and_gradients(
            lambda x: placement.run_on_device("/CPU:1", convolve, x), images, [kernel], UPSTREAM
        )

    _, nodes = executed_nodes(tmp_path, step, tf.constant(IMAGES))
    assert convolution_devices(nodes) == {
        ("Conv2D", "CPU:1"),
        ("Conv2DBackpropInput", "CPU:1"),
        ("Conv2DBackpropFilter", "CPU:1"),
    }


def test_a_scope_alone_does_not_place_the_backward_pass(tmp_path):
    """Shows why `run_on_device` exists, and that these tests would detect its absence."""
    with tf.device("/CPU:1"):
        kernel = tf.Variable(KERNEL)

    @tf.function
    def step(images):
        def convolve(x):
            with tf.device("/CPU:1"):
                return tf.nn.conv2d(x, kernel, 1, "SAME")

        return outputs_and_gradients(convolve, images, [kernel], UPSTREAM)

    _, nodes = executed_nodes(tmp_path, step, tf.constant(IMAGES))
    assert convolution_devices(nodes) == {
        ("Conv2D", "CPU:1"),
        ("Conv2DBackpropInput", "CPU:0"),
        ("Conv2DBackpropFilter", "CPU:0"),
    }


def test_no_device_only_calls_the_function():
    x = tf.constant([1.0, 2.0])
    assert placement.run_on_device(None, lambda tensor: tensor, x) is x


def test_layer_on_a_device():
    layer_class = placement.on_device(keras.layers.Conv2D)
    settings = {
        "kernel_initializer": keras.initializers.RandomNormal(seed=1),
        "padding": "same",
        "name": "conv",
    }
    placed = layer_class(4, 3, device="/CPU:1", **settings)
    plain = keras.layers.Conv2D(4, 3, **settings)
    assert_same(placed(IMAGES), plain(IMAGES))
    assert [variable.path for variable in placed.weights] == [variable.path for variable in plain.weights]
    assert {device_of(variable.value) for variable in placed.weights} == {"CPU:1"}
    assert device_of(placed(IMAGES)) == "CPU:1"

    copy = layer_class.from_config(placed.get_config())
    assert copy.get_config() == placed.get_config() == {**plain.get_config(), "device": "/CPU:1"}
    assert device_of(layer_class(4, 3, **settings)(IMAGES)) == "CPU:0"


def test_gradients_of_a_fan_out_are_summed_on_its_device(tmp_path):
    fan_out = placement.on_device(placement.FanOut)(2, device="/CPU:1")

    @tf.function
    def step(x):
        def read(tensor):
            near, far = fan_out(tensor)
            near = placement.run_on_device("/CPU:1", lambda y: 2.0 * y, near)
            far = placement.run_on_device("/CPU:0", lambda y: tf.sin(y), far)
            return near + far

        return outputs_and_gradients(read, x)

    x = tf.constant([0.5, 1.0, 1.5])
    (output, (gradient,)), nodes = executed_nodes(tmp_path, step, x)
    np.testing.assert_allclose(output, 2 * x + np.sin(x), rtol=1e-6)
    np.testing.assert_allclose(gradient, 2 + np.cos(x), rtol=1e-6)
    assert {node.device for node in nodes if node.op == "AddN"} == {"CPU:1"}


@pytest.mark.parametrize("readers", [0, -1, 2.0, True, "2"])
def test_invalid_readers(readers):
    with pytest.raises(ValueError, match=f"readers to be an int of at least 1. Received: readers={readers!r}"):
        placement.FanOut(readers)


@pytest.mark.parametrize("devices", [("/CPU:0", "/CPU:1"), ["/CPU:1", "/CPU:0"], ("/CPU:1", "/CPU:1")])
def test_present_devices(devices):
    assert placement.check_devices(devices) == tuple(devices)


@pytest.mark.parametrize("gpus, expected", [(0, None), (1, None), (2, ("/GPU:0", "/GPU:1")), (4, ("/GPU:0", "/GPU:1"))])
def test_auto_splits_the_towers_if_there_are_two_gpus(gpus, expected, monkeypatch):
    monkeypatch.setattr(
        tf.config, "list_logical_devices", lambda kind: ["a GPU"] * gpus if kind == "GPU" else ["a CPU"]
    )
    assert placement.choose_devices(("auto",)) == expected


@pytest.mark.parametrize(
    "devices, gpus, expected",
    [
        (None, 0, None),
        (None, 1, "/GPU:0"),
        (("/GPU:1", "/GPU:0"), 2, "/GPU:1"),
        (("/CPU:0", "/CPU:1"), 1, None),
    ],
)
def test_batches_are_copied_to_the_first_gpu_in_use(devices, gpus, expected, monkeypatch):
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: ["a GPU"] * gpus)
    assert placement.input_device(devices) == expected


def test_chosen_devices_are_checked():
    assert placement.choose_devices(()) is None
    assert placement.choose_devices(("/CPU:0", "/CPU:1")) == ("/CPU:0", "/CPU:1")
    with pytest.raises(ValueError, match="present: .* Received: /CPU:2"):
        placement.choose_devices(("/CPU:0", "/CPU:2"))


@pytest.mark.parametrize(
    "devices, message",
    [
        ("/CPU:0", "two device names. Received: devices='/CPU:0'"),
        (("/CPU:0", "/CPU:1", "/CPU:2"), "two device names. Received: "),
        (("/CPU:2", "/CPU:3"), "present: /CPU:0, /CPU:1.* Received: /CPU:2, /CPU:3"),
        ((0, 1), "present: /CPU:0, /CPU:1.* Received: 0, 1"),
    ],
)
def test_absent_devices(devices, message):
    with pytest.raises(ValueError, match=message):
        placement.check_devices(devices)
