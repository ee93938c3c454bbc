"""Checkpoints: restored to the bit, rejected with a reason, and the one before if the newest is damaged."""

import pathlib
import re
import time
import types

import full_disk
import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf.training import checkpoint_files
from alexnet_tf.training import checkpoints
from alexnet_tf.training import schedules
from alexnet_tf.utils import files

METADATA = {"network": "toy", "classes": ["broken", "whole"]}
# Names as of Keras's variables and of velocities; TensorFlow escapes slashes and dots in its keys.
SHAPES = {"fc/kernel": [7, 5], "fc/bias": [5], "fc/kernel/velocity": [7, 5], "a.b/c_.S": [2]}


def progress_at(step, epoch_ended=False):
    return types.SimpleNamespace(step=step, epoch_ended=epoch_ended)


class Run:
    """The state of a run, random by its seed, and its checkpoints."""

    def __init__(self, directory, seed=0, shapes=None, metadata=None, **arguments):
        generator = np.random.default_rng(seed)
        shapes = SHAPES if shapes is None else shapes
        self.variables = {
            name: tf.Variable(generator.standard_normal(shape), dtype=tf.float32) for name, shape in shapes.items()
        }
        self.schedule = schedules.Plateau(patience=1)
        self.checkpoints = checkpoints.Checkpoints(
            str(directory), self.variables, self.schedule, METADATA if metadata is None else metadata, **arguments
        )

    def values(self):
        return {name: variable.numpy() for name, variable in self.variables.items()}


def assert_same(values, expected):
    assert list(values) == list(expected)
    for name in expected:
        np.testing.assert_array_equal(values[name], expected[name])


def complete_checkpoints(directory):
    """Steps of the checkpoints in a directory, which must contain only complete ones."""
    names = sorted(path.name for path in pathlib.Path(directory).iterdir())
    steps = sorted(int(name.removesuffix(".index").removeprefix("ckpt-")) for name in names if name.endswith(".index"))
    files = [f"ckpt-{step}{end}" for step in steps for end in (".data-00000-of-00001", ".index")]
    assert names == sorted([*files, "checkpoint"])
    return steps


def rejection(run):
    with pytest.raises(ValueError) as caught:
        run.checkpoints.restore()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_checkpoint_restores_the_same_bits(tmp_path):
    saved = Run(tmp_path, seed=1)
    for error in (0.5, 0.6, 0.55, 0.4):
        saved.schedule.epoch_ended(error)
    saved.checkpoints.save(1234)
    restored = Run(tmp_path, seed=2)
    assert restored.checkpoints.restore() == 1234
    assert_same(restored.values(), saved.values())
    assert restored.schedule.state() == saved.schedule.state()
    assert restored.schedule.drops == 2


def test_checkpoint_contains_the_values_of_its_step(tmp_path):
    run = Run(tmp_path, seed=1)
    before = run.values()
    run.checkpoints.save(5)
    for variable in run.variables.values():
        variable.assign(variable + 1)
    run.schedule.epoch_ended(0.5)
    assert run.checkpoints.restore() == 5
    assert_same(run.values(), before)
    assert run.schedule.best_error is None


def test_nothing_to_restore_returns_step_zero_and_changes_nothing(tmp_path):
    run = Run(tmp_path / "none_yet", seed=1)
    before = run.values()
    assert run.checkpoints.latest is None and run.checkpoints.current is None
    assert run.checkpoints.restore() == 0
    assert_same(run.values(), before)


def test_newest_checkpoint_is_restored(tmp_path):
    run = Run(tmp_path, keep=3)
    for step in (10, 9, 100):
        run.variables["fc/bias"].assign(tf.fill([5], float(step)))
        run.checkpoints.save(step)
    other = Run(tmp_path)
    assert other.checkpoints.latest.endswith("ckpt-100")
    assert other.checkpoints.restore() == 100
    assert other.checkpoints.current == other.checkpoints.latest
    assert other.variables["fc/bias"].numpy().tolist() == [100] * 5


def test_subset_of_the_variables_may_be_restored(tmp_path):
    saved = Run(tmp_path, seed=1)
    saved.checkpoints.save(7)
    weights = Run(tmp_path, seed=2, shapes={"fc/kernel": [7, 5], "fc/bias": [5]})
    assert weights.checkpoints.restore() == 7
    assert_same(weights.values(), {name: saved.values()[name] for name in ("fc/kernel", "fc/bias")})


@pytest.mark.parametrize("keep", [1, 3])
def test_old_checkpoints_are_removed_even_those_of_an_earlier_process(keep, tmp_path):
    first = Run(tmp_path, keep=keep)
    for step in (2, 4):
        first.checkpoints.save(step)
    second = Run(tmp_path, keep=keep)
    second.checkpoints.restore()
    for step in (6, 8, 10):
        second.checkpoints.save(step)
    assert complete_checkpoints(tmp_path) == [2, 4, 6, 8, 10][-keep:]


def test_saves_every_few_steps_and_at_each_epochs_end(tmp_path):
    run = Run(tmp_path, every=10, keep=99)
    for step in range(3, 42, 3):
        run.checkpoints(progress_at(step, epoch_ended=step in (15, 18)))
    # Reports come every 3 steps: 12 is the first after 10. Each epoch's end restarts the count.
    assert complete_checkpoints(tmp_path) == [12, 15, 18, 30]
    resumed = Run(tmp_path, every=10, keep=99)
    resumed.checkpoints.restore()
    for step in (33, 36, 39, 42):
        resumed.checkpoints(progress_at(step))
    assert complete_checkpoints(tmp_path) == [12, 15, 18, 30, 42]


def test_saving_a_step_twice_writes_once(tmp_path):
    run = Run(tmp_path)
    run.checkpoints.save(5)
    path = pathlib.Path(f"{run.checkpoints.latest}.index")
    before = path.stat()
    run.checkpoints.save(5)
    assert path.stat() == before
    assert complete_checkpoints(tmp_path) == [5]


def test_checkpoint_of_other_classes_is_rejected_by_name(tmp_path):
    Run(tmp_path, metadata={**METADATA, "classes": ["broken", "cracked", "whole"]}).checkpoints.save(3)
    run = Run(tmp_path, seed=2)
    before = run.values()
    message = rejection(run)
    assert re.search(r'Expected \S+ckpt-3 to have classes=\["broken", "whole"\]\. ', message)
    assert 'Received: classes=["broken", "cracked", "whole"]' in message
    assert "network" not in message
    assert_same(run.values(), before)


def test_names_of_a_thousand_classes_are_shortened(tmp_path):
    Run(tmp_path, metadata={**METADATA, "classes": [f"class {i}" for i in range(1000)]}).checkpoints.save(3)
    assert len(rejection(Run(tmp_path))) < 250 + len(str(tmp_path))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"fc/kernel": [7, 6]}, "to contain fc/kernel of shape [7, 6]. Received: shape [7, 5]"),
        ({"fc/kernel": [35]}, "to contain fc/kernel of shape [35]. Received: shape [7, 5]"),
        ({"fc9/kernel": [1]}, "to contain fc9/kernel of shape [1]. Received: none"),
    ],
)
def test_checkpoint_of_another_network_is_rejected_naming_the_variable_that_differs(changes, message, tmp_path):
    Run(tmp_path).checkpoints.save(3)
    run = Run(tmp_path, seed=2, shapes={**SHAPES, **changes})
    before = run.values()
    assert message in rejection(run)
    assert_same(run.values(), before)


def test_checkpoint_of_something_else_is_rejected(tmp_path):
    tf.train.CheckpointManager(tf.train.Checkpoint(step=tf.Variable(3)), str(tmp_path), max_to_keep=1).save()
    assert "Expected a checkpoint of a run. Received: " in rejection(Run(tmp_path))


def damage_half(content):
    return content[: len(content) // 2]


def damage_bit(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def damage_all(content):
    return b"\0" * len(content)


def checkpoints_5_and_damaged_6(directory, file, damage):
    """Saves two checkpoints, and damages or removes a file of the newer one.

    Returns:
      The shapes of the variables, and the values in the older checkpoint.
    """
    shapes = {"fc/kernel": [100, 100]}
    saved = Run(directory, seed=1, shapes=shapes)
    saved.checkpoints.save(5)
    expected = saved.values()
    saved.variables["fc/kernel"].assign(tf.zeros([100, 100]))
    saved.checkpoints.save(6)
    path = directory / f"ckpt-6{file}"
    if damage:
        path.write_bytes(damage(path.read_bytes()))
    else:
        path.unlink()
    return shapes, expected


@pytest.mark.parametrize("file", [".index", ".data-00000-of-00001"])
@pytest.mark.parametrize("damage", [damage_half, damage_bit, damage_all, lambda content: b"", None])
def test_damaged_checkpoint_is_rejected_in_one_line_and_changes_nothing(file, damage, tmp_path):
    Run(tmp_path, seed=1, shapes={"fc/kernel": [100, 100]}).checkpoints.save(5)
    path = tmp_path / f"ckpt-5{file}"
    if damage:
        path.write_bytes(damage(path.read_bytes()))
    else:
        path.unlink()
    run = Run(tmp_path, seed=2, shapes={"fc/kernel": [100, 100]})
    before = run.values()
    message = rejection(run)
    assert re.match(r"Expected a (complete checkpoint|checkpoint of a run)\. Received: \S+ckpt-5 \(.+\)$", message)
    assert "function_node" not in message
    assert_same(run.values(), before)


@pytest.mark.parametrize("file", [".index", ".data-00000-of-00001"])
@pytest.mark.parametrize("damage", [damage_half, damage_bit, damage_all, lambda content: b"", None])
def test_previous_checkpoint_is_restored_with_a_warning_if_the_newest_is_damaged(file, damage, tmp_path):
    shapes, expected = checkpoints_5_and_damaged_6(tmp_path, file, damage)
    run = Run(tmp_path, seed=2, shapes=shapes)
    lines = []
    assert run.checkpoints.restore(lines.append) == 5
    assert_same(run.values(), expected)
    assert run.checkpoints.current.endswith("ckpt-5")
    assert len(lines) == 1 and re.match(r"warning: Expected a .*checkpoint.*\. Received: \S+ckpt-6 \(.+\)$", lines[0])
    # New checkpoints replace the damaged one.
    run.checkpoints.save(6)
    run.checkpoints.save(7)
    assert complete_checkpoints(tmp_path) == [6, 7]
    assert Run(tmp_path, shapes=shapes).checkpoints.restore() == 7


@pytest.mark.parametrize("file", [".index", ".data-00000-of-00001"])
@pytest.mark.parametrize("damage", [damage_half, damage_bit, damage_all, None])
def test_weights_are_those_of_the_previous_checkpoint_if_the_newest_is_damaged(file, damage, tmp_path):
    shapes, expected = checkpoints_5_and_damaged_6(tmp_path, file, damage)
    started, lines = Run(tmp_path / "new", seed=2, shapes=shapes), []
    assert checkpoint_files.load_weights(str(tmp_path), started.variables, lines.append) == str(tmp_path / "ckpt-5")
    assert_same(started.values(), expected)
    assert len(lines) == 1 and re.match(r"warning: Expected a .*checkpoint.*\. Received: \S+ckpt-6 \(.+\)$", lines[0])


def test_weights_of_checkpoints_that_are_all_damaged_are_refused(tmp_path):
    Run(tmp_path, seed=1).checkpoints.save(5)
    (tmp_path / "ckpt-5.data-00000-of-00001").unlink()
    started = Run(tmp_path / "new", seed=2)
    before = started.values()
    with pytest.raises(checkpoint_files.DamagedError, match=r"Received: \S+ckpt-5 \("):
        checkpoint_files.load_weights(str(tmp_path), started.variables)
    assert_same(started.values(), before)
    with pytest.raises(FileNotFoundError, match="Expected a checkpoint in .*none. Received: none"):
        checkpoint_files.load_weights(str(tmp_path / "none"), started.variables)


def test_checkpoint_of_another_network_does_not_count_as_damaged(tmp_path):
    Run(tmp_path).checkpoints.save(3)
    Run(tmp_path, metadata={**METADATA, "network": "other"}).checkpoints.save(4)
    assert "network" in rejection(Run(tmp_path))


@pytest.mark.parametrize("content", ["model_checkpoint_pa", "", None])
def test_damaged_or_lost_list_of_checkpoints_hides_none(content, tmp_path):
    Run(tmp_path).checkpoints.save(5)
    Run(tmp_path).checkpoints.save(6)
    (tmp_path / "checkpoint").unlink() if content is None else (tmp_path / "checkpoint").write_text(content)
    run = Run(tmp_path)
    assert run.checkpoints.restore() == 6
    run.checkpoints.save(7)
    assert complete_checkpoints(tmp_path) == [6, 7]


def test_old_checkpoints_are_removed_even_if_the_clock_was_set_back(tmp_path, monkeypatch):
    Run(tmp_path, keep=2).checkpoints.save(5)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 86400)
    run = Run(tmp_path, keep=2)
    assert run.checkpoints.restore() == 5
    for step in (6, 7):
        run.checkpoints.save(step)
    monkeypatch.setattr(time, "time", lambda: now + 86400)
    run.checkpoints.save(8)
    assert complete_checkpoints(tmp_path) == [7, 8]
    assert Run(tmp_path).checkpoints.restore() == 8


def test_incomplete_files_of_a_killed_process_are_removed(tmp_path):
    run = Run(tmp_path)
    run.checkpoints.remove_incomplete()
    run.checkpoints.save(5)
    (tmp_path / "ckpt-6_temp").mkdir()
    (tmp_path / "ckpt-6_temp" / "part-00000-of-00001.data-00000-of-00001").write_text("half")
    (tmp_path / "ckpt-7.data-00000-of-00001").write_text("without an index")
    (tmp_path / "checkpoint.tmp123").write_text("half a list")
    (tmp_path / "notes.txt").write_text("of the user")
    run = Run(tmp_path)
    run.checkpoints.remove_incomplete()
    (tmp_path / "notes.txt").unlink()
    assert complete_checkpoints(tmp_path) == [5]
    assert run.checkpoints.restore() == 5


def test_full_disk_keeps_the_older_checkpoint_and_nothing_incomplete(tmp_path):
    shapes = {"fc/kernel": [200, 100]}
    run = Run(tmp_path, seed=1, shapes=shapes, keep=1)
    run.checkpoints.save(5)
    expected = run.values()
    run.variables["fc/kernel"].assign(tf.zeros([200, 100]))
    with full_disk.full_disk(40_000), pytest.raises(OSError) as caught:
        run.checkpoints.save(6)
    message = r"Could not save a checkpoint in \S+: .+; the newest complete checkpoint is \S+ckpt-5"
    assert re.fullmatch(message, str(caught.value))
    assert complete_checkpoints(tmp_path) == [5]
    restored = Run(tmp_path, seed=2, shapes=shapes, keep=1)
    assert restored.checkpoints.restore() == 5
    assert_same(restored.values(), expected)
    # Once there is room again, the same run continues.
    run.checkpoints.save(7)
    assert complete_checkpoints(tmp_path) == [7]


def test_full_disk_at_the_first_checkpoint_leaves_nothing(tmp_path):
    run = Run(tmp_path, shapes={"fc/kernel": [200, 100]})
    with full_disk.full_disk(1000), pytest.raises(OSError, match="the newest complete checkpoint is none"):
        run.checkpoints.save(5)
    assert list(tmp_path.iterdir()) == []
    assert Run(tmp_path).checkpoints.restore() == 0


def test_disk_too_full_for_the_list_of_checkpoints_loses_none(tmp_path):
    run = Run(tmp_path, shapes={"fc/bias": [1]}, keep=60)
    for step in range(1, 61):
        run.checkpoints.save(step)
    listed = tmp_path / "checkpoint"
    # The list is the largest of all files, and one more entry does not fit.
    limit = listed.stat().st_size
    assert limit > 1.2 * max(path.stat().st_size for path in tmp_path.glob("ckpt-*"))
    with full_disk.full_disk(limit), pytest.raises(OSError, match=r"the newest complete checkpoint is \S+ckpt-61$"):
        run.checkpoints.save(61)
    assert complete_checkpoints(tmp_path) == list(range(1, 62))
    assert Run(tmp_path, shapes={"fc/bias": [1]}).checkpoints.restore() == 61


# What a pattern would match in place of each name.
PATTERNS = {"b[lr=0.01]": "bl", "b[12]": "b1", "b*": "bc", "b?": "bc", "b\\1": "b1", "b]": "b"}


@pytest.mark.parametrize("name, other", PATTERNS.items(), ids=PATTERNS)
def test_names_with_characters_of_patterns_are_names(tmp_path, name, other):
    """TensorFlow would not find these checkpoints, and would remove those of another run."""
    neighbor = Run(tmp_path / other, seed=3)
    saved = Run(tmp_path / name, seed=1)
    for step in (1, 2, 3):
        neighbor.checkpoints.save(step) if step < 3 else None
        saved.checkpoints.save(step)
        assert saved.checkpoints.current == str(tmp_path / name / f"ckpt-{step}")
    assert complete_checkpoints(tmp_path / name) == [2, 3]
    assert complete_checkpoints(tmp_path / other) == [1, 2]
    restored = Run(tmp_path / name, seed=2)
    assert restored.checkpoints.restore() == 3
    assert restored.checkpoints.current == restored.checkpoints.latest == str(tmp_path / name / "ckpt-3")
    assert_same(restored.values(), saved.values())
    started = Run(tmp_path / "new[0]", seed=4)
    assert checkpoint_files.load_weights(str(tmp_path / name), started.variables) == str(tmp_path / name / "ckpt-3")
    assert_same(started.values(), saved.values())


def test_directory_that_cannot_be_made_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"Could not save a checkpoint in .*file/x: .*; the newest .* is none"):
        Run(tmp_path / "file" / "x").checkpoints.save(1)


def test_class_names_may_have_accents_composed_or_decomposed(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    saved = Run(tmp_path, metadata={"classes": [composed, "tea"]})
    saved.checkpoints.save(1)
    assert Run(tmp_path, metadata={"classes": [decomposed, "tea"]}).checkpoints.restore() == 1
    assert "classes" in rejection(Run(tmp_path, metadata={"classes": ["cafe", "tea"]}))


USER_FILES = (
    "ckpt-best.index",
    "ckpt-best.data-00000-of-00001",
    "ckpt-6.notes",
    "ckpt-final_temp",
    "checkpoint.bak",
    "checkpoint.tmp of mine",
    "checkpoints.md",
    "notes.txt",
)


def test_files_of_the_user_stay(tmp_path):
    run = Run(tmp_path, keep=1)
    run.checkpoints.save(5)
    (tmp_path / "ckpt-6.index.d").mkdir()
    for name in USER_FILES:
        (tmp_path / name).write_text("of the user")
    run = Run(tmp_path, keep=1)
    run.checkpoints.remove_incomplete()
    assert run.checkpoints.restore() == 5
    run.checkpoints.save(6)
    with full_disk.full_disk(100), pytest.raises(OSError):
        run.checkpoints.save(7)
    (tmp_path / "ckpt-6.index.d").rmdir()
    for name in USER_FILES:
        assert (tmp_path / name).read_text() == "of the user"
        (tmp_path / name).unlink()
    assert complete_checkpoints(tmp_path) == [6]


def test_link_with_the_name_of_an_incomplete_checkpoint_is_removed_but_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "ckpt-6_temp").symlink_to(outside)
    Run(tmp_path / "checkpoints").checkpoints.remove_incomplete()
    assert list((tmp_path / "checkpoints").iterdir()) == [] and (outside / "file").exists()


def test_checkpoint_is_on_disk_before_the_older_one_is_removed(tmp_path, monkeypatch):
    run = Run(tmp_path, keep=1)
    run.checkpoints.save(5)
    seen = []

    def sync(paths):
        seen.append(sorted(pathlib.Path(path).name for path in paths))
        assert (tmp_path / "ckpt-5.index").exists()

    with monkeypatch.context() as patch:
        patch.setattr(files, "sync", sync)
        run.checkpoints.save(6)
    assert seen == [["ckpt-6.data-00000-of-00001", "ckpt-6.index"]]
    assert complete_checkpoints(tmp_path) == [6]

    def fail(paths):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(files, "sync", fail)
        with pytest.raises(OSError, match="Could not save a checkpoint in .*Input/output error"):
            run.checkpoints.save(7)
    assert complete_checkpoints(tmp_path) == [6]


@pytest.mark.parametrize("state", ["", "{", "[]", "{}", '["a", null, 0]', "[null, null, null]", "[1]", "[" * 100_000])
def test_damaged_state_of_the_schedule_is_one_line(tmp_path, monkeypatch, state):
    run = Run(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(run.schedule, "state", lambda: state)
        run.checkpoints.save(5)
    assert rejection(Run(tmp_path)).startswith("Expected a complete checkpoint. Received: ")


@pytest.mark.parametrize("metadata", ["[]", "{", '{"classes": "ab"}', '{"classes": [1]}', "[" * 100_000])
def test_damaged_metadata_is_one_line(tmp_path, monkeypatch, metadata):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.json, "dumps", lambda *args, **kwargs: metadata)
        run = Run(tmp_path)
    run.checkpoints.save(5)
    assert rejection(Run(tmp_path)).startswith("Expected a checkpoint of a run. Received: ")
