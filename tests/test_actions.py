"""What a run does besides learning: checkpoints that survive, logs without what never counted, warnings, the bar."""

import io
import json
import math
import pathlib
import re
import time

import full_disk
import numpy as np
import pytest
import rich.console
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator

from alexnet_tf.training import actions
from alexnet_tf.training import optimization
from alexnet_tf.training import trainer

FACTS = {"network": "toy", "classes": ["broken", "whole"]}
# As Keras and the velocities name them; TensorFlow writes slashes and dots in its keys differently.
SHAPES = {"fc/kernel": [7, 5], "fc/bias": [5], "fc/kernel/velocity": [7, 5], "a.b/c_.S": [2]}


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
    return trainer.Progress(**{**values, **changes})


class Run:
    """The state of a run, as random as its seed, and its checkpoints."""

    def __init__(self, directory, seed=0, shapes=None, facts=None, **arguments):
        generator = np.random.default_rng(seed)
        shapes = SHAPES if shapes is None else shapes
        self.variables = {
            name: tf.Variable(generator.standard_normal(shape), dtype=tf.float32) for name, shape in shapes.items()
        }
        self.schedule = optimization.Plateau(patience=1)
        self.checkpoints = actions.Checkpoints(
            str(directory), self.variables, self.schedule, FACTS if facts is None else facts, **arguments
        )

    def values(self):
        return {name: variable.numpy() for name, variable in self.variables.items()}


def assert_same(values, expected):
    assert list(values) == list(expected)
    for name in expected:
        np.testing.assert_array_equal(values[name], expected[name])


def whole_checkpoints(directory):
    """Steps of the checkpoints in a directory; nothing but whole ones may lie there."""
    names = sorted(path.name for path in pathlib.Path(directory).iterdir())
    steps = sorted(int(name.removesuffix(".index").removeprefix("ckpt-")) for name in names if name.endswith(".index"))
    files = [f"ckpt-{step}{end}" for step in steps for end in (".data-00000-of-00001", ".index")]
    assert names == sorted([*files, "checkpoint"])
    return steps


def refusal(run):
    with pytest.raises(ValueError) as caught:
        run.checkpoints.restore()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_checkpoint_takes_up_the_same_bits(tmp_path):
    saved = Run(tmp_path, seed=1)
    for error in (0.5, 0.6, 0.55, 0.4):
        saved.schedule.epoch_ended(error)
    saved.checkpoints.save(1234)
    restored = Run(tmp_path, seed=2)
    assert restored.checkpoints.restore() == 1234
    assert_same(restored.values(), saved.values())
    assert restored.schedule.state() == saved.schedule.state()
    assert restored.schedule.drops == 2


def test_checkpoint_holds_the_values_of_its_step(tmp_path):
    run = Run(tmp_path, seed=1)
    before = run.values()
    run.checkpoints.save(5)
    for variable in run.variables.values():
        variable.assign(variable + 1)
    run.schedule.epoch_ended(0.5)
    assert run.checkpoints.restore() == 5
    assert_same(run.values(), before)
    assert run.schedule.best_error is None


def test_nothing_to_restore_is_step_zero_and_changes_nothing(tmp_path):
    run = Run(tmp_path / "none_yet", seed=1)
    before = run.values()
    assert run.checkpoints.latest is None
    assert run.checkpoints.restore() == 0
    assert_same(run.values(), before)


def test_newest_is_restored_though_older_ones_are_kept(tmp_path):
    run = Run(tmp_path, keep=3)
    for step in (10, 9, 100):
        run.variables["fc/bias"].assign(tf.fill([5], float(step)))
        run.checkpoints.save(step)
    other = Run(tmp_path)
    assert other.checkpoints.latest.endswith("ckpt-100")
    assert other.checkpoints.restore() == 100
    assert other.variables["fc/bias"].numpy().tolist() == [100] * 5


def test_some_of_the_variables_may_be_restored(tmp_path):
    saved = Run(tmp_path, seed=1)
    saved.checkpoints.save(7)
    weights = Run(tmp_path, seed=2, shapes={"fc/kernel": [7, 5], "fc/bias": [5]})
    assert weights.checkpoints.restore() == 7
    assert_same(weights.values(), {name: saved.values()[name] for name in ("fc/kernel", "fc/bias")})


@pytest.mark.parametrize("keep", [1, 3])
def test_only_the_newest_stay_even_those_of_an_earlier_process(keep, tmp_path):
    first = Run(tmp_path, keep=keep)
    for step in (2, 4):
        first.checkpoints.save(step)
    second = Run(tmp_path, keep=keep)
    second.checkpoints.restore()
    for step in (6, 8, 10):
        second.checkpoints.save(step)
    assert whole_checkpoints(tmp_path) == [2, 4, 6, 8, 10][-keep:]


def test_saves_so_many_steps_after_the_last_time_and_at_each_epochs_end(tmp_path):
    run = Run(tmp_path, every=10, keep=99)
    for step in range(3, 42, 3):
        run.checkpoints(progress_at(step, epoch_ended=step in (15, 18)))
    # Reports come at threes: 12 is the first past 10; after the epochs' ends the steps are counted anew.
    assert whole_checkpoints(tmp_path) == [12, 15, 18, 30]
    resumed = Run(tmp_path, every=10, keep=99)
    resumed.checkpoints.restore()
    for step in (33, 36, 39, 42):
        resumed.checkpoints(progress_at(step))
    assert whole_checkpoints(tmp_path) == [12, 15, 18, 30, 42]


def test_saving_a_step_twice_writes_once(tmp_path):
    run = Run(tmp_path)
    run.checkpoints.save(5)
    path = pathlib.Path(f"{run.checkpoints.latest}.index")
    before = path.stat()
    run.checkpoints.save(5)
    assert path.stat() == before
    assert whole_checkpoints(tmp_path) == [5]


def test_checkpoint_of_other_classes_is_refused_by_name(tmp_path):
    Run(tmp_path, facts={**FACTS, "classes": ["broken", "cracked", "whole"]}).checkpoints.save(3)
    run = Run(tmp_path, seed=2)
    before = run.values()
    message = refusal(run)
    assert re.search(r'Expected \S+ckpt-3 to be of classes=\["broken", "whole"\]\. ', message)
    assert 'Received: classes=["broken", "cracked", "whole"]' in message
    assert "network" not in message
    assert_same(run.values(), before)


def test_names_of_a_thousand_classes_are_cut_short(tmp_path):
    Run(tmp_path, facts={**FACTS, "classes": [f"class {i}" for i in range(1000)]}).checkpoints.save(3)
    assert len(refusal(Run(tmp_path))) < 250 + len(str(tmp_path))


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"fc/kernel": [7, 6]}, "to hold fc/kernel of shape [7, 6]. Received: shape [7, 5]"),
        ({"fc/kernel": [35]}, "to hold fc/kernel of shape [35]. Received: shape [7, 5]"),
        ({"fc9/kernel": [1]}, "to hold fc9/kernel of shape [1]. Received: none"),
    ],
)
def test_checkpoint_of_another_network_is_refused_by_the_variable_that_differs(changes, told, tmp_path):
    Run(tmp_path).checkpoints.save(3)
    run = Run(tmp_path, seed=2, shapes={**SHAPES, **changes})
    before = run.values()
    assert told in refusal(run)
    assert_same(run.values(), before)


def test_checkpoint_of_something_else_is_refused(tmp_path):
    tf.train.CheckpointManager(tf.train.Checkpoint(step=tf.Variable(3)), str(tmp_path), max_to_keep=1).save()
    assert "Expected a checkpoint of a run. Received: " in refusal(Run(tmp_path))


def damage_half(content):
    return content[: len(content) // 2]


def damage_bit(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def damage_all(content):
    return b"\0" * len(content)


@pytest.mark.parametrize("file", [".index", ".data-00000-of-00001"])
@pytest.mark.parametrize("damage", [damage_half, damage_bit, damage_all, lambda content: b"", None])
def test_damaged_checkpoint_is_refused_in_one_line_and_changes_nothing(file, damage, tmp_path):
    Run(tmp_path, seed=1, shapes={"fc/kernel": [100, 100]}).checkpoints.save(5)
    path = tmp_path / f"ckpt-5{file}"
    if damage:
        path.write_bytes(damage(path.read_bytes()))
    else:
        path.unlink()
    run = Run(tmp_path, seed=2, shapes={"fc/kernel": [100, 100]})
    before = run.values()
    message = refusal(run)
    assert re.match(r"Expected a (whole checkpoint|checkpoint of a run)\. Received: \S+ckpt-5 \(.+\)$", message)
    assert "function_node" not in message
    assert_same(run.values(), before)


def test_damaged_list_of_checkpoints_does_not_start_the_run_over(tmp_path):
    Run(tmp_path).checkpoints.save(5)
    (tmp_path / "checkpoint").write_text("model_checkpoint_pa")
    assert "checkpoint to name the newest checkpoint. Received: a damaged file" in refusal(Run(tmp_path))


def test_full_disk_keeps_the_older_checkpoint_and_nothing_half_written(tmp_path):
    shapes = {"fc/kernel": [200, 100]}
    run = Run(tmp_path, seed=1, shapes=shapes, keep=1)
    run.checkpoints.save(5)
    expected = run.values()
    run.variables["fc/kernel"].assign(tf.zeros([200, 100]))
    with full_disk.full_disk(40_000), pytest.raises(OSError) as caught:
        run.checkpoints.save(6)
    message = r"Expected room for a checkpoint in \S+\. Received: .+; the newest whole one is \S+ckpt-5"
    assert re.fullmatch(message, str(caught.value))
    assert whole_checkpoints(tmp_path) == [5]
    restored = Run(tmp_path, seed=2, shapes=shapes, keep=1)
    assert restored.checkpoints.restore() == 5
    assert_same(restored.values(), expected)
    # With room again, the same run goes on.
    run.checkpoints.save(7)
    assert whole_checkpoints(tmp_path) == [7]


def test_full_disk_at_the_first_checkpoint_leaves_nothing(tmp_path):
    run = Run(tmp_path, shapes={"fc/kernel": [200, 100]})
    with full_disk.full_disk(1000), pytest.raises(OSError, match="the newest whole one is none"):
        run.checkpoints.save(5)
    assert list(tmp_path.iterdir()) == []
    assert Run(tmp_path).checkpoints.restore() == 0


def test_disk_that_is_full_only_for_the_list_of_checkpoints_loses_none(tmp_path):
    run = Run(tmp_path, shapes={"fc/bias": [1]}, keep=60)
    for step in range(1, 61):
        run.checkpoints.save(step)
    listed = tmp_path / "checkpoint"
    # So many are listed that the list is the largest of all files, and one more does not fit.
    most = listed.stat().st_size
    assert most > 1.2 * max(path.stat().st_size for path in tmp_path.glob("ckpt-*"))
    with full_disk.full_disk(most), pytest.raises(OSError, match=r"the newest whole one is \S+ckpt-61$"):
        run.checkpoints.save(61)
    assert whole_checkpoints(tmp_path) == list(range(1, 62))
    assert Run(tmp_path, shapes={"fc/bias": [1]}).checkpoints.restore() == 60


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
