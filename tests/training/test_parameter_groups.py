"""Learning rate and weight decay of each variable: rules of entire networks, and steps against a literal recurrence."""

import types

import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf import config
from alexnet_tf.runs import builders
from alexnet_tf.training import parameter_groups

ORIGINAL = {"recipe": "original", "schedule": "epochs", "drop_epochs": (25.0, 51.0, 79.0)}


def rates(progress, **values):
    """The learning rates of a configuration."""
    run_config = config.Config(**values).resolved()
    return builders.learning_rates(run_config, builders.build_schedule(run_config), progress)


def assert_rates(found, weights, biases, conv1_weights=None, conv1_biases=None, new_weights=None, new_biases=None):
    """Rates of conv1 and of new layers default to those of the other layers."""
    expected = (
        *(weights, biases),
        *(weights if conv1_weights is None else conv1_weights, biases if conv1_biases is None else conv1_biases),
        *(weights if new_weights is None else new_weights, biases if new_biases is None else new_biases),
    )
    assert found == pytest.approx(expected, rel=1e-12, abs=0)


@pytest.mark.parametrize(
    "recipe, biases",
    [("paper", (0.01, 0.001, 1e-4, 1e-5)), ("original", (0.02, 0.002, 0.002, 0.002))],
)
def test_all_layers_have_the_same_rates_by_default(recipe, biases):
    for progress, drops in ((0, 0), (24.999, 0), (25, 1), (50.999, 1), (51, 2), (79, 3), (1000, 3)):
        found = rates(progress, **{**ORIGINAL, "recipe": recipe})
        assert_rates(found, 0.01 * 0.1**drops, biases[drops])


def test_rates_of_net_145_in_its_last_third():
    """Recorded on ILSVRC-2012: conv1 has 1e-5 from epoch 67 and is frozen from 72; the others have 1e-5 from 79."""
    values = {**ORIGINAL, "conv1_slow_epoch": 67.0, "conv1_frozen_epoch": 72.0}
    assert_rates(rates(66.99, **values), 1e-4, 0.002)
    assert_rates(rates(67, **values), 1e-4, 0.002, conv1_weights=1e-5)
    assert_rates(rates(71.99, **values), 1e-4, 0.002, conv1_weights=1e-5)
    assert_rates(rates(72, **values), 1e-4, 0.002, conv1_weights=0, conv1_biases=0)
    assert_rates(rates(79, **values), 1e-5, 0.002, conv1_weights=0, conv1_biases=0)


def test_rates_drop_at_the_given_steps_whatever_the_length_of_an_epoch():
    run_config = config.Config(schedule="steps", drop_steps=(7, 32000, 48000)).resolved()
    for steps_per_epoch in (1, 3, 390, 10009):
        schedule = builders.build_schedule(run_config, steps_per_epoch)
        for step, drops in ((6, 0), (7, 1), (31999, 1), (32000, 2), (47999, 2), (48000, 3), (64000, 3)):
            found = builders.learning_rates(run_config, schedule, step / steps_per_epoch)
            assert_rates(found, 0.01 * 0.1**drops, 0.01 * 0.1**drops)


def test_all_rates_warm_up_with_every_schedule():
    values = {"warmup_epochs": 2.0, "warmup_start": 0.5, "epochs": 90.0}
    assert_rates(rates(0, **ORIGINAL, **values), 0.005, 0.01)
    assert_rates(rates(1, **ORIGINAL, **values), 0.0075, 0.015)
    assert_rates(rates(25, **ORIGINAL, **values), 0.001, 0.002)
    for schedule in ("plateau", "steps", "exponential_steps"):
        assert_rates(rates(1, schedule=schedule, **values), 0.0075, 0.0075)
    assert_rates(rates(1, schedule="linear", **values), 0.0075 * 89 / 90, 0.0075 * 89 / 90)


def test_conv1_may_be_slowed_frozen_or_both():
    assert_rates(rates(30, **ORIGINAL, conv1_slow_epoch=30.0), 0.001, 0.002, conv1_weights=1e-4)
    assert_rates(rates(90, **ORIGINAL, conv1_slow_epoch=30.0), 1e-5, 0.002, conv1_weights=1e-6)
    assert_rates(rates(29.9, **ORIGINAL, conv1_frozen_epoch=30.0), 0.001, 0.002)
    both = {"conv1_frozen_epoch": 30.0, "conv1_slow_epoch": 30.0}
    assert_rates(rates(30, **ORIGINAL, **both), 0.001, 0.002, conv1_weights=0, conv1_biases=0)


def test_new_layers_train_faster_for_some_epochs():
    values = {**ORIGINAL, "initialize_from": "runs/before", "new_layers_rate_factor": 10.0}
    for_six = {**values, "new_layers_rate_epochs": 6.0}
    assert_rates(rates(0, **for_six), 0.01, 0.02, new_weights=0.1)
    assert_rates(rates(5.999, **for_six), 0.01, 0.02, new_weights=0.1)
    assert_rates(rates(6, **for_six), 0.01, 0.02)
    # Without an end, also after drops.
    assert_rates(rates(0, **values), 0.01, 0.02, new_weights=0.1)
    assert_rates(rates(51, **values), 1e-4, 0.002, new_weights=1e-3)


def test_exponential_steps_are_those_of_net_170():
    """Weights as recorded at 0, 25, 50 and 75% of the run; biases drop once, in the middle."""
    values = {"recipe": "original", "schedule": "exponential_steps", "epochs": 90.0}
    weights = (0.01, 0.0015874, 0.00025198, 0.00004)
    for eighth in range(8):
        for progress in (90 / 8 * eighth, 90 / 8 * (eighth + 1) - 1e-6):
            found = rates(progress, **values)
            assert found.weights == pytest.approx(weights[eighth // 2], rel=2e-5)
            assert found.biases == pytest.approx(0.02 if eighth < 4 else 0.002, rel=1e-12)
            assert_rates(found, found.weights, found.biases)


def test_exponential_steps_of_biases_have_their_own_number_and_span():
    values = {"recipe": "paper", "schedule": "exponential_steps", "epochs": 6.0, "rate_steps": 2, "rate_span": 4.0}
    values |= {"bias_rate_steps": 3, "bias_rate_span": 9.0}
    found = [rates(progress, **values) for progress in range(6)]
    assert [each.weights for each in found] == pytest.approx([0.01] * 3 + [0.0025] * 3, rel=1e-12)
    thirds = [0.01, 0.01, 0.01 / 3, 0.01 / 3, 0.01 / 9, 0.01 / 9]
    assert [each.biases for each in found] == pytest.approx(thirds, rel=1e-12)


def test_initial_rates_are_those_of_the_first_step():
    values = {**ORIGINAL, "initialize_from": "runs/before", "new_layers_rate_factor": 10.0}
    run_config = config.Config(**values).resolved()
    found = builders.initial_rates(run_config)
    assert found.dtype == tf.float32
    np.testing.assert_array_equal(found, np.float32([0.01, 0.02, 0.01, 0.02, 0.1, 0.02]))


def rules(**values):
    """(rate, decay) by variable of the network that a configuration builds."""
    small = {"image_size": 32, "crop_size": 32, "devices": ()}
    run_config = config.Config(**{**small, **values}).resolved()
    model = builders.build_model(run_config, 5)
    optimizer = builders.build_optimizer(run_config, model)
    assert [each.shape for each in optimizer.variables] == [each.shape for each in model.trainable_variables]
    paths = [variable.path for variable in model.trainable_variables]
    return {
        path: (parameter_groups.GROUPS[rule.group], rule.weight_decay)
        for path, rule in zip(paths, optimizer.rules, strict=True)
    }


def test_rules_of_the_18_percent_net():
    """Weight decay 0.004 of convolutions, 1 of the last layer, and none of biases (recipe original)."""
    found = rules(network="cifar10_18", recipe="original", weight_decay=0.004, dense_weight_decay=1.0)
    assert found == {
        "conv1/kernel": ("conv1_weights", 0.004),
        "conv1/bias": ("conv1_biases", 0.0),
        "conv2/kernel": ("weights", 0.004),
        "conv2/bias": ("biases", 0.0),
        "conv3/kernel": ("weights", 0.004),
        "conv3/bias": ("biases", 0.0),
        "fc10/kernel": ("weights", 1.0),
        "fc10/bias": ("biases", 0.0),
    }


def test_dense_weight_decay_defaults_to_that_of_convolutions():
    found = rules(network="cifar10_26", weight_decay=0.25)
    assert {decay for path, (_, decay) in found.items() if path.endswith("kernel")} == {0.25}
    assert {decay for path, (_, decay) in found.items() if path.endswith("bias")} == {0.0005}
    found = rules(network="cifar10_26", weight_decay=0.25, dense_weight_decay=0.0)
    decays = {path: decay for path, (_, decay) in found.items() if path.endswith("kernel")}
    assert decays == {
        **dict.fromkeys(["conv1/kernel", "conv2/kernel", "conv3/kernel"], 0.25),
        **dict.fromkeys(["fc64/kernel", "fc10/kernel"], 0.0),
    }


@pytest.mark.parametrize("kind", ["batch", "group"])
def test_parameters_of_normalization_layers_are_not_weights(kind):
    found = rules(
        network="cifar10_18", normalization=kind, weight_decay=0.25, dense_weight_decay=1.0, bias_weight_decay=0.125
    )
    normalization = {path: rule for path, rule in found.items() if path.startswith("norm")}
    assert normalization == dict.fromkeys(["norm1/gamma", "norm1/beta", "norm2/gamma", "norm2/beta"], ("biases", 0.125))


@pytest.mark.parametrize("towers, first", [("two", {"conv1_a", "conv1_b"}), ("one", {"conv1"}), ("half", {"conv1"})])
def test_conv1_is_recognized_in_every_arrangement_of_towers(towers, first):
    found = rules(towers=towers)
    for path, (rate, _) in found.items():
        layer, _, part = path.partition("/")
        expected = "weights" if part == "kernel" else "biases"
        assert rate == (f"conv1_{expected}" if layer in first else expected), path
    assert {path.partition("/")[0] for path, (rate, _) in found.items() if rate.startswith("conv1")} == first


@pytest.mark.parametrize(
    "new_layers, new",
    [
        (("fc8",), {"fc8"}),
        (("fc6", "fc7", "fc8"), {"fc6_a", "fc6_b", "fc7_a", "fc7_b", "fc8"}),
        (("conv1",), {"conv1_a", "conv1_b"}),
        ((), set()),
    ],
)
def test_new_layers_have_their_own_rates(new_layers, new):
    before = rules()
    found = rules(initialize_from="runs/before", new_layers=new_layers)
    for path, (rate, decay) in found.items():
        layer, _, part = path.partition("/")
        own = f"new_{'weights' if part == 'kernel' else 'biases'}"
        assert (rate, decay) == ((own, before[path][1]) if layer in new else before[path]), path


def test_no_layer_is_new_without_a_run_to_start_from():
    assert rules(new_layers=("fc6", "fc7", "fc8")) == rules()


VARIABLES = {
    "conv1/kernel": (3, 3, 1, 2),
    "conv1/bias": (2,),
    "norm1/gamma": (2,),
    "conv2/kernel": (3, 3, 2, 2),
    "conv2/bias": (2,),
    "fc7/kernel": (6, 4),
    "fc7/bias": (4,),
    "fc8/kernel": (4, 3),
    "fc8/bias": (3,),
}


def test_steps_follow_the_recurrence_variable_by_variable():
    """Five epochs of two steps: drops at 2 and 4, conv1 slow from 1 and frozen from 3, fc8 new and fast until 2.5."""
    run_config = config.Config(
        recipe="original",
        schedule="epochs",
        drop_epochs=(2.0, 4.0),
        weight_decay=0.5,
        dense_weight_decay=2.0,
        bias_weight_decay=0.25,
        conv1_slow_epoch=1.0,
        conv1_frozen_epoch=3.0,
        initialize_from="runs/before",
        new_layers_rate_factor=10.0,
        new_layers_rate_epochs=2.5,
    ).resolved()
    generator = np.random.default_rng(0)
    weights = {path: generator.standard_normal(shape).astype(np.float32) for path, shape in VARIABLES.items()}
    variables = [
        types.SimpleNamespace(path=path, shape=value.shape, value=tf.Variable(value)) for path, value in weights.items()
    ]
    optimizer = builders.build_optimizer(run_config, types.SimpleNamespace(trainable_variables=variables))
    schedule = builders.build_schedule(run_config)
    weights = {path: value.astype(np.float64) for path, value in weights.items()}
    velocities = {path: 0.0 for path in VARIABLES}
    for step in range(10):
        epoch = step / 2
        gradients = {path: generator.standard_normal(shape).astype(np.float32) for path, shape in VARIABLES.items()}
        current = tf.constant(builders.learning_rates(run_config, schedule, epoch), tf.float32)
        optimizer.apply([tf.constant(gradient) for gradient in gradients.values()], current)
        for path, gradient in gradients.items():
            layer, _, part = path.partition("/")
            drops = (epoch >= 2) + (epoch >= 4)
            if part == "kernel":
                rate, decay = 0.01 * 0.1**drops, 2.0 if layer.startswith("fc") else 0.5
                rate *= 0.1 if layer == "conv1" and epoch >= 1 else 10 if layer == "fc8" and epoch < 2.5 else 1
            else:
                rate, decay = 0.02 * 0.1 ** min(drops, 1), 0.25
            if layer == "conv1" and epoch >= 3:
                velocities[path] = 0.0
            else:
                velocities[path] = 0.9 * velocities[path] - decay * rate * weights[path] - rate * gradient
            weights[path] = weights[path] + velocities[path]
        for variable in variables:
            error = np.abs(variable.value.numpy() - weights[variable.path]).max()
            assert error < 1e-6 * np.abs(weights[variable.path]).max(), f"{variable.path} at step {step}"
