"""Checkpoints of a run: saved atomically, and restored from the newest one that is complete."""

import glob
import json
import os
import re
import shutil
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from alexnet_tf.training import checkpoint_files
from alexnet_tf.training import loop
from alexnet_tf.training import schedules
from alexnet_tf.utils import files
from alexnet_tf.utils import messages
from alexnet_tf.utils import pathnames
from alexnet_tf.utils import schema

# TensorFlow's own list of the checkpoints in a directory.
_LIST = "checkpoint"
# Names that TensorFlow and `files.atomic_write` give to the files of a checkpoint and of the list, complete or not.
_OWN = re.compile(
    r"(?P<checkpoint>ckpt-\d+)(_temp(_[0-9a-f]+)?|\.(index|data-\d{5}-of-\d{5})(\.tempstate\d+)?)"
    r"|checkpoint\.(part|tmp[0-9a-f]+)"
)
_SCHEDULE = schema.List(schema.Nullable(schema.Number()))


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
        return next(iter(checkpoint_files.paths(self._directory)), None)

    def restore(self, log: Callable[[str], Any] = lambda line: None, path: str | None = None) -> int:
        """Restores the newest checkpoint that is complete.

        Args:
          log: called with a line about each newer one that is damaged.
          path: of the checkpoint to restore instead, which may be in another directory.

        Returns:
          The number of steps taken when it was saved; 0 if there is no checkpoint.

        Raises:
          ValueError: if it belongs to another network.
          checkpoint_files.DamagedError: if there are checkpoints, but none can be read.
        """
        damaged = None
        for candidate in [path] if path else checkpoint_files.paths(self._directory):
            try:
                self._read(candidate)
            except checkpoint_files.DamagedError as error:
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
        checkpoint_files.check_checkpoint(path, self._variables, self._metadata)
        try:
            # An evaluation restores only the weights.
            self._checkpoint.restore(
                checkpoint_files.literal_path(path)
            ).assert_existing_objects_matched().expect_partial()
            state = self._schedule_state.numpy()
            schema.parse(state, _SCHEDULE, "the state of a schedule", path)
            self._schedule.restore(state.decode())
        except (*checkpoint_files.READING_ERRORS, AssertionError, TypeError) as error:
            raise checkpoint_files.damaged_error(path, error) from None

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
            _write_list(self._directory, checkpoint_files.paths(self._directory)[::-1])
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
        complete = {os.path.basename(path) for path in checkpoint_files.paths(self._directory)}
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


def _sync(path):
    """Waits until the files of a checkpoint are on disk, so that a power cut leaves it or the one before."""
    files.sync(glob.glob(f"{glob.escape(path)}.*"))


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
