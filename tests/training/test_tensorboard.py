"""What a run writes for TensorBoard, read back from its event files."""

import time

import numpy as np
import pytest
import small_progress
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from alexnet_tf.training import tensorboard


def scalars_in(directory):
    """Reads event files: for each tag a list of (step, value) in the order written."""
    events = event_accumulator.EventAccumulator(str(directory)).Reload()
    return {
        tag: [(each.step, tf.make_ndarray(each.tensor_proto).item()) for each in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }


def test_scalars_can_be_read_back(tmp_path):
    summaries = tensorboard.Summaries(str(tmp_path / "new"))
    summaries(small_progress.progress_at(20, train_loss=0.75))
    summaries.errors(20, "validation", 1.5, 0.125, None)
    # With five classes or fewer there is no top-5 error.
    summaries(small_progress.progress_at(40, learning_rate=0.0009765625, train_top5_error=None))
    assert scalars_in(tmp_path / "new") == {
        "loss/train": [(20, 0.75), (40, 0.5)],
        "loss/validation": [(20, 1.5)],
        "top1_error/train": [(20, 0.25), (40, 0.25)],
        "top1_error/validation": [(20, 0.125)],
        "top5_error/train": [(20, 0.125)],
        "learning_rate": [(20, pytest.approx(0.01)), (40, 0.0009765625)],
        "images_per_second": [(20, 12.5), (40, 12.5)],
        "input_wait": [(20, 0.0625), (40, 0.0625)],
    }


def test_scalars_of_a_resumed_run_come_after_those_of_the_killed_one(tmp_path):
    killed = tensorboard.Summaries(str(tmp_path))
    for step in (10, 20, 30):
        killed.scalars(step, train_loss=1.0)
    # Event files are read in the order of their names, which start with the second of their creation.
    time.sleep(1.1)
    resumed = tensorboard.Summaries(str(tmp_path))
    resumed.scalars(30, train_loss=2.0)
    # In this order TensorBoard shows the second value of step 30.
    assert scalars_in(tmp_path)["train_loss"] == [(10, 1.0), (20, 1.0), (30, 1.0), (30, 2.0)]


def layer_of(shape, seed=0):
    """Weights and an update of the same shape."""
    generator = np.random.default_rng(seed)
    return tuple(tf.Variable(scale * generator.standard_normal(shape), dtype=tf.float32) for scale in (1.0, 0.001))


@pytest.mark.parametrize("shape", [[3], [11, 11, 3, 4], [300, 512]])
def test_update_ratio_is_the_ratio_of_norms(shape):
    weights, update = layer_of(shape)
    expected = np.linalg.norm(update.numpy().ravel()) / np.linalg.norm(weights.numpy().ravel())
    assert tensorboard.update_ratio(weights, update) == pytest.approx(expected, rel=1e-5)


def test_update_ratio_of_weights_that_are_zero_is_zero():
    weights, update = layer_of([5])
    weights.assign(tf.zeros([5]))
    assert tensorboard.update_ratio(weights, update) == 0


def accumulator_of(directory):
    accumulator = event_accumulator.EventAccumulator(str(directory))
    accumulator.Reload()
    return accumulator


def test_weights_are_written_as_histograms_and_ratios(tmp_path):
    layers = {"small": layer_of([7, 5]), "large": layer_of([512, 1024], seed=1)}
    tensorboard.Summaries(str(tmp_path)).weights(30, layers)
    tensors = {tag: accumulator_of(tmp_path).Tensors(tag) for tag in accumulator_of(tmp_path).Tags()["tensors"]}
    assert set(tensors) == {f"{kind}/{layer}" for kind in ("weights", "update_over_weights") for layer in layers}
    for layer, (weights, update) in layers.items():
        (ratio,) = tensors[f"update_over_weights/{layer}"]
        assert ratio.step == 30
        assert tf.make_ndarray(ratio.tensor_proto) == pytest.approx(tensorboard.update_ratio(weights, update), rel=1e-6)
        buckets = tf.make_ndarray(tensors[f"weights/{layer}"][0].tensor_proto)
        count = weights.shape.num_elements()
        # All weights of a small layer, an even sample of a large one's.
        assert buckets[:, 2].sum() == (count if count < 1000 else -(-count // 17))
        assert buckets[0, 0] >= weights.numpy().min() and buckets[-1, 1] <= weights.numpy().max()
        assert buckets[0, 0] < -1 and buckets[-1, 1] > 1


def test_graph_hyperparameters_and_images_are_in_the_event_file(tmp_path):
    summaries = tensorboard.Summaries(str(tmp_path))
    doubled = tf.function(lambda x: tf.multiply(x, 2.0, name="doubled")).get_concrete_function(tf.TensorSpec([3]))
    summaries.graph(doubled.graph)
    summaries.hyperparameters({"learning_rate": 0.01, "recipe": "paper", "reshuffle": True, "batch_size": 128})
    picture = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape([2, 4, 5, 3])
    summaries.images(7, {"augmented_images": picture})
    accumulator = accumulator_of(tmp_path)
    assert "doubled" in {node.name for node in accumulator.Graph().node}
    assert "_hparams_/session_start_info" in accumulator.Tags()["tensors"]
    assert "_hparams_/session_end_info" not in accumulator.Tags()["tensors"]
    (event,) = accumulator.Tensors("augmented_images")
    width, height, *images = tf.make_ndarray(event.tensor_proto)
    assert (event.step, int(width), int(height)) == (7, 5, 4)
    np.testing.assert_array_equal([tf.io.decode_png(image).numpy() for image in images], picture)


def session_end(directory):
    metadata = accumulator_of(directory).SummaryMetadata("_hparams_/session_end_info")
    return plugin_data_pb2.HParamsPluginData.FromString(metadata.plugin_data.content).session_end_info


def test_session_of_hparams_ends_as_the_run_does_and_goes_on_when_it_resumes(tmp_path):
    directory = tmp_path / "a [b]"
    directory.mkdir()
    with pytest.raises(ValueError), tensorboard.Session(str(directory), 40) as session:
        session(small_progress.progress_at(20))
        raise ValueError("diverged")
    assert session_end(directory).status == api_pb2.STATUS_FAILURE
    with tensorboard.Session(str(directory), 40):
        assert not any(directory.iterdir())
    ended = session_end(directory)
    assert ended.status == api_pb2.STATUS_UNKNOWN and abs(ended.end_time_secs - time.time()) < 60
    with tensorboard.Session(str(directory), 40, 20) as session:
        session(small_progress.progress_at(40))
    assert session_end(directory).status == api_pb2.STATUS_SUCCESS
    with tensorboard.Session(str(directory), 40, 40):
        pass
    assert session_end(directory).status == api_pb2.STATUS_SUCCESS


@pytest.mark.parametrize(
    "every, epoch, shown",
    [
        (1.0, 0.0, [1, 10, 20, 30]),
        (0.5, 0.0, [1, 5, 10, 15, 20, 25, 30]),
        (2.0, 0.0, [1, 20]),
        (0.3, 0.0, [1, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30]),
        (0.0, 0.0, []),
        # A resumed run shows nothing twice.
        (1.0, 1.0, [20, 30]),
        (1.0, 1.9, [20, 30]),
    ],
)
def test_details_are_shown_at_the_first_report_and_every_few_epochs(every, epoch, shown):
    steps = []
    details = tensorboard.Details(steps.append, every=every, epoch=epoch)
    for step in range(round(10 * epoch) + 1, 31):
        details(small_progress.progress_at(step))
    assert steps == shown
