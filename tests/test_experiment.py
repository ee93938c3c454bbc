"""Experiment: what a configuration makes of the network, in both precisions."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf import config as configuration
from alexnet_tf import experiment
from alexnet_tf.data import statistics

CONFIG = configuration.Config(
    recipe="original", initialization="he", input_scale=0.02, batch_size=8, dropout=0.0, color_noise=0.0
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
        same, rates = batch(config.batch_size), tf.constant([0.0001, 0.0001])
        found[precision] = trainer, [float(trainer.step(same, rates).loss) for _ in range(20)]
    return found


def test_bfloat16_learns_as_float32_does(runs):
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
