"""The update rule against the paper's recurrence in float64, and the schedules against error curves made by hand."""

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf.training import optimizer as optimization

STEPS = 200
SHAPES = ((3, 3, 2, 4), (4,), (6, 5), (5,))
# As in the original code: biases at another rate and without decay; one decay large enough to see at once.
RULES = [
    optimization.Rule(0, 0.0005),
    optimization.Rule(1, 0.0),
    optimization.Rule(0, 0.1),
    optimization.Rule(1, 0.0005),
]
# Of a variable's largest weight: some ten roundings of float32, gathered in 200 steps.
TOLERANCE = 1e-6


def rates_at(step):
    """Weights' and biases' rate: the first drops twice, the second once."""
    return [0.01 * 0.1 ** ((step >= 70) + (step >= 140)), 0.02 * 0.1 ** (step >= 70)]


def start_and_gradients(steps=STEPS, seed=0):
    generator = np.random.default_rng(seed)
    start = [generator.standard_normal(shape).astype(np.float32) for shape in SHAPES]
    gradients = [[generator.standard_normal(shape).astype(np.float32) for shape in SHAPES] for _ in range(steps)]
    return start, gradients


def recurrence(start, gradients, momentum=0.9):
    """The paper's two lines in float64, variable by variable; the weights after each step."""
    weights = [weight.astype(np.float64) for weight in start]
    velocities = [np.zeros_like(weight) for weight in weights]
    for step, step_gradients in enumerate(gradients):
        for i, (rate, decay) in enumerate(RULES):
            epsilon = rates_at(step)[rate]
            velocities[i] = momentum * velocities[i] - decay * epsilon * weights[i] - epsilon * step_gradients[i]
            weights[i] = weights[i] + velocities[i]
        yield [weight.copy() for weight in weights]


def trajectory(start, gradients, **arguments):
    """The weights after each step of `MomentumSGD`."""
    variables = [tf.Variable(weight) for weight in start]
    optimizer = optimization.MomentumSGD(variables, RULES, **arguments)
    for step, step_gradients in enumerate(gradients):
        optimizer.apply([tf.constant(gradient) for gradient in step_gradients], tf.constant(rates_at(step)))
        yield [variable.numpy() for variable in variables]


def first_divergence(ours, theirs, tolerance):
    """The step and variable in which two trajectories part, in words; "" if they do not."""
    for step, (left, right) in enumerate(zip(ours, theirs, strict=True), start=1):
        for i, (a, b) in enumerate(zip(left, right, strict=True)):
            distance = np.abs(np.asarray(a, np.float64) - b).max() / np.abs(b).max()
            if not distance <= tolerance:
                return f"first divergence at step {step}, variable {i}: {distance:.3g} > {tolerance:.3g}"
    return ""


def test_momentum_update_is_the_papers_rule_literally():
    weight, velocity = optimization.momentum_update(4.0, 0.5, 3.0, learning_rate=0.25, momentum=0.5, weight_decay=0.125)
    # v = 0.5 * 0.5 - 0.125 * 0.25 * 4 - 0.25 * 3, exact in binary.
    assert velocity == -0.625
    assert weight == 3.375


def test_200_steps_follow_the_recurrence():
    start, gradients = start_and_gradients()
    ours = trajectory(start, gradients)
    assert first_divergence(ours, recurrence(start, gradients), TOLERANCE) == ""


def test_divergence_is_noticed_at_the_step_where_it_begins():
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


def test_momentum_is_the_one_asked_for():
    start, gradients = start_and_gradients(30)
    ours = list(trajectory(start, gradients, momentum=0.5, jit_compile=False))
    assert first_divergence(ours, recurrence(start, gradients, momentum=0.5), TOLERANCE) == ""
    assert first_divergence(ours, recurrence(start, gradients), TOLERANCE) != ""


def test_each_rule_takes_its_own_rate_and_decay():
    weight, bias = tf.Variable([2.0]), tf.Variable([2.0])
    rules = [optimization.Rule(0, 0.5), optimization.Rule(1, 0.0)]
    optimizer = optimization.MomentumSGD([weight, bias], rules, jit_compile=False)
    optimizer.apply([tf.constant([1.0]), tf.constant([1.0])], tf.constant([0.25, 0.5]))
    assert weight.numpy().tolist() == [2 - 0.25 * (0.5 * 2 + 1)]
    assert bias.numpy().tolist() == [2 - 0.5]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_rate_of_zero_stops_a_variable_at_once(jit_compile):
    """Its velocity, which would carry it nine times as far as its last step, is gone when the rate comes back."""
    variables = [tf.Variable([2.0]), tf.Variable([2.0])]
    rules = [optimization.Rule(0, 0.5), optimization.Rule(1, 0.5)]
    optimizer = optimization.MomentumSGD(variables, rules, momentum=0.5, jit_compile=jit_compile)
    expected, velocities = [2.0, 2.0], [0.0, 0.0]
    for rates in ([0.25, 0.5], [0.25, 0.5], [0.25, 0.0], [0.25, 0.0], [0.25, 0.5], [0.0, 0.5]):
        optimizer.apply([tf.constant([1.0])] * 2, tf.constant(rates))
        for i, rate in enumerate(rates):
            velocities[i] = (0.5 * velocities[i] if rate else 0.0) - rate * (0.5 * expected[i] + 1)
            expected[i] += velocities[i]
        # Few enough halvings for float32 to be exact.
        assert [float(variable[0]) for variable in variables] == expected
    assert float(optimizer.velocities[0][0]) == 0


def test_a_rule_is_needed_for_each_variable():
    with pytest.raises(ValueError, match=r"Expected a rule for each variable\. Received: len\(rules\)=1, .*=2"):
        optimization.MomentumSGD([tf.Variable(0.0), tf.Variable(0.0)], [optimization.Rule(0, 0.0)])


def executed_devices(directory, function, *arguments):
    """Calls a function for the first time; the device, such as "CPU:1", of every operation that then ran."""
    # Once begun, TensorFlow collects graphs beyond the end of a trace, and the next would begin with them.
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
def test_velocity_and_update_are_on_the_variables_own_device(jit_compile, tmp_path):
    start, gradients = start_and_gradients(5)
    homes = ["/CPU:0", "/CPU:1", "/CPU:1", "/CPU:0"]
    variables = []
    for weight, home in zip(start, homes):
        with tf.device(home):
            variables.append(tf.Variable(weight))
    optimizer = optimization.MomentumSGD(variables, RULES, jit_compile=jit_compile)
    for variable, velocity, home in zip(variables, optimizer.velocities, homes):
        assert velocity.device == variable.device
        assert velocity.device.endswith(home.removeprefix("/"))

    step = tf.function(optimizer.apply)
    placed = []
    for values, home in zip(gradients[0], homes):
        with tf.device(home):
            placed.append(tf.constant(values))
    executed = executed_devices(tmp_path, step, placed, tf.constant(rates_at(0)))
    # Compiled, the update of a device is one call; else each of its two variables has its own assignments.
    work = ["CPU:0", "CPU:1"] if jit_compile else ["CPU:0"] * 4 + ["CPU:1"] * 4
    ops = ("PartitionedCall", "StatefulPartitionedCall") if jit_compile else ("AssignVariableOp",)
    assert sorted(device for op, device in executed if op in ops) == work
    # The gradients were where they are needed, so that only the rates cross, once.
    assert [device for op, device in executed if op in ("_Send", "_HostSend")].count("CPU:1") == 0

    results = [[variable.numpy() for variable in variables]]
    for number, values in enumerate(gradients[1:], start=1):
        step([tf.constant(gradient) for gradient in values], tf.constant(rates_at(number)))
        results.append([variable.numpy() for variable in variables])
    assert first_divergence(results, recurrence(start, gradients), TOLERANCE) == ""


def keras_trajectory(start, gradients, weight_decay, decay_in_gradient):
    """50 steps of Keras's SGD on one variable, at 0.05 and, from step 30 on, 0.005."""
    weight = keras.Variable(start)
    optimizer = keras.optimizers.SGD(learning_rate=0.05, momentum=0.9, weight_decay=weight_decay)
    for step, gradient in enumerate(gradients):
        optimizer.learning_rate = 0.05 if step < 30 else 0.005
        optimizer.apply([gradient + decay_in_gradient * weight.value], [weight])
        yield [weight.numpy()]


def test_decay_is_part_of_the_gradient_and_not_decoupled_as_in_keras():
    generator = np.random.default_rng(3)
    start = generator.standard_normal([8, 8]).astype(np.float32)
    gradients = [tf.constant(generator.standard_normal([8, 8]), tf.float32) for _ in range(50)]
    variable = tf.Variable(start)
    optimizer = optimization.MomentumSGD([variable], [optimization.Rule(0, 0.0005)], jit_compile=False)
    ours = []
    for step, gradient in enumerate(gradients):
        optimizer.apply([gradient], tf.constant([0.05 if step < 30 else 0.005]))
        ours.append([variable.numpy()])
    in_gradient = keras_trajectory(start, gradients, None, 0.0005)
    assert first_divergence(ours, in_gradient, TOLERANCE) == ""
    decoupled = list(keras_trajectory(start, gradients, 0.0005, 0.0))
    # The same rule but for the decay: far apart for float32, near enough to pass for the same with a loose tolerance.
    assert 1e-3 < np.abs(ours[-1][0] - decoupled[-1][0]).max() < 0.1


def plateau_oracle(errors, patience, most_drops):
    """After each epoch: whether the rate drops. Recounts from the whole past instead of keeping a state."""
    decisions = []
    for epoch in range(len(errors)):
        since = 0
        for past in range(epoch + 1):
            earlier = [error for error in errors[:past] if not math.isnan(error)]
            lower = not math.isnan(errors[past]) and all(errors[past] < error for error in earlier)
            dropped_before = past > 0 and decisions[past - 1]
            since = 0 if lower else (0 if dropped_before else since) + 1
        decisions.append(since >= patience and sum(decisions) < most_drops)
    return decisions


@pytest.mark.parametrize(
    "errors, patience, most_drops, drops_after",
    [
        ([0.9, 0.8, 0.7, 0.6, 0.5], 1, 3, []),
        # Every epoch without a new lowest error counts; the first always has one.
        ([0.9, 0.9, 0.9, 0.9], 1, 2, [2, 3]),
        ([0.5, 0.6, 0.7, 0.4, 0.5, 0.6, 0.7], 3, 3, [7]),
        # A new lowest error starts the count anew.
        ([0.5, 0.6, 0.4, 0.6, 0.3, 0.6], 2, 3, []),
        # A tie is no improvement.
        ([0.5, 0.5, 0.5, 0.5, 0.5], 2, 3, [3, 5]),
        # Lower than the epoch before is not lower than the lowest.
        ([0.5, 0.8, 0.7, 0.6], 3, 3, [4]),
        # A drop starts the count anew, the lowest error stays.
        ([0.5, 0.6, 0.6, 0.55, 0.55, 0.4, 0.5, 0.5], 2, 3, [3, 5, 8]),
        ([0.5] * 20, 3, 3, [4, 7, 10]),
        ([0.5] * 9, 2, 0, []),
        # No number is no improvement, not even as the first, and does not hide a later one.
        ([math.nan, 0.5, 0.4, math.nan, math.nan], 2, 3, [5]),
        ([math.nan, math.nan, 0.5, 0.5], 2, 3, [2]),
        ([0.5, math.nan, 0.4, 0.6, 0.3], 2, 3, []),
    ],
)
def test_plateau_drops_where_the_error_stops_falling(errors, patience, most_drops, drops_after):
    schedule = optimization.Plateau(factor=0.1, patience=patience, most_drops=most_drops)
    decisions = [schedule.epoch_ended(error) for error in errors]
    assert [epoch for epoch, drops in enumerate(decisions, start=1) if drops] == drops_after
    assert schedule.multiplier(len(errors)) == 0.1 ** len(drops_after)
    assert plateau_oracle(errors, patience, most_drops) == decisions


@pytest.mark.parametrize("patience", [1, 2, 4])
def test_plateau_agrees_with_recounting_on_random_curves(patience):
    generator = np.random.default_rng(patience)
    for curve in range(20):
        # Few different values, so that ties are common.
        errors = [float(error) for error in generator.integers(0, 12, 30) / 12]
        schedule = optimization.Plateau(patience=patience, most_drops=4)
        decisions = [schedule.epoch_ended(error) for error in errors]
        assert decisions == plateau_oracle(errors, patience, 4), f"curve {curve}: {errors}"


def test_plateau_multiplies_and_biases_may_drop_less_often():
    schedule = optimization.Plateau(factor=0.5, patience=1, most_drops=3)
    seen = []
    for error in [0.5, 0.5, 0.5, 0.5, 0.5]:
        schedule.epoch_ended(error)
        seen.append((schedule.multiplier(0), schedule.multiplier(0, most_drops=1), schedule.multiplier(0, 0)))
    assert seen == [(1, 1, 1), (0.5, 0.5, 1), (0.25, 0.5, 1), (0.125, 0.5, 1), (0.125, 0.5, 1)]


def test_plateau_goes_on_from_its_state_at_any_epoch():
    errors = [math.nan, 0.6, 0.6, 0.5, 0.5, 0.5, 0.4, 0.45, 0.45, 0.45, 0.3, 0.3, 0.3]
    uninterrupted = optimization.Plateau(patience=2, most_drops=3)
    expected = [uninterrupted.epoch_ended(error) for error in errors]
    for epoch in range(len(errors) + 1):
        first = optimization.Plateau(patience=2, most_drops=3)
        decisions = [first.epoch_ended(error) for error in errors[:epoch]]
        second = optimization.Plateau(patience=2, most_drops=3)
        second.restore(first.state())
        assert second.multiplier(epoch) == first.multiplier(epoch)
        decisions += [second.epoch_ended(error) for error in errors[epoch:]]
        assert decisions == expected, f"interrupted after epoch {epoch}"
        assert second.state() == uninterrupted.state()


@pytest.mark.parametrize(
    "most_drops, expected",
    [(math.inf, [1, 1, 0.1, 0.1, 0.01, 0.001]), (1, [1, 1, 0.1, 0.1, 0.1, 0.1]), (0, [1] * 6)],
)
def test_epochs_drops_when_so_many_are_completed(most_drops, expected):
    # Net #145 on ILSVRC-2012.
    schedule = optimization.Epochs([25, 51, 79], factor=0.1)
    progress = [0, 25 - 1 / 10009, 25, 50.99, 51, 79]
    assert [schedule.multiplier(at, most_drops) for at in progress] == pytest.approx(expected, rel=1e-12)


def test_epochs_of_no_drops_never_drops():
    assert optimization.Epochs([]).multiplier(1e6) == 1


def test_linear_falls_to_zero_at_the_end_and_not_below():
    schedule = optimization.Linear(8.0)
    assert [schedule.multiplier(at) for at in (0, 2, 4, 7, 8, 9)] == [1, 0.75, 0.5, 0.125, 0, 0]
    assert schedule.multiplier(4, most_drops=0) == 0.5


def test_exponential_steps_are_those_of_the_authors_later_code():
    schedule = optimization.ExponentialSteps(90.0)
    ends = [0, 22.5, 45, 67.5, 90]
    # Its recorded rates of weights, to the digits they have there.
    for rate, begin, end in zip((0.01, 0.0015874, 0.00025198, 0.00004), ends[:-1], ends[1:], strict=True):
        for progress in (begin, (begin + end) / 2, end - 1 / 10009):
            assert 0.01 * schedule.multiplier(progress) == pytest.approx(rate, rel=2e-5)
    # A run that is longer than it was to be keeps the last.
    assert schedule.multiplier(100) == schedule.multiplier(89) == pytest.approx(1 / 250, rel=1e-12)
    assert schedule.multiplier(45, most_drops=0) == schedule.multiplier(45)


@pytest.mark.parametrize("steps, span", [(2, 10.0), (5, 81.0), (3, 1.0)])
def test_exponential_steps_fall_each_by_the_same_factor(steps, span):
    schedule = optimization.ExponentialSteps(steps * 7.0, steps=steps, span=span)
    found = [schedule.multiplier(epoch) for epoch in range(7 * steps)]
    factor = span ** (1 / (steps - 1))
    assert found == pytest.approx([factor ** -(epoch // 7) for epoch in range(7 * steps)], rel=1e-12)


@pytest.mark.parametrize(
    "schedule",
    [optimization.Epochs([1, 2]), optimization.Linear(3.0), optimization.ExponentialSteps(3.0, steps=3)],
    ids=["epochs", "linear", "exponential_steps"],
)
def test_schedules_of_progress_alone_have_an_empty_state_and_no_opinion(schedule):
    before = [schedule.multiplier(at) for at in (0, 1, 2)]
    assert not any(schedule.epoch_ended(0.5) for _ in range(9))
    schedule.restore(schedule.state())
    assert json.loads(schedule.state()) == []
    assert [schedule.multiplier(at) for at in (0, 1, 2)] == before
