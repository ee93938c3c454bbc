"""What a GPU calculates: a CPU's numbers, twice the same. Skipped without one; `tests/conftest.py` makes two of one."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest
import small_runs
import small_steps
import tensorflow as tf

from alexnet_tf.runs import builders

pytestmark = pytest.mark.skipif(not tf.config.list_physical_devices("GPU"), reason="needs a GPU")

TRAIN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tools", "train.py")


def three_steps(home, **changes):
    """The losses of three steps from the same start on the same batch, and the weights behind them."""
    config = dataclasses.replace(small_steps.CONFIG, **changes).resolved()
    with tf.device(home):
        trainer = builders.build_trainer(config, builders.build_model(config, 10), small_steps.BLANK)
        same, rates = small_steps.batch(config.batch_size), builders.initial_rates(config)
        losses = [float(trainer.step(same, rates).loss) for _ in range(3)]
    return losses, {variable.path: variable.numpy() for variable in trainer.model.trainable_variables}


@pytest.fixture(scope="module")
def on_a_processor():
    """Three steps of each recipe on a CPU, as they are asked for."""
    found = {}

    def steps(recipe):
        if recipe not in found:
            found[recipe] = three_steps("/CPU:0", recipe=recipe, devices=())
        return found[recipe]

    return steps


@pytest.mark.parametrize("devices", [(), ("/GPU:0", "/GPU:1")])
@pytest.mark.parametrize("recipe", ["paper", "original"])
def test_a_gpu_and_two_learn_as_a_processor_does(recipe, devices, on_a_processor):
    losses, weights = three_steps("/GPU:0", recipe=recipe, devices=devices)
    expected, those = on_a_processor(recipe)
    assert losses == pytest.approx(expected, rel=1e-4)
    assert weights.keys() == those.keys()
    for path, value in those.items():
        # Biases that began at 0 are three gradients alone, sums over 24,200 positions.
        np.testing.assert_allclose(weights[path], value, rtol=0, atol=1e-3 * np.max(np.abs(value)), err_msg=path)


def test_bfloat16_is_near(on_a_processor):
    expected, _ = on_a_processor("original")
    narrow, _ = three_steps("/GPU:0", devices=(), precision="bfloat16")
    assert narrow == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("changes", [{}, {"network": "alexnet", "image_size": 40}], ids=str)
def test_two_runs_end_with_the_same_bits(changes, tmp_path):
    folder = small_runs.make_pictures(str(tmp_path / "pictures"))
    for name in ("a", "b"):
        command = [sys.executable, TRAIN, f"--workdir={tmp_path / name}"]
        config = small_runs.make_config(folder, deterministic=True, dropout=0.5, **changes)
        subprocess.run([*command, *small_runs.flags(config)], check=True, timeout=600)
    small_runs.assert_same_bits(small_runs.stored(tmp_path / "a", 12), small_runs.stored(tmp_path / "b", 12))
