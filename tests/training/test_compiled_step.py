"""The training step as one program of XLA, compared with the step of which XLA compiles parts, and with float64."""

import numpy as np
import pytest
import tensorflow as tf
import toy_training

from alexnet_tf import config
from alexnet_tf.runs import builders
from alexnet_tf.training import trainer

CLASSES = 10
STEPS = 20
BATCH = 16
# The networks with everything that XLA has to compile: both response normalizations, dropout, pooling with and without
# padding, batch normalization, auxiliary heads.
NETWORKS = {
    "alexnet": {"recipe": "original", "image_size": 64, "crop_size": 56},
    "cifar10_18": {"image_size": 32, "crop_size": 24},
    "googlenet": {"width": 0.125, "image_size": 40, "crop_size": 32},
    "resnet_18": {"width": 0.125, "image_size": 40, "crop_size": 32},
}


def trainer_of(network, *, dtype=None, **options):
    small = config.Config(
        network=network,
        batch_size=BATCH,
        input_scale=0.02,
        learning_rate=0.0005,
        initialization="he",
        weight_decay=0.0,
        **NETWORKS[network],
        **options,
    ).resolved()
    changes = {"dtype": dtype} if dtype else {}
    model = builders.build_training_model(small, CLASSES, **changes)
    return small, builders.build_trainer(small, model, builders.blank_statistics(small))


def batch_of(run_config):
    random = np.random.default_rng(0)
    size = [run_config.crop_size, run_config.crop_size, 3]
    return {
        "crops": tf.constant(random.integers(0, 256, [BATCH, *size]), tf.uint8),
        "offsets": tf.constant(random.integers(0, 9, [BATCH, 2]), tf.int32),
        "flips": tf.constant(random.integers(0, 2, [BATCH, 2]) > 0),
        "labels": tf.constant(random.integers(0, CLASSES, [BATCH])),
        "noise": tf.constant(random.standard_normal([BATCH, 3]), tf.float32),
    }


def trained(network, **options):
    """The velocities of the first step, which are its gradients by the learning rate, and the losses of all steps."""
    run_config, own = trainer_of(network, **options)
    batch, rates = batch_of(run_config), builders.initial_rates(run_config)
    losses = [float(own.step(batch, rates).loss)]
    velocities = [velocity.numpy().astype(np.float64) for velocity in own.optimizer.velocities]
    losses += [float(own.step(batch, rates).loss) for _ in range(STEPS - 1)]
    assert own.traces == 1
    return velocities, losses


def distance(values, others):
    """The largest distance of two variables, relative to the norm of the second."""
    return max(np.linalg.norm(a - b) / (np.linalg.norm(b) + 1e-30) for a, b in zip(values, others, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_one_program_has_the_gradients_and_losses_of_islands(network):
    islands, losses = trained(network, compile="islands")
    compiled, compiled_losses = trained(network, compile="step")
    # Batch normalization of small maps magnifies rounding.
    assert distance(compiled, islands) <= (2e-5 if network == "resnet_18" else 1e-5)
    assert losses[-1] < losses[0]
    np.testing.assert_allclose(compiled_losses, losses, rtol=1e-4)


@pytest.mark.slow
def test_one_program_is_as_near_to_float64_as_islands():
    run_config, exact = trainer_of("alexnet", dtype="float64")
    # Initial weights are drawn anew for each dtype.
    for variable, weight in zip(exact.optimizer.variables, trainer_of("alexnet")[1].optimizer.variables, strict=True):
        variable.assign(tf.cast(weight, tf.float64))
    images, labels = exact.preprocess(batch_of(run_config))
    with tf.GradientTape() as tape:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, exact.model(images, training=True))
        loss = tf.reduce_mean(losses)
    gradients = tape.gradient(loss, exact.optimizer.variables)
    rates = builders.initial_rates(run_config).numpy().astype(np.float64)
    reference = [-rates[rule.group] * each.numpy() for rule, each in zip(exact.optimizer.rules, gradients, strict=True)]
    islands, compiled = (distance(trained("alexnet", compile=kind)[0], reference) for kind in ("islands", "step"))
    assert 0 < compiled <= 2 * islands


def test_a_toy_step_as_one_program_has_the_same_numbers_alone_and_in_a_loop():
    toys = [toy_training.make_trainer() for _ in range(3)]
    plain, single, looped = toys
    single, looped = (
        trainer.Trainer(toy.model, toy.optimizer, toy.preprocess, jit_compile=True) for toy in (single, looped)
    )
    batches = [batch for batch, _ in zip(toy_training.batches(), range(4))]
    rates = tf.constant([0.1, 0.05])
    expected = [float(plain.step(batch, rates).loss) for batch in batches]
    np.testing.assert_allclose([float(single.step(batch, rates).loss) for batch in batches], expected, rtol=1e-6)
    stacked = tf.nest.map_structure(lambda *columns: tf.stack(columns), *batches)
    np.testing.assert_allclose(looped.steps(stacked, tf.stack([rates] * 4)).loss, expected, rtol=1e-6)
    assert single.traces == looped.traces == 1
    # As one program, and not by chance of a device: TensorFlow can only compile it.
    assert "HloModule" in single.step.experimental_get_compiler_ir(batches[0], rates)(stage="hlo")
