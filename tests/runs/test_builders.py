"""Networks built from configurations, in both precisions."""

import dataclasses

import numpy as np
import pytest
import small_steps
import tensorflow as tf

from alexnet_tf import config
from alexnet_tf.runs import builders
from alexnet_tf.runs import restore


@pytest.fixture(scope="module")
def runs():
    """The trainer and its losses of twenty steps on one batch, for each precision."""
    found = {}
    for precision in ("float32", "bfloat16"):
        run_config = dataclasses.replace(small_steps.CONFIG, precision=precision, image_size=32, crop_size=32)
        blank = builders.blank_statistics(run_config)
        # Compiling the normalizations would take half of the time.
        trainer = builders.build_trainer(run_config, builders.build_model(run_config, 10, jit_compile=False), blank)
        same, rates = small_steps.batch(run_config.batch_size, 32), builders.initial_rates(run_config)
        found[precision] = trainer, [float(trainer.step(same, rates).loss) for _ in range(20)]
    return found


def sums_of_515_ones():
    """Returns 515 ones summed in bfloat16 by a matrix product and by a kernel gradient: 516 if rounded once at the end.

    oneDNN's kernels do so. TensorFlow's own truncate products, which makes fully connected layers 0.3% too small on
    average, and accumulate kernel gradients in bfloat16, an error of 2% at 5,832 positions.
    """
    product = tf.ones([8, 515], tf.bfloat16) @ tf.ones([515, 8], tf.bfloat16)
    maps = tf.ones([1, 5, 103, 8], tf.bfloat16)
    gradient = tf.raw_ops.Conv2DBackpropFilter(
        input=maps, filter_sizes=[1, 1, 8, 8], out_backprop=maps, strides=[1] * 4, padding="VALID"
    )
    return float(product[0, 0]), float(gradient[0, 0, 0, 0])


def test_bfloat16_training_matches_float32(runs):
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


def test_unknown_precision_is_rejected():
    with pytest.raises(ValueError, match=r"Expected precision to be float32 \| bfloat16 \| auto\. Received: 'half'"):
        config.Config(precision="half")


def test_a_small_network_is_restored_on_one_device(tmp_path):
    run_config = config.Config(network="cifar10_18", image_size=32, crop_size=32).resolved()
    model = builders.build_model(run_config, 3)
    schedule = builders.build_schedule(run_config)
    builders.build_checkpoints(run_config, model, None, schedule, "abc", tmp_path).save(7)
    restored, step, _ = restore.restore_network(run_config, restore.read_class_names(tmp_path), tmp_path)
    assert step == 7
    for before, after in zip(model.variables, restored.variables):
        np.testing.assert_array_equal(before.numpy(), after.numpy())
