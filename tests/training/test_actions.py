"""What a run does besides learning: logs without what never counted, warnings, the bar."""

import io
import json
import math
import re
import time

import numpy as np
import pytest
import rich.console
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator

from alexnet_tf.training import actions
from alexnet_tf.training import loop


def progress_at(step, **changes):
    values = {
        "step": step,
        "epoch": step / 10,
        "learning_rate": 0.01,
        "train_loss": 0.5,
        "train_error": 0.25,
        "train_top5_error": 0.125,
        "examples": 64,
        "images_per_second": 12.5,
        "input_wait": 0.0625,
        "epoch_ended": False,
    }
    return loop.Progress(**{**values, **changes})


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_metrics_are_lines_of_json(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = actions.Metrics(path, 0)
    metrics(progress_at(20))
    metrics.write(kind="validation", step=20, top1_error=0.5)
    assert lines_of(path) == [
        {"kind": "train", **progress_at(20)._asdict()},
        {"kind": "validation", "step": 20, "top1_error": 0.5},
    ]


def test_metrics_of_steps_that_will_be_taken_again_are_removed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = actions.Metrics(path, 0)
    for step in (10, 20, 30):
        metrics.write(kind="train", step=step)
        metrics.write(kind="validation", step=step)
    resumed = actions.Metrics(path, 20)
    resumed.write(kind="train", step=21)
    assert [(line["kind"], line["step"]) for line in lines_of(path)] == [
        ("train", 10),
        ("validation", 10),
        ("train", 20),
        ("validation", 20),
        ("train", 21),
    ]
    assert [found.name for found in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_metrics_of_a_killed_run_end_with_a_whole_line_wherever_it_was_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    actions.Metrics(path, 0).write(kind="train", step=1)
    first = path.read_bytes()
    whole = first + b'{"kind": "train", "step": 2}\n'
    for cut in range(len(first), len(whole)):
        path.write_bytes(whole[:cut])
        actions.Metrics(path, 2).write(kind="train", step=3)
        assert [line["step"] for line in lines_of(path)] == [1, 3], f"cut after {cut} bytes"


@pytest.mark.parametrize("line", ["", "{}", "[]", "5", "null", '{"step": null}', "\0\0\0"])
def test_metrics_leave_out_lines_that_are_none_of_theirs(line, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(line + '\n{"step": 1}\n')
    actions.Metrics(path, 5)
    assert lines_of(path) == [{"step": 1}]


def scalars_in(directory):
    """What event files hold: for each tag a list of (step, value), in their order."""
    events = event_accumulator.EventAccumulator(str(directory)).Reload()
    return {
        tag: [(each.step, tf.make_ndarray(each.tensor_proto).item()) for each in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }


def test_scalars_can_be_read_back(tmp_path):
    summaries = actions.Summaries(str(tmp_path / "new"))
    summaries(progress_at(20, train_loss=0.75))
    summaries.scalars(20, validation_loss=1.5, validation_top1_error=0.125)
    # With five classes or fewer there is no top-5 error.
    summaries(progress_at(40, learning_rate=0.0009765625, train_top5_error=None))
    assert scalars_in(tmp_path / "new") == {
        "train_loss": [(20, 0.75), (40, 0.5)],
        "train_top1_error": [(20, 0.25), (40, 0.25)],
        "train_top5_error": [(20, 0.125)],
        "learning_rate": [(20, pytest.approx(0.01)), (40, 0.0009765625)],
        "images_per_second": [(20, 12.5), (40, 12.5)],
        "input_wait": [(20, 0.0625), (40, 0.0625)],
        "validation_loss": [(20, 1.5)],
        "validation_top1_error": [(20, 0.125)],
    }


def test_scalars_of_a_resumed_run_come_after_those_of_the_killed_one(tmp_path):
    killed = actions.Summaries(str(tmp_path))
    for step in (10, 20, 30):
        killed.scalars(step, train_loss=1.0)
    # Event files are read in the order of their names, which begin with the second they were made in.
    time.sleep(1.1)
    resumed = actions.Summaries(str(tmp_path))
    resumed.scalars(30, train_loss=2.0)
    # In this order TensorBoard takes the second value of step 30 for the one that counts.
    assert scalars_in(tmp_path)["train_loss"] == [(10, 1.0), (20, 1.0), (30, 1.0), (30, 2.0)]


def layer_of(shape, seed=0):
    """Weights and an update of one shape."""
    generator = np.random.default_rng(seed)
    return tuple(tf.Variable(scale * generator.standard_normal(shape), dtype=tf.float32) for scale in (1.0, 0.001))


@pytest.mark.parametrize("shape", [[3], [11, 11, 3, 4], [300, 512]])
def test_update_ratio_is_that_of_the_norms(shape):
    weights, update = layer_of(shape)
    expected = np.linalg.norm(update.numpy().ravel()) / np.linalg.norm(weights.numpy().ravel())
    assert actions.update_ratio(weights, update) == pytest.approx(expected, rel=1e-5)


def test_update_ratio_of_weights_that_are_zero_is_zero():
    weights, update = layer_of([5])
    weights.assign(tf.zeros([5]))
    assert actions.update_ratio(weights, update) == 0


def accumulator_of(directory):
    accumulator = event_accumulator.EventAccumulator(str(directory))
    accumulator.Reload()
    return accumulator


def test_weights_are_shown_as_histograms_and_ratios(tmp_path):
    layers = {"small": layer_of([7, 5]), "large": layer_of([512, 1024], seed=1)}
    actions.Summaries(str(tmp_path)).weights(30, layers)
    tensors = {tag: accumulator_of(tmp_path).Tensors(tag) for tag in accumulator_of(tmp_path).Tags()["tensors"]}
    assert set(tensors) == {f"{kind}/{layer}" for kind in ("weights", "update_over_weights") for layer in layers}
    for layer, (weights, update) in layers.items():
        (ratio,) = tensors[f"update_over_weights/{layer}"]
        assert ratio.step == 30
        assert tf.make_ndarray(ratio.tensor_proto) == pytest.approx(actions.update_ratio(weights, update), rel=1e-6)
        buckets = tf.make_ndarray(tensors[f"weights/{layer}"][0].tensor_proto)
        count = weights.shape.num_elements()
        # All of a small layer's weights, an even sample of a large one's.
        assert buckets[:, 2].sum() == (count if count < 1000 else -(-count // 17))
        assert buckets[0, 0] >= weights.numpy().min() and buckets[-1, 1] <= weights.numpy().max()
        assert buckets[0, 0] < -1 and buckets[-1, 1] > 1


def test_graph_hyperparameters_and_pictures_are_in_the_event_file(tmp_path):
    summaries = actions.Summaries(str(tmp_path))
    doubled = tf.function(lambda x: tf.multiply(x, 2.0, name="doubled")).get_concrete_function(tf.TensorSpec([3]))
    summaries.graph(doubled.graph)
    summaries.hyperparameters({"learning_rate": 0.01, "recipe": "paper", "reshuffle": True, "batch_size": 128})
    picture = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape([2, 4, 5, 3])
    summaries.pictures(7, {"augmented_images": picture})
    accumulator = accumulator_of(tmp_path)
    assert "doubled" in {node.name for node in accumulator.Graph().node}
    assert "_hparams_/session_start_info" in accumulator.Tags()["tensors"]
    (event,) = accumulator.Tensors("augmented_images")
    width, height, *images = tf.make_ndarray(event.tensor_proto)
    assert (event.step, int(width), int(height)) == (7, 5, 4)
    np.testing.assert_array_equal([tf.io.decode_png(image).numpy() for image in images], picture)


@pytest.mark.parametrize(
    "every, epoch, shown",
    [
        (1.0, 0.0, [1, 10, 20, 30]),
        (0.5, 0.0, [1, 5, 10, 15, 20, 25, 30]),
        (2.0, 0.0, [1, 20]),
        (0.3, 0.0, [1, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30]),
        (0.0, 0.0, []),
        # A run that is resumed shows nothing twice.
        (1.0, 1.0, [20, 30]),
        (1.0, 1.9, [20, 30]),
    ],
)
def test_details_come_at_the_first_report_and_once_in_so_many_epochs(every, epoch, shown):
    steps = []
    details = actions.Details(steps.append, every=every, epoch=epoch)
    for step in range(round(10 * epoch) + 1, 31):
        details(progress_at(step))
    assert steps == shown


@pytest.mark.parametrize("steps", [(1, 1), (10, 20), ()])
def test_steps_to_profile_may_be_these(steps):
    actions.check_profile_steps(steps)


@pytest.mark.parametrize("steps", [(10,), (0, 3), (20, 10), (1, 2, 3)])
def test_steps_to_profile_that_are_none_are_refused(steps):
    with pytest.raises(
        ValueError, match=r"^Expected the first and the last step to profile, such as 10,20\. Received: "
    ):
        actions.check_profile_steps(steps)


def flat_loss_warnings(losses, num_classes=10, after=3):
    warnings = []
    action = actions.FlatLoss(num_classes, lambda progress, text: warnings.append(text), after=after)
    counts = []
    for step, loss in enumerate(losses):
        action(progress_at(step, train_loss=loss))
        counts.append(len(warnings))
    return warnings, counts


CHANCE = math.log(10)


def test_flat_loss_is_told_once_with_the_likely_cause():
    warnings, counts = flat_loss_warnings([CHANCE + 0.01, CHANCE, CHANCE - 0.01, CHANCE, CHANCE, CHANCE, CHANCE])
    assert counts == [0, 0, 1, 1, 1, 1, 1]
    assert "ln(classes) = 2.303" in warnings[0]
    assert "--recipe=original" in warnings[0]


def test_flat_loss_is_told_once_though_it_returns():
    _, counts = flat_loss_warnings([*[CHANCE] * 3, 1.0, *[CHANCE] * 6])
    assert counts[-1] == 1


@pytest.mark.parametrize(
    "losses",
    [
        [CHANCE, CHANCE],
        [CHANCE, CHANCE, 2.2, CHANCE, CHANCE],
        [CHANCE * 0.98] * 9,
        [CHANCE * 1.02] * 9,
        [0.1] * 9,
        [math.log(1000)] * 9,
    ],
)
def test_loss_that_is_not_flat_for_long_is_not_told(losses):
    assert flat_loss_warnings(losses)[0] == []


class Screen:
    """A terminal of so many columns, whose clock the test sets."""

    def __init__(self, width=120):
        self.now = 0.0
        self._file = io.StringIO()
        self.console = rich.console.Console(
            file=self._file, force_terminal=True, width=width, get_time=lambda: self.now, color_system=None
        )

    def text(self):
        return re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", self._file.getvalue())


def last_bar(screen):
    return [line for line in re.split(r"[\r\n]", screen.text()) if "images/s" in line][-1]


# On a slow machine minutes pass between two reports.
@pytest.mark.parametrize("seconds, left", [(10, "0:00:30"), (400, "0:20:00")])
def test_bar_tells_step_loss_speed_and_time_left(seconds, left):
    screen = Screen()
    with actions.Terminal(100, 20, 50, console=screen.console) as terminal:
        for step in (30, 40, 50, 60, 70):
            screen.now += seconds
            terminal(progress_at(step, epoch=step / 50, train_loss=0.6875, images_per_second=10 * 16 / seconds))
    bar = last_bar(screen)
    assert bar.startswith("epoch 1.40/2 loss 0.688")
    assert f"70/100 steps, {160 / seconds:.1f} images/s" in bar
    assert bar.rstrip().endswith(left)


def test_lines_stay_above_the_bar():
    screen = Screen()
    with actions.Terminal(100, 0, 50, console=screen.console) as terminal:
        terminal(progress_at(50))
        terminal.print("epoch 1: [bold]validation[/bold] error 3.10 %")
    # Brackets are printed as they are: class names may hold them.
    assert "epoch 1: [bold]validation[/bold] error 3.10 %\n" in screen.text()


def test_lines_go_to_standard_output_and_no_bar_where_that_is_a_file(capsys):
    with actions.Terminal(100, 0, 50) as terminal:
        for step in (10, 20):
            terminal(progress_at(step))
        terminal.print("epoch 1: " + "a long line that no terminal may break " * 5)
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert lines == ["epoch 1: " + "a long line that no terminal may break " * 5]
