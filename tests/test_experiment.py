"""Experiment: what a configuration makes of the network, in both precisions."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf import config as configuration
from alexnet_tf import experiment
from alexnet_tf.data import statistics

CONFIG = configuration.Config(
    recipe="original",
    initialization="he",
    input_scale=0.02,
    batch_size=8,
    dropout=0.0,
    color_noise=0.0,
    learning_rate=0.0001,
    bias_learning_rate_factor=1.0,
).resolved()
BLANK = statistics.Statistics(
    np.full([256, 256, 3], 127.5, np.float32), np.eye(3, dtype=np.float32), np.ones(3, np.float32), 0
)


def batch(size):
    generator = np.random.default_rng(0)
    return {
        "crops": tf.constant(generator.integers(0, 256, [size, 224, 224, 3], dtype=np.uint8)),
        "offsets": tf.constant(generator.integers(0, 33, [size, 2]).astype(np.int32)),
        "flips": tf.zeros([size, 2], tf.bool),
        "labels": tf.constant(generator.integers(0, 10, size)),
        "noise": tf.zeros([size, 3]),
    }


@pytest.fixture(scope="module")
def runs():
    """Twenty steps on one batch in each precision: the trainer and its losses."""
    found = {}
    for precision in ("float32", "bfloat16"):
        config = dataclasses.replace(CONFIG, precision=precision)
        trainer = experiment.build_trainer(config, experiment.build_model(config, 10), BLANK)
        same, rates = batch(config.batch_size), experiment.initial_rates(config)
        found[precision] = trainer, [float(trainer.step(same, rates).loss) for _ in range(20)]
    return found


def sums_of_515_ones():
    """By a matrix product and by the gradient of a convolution's kernels, in bfloat16: 516 if rounded once, at the end.

    oneDNN's kernels do that. TensorFlow's own cut a product off, which makes it 0.3 % too small on average, in every
    fully connected layer, and add up the gradient of kernels in bfloat16: 2 % off at 5,832 positions.
    """
    product = tf.ones([8, 515], tf.bfloat16) @ tf.ones([515, 8], tf.bfloat16)
    maps = tf.ones([1, 5, 103, 8], tf.bfloat16)
    gradient = tf.raw_ops.Conv2DBackpropFilter(
        input=maps, filter_sizes=[1, 1, 8, 8], out_backprop=maps, strides=[1] * 4, padding="VALID"
    )
    return float(product[0, 0]), float(gradient[0, 0, 0, 0])


def test_bfloat16_learns_as_float32_does(runs):
    if (found := sums_of_515_ones()) != (516.0, 516.0):
        pytest.skip(f"TensorFlow's kernels here do not sum bfloat16 in float32: 515 ones make {found}")
    losses = {precision: losses for precision, (_, losses) in runs.items()}
    assert losses["float32"][-1] < 0.9 * losses["float32"][0]
    assert losses["bfloat16"][-1] == pytest.approx(losses["float32"][-1], rel=0.02)
    assert losses["bfloat16"] != losses["float32"]


def test_bfloat16_keeps_weights_and_logits_in_float32(runs):
    trainer, _ = runs["bfloat16"]
    assert {variable.dtype for variable in trainer.optimizer.variables + trainer.optimizer.velocities} == {tf.float32}
    assert trainer.model.output.dtype == "float32"
    inner = {layer.name: layer.output.dtype for layer in trainer.model.layers if layer.name[:4] in ("conv", "norm")}
    assert inner and set(inner.values()) == {"bfloat16"}


def test_flag_of_the_precision_is_the_network_s():
    with pytest.raises(ValueError, match=r"Expected precision to be float32 \| bfloat16\. Received: 'half'"):
        configuration.Config(precision="half")


def test_a_run_of_a_small_net_is_taken_up_on_one_device(tmp_path):
    config = configuration.Config(network="cifar10_18", image_size=32, crop_size=32).resolved()
    model = experiment.build_model(config, 3)
    schedule = experiment.build_schedule(config)
    experiment.build_checkpoints(config, model, None, schedule, "abc", tmp_path).save(7)
    restored, step, _ = experiment.restore(config, experiment.read_class_names(tmp_path), tmp_path)
    assert step == 7
    for before, after in zip(model.variables, restored.variables):
        np.testing.assert_array_equal(before.numpy(), after.numpy())
