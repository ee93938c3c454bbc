"""Checkpoints of a run: saved atomically, and restored from the newest one that is complete."""

import glob
import json
import os
import re
import shutil
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from alexnet_tf.training import loop
from alexnet_tf.training import schedules
from alexnet_tf.utils import files
from alexnet_tf.utils import messages
from alexnet_tf.utils import pathnames
from alexnet_tf.utils import schema

# Raised when reading a damaged file: TensorFlow's readers translate some of its errors into Python's.
_READING_ERRORS = (tf.errors.OpError, ValueError, RuntimeError, KeyError, IndexError)
# TensorFlow's own list of the checkpoints in a directory.
_LIST = "checkpoint"
# Names that TensorFlow and `files.atomic_write` give to the files of a checkpoint and of the list, complete or not.
_OWN = re.compile(
    r"(?P<checkpoint>ckpt-\d+)(_temp(_[0-9a-f]+)?|\.(index|data-\d{5}-of-\d{5})(\.tempstate\d+)?)"
    r"|checkpoint\.(part|tmp[0-9a-f]+)"
)
_METADATA = schema.Object({}, {"classes": schema.List(schema.Text())})
_SCHEDULE = schema.List(schema.Nullable(schema.Number()))


class DamagedError(ValueError):
    """A checkpoint cannot be read."""


class Checkpoints:
    """Saves and restores the state of a run; as an action, saves at some of the reports.

    Args:
      directory: of the checkpoints.
      variables: dict from a name to a variable.
      schedule: the learning rate schedule, whose state is saved too.
      metadata: dict of what must be equal to resume, such as the class names; saved in the checkpoint as JSON.
      every: saves at the first report that is this many steps after the last save, and at the end of each epoch.
      keep: number of newest checkpoints to keep.

    Attributes:
      current: path of the checkpoint that was last restored or saved, or None.
    """

    def __init__(
        self,
        directory: str,
        variables: Mapping[str, tf.Variable],
        schedule: schedules.Schedule,
        metadata: Mapping[str, Any],
        *,
        every: int = 1000,
        keep: int = 2,
    ):
        self._schedule = schedule
        self._metadata = json.dumps(metadata, sort_keys=True)
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        with tf.device("/CPU:0"):
            self._schedule_state = tf.Variable("", trainable=False)
            saved_metadata = tf.Variable(self._metadata, trainable=False)
        self._variables = variables
        self._checkpoint = tf.train.Checkpoint(
            step=self._step,
            schedule=self._schedule_state,
            facts=saved_metadata,  # the key of version 0.1
            variables=dict(variables),
        )
        self.current = None
        self._manager = None
        self._directory = directory
        self._every = every
        self._keep = keep
        self._saved_at = 0

    @property
    def latest(self) -> str | None:
        """The path of the newest checkpoint, or None."""
        return next(iter(paths(self._directory)), None)

    def restore(self, log: Callable[[str], Any] = lambda line: None, path: str | None = None) -> int:
        """Restores the newest checkpoint that is complete.

        Args:
          log: called with a line about each newer one that is damaged.
          path: of the checkpoint to restore instead, which may be in another directory.

        Returns:
          The number of steps taken when it was saved; 0 if there is no checkpoint.

        Raises:
          ValueError: if it belongs to another network.
          DamagedError: if there are checkpoints, but none can be read.
        """
        damaged = None
        for candidate in [path] if path else paths(self._directory):
            try:
                self._read(candidate)
            except DamagedError as error:
                damaged = damaged or error
                log(f"warning: {error}")
                continue
            self._saved_at = int(self._step)
            self.current = candidate
            return self._saved_at
        if damaged:
            raise damaged
        return 0

    def _read(self, path):
        check_checkpoint(path, self._variables, self._metadata)
        try:
            # An evaluation restores only the weights.
            self._checkpoint.restore(_literal(path)).assert_existing_objects_matched().expect_partial()
            state = self._schedule_state.numpy()
            schema.parse(state, _SCHEDULE, "the state of a schedule", path)
            self._schedule.restore(state.decode())
        except (*_READING_ERRORS, AssertionError, TypeError) as error:
            raise _damaged(path, error) from None

    def save(self, step: int) -> None:
        """Saves now, unless `step` is already saved. Old checkpoints are removed once the new one is complete.

        Raises:
          OSError: if it cannot be written. Older checkpoints are kept, and nothing incomplete remains.
        """
        if step == self._saved_at and (step or self.current):
            return
        self._step.assign(step)
        self._schedule_state.assign(self._schedule.state())
        try:
            # The callback is called when the files are written, before old checkpoints are removed.
            options = tf.train.CheckpointOptions(experimental_write_callbacks=[_sync])
            saved = self._open().save(checkpoint_number=step, options=options)
        except (tf.errors.OpError, OSError) as error:
            self._remove_failed(step)
            raise OSError(
                f"Could not save a checkpoint in {self._directory}: {messages.first_line(error)}; "
                f"the newest complete checkpoint is {self.latest or 'none'}"
            ) from None
        self.current = os.path.join(self._directory, os.path.basename(saved))
        self._saved_at = step

    def _open(self):
        """Returns TensorFlow's manager, which knows all checkpoints, so that it removes the old ones."""
        os.makedirs(self._directory, exist_ok=True)
        directory = pathnames.without_patterns(self._directory)
        if self._manager is None or self._manager.directory != directory:
            _write_list(self._directory, paths(self._directory)[::-1])
            self._manager = tf.train.CheckpointManager(self._checkpoint, directory, max_to_keep=self._keep)
        return self._manager

    def _remove_failed(self, step):
        # If the manager lists it, the checkpoint is complete, older ones may be gone, and only the list failed.
        is_listed = os.path.basename((self._manager and self._manager.latest_checkpoint) or "") == f"ckpt-{step}"
        self._remove(lambda checkpoint: checkpoint == (None if is_listed else f"ckpt-{step}"))

    def remove_incomplete(self) -> None:
        """Removes what a process left that was killed while saving. Must not be called while another process saves.

        Only files that the naming rule of checkpoints made are removed; files of others, such as ``ckpt-best.index``,
        stay.
        """
        complete = {os.path.basename(path) for path in paths(self._directory)}
        self._remove(lambda checkpoint: checkpoint not in complete)

    def _remove(self, is_unwanted):
        """Removes incomplete files of the list, and those of the checkpoints with unwanted names."""
        for name in os.listdir(self._directory) if os.path.isdir(self._directory) else ():
            own = _OWN.fullmatch(name)
            if own and ("temp" in name or own["checkpoint"] is None or is_unwanted(own["checkpoint"])):
                path = os.path.join(self._directory, name)
                if "_temp" in name and os.path.isdir(path) and not os.path.islink(path):
                    shutil.rmtree(path)
                else:
                    os.remove(path)

    def __call__(self, progress: loop.Progress) -> None:
        if progress.epoch_ended or progress.step - self._saved_at >= self._every:
            self.save(progress.step)


def _literal(path):
    """Returns the path of a checkpoint for TensorFlow, which would take ``[`` in it for a pattern."""
    directory, name = os.path.split(path)
    return os.path.join(pathnames.without_patterns(directory), name)


def _sync(path):
    """Waits until the files of a checkpoint are on disk, so that a power cut leaves it or the one before."""
    files.sync(glob.glob(f"{glob.escape(path)}.*"))


def _damaged(path, error):
    return DamagedError(f"Expected a complete checkpoint. Received: {path} ({messages.first_line(error)})")


def _listed(directory):
    """Returns the paths in TensorFlow's list."""
    try:
        state = tf.train.get_checkpoint_state(directory)
    except _READING_ERRORS:
        state = None
    names = [os.path.basename(path) for path in state.all_model_checkpoint_paths] if state else []
    return [os.path.join(directory, name) for name in names]


def _write_list(directory, found):
    """Writes TensorFlow's list, a `CheckpointState` in text format; the oldest checkpoint comes first.

    The timestamps are synthetic: with those of a clock that was set back since, TensorFlow would never remove older
    checkpoints.
    """
    if not found:
        return
    names = [os.path.basename(path) for path in found]
    with files.atomic_write(os.path.join(directory, _LIST)) as file:
        file.write(f'model_checkpoint_path: "{names[-1]}"\n')
        file.writelines(f'all_model_checkpoint_paths: "{name}"\n' for name in names)
        file.writelines(f"all_model_checkpoint_timestamps: {1 + number}\n" for number in range(len(names)))
        file.write("last_preserved_timestamp: 0\n")


def paths(directory: str) -> list[str]:
    """Returns the paths of the checkpoints in a directory, complete or not, the newest first.

    These are the files themselves and the entries of TensorFlow's list, so losing the list or an index hides none.
    """
    found = {path.removesuffix(".index") for path in glob.glob(os.path.join(glob.escape(directory), "ckpt-*.index"))}
    numbered = {path: re.fullmatch(r"ckpt-(\d+)", os.path.basename(path)) for path in {*found, *_listed(directory)}}
    return sorted((path for path, match in numbered.items() if match), key=lambda path: -int(numbered[path][1]))


def check_checkpoint(path: str, variables: Mapping[str, tf.Variable], metadata: str | None = None) -> None:
    """Checks that a checkpoint belongs to a network and is complete, by reading everything that `variables` need.

    Args:
      path: of the checkpoint.
      variables: dict from a name to a variable, as given to `Checkpoints`.
      metadata: JSON of the metadata given to `Checkpoints`; None skips this check.

    Raises:
      DamagedError: if the checkpoint cannot be read.
      ValueError: naming what differs.
    """
    saved_metadata = read_metadata(path)
    if metadata is not None:
        _check_metadata(path, json.loads(metadata), saved_metadata)
    reader = tf.train.load_checkpoint(_literal(path))
    shapes = reader.get_variable_to_shape_map()
    for name, variable in variables.items():
        key = _key(name)
        saved = shapes.get(key)
        if saved is None or list(saved) != variable.shape.as_list():
            raise ValueError(
                f"Expected {path} to contain {name} of shape {variable.shape.as_list()}. Received: "
                + ("none" if saved is None else f"shape {list(saved)}")
            )
        try:
            value = reader.get_tensor(key)
        except _READING_ERRORS as error:
            raise _damaged(path, error) from None
        if not np.isfinite(value).all():
            raise ValueError(
                f"Expected finite numbers in {path}. Received: NaN or infinity in {name}, as of a training that "
                "diverged; delete this checkpoint to use the one before, or train again with a lower --learning_rate"
            )


def _check_metadata(path, expected, saved):
    differing = sorted(name for name in {*expected, *saved} if not _are_same(expected.get(name), saved.get(name)))
    if differing:
        raise ValueError(
            f"Expected {path} to have "
            + "; ".join(f"{name}={_shorten(expected.get(name))}" for name in differing)
            + ". Received: "
            + "; ".join(f"{name}={_shorten(saved.get(name))}" for name in differing)
            + ("; a new --workdir with --initialize_from can start from its weights" if "classes" in differing else "")
        )


def read_metadata(path: str) -> dict[str, Any]:
    """Reads the metadata of a checkpoint, as given to `Checkpoints`.

    Raises:
      DamagedError: if it cannot be read.
    """
    try:
        reader = tf.train.load_checkpoint(_literal(path))
        text = reader.get_tensor("facts/.ATTRIBUTES/VARIABLE_VALUE")
        return schema.parse(text, _METADATA, "the metadata of a run", path)
    except _READING_ERRORS as error:
        raise DamagedError(f"Expected a checkpoint of a run. Received: {path} ({messages.first_line(error)})") from None


def read_step(path: str) -> int:
    """Reads the number of steps that were taken when a checkpoint was saved.

    Raises:
      DamagedError: if it cannot be read.
    """
    try:
        return int(tf.train.load_checkpoint(_literal(path)).get_tensor("step/.ATTRIBUTES/VARIABLE_VALUE"))
    except _READING_ERRORS as error:
        raise _damaged(path, error) from None


def lacking(path: str, names: Iterable[str]) -> list[str]:
    """Returns those names of variables, as given to `Checkpoints`, that are not in a checkpoint.

    Raises:
      DamagedError: if it cannot be read.
    """
    try:
        saved = tf.train.load_checkpoint(_literal(path)).get_variable_to_shape_map()
    except _READING_ERRORS as error:
        raise _damaged(path, error) from None
    return [name for name in names if _key(name) not in saved]


def average_name(name: str) -> str:
    """Returns the name, as given to `Checkpoints`, of the average of a variable's values over the steps."""
    return f"{name}/average"


def trained_names(directory: str, names: Iterable[str], path: str | None = None) -> dict[str, str]:
    """Returns the name of each variable's trained value: that of its average, if the checkpoint has one.

    Args:
      directory: of the checkpoints, whose newest one is read.
      names: as given to `Checkpoints`.
      path: of the checkpoint to read instead.

    Raises:
      FileNotFoundError, DamagedError: as `newest_checkpoint`.
    """
    averages = {name: average_name(name) for name in names}
    missing = set(lacking(path or newest_checkpoint(directory), averages.values()))
    return {name: name if average in missing else average for name, average in averages.items()}


def newest_checkpoint(directory: str) -> str:
    """Returns the path of the newest checkpoint in a directory whose metadata can be read.

    Raises:
      FileNotFoundError: if there is no checkpoint.
      DamagedError: if there are checkpoints, but none can be read.
    """
    damaged = None
    for path in paths(directory):
        try:
            read_metadata(path)
            return path
        except DamagedError as error:
            damaged = damaged or error
    raise damaged or _no_checkpoint(directory)


def load_weights(
    directory: str,
    variables: Mapping[str, tf.Variable],
    log: Callable[[str], Any] = lambda line: None,
    path: str | None = None,
) -> str:
    """Assigns values from the newest checkpoint of another run that is complete.

    Args:
      directory: of the other run's checkpoints.
      variables: dict from a name, as given to `Checkpoints`, to a variable. The checkpoint may contain more.
      log: called with a line about each newer checkpoint that is damaged.
      path: of the checkpoint to read instead, which may be in another directory.

    Returns:
      The path of the checkpoint.

    Raises:
      FileNotFoundError: if there is no checkpoint.
      DamagedError: if there are checkpoints, but none can be read.
      ValueError: naming a variable that the checkpoint lacks or has in another shape.
    """
    damaged = None
    for candidate in [path] if path else paths(directory):
        try:
            check_checkpoint(candidate, variables)
        except DamagedError as error:
            damaged = damaged or error
            log(f"warning: {error}")
            continue
        reader = tf.train.load_checkpoint(_literal(candidate))
        for name, variable in variables.items():
            variable.assign(reader.get_tensor(_key(name)))
        return candidate
    raise damaged or _no_checkpoint(directory)


def _no_checkpoint(directory):
    return FileNotFoundError(f"Expected a checkpoint in {directory}. Received: none")


def _key(name):
    """Returns the key of a variable in a checkpoint."""
    return f"variables/{name.replace('.', '..').replace('/', '.S')}/.ATTRIBUTES/VARIABLE_VALUE"


def _are_same(value, other):
    """Compares values of JSON; an accent is the same as part of a letter and after it, as other systems write it."""
    return value == other or _composed(value) == _composed(other)


def _composed(value):
    return pathnames.composed(json.dumps(value, ensure_ascii=False, sort_keys=True))


def _shorten(value):
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
