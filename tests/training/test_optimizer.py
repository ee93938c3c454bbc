"""The update rule against the paper's recurrence in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf.training import optimizer

STEPS = 200
SHAPES = ((3, 3, 2, 4), (4,), (6, 5), (5,))
# As in the original code, biases have another rate and no decay; one decay is large enough to be visible at once.
RULES = [
    optimizer.Rule(0, 0.0005),
    optimizer.Rule(1, 0.0),
    optimizer.Rule(0, 0.1),
    optimizer.Rule(1, 0.0005),
]
# Relative to a variable's largest weight: some ten rounding errors of float32, accumulated in 200 steps.
TOLERANCE = 1e-6


def rates_at(step):
    """Rates of weights, which drop twice, and of biases, which drop once."""
    return [0.01 * 0.1 ** ((step >= 70) + (step >= 140)), 0.02 * 0.1 ** (step >= 70)]


def start_and_gradients(steps=STEPS, seed=0):
    generator = np.random.default_rng(seed)
    start = [generator.standard_normal(shape).astype(np.float32) for shape in SHAPES]
    gradients = [[generator.standard_normal(shape).astype(np.float32) for shape in SHAPES] for _ in range(steps)]
    return start, gradients


def recurrence(start, gradients, momentum=0.9):
    """Yields the weights after each step of the paper's two lines in float64."""
    weights = [weight.astype(np.float64) for weight in start]
    velocities = [np.zeros_like(weight) for weight in weights]
    for step, step_gradients in enumerate(gradients):
        for i, (rate, decay, _) in enumerate(RULES):
            epsilon = rates_at(step)[rate]
            velocities[i] = momentum * velocities[i] - decay * epsilon * weights[i] - epsilon * step_gradients[i]
            weights[i] = weights[i] + velocities[i]
        yield [weight.copy() for weight in weights]


def trajectory(start, gradients, **arguments):
    """Yields the weights after each step of `MomentumSGD`."""
    variables = [tf.Variable(weight) for weight in start]
    sgd = optimizer.MomentumSGD(variables, RULES, **arguments)
    for step, step_gradients in enumerate(gradients):
        sgd.apply([tf.constant(gradient) for gradient in step_gradients], tf.constant(rates_at(step)))
        yield [variable.numpy() for variable in variables]


def first_divergence(ours, theirs, tolerance):
    """Describes the step and variable at which two trajectories diverge; "" if they do not."""
    for step, (left, right) in enumerate(zip(ours, theirs, strict=True), start=1):
        for i, (a, b) in enumerate(zip(left, right, strict=True)):
            distance = np.abs(np.asarray(a, np.float64) - b).max() / np.abs(b).max()
            if not distance <= tolerance:
                return f"first divergence at step {step}, variable {i}: {distance:.3g} > {tolerance:.3g}"
    return ""


def test_momentum_update_follows_the_papers_rule_literally():
    weight, velocity = optimizer.momentum_update(4.0, 0.5, 3.0, learning_rate=0.25, momentum=0.5, weight_decay=0.125)
    # v = 0.5 * 0.5 - 0.125 * 0.25 * 4 - 0.25 * 3, exact in binary.
    assert velocity == -0.625
    assert weight == 3.375


def test_200_steps_follow_the_recurrence():
    start, gradients = start_and_gradients()
    ours = trajectory(start, gradients)
    assert first_divergence(ours, recurrence(start, gradients), TOLERANCE) == ""


def test_divergence_is_detected_at_its_first_step():
    start, gradients = start_and_gradients()
    disturbed = [list(step_gradients) for step_gradients in gradients]
    disturbed[136][3] = disturbed[136][3] + np.float32(0.01)
    said = first_divergence(recurrence(start, disturbed), recurrence(start, gradients), TOLERANCE)
    assert said.startswith("first divergence at step 137, variable 3")


def test_compiled_and_plain_update_agree():
    start, gradients = start_and_gradients()
    compiled = trajectory(start, gradients, jit_compile=True)
    plain = trajectory(start, gradients, jit_compile=False)
    assert first_divergence(compiled, plain, TOLERANCE) == ""


def test_momentum_argument_is_used():
    start, gradients = start_and_gradients(30)
    ours = list(trajectory(start, gradients, momentum=0.5, jit_compile=False))
    assert first_divergence(ours, recurrence(start, gradients, momentum=0.5), TOLERANCE) == ""
    assert first_divergence(ours, recurrence(start, gradients), TOLERANCE) != ""


def test_each_rule_has_its_own_rate_and_decay():
    weight, bias = tf.Variable([2.0]), tf.Variable([2.0])
    rules = [optimizer.Rule(0, 0.5), optimizer.Rule(1, 0.0)]
    sgd = optimizer.MomentumSGD([weight, bias], rules, jit_compile=False)
    sgd.apply([tf.constant([1.0]), tf.constant([1.0])], tf.constant([0.25, 0.5]))
    assert weight.numpy().tolist() == [2 - 0.25 * (0.5 * 2 + 1)]
    assert bias.numpy().tolist() == [2 - 0.5]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_learning_rate_of_zero_stops_a_variable_immediately(jit_compile):
    """Its velocity, which would move it nine times as far as its last step, is gone when the rate is restored."""
    variables = [tf.Variable([2.0]), tf.Variable([2.0])]
    rules = [optimizer.Rule(0, 0.5), optimizer.Rule(1, 0.5)]
    sgd = optimizer.MomentumSGD(variables, rules, momentum=0.5, jit_compile=jit_compile)
    expected, velocities = [2.0, 2.0], [0.0, 0.0]
    for rates in ([0.25, 0.5], [0.25, 0.5], [0.25, 0.0], [0.25, 0.0], [0.25, 0.5], [0.0, 0.5]):
        sgd.apply([tf.constant([1.0])] * 2, tf.constant(rates))
        for i, rate in enumerate(rates):
            velocities[i] = (0.5 * velocities[i] if rate else 0.0) - rate * (0.5 * expected[i] + 1)
            expected[i] += velocities[i]
        # So few halvings that float32 is exact.
        assert [float(variable[0]) for variable in variables] == expected
    assert float(sgd.velocities[0][0]) == 0


@pytest.mark.parametrize("jit_compile", [False, True])
def test_averages_are_means_at_first_and_then_exponential(jit_compile):
    start, gradients = start_and_gradients(12)
    variables = [tf.Variable(weight) for weight in start]
    sgd = optimizer.MomentumSGD(variables, RULES, averaging=True, jit_compile=jit_compile)
    seen, expected = [], None
    for step, step_gradients in enumerate(gradients, start=1):
        rates = [*rates_at(step), optimizer.average_share(step, 5)]
        sgd.apply([tf.constant(gradient) for gradient in step_gradients], tf.constant(rates))
        seen.append([variable.numpy() for variable in variables])
        if step <= 5:
            expected = [np.mean(values, axis=0, dtype=np.float64) for values in zip(*seen)]
        else:
            expected = [0.8 * average + 0.2 * value for average, value in zip(expected, seen[-1])]
        for average, value in zip(sgd.averages, expected):
            np.testing.assert_allclose(average, value, rtol=1e-5, atol=1e-6)
    with sgd.averaged():
        inside = [variable.numpy() for variable in variables]
    for variable, average, last, value in zip(variables, sgd.averages, seen[-1], inside):
        np.testing.assert_array_equal(variable, last)
        np.testing.assert_array_equal(average, value)
        assert np.abs(value - last).max() > 1e-3


def test_averaging_does_not_change_the_weights():
    start, gradients = start_and_gradients(5)
    variables = [tf.Variable(weight) for weight in start]
    sgd = optimizer.MomentumSGD(variables, RULES, averaging=True)
    for step, step_gradients in enumerate(gradients):
        sgd.apply([tf.constant(gradient) for gradient in step_gradients], tf.constant([*rates_at(step), 0.5]))
    for variable, expected in zip(variables, list(trajectory(start, gradients))[-1]):
        np.testing.assert_array_equal(variable, expected)


def test_without_averages_nothing_is_exchanged():
    variable = tf.Variable([2.0])
    sgd = optimizer.MomentumSGD([variable], [optimizer.Rule(0, 0.0)], jit_compile=False)
    with sgd.averaged():
        assert sgd.averages == [] and variable.numpy().tolist() == [2.0]


def test_missing_rule_is_rejected():
    with pytest.raises(ValueError, match=r"Expected a rule for each variable\. Received: len\(rules\)=1, .*=2"):
        optimizer.MomentumSGD([tf.Variable(0.0), tf.Variable(0.0)], [optimizer.Rule(0, 0.0)])


def executed_devices(directory, function, *arguments):
    """Calls a function for the first time; returns type and device, such as "CPU:1", of every executed operation."""
    # TensorFlow keeps collecting graphs after the end of a trace, and the next trace would start with them.
    tf.summary.trace_on(graph=True)
    with tf.summary.create_noop_writer().as_default(step=0):
        tf.summary.trace_export("discarded")
    writer = tf.summary.create_file_writer(str(directory))
    tf.summary.trace_on(graph=True)
    function(*arguments)
    with writer.as_default(step=0):
        tf.summary.trace_export("step")
    writer.close()
    devices = []
    for record in tf.data.TFRecordDataset([str(path) for path in directory.iterdir()]):
        for value in tf.compat.v1.Event.FromString(record.numpy()).summary.value:
            metadata = tf.compat.v1.RunMetadata.FromString(tf.make_ndarray(value.tensor).item())
            for graphs in metadata.function_graphs:
                for graph in graphs.partition_graphs:
                    devices += [(node.op, node.device.rpartition("device:")[2]) for node in graph.node]
    return devices


@pytest.mark.parametrize("jit_compile", [True, False])
def test_velocity_and_update_are_on_the_device_of_the_variable(jit_compile, tmp_path):
    start, gradients = start_and_gradients(5)
    homes = ["/CPU:0", "/CPU:1", "/CPU:1", "/CPU:0"]
    variables = []
    for weight, home in zip(start, homes):
        with tf.device(home):
            variables.append(tf.Variable(weight))
    sgd = optimizer.MomentumSGD(variables, RULES, jit_compile=jit_compile)
    for variable, velocity, home in zip(variables, sgd.velocities, homes):
        assert velocity.device == variable.device
        assert velocity.device.endswith(home.removeprefix("/"))

    step = tf.function(sgd.apply)
    placed = []
    for values, home in zip(gradients[0], homes):
        with tf.device(home):
            placed.append(tf.constant(values))
    executed = executed_devices(tmp_path, step, placed, tf.constant(rates_at(0)))
    # A compiled update is one call per device; otherwise each of its two variables has its own assignments.
    work = ["CPU:0", "CPU:1"] if jit_compile else ["CPU:0"] * 4 + ["CPU:1"] * 4
    ops = ("PartitionedCall", "StatefulPartitionedCall") if jit_compile else ("AssignVariableOp",)
    assert sorted(device for op, device in executed if op in ops) == work
    # The gradients were where they are needed, so only the rates are transferred, once.
    assert [device for op, device in executed if op in ("_Send", "_HostSend")].count("CPU:1") == 0

    results = [[variable.numpy() for variable in variables]]
    for number, values in enumerate(gradients[1:], start=1):
        step([tf.constant(gradient) for gradient in values], tf.constant(rates_at(number)))
        results.append([variable.numpy() for variable in variables])
    assert first_divergence(results, recurrence(start, gradients), TOLERANCE) == ""


def keras_trajectory(start, gradients, weight_decay, decay_in_gradient):
    """50 steps of Keras's SGD on one variable, with rate 0.05 and, from step 30, 0.005."""
    weight = keras.Variable(start)
    sgd = keras.optimizers.SGD(learning_rate=0.05, momentum=0.9, weight_decay=weight_decay)
    for step, gradient in enumerate(gradients):
        sgd.learning_rate = 0.05 if step < 30 else 0.005
        sgd.apply([gradient + decay_in_gradient * weight.value], [weight])
        yield [weight.numpy()]


def test_decay_is_part_of_the_gradient_unlike_keras():
    generator = np.random.default_rng(3)
    start = generator.standard_normal([8, 8]).astype(np.float32)
    gradients = [tf.constant(generator.standard_normal([8, 8]), tf.float32) for _ in range(50)]
    variable = tf.Variable(start)
    sgd = optimizer.MomentumSGD([variable], [optimizer.Rule(0, 0.0005)], jit_compile=False)
    ours = []
    for step, gradient in enumerate(gradients):
        sgd.apply([gradient], tf.constant([0.05 if step < 30 else 0.005]))
        ours.append([variable.numpy()])
    in_gradient = keras_trajectory(start, gradients, None, 0.0005)
    assert first_divergence(ours, in_gradient, TOLERANCE) == ""
    decoupled = list(keras_trajectory(start, gradients, 0.0005, 0.0))
    # The same rule except for the decay: clearly different in float32, but close enough to pass a loose tolerance.
    assert 1e-3 < np.abs(ours[-1][0] - decoupled[-1][0]).max() < 0.1
