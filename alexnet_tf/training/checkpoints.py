"""The state of a run on the disk: saved whole or not at all, and taken up from the newest that is whole."""

import glob
import json
import os
import re
import shutil

import tensorflow as tf

from alexnet_tf.utils import files
from alexnet_tf.utils import messages

# What reading a damaged file raises: TensorFlow's readers translate its errors into Python's.
_READING_ERRORS = (tf.errors.OpError, ValueError, RuntimeError, KeyError, IndexError)
# TensorFlow's own list of the checkpoints of a directory.
_LIST = "checkpoint"


class DamagedError(ValueError):
    """A checkpoint cannot be read."""


class Checkpoints:
    """Saves the state of a run, and takes it up again.

    Args:
      directory: where the checkpoints are.
      variables: dict from a name to a ``tf.Variable``.
      schedule: has ``state()``, a string, and ``restore(string)``.
      facts: dict of what must be equal to continue, such as the classes, kept in the checkpoint as JSON.
      every: int, save at the first report that is so many steps after the last time, and at each epoch's end.
      keep: int, how many of the newest stay.
    """

    def __init__(self, directory, variables, schedule, facts, *, every=1000, keep=2):
        self._schedule = schedule
        self._facts = json.dumps(facts, sort_keys=True)
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        with tf.device("/CPU:0"):
            self._schedule_state = tf.Variable("", trainable=False)
            self._saved_facts = tf.Variable(self._facts, trainable=False)
        self._variables = variables
        self._checkpoint = tf.train.Checkpoint(
            step=self._step,
            schedule=self._schedule_state,
            facts=self._saved_facts,
            variables=dict(variables),
        )
        # The checkpoint that was restored or saved last.
        self.current = None
        self._manager = None
        self._directory = directory
        self._every = every
        self._keep = keep
        self._saved_at = 0

    @property
    def latest(self):
        """The newest checkpoint's path, or None."""
        return next(iter(paths(self._directory)), None)

    def restore(self, tell=lambda line: None):
        """Takes up the newest checkpoint that is whole.

        Args:
          tell: called with a line about each newer one that is damaged.

        Returns:
          The number of steps taken when it was saved; 0 if there is none.

        Raises:
          ValueError: if it is that of another network.
          DamagedError: if there are some and none can be read.
        """
        found = paths(self._directory)
        damaged = None
        for path in found:
            try:
                check_checkpoint(path, self._variables, self._facts)
                try:
                    # An evaluation takes the weights alone.
                    self._checkpoint.restore(path).assert_existing_objects_matched().expect_partial()
                except (*_READING_ERRORS, AssertionError) as error:
                    raise _damaged(path, error) from None
            except DamagedError as error:
                damaged = damaged or error
                tell(f"warning: {error}")
                continue
            self._schedule.restore(self._schedule_state.numpy().decode())
            self._saved_at = int(self._step)
            self.current = path
            return self._saved_at
        if damaged:
            raise damaged
        return 0

    def save(self, step):
        """Saves now, unless `step` was saved already; an older checkpoint goes only when the new one is whole.

        Raises:
          OSError: if the disk does not take it; older checkpoints are still there, and nothing half-written is.
        """
        if step == self._saved_at:
            return
        self._step.assign(step)
        self._schedule_state.assign(self._schedule.state())
        try:
            self.current = self._open().save(checkpoint_number=step)
        except (tf.errors.OpError, OSError) as error:
            self._remove_half_written(step)
            raise OSError(
                f"Expected room for a checkpoint in {self._directory}. Received: {messages.first_line(error)}; "
                f"the newest whole one is {self.latest or 'none'}"
            ) from None
        self._saved_at = step

    def _open(self):
        """TensorFlow's manager, which knows of all that are there, so that it removes the old ones."""
        if self._manager is None:
            _write_list(self._directory, paths(self._directory)[::-1])
            self._manager = tf.train.CheckpointManager(self._checkpoint, self._directory, max_to_keep=self._keep)
        return self._manager

    def _remove_half_written(self, step):
        beginnings = ["checkpoint.tmp"]
        # Otherwise it is whole, and older ones may have gone: what failed is the list of checkpoints.
        if os.path.basename(self._manager.latest_checkpoint or "") != f"ckpt-{step}":
            beginnings += [f"ckpt-{step}.", f"ckpt-{step}_temp"]
        self._remove(lambda name: name.startswith(tuple(beginnings)))

    def remove_remains(self):
        """Removes what a process left that was killed while it saved. Not to be called while another one saves."""
        whole = {os.path.basename(path) for path in paths(self._directory)}
        self._remove(lambda name: name != _LIST and name.split(".")[0] not in whole)

    def _remove(self, is_unwanted):
        for name in os.listdir(self._directory) if os.path.isdir(self._directory) else ():
            if name.startswith(("checkpoint", "ckpt-")) and is_unwanted(name):
                path = os.path.join(self._directory, name)
                shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)

    def __call__(self, progress):
        if progress.epoch_ended or progress.step - self._saved_at >= self._every:
            self.save(progress.step)


def _damaged(path, error):
    return DamagedError(f"Expected a whole checkpoint. Received: {path} ({messages.first_line(error)})")


def _listed(directory):
    """The checkpoints that TensorFlow's list names, those that are still in `directory` as far as names tell."""
    try:
        state = tf.train.get_checkpoint_state(directory)
    except _READING_ERRORS:
        state = None
    names = [os.path.basename(path) for path in state.all_model_checkpoint_paths] if state else []
    return [os.path.join(directory, name) for name in names]


def _write_list(directory, found):
    """Writes TensorFlow's list, a text of its `CheckpointState`; the oldest checkpoint comes first.

    Its times are made up: of those of a clock that was set back since, TensorFlow would never remove what is older.
    """
    if not found:
        return
    names = [os.path.basename(path) for path in found]
    with files.atomic_write(os.path.join(directory, _LIST)) as file:
        file.write(f'model_checkpoint_path: "{names[-1]}"\n')
        file.writelines(f'all_model_checkpoint_paths: "{name}"\n' for name in names)
        file.writelines(f"all_model_checkpoint_timestamps: {1 + number}\n" for number in range(len(names)))
        file.write("last_preserved_timestamp: 0\n")


def paths(directory):
    """The checkpoints in a directory, whole or not, the newest first.

    Those that are there and those that TensorFlow's list names: neither a list nor an index that is lost hides them.
    """
    found = {path.removesuffix(".index") for path in glob.glob(os.path.join(glob.escape(directory), "ckpt-*.index"))}
    numbered = {path: re.fullmatch(r"ckpt-(\d+)", os.path.basename(path)) for path in {*found, *_listed(directory)}}
    return sorted((path for path, match in numbered.items() if match), key=lambda path: -int(numbered[path][1]))


def check_checkpoint(path, variables, facts=None):
    """Checks that a checkpoint is one of this network and whole, reading all that `variables` will take from it.

    Args:
      path: of the checkpoint.
      variables: dict from a name to a ``tf.Variable``, as given to `Checkpoints`.
      facts: the JSON string of `Checkpoints`, or None to leave it.

    Raises:
      DamagedError: if it cannot be read.
      ValueError: naming what differs.
    """
    saved_facts = read_facts(path)
    reader = tf.train.load_checkpoint(path)
    shapes = reader.get_variable_to_shape_map()
    if facts is not None and saved_facts != json.loads(facts):
        ours, theirs = json.loads(facts), saved_facts
        differing = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
        raise ValueError(
            f"Expected {path} to be of "
            + "; ".join(f"{name}={_short(ours.get(name))}" for name in differing)
            + ". Received: "
            + "; ".join(f"{name}={_short(theirs.get(name))}" for name in differing)
        )
    for name, variable in variables.items():
        key = _key(name)
        saved = shapes.get(key)
        if saved is None or list(saved) != variable.shape.as_list():
            raise ValueError(
                f"Expected {path} to hold {name} of shape {variable.shape.as_list()}. Received: "
                + ("none" if saved is None else f"shape {list(saved)}")
            )
        try:
            reader.get_tensor(key)
        except _READING_ERRORS as error:
            raise _damaged(path, error) from None


def read_facts(path):
    """What a checkpoint must be of to be continued, as given to `Checkpoints`: a dict.

    Raises:
      DamagedError: if it cannot be read.
    """
    try:
        reader = tf.train.load_checkpoint(path)
        return json.loads(reader.get_tensor("facts/.ATTRIBUTES/VARIABLE_VALUE").decode())
    except _READING_ERRORS as error:
        raise DamagedError(f"Expected a checkpoint of a run. Received: {path} ({messages.first_line(error)})") from None


def newest_checkpoint(directory):
    """The path of the newest checkpoint in a directory whose facts can be read.

    Raises:
      FileNotFoundError: if there is none.
      DamagedError: if there are some and none can be read.
    """
    damaged = None
    for path in paths(directory):
        try:
            read_facts(path)
            return path
        except DamagedError as error:
            damaged = damaged or error
    raise damaged or FileNotFoundError(f"Expected a checkpoint in {directory}. Received: none")


def load_weights(directory, variables):
    """Takes values out of another run's newest checkpoint.

    Args:
      directory: of the run's checkpoints.
      variables: dict from a name, as given to `Checkpoints`, to a ``tf.Variable``; there may be others in it.

    Returns:
      The checkpoint's path.

    Raises:
      FileNotFoundError: if there is no checkpoint.
      ValueError: if it cannot be read, or naming a variable that is not in it or of another shape.
    """
    path = newest_checkpoint(directory)
    check_checkpoint(path, variables)
    reader = tf.train.load_checkpoint(path)
    for name, variable in variables.items():
        variable.assign(reader.get_tensor(_key(name)))
    return path


def _key(name):
    """Where a checkpoint keeps the variable of a name."""
    return f"variables/{name.replace('.', '..').replace('/', '.S')}/.ATTRIBUTES/VARIABLE_VALUE"


def _short(value):
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
