"""Several replicas train as one does, here on the devices of one process; runs/test_workers.py has several."""

import json

import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf import config
from alexnet_tf.models import registry
from alexnet_tf.runs import builders
from alexnet_tf.training import distribution
from alexnet_tf.training import optimizer
from alexnet_tf.training import trainer

ADDRESSES = ("a:1", "b:2", "c:3")


def environment(kind="worker", index=1, **jobs):
    return json.dumps({"cluster": jobs or {"worker": list(ADDRESSES)}, "task": {"type": kind, "index": index}})


@pytest.mark.parametrize(
    "given, expected",
    [
        ({"addresses": ADDRESSES, "index": 2}, (ADDRESSES, 2)),
        ({"environment": environment()}, (ADDRESSES, 1)),
        ({"environment": environment("chief", 0, chief=["a:1"], worker=["b:2", "c:3"])}, (ADDRESSES, 0)),
        ({"environment": environment("worker", 0, chief=["a:1"], worker=["b:2", "c:3"])}, (ADDRESSES, 1)),
        # Flags take precedence over the environment.
        ({"addresses": ["d:4"], "index": 0, "environment": environment()}, (("d:4",), 0)),
        ({"addresses": ["[::1]:80"], "index": 0}, (("[::1]:80",), 0)),
    ],
)
def test_cluster_is_read_from_flags_or_the_environment(given, expected):
    assert distribution.read_cluster(**given) == expected


@pytest.mark.parametrize(
    "given, message",
    [
        ({}, "Expected workers and worker_index, or TF_CONFIG in the environment. Received: neither"),
        ({"addresses": ADDRESSES}, "Expected worker_index from 0 to 2. Received: none"),
        ({"addresses": ADDRESSES, "index": 3}, "Expected worker_index from 0 to 2. Received: 3"),
        ({"addresses": ADDRESSES, "index": -1}, "Expected worker_index from 0 to 2. Received: -1"),
        ({"addresses": ["a"], "index": 0}, "Expected workers as HOST:PORT. Received: a"),
        ({"addresses": ["a:99999"], "index": 0}, "Expected workers as HOST:PORT. Received: a:99999"),
        ({"addresses": [":1"], "index": 0}, "Expected workers as HOST:PORT. Received: :1"),
        ({"addresses": ["a:1", "a:1"], "index": 0}, "Expected distinct workers. Received: a:1,a:1"),
        ({"environment": "{"}, "Expected TF_CONFIG to contain a cluster"),
        ({"environment": "[]"}, "Expected TF_CONFIG to contain a cluster"),
        ({"environment": environment("ps", 0, ps=["a:1"])}, "Received: type ps"),
        ({"environment": environment(index=3)}, "Received: index 3 of 3"),
        ({"environment": environment("worker", 0, worker=[1])}, "Expected TF_CONFIG to contain a cluster"),
    ],
)
def test_invalid_cluster_is_rejected_in_one_line(given, message):
    with pytest.raises(ValueError) as caught:
        distribution.read_cluster(**given)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def mirrored():
    """Two replicas, on the two logical devices of the tests."""
    return distribution.start("mirrored")


def small_config(**changes):
    values = {"network": "cifar10_18", "image_size": 32, "crop_size": 32, "initialization": "he", "input_scale": 0.01}
    return config.Config(**{**values, "learning_rate": 0.0001, "batch_size": 32, **changes}).resolved()


def alexnet_config(**changes):
    """A small AlexNet without dropout, as each replica drops other units."""
    return small_config(network="alexnet", dropout=0.0, **changes)


def batch_at(step, run_config, classes=10):
    generator = np.random.default_rng(step)
    size = run_config.batch_size
    labels = generator.integers(0, classes, size)
    crops = generator.integers(0, 128, [size, 32, 32, 3]) + 12 * labels[:, None, None, None]
    return {
        "crops": tf.constant(crops, tf.uint8),
        "offsets": tf.zeros([size, 2], tf.int32),
        "flips": tf.constant(generator.integers(0, 2, [size, 2]), tf.bool),
        "labels": tf.constant(labels),
        "noise": tf.constant(generator.standard_normal([size, 3]), tf.float32),
    }


def train(run_config, joined, steps, after_step=lambda trainer, step: None):
    """The trainer after some steps, and the results of each; calls `after_step` with the trainer and each step."""
    with joined.scope():
        model = builders.build_model(run_config, 10)
        image_statistics = builders.blank_statistics(run_config)
        trainer = builders.build_trainer(run_config, model, image_statistics, joined.strategy)
    rates = builders.initial_rates(run_config)
    results = []
    for step, batch in enumerate(joined.batches(batch_at(step, run_config) for step in range(steps))):
        results.append([None if value is None else value.numpy() for value in trainer.step(batch, rates)])
        after_step(trainer, step)
    return trainer, np.array(results)


def weights_of(trainer):
    return {variable.path: variable.numpy() for variable in trainer.model.trainable_variables}


@pytest.mark.parametrize(
    "make",
    [small_config, pytest.param(alexnet_config, marks=pytest.mark.slow)],
    ids=["cifar10_18", "alexnet"],
)
def test_two_replicas_with_16_images_each_equal_one_with_32_over_20_steps(make, mirrored):
    run_config = make()
    one, results = train(run_config, distribution.Distribution(), 20)
    two, results_of_two = train(run_config, mirrored, 20)
    assert two.traces == 1
    np.testing.assert_allclose(results_of_two[:, 0], results[:, 0], rtol=1e-5)
    np.testing.assert_array_equal(results_of_two[:, 1:], results[:, 1:])
    assert (results[:, 3] == 32).all() and results[-1, 0] < results[0, 0]
    expected = weights_of(one)
    started = {variable.path: variable.numpy() for variable in builders.build_model(run_config, 10).trainable_variables}
    for path, value in weights_of(two).items():
        np.testing.assert_allclose(value, expected[path], rtol=1e-5, atol=1e-5, err_msg=path)
        # The weights have moved, or equality would mean nothing.
        assert np.abs(expected[path] - started[path]).max() > 5e-5, path
    for variable in two.model.trainable_variables:
        first, second = mirrored.strategy.experimental_local_results(variable.value)
        assert first.device != second.device
        np.testing.assert_array_equal(first.numpy(), second.numpy())


def test_replicas_share_moving_statistics_and_averages_of_the_weights(mirrored, monkeypatch):
    row = registry.find("cifar10_resnet_20")
    monkeypatch.setitem(registry.NETWORKS, row.name, row._replace(arguments={**row.arguments, "depth": 8}))
    run_config = small_config(network=row.name, averaging="polyak", averaging_steps=4, learning_rate=0.01)
    means = []

    def keep_mean(trainer, step):
        if step == 0:
            means.append(trainer.model.get_layer("norm1").moving_mean.numpy())

    two, _ = train(run_config, mirrored, 3, keep_mean)
    for variable in [*(each.value for each in two.model.variables), *two.optimizer.averages]:
        copies = mirrored.strategy.experimental_local_results(variable)
        assert copies[0].device != copies[1].device
        np.testing.assert_array_equal(copies[0], copies[1], err_msg=variable.name)
    # The first normalization sees the same before the first step of one replica; the means of halves are its means.
    train(run_config, distribution.Distribution(), 1, keep_mean)
    mean, expected = means
    np.testing.assert_allclose(mean, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(expected).max() > 1e-3


def test_class_weights_have_the_same_effect_on_two_replicas_as_on_one(mirrored):
    generator = np.random.default_rng(0)
    # The weights in the halves of the batch differ.
    batch = {
        "features": tf.constant(generator.standard_normal([8, 5]), tf.float32),
        "labels": tf.constant([0, 0, 0, 1, 2, 2, 2, 1], tf.int64),
    }

    def updated(joined):
        with joined.scope():
            kernel = tf.Variable(tf.ones([5, 3]))
            sgd = optimizer.MomentumSGD([kernel], [optimizer.Rule(0, 0.0)], jit_compile=False)
            model = lambda images, training: tf.matmul(images, kernel)
            preprocess = lambda part: (part["features"], part["labels"])
            toy = trainer.Trainer(model, sgd, preprocess, joined.strategy, class_weights=np.array([0.2, 1.0, 3.0]))
        (part,) = joined.batches([batch])
        return float(toy.step(part, tf.constant([0.1])).loss), kernel.numpy()

    expected, found = updated(distribution.Distribution()), updated(mirrored)
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-6)


def test_a_process_can_sum_other_shapes_on_replicas_that_are_started_again():
    """TensorFlow keeps the shapes of sums by number and refuses another strategy that counts from the same start."""
    for shape in ([3], [5]):
        strategy = distribution.start("mirrored").strategy

        def total(ones):
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, 1 * ones)

        call = tf.function(lambda ones: strategy.run(total, args=(ones,)), autograph=False)  # noqa: B023
        for value in strategy.experimental_local_results(call(tf.ones(shape))):
            np.testing.assert_array_equal(value, np.full(shape, strategy.num_replicas_in_sync))


def test_gradients_may_be_reduced_in_bfloat16(mirrored):
    run_config = small_config(normalization="none", reduce_precision="bfloat16")
    narrow, _ = train(run_config, mirrored, 1)
    exact, _ = train(small_config(normalization="none"), mirrored, 1)
    for path, value in weights_of(exact).items():
        velocity = dict(zip(weights_of(exact), exact.optimizer.velocities))[path].numpy()
        difference = np.abs(weights_of(narrow)[path] - value).max()
        # Eight bits of the gradient, which after one step is all that the velocity consists of.
        assert 0 < difference <= 2**-7 * np.abs(velocity).max(), path


def test_replicas_drop_different_units(mirrored):
    from alexnet_tf.models import layers

    with mirrored.scope():
        dropout = layers.Dropout(0.5, seed=3)
        dropout.build([None, 400])
    call = tf.function(lambda x: mirrored.strategy.run(lambda x: dropout(x, training=True), args=(x,)))
    kept = [
        [each.numpy() for each in mirrored.strategy.experimental_local_results(call(tf.ones([1, 400])))]
        for _ in range(2)
    ]
    draws = [kept[0][0], kept[0][1], kept[1][0], kept[1][1]]
    for place, first in enumerate(draws):
        assert 0.4 < first.mean() < 0.6
        for second in draws[:place]:
            assert 0.3 < (first == second).mean() < 0.7
    # The first replica draws what a single replica draws.
    alone = layers.Dropout(0.5, seed=3)
    np.testing.assert_array_equal(alone(tf.ones([1, 400]), training=True).numpy(), draws[0])


def test_single_replica_needs_no_strategy():
    alone = distribution.start("none")
    assert (alone.is_chief, alone.worker, alone.replicas, alone.strategy) == (True, (0, 1), 1, None)
    assert alone.sum([np.array([1, 2])])[0].tolist() == [1, 2]
    alone.check_same("numbers", [1, 2])
    answers = iter([False, True])
    assert [alone.any_of(lambda: next(answers))() for _ in range(2)] == [False, True]


@pytest.mark.parametrize(
    "kind, message", [("multiworker", "Expected a cluster of workers"), ("ring", "Received: ring")]
)
def test_invalid_kind_is_rejected(kind, message):
    with pytest.raises(ValueError, match=message):
        distribution.start(kind)


def test_errors_between_processes_become_one_line():
    text = "Graph execution error:\n\nDetected at node reduce\n"
    text += "Collective ops is aborted by: connection reset\n[[{{node x}}]]"
    with pytest.raises(distribution.WorkerLostError) as caught, distribution.lost_workers(2):
        raise tf.errors.UnavailableError(None, None, text)
    said = str(caught.value)
    assert said.startswith(
        "Expected all 2 workers to be running. Received: Collective ops is aborted by: connection reset. "
    )
    assert "\n" not in said and caught.value.exit_status == 75
    # A single worker has no other to lose.
    with pytest.raises(tf.errors.UnavailableError), distribution.lost_workers(1):
        raise tf.errors.UnavailableError(None, None, text)


@pytest.mark.parametrize(
    "scaling, batch_size, expected",
    [("none", 512, 0.01), ("linear", 512, 0.04), ("square_root", 512, 0.02), ("linear", 64, 0.005)],
)
def test_learning_rate_scales_with_the_batch_size(scaling, batch_size, expected):
    run_config = config.Config(
        batch_size=batch_size, learning_rate_scaling=scaling, recipe="original", base_batch_size=128
    ).resolved()
    assert builders.parameter_group_options(run_config).learning_rate == pytest.approx(expected)
    rates = builders.learning_rates(run_config, builders.build_schedule(run_config), 0.0)
    assert rates[:2] == pytest.approx([expected, 2 * expected])
