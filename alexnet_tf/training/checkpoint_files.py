"""Reads the checkpoints in a directory, whichever run saved them: which there are, what they contain, their weights."""

import glob
import json
import os
import re
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from alexnet_tf.utils import messages
from alexnet_tf.utils import pathnames
from alexnet_tf.utils import schema

# Raised when reading a damaged file: TensorFlow's readers translate some of its errors into Python's.
READING_ERRORS = (tf.errors.OpError, ValueError, RuntimeError, KeyError, IndexError)
_METADATA = schema.Object({}, {"classes": schema.List(schema.Text())})


class DamagedError(ValueError):
    """A checkpoint cannot be read."""


def literal_path(path: str) -> str:
    """Returns the path of a checkpoint for TensorFlow, which would take ``[`` in it for a pattern."""
    directory, name = os.path.split(path)
    return os.path.join(pathnames.without_patterns(directory), name)


def damaged_error(path: str, error: Exception) -> DamagedError:
    """Returns the error to raise for a checkpoint that cannot be read."""
    return DamagedError(f"Expected a complete checkpoint. Received: {path} ({messages.first_line(error)})")


def _listed(directory):
    """Returns the paths in TensorFlow's list."""
    try:
        state = tf.train.get_checkpoint_state(directory)
    except READING_ERRORS:
        state = None
    names = [os.path.basename(path) for path in state.all_model_checkpoint_paths] if state else []
    return [os.path.join(directory, name) for name in names]


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
      variables: dict from a name to a variable, as given to `checkpoints.Checkpoints`.
      metadata: JSON of the metadata given to `checkpoints.Checkpoints`; None skips this check.

    Raises:
      DamagedError: if the checkpoint cannot be read.
      ValueError: naming what differs.
    """
    saved_metadata = read_metadata(path)
    if metadata is not None:
        _check_metadata(path, json.loads(metadata), saved_metadata)
    reader = tf.train.load_checkpoint(literal_path(path))
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
        except READING_ERRORS as error:
            raise damaged_error(path, error) from None
        if not np.isfinite(value).all():
            raise ValueError(
                f"Expected finite numbers in {path}. Received: NaN or infinity in {name}, as training has "
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
    """Reads the metadata of a checkpoint, as given to `checkpoints.Checkpoints`.

    Raises:
      DamagedError: if it cannot be read.
    """
    try:
        reader = tf.train.load_checkpoint(literal_path(path))
        text = reader.get_tensor("facts/.ATTRIBUTES/VARIABLE_VALUE")
        return schema.parse(text, _METADATA, "the metadata of a run", path)
    except READING_ERRORS as error:
        raise DamagedError(f"Expected a checkpoint of a run. Received: {path} ({messages.first_line(error)})") from None


def read_step(path: str) -> int:
    """Reads the number of steps that were taken when a checkpoint was saved.

    Raises:
      DamagedError: if it cannot be read.
    """
    try:
        return int(tf.train.load_checkpoint(literal_path(path)).get_tensor("step/.ATTRIBUTES/VARIABLE_VALUE"))
    except READING_ERRORS as error:
        raise damaged_error(path, error) from None


def lacking(path: str, names: Iterable[str]) -> list[str]:
    """Returns those names of variables, as given to `checkpoints.Checkpoints`, that are not in a checkpoint.

    Raises:
      DamagedError: if it cannot be read.
    """
    try:
        saved = tf.train.load_checkpoint(literal_path(path)).get_variable_to_shape_map()
    except READING_ERRORS as error:
        raise damaged_error(path, error) from None
    return [name for name in names if _key(name) not in saved]


def average_name(name: str) -> str:
    """Returns the name, as given to `checkpoints.Checkpoints`, of the average of a variable's values over the steps."""
    return f"{name}/average"


def trained_names(directory: str, names: Iterable[str], path: str | None = None) -> dict[str, str]:
    """Returns the name of each variable's trained value: that of its average, if the checkpoint has one.

    Args:
      directory: of the checkpoints, whose newest one is read.
      names: as given to `checkpoints.Checkpoints`.
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
      variables: dict from a name, as given to `checkpoints.Checkpoints`, to a variable. The checkpoint may contain
        more.
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
        reader = tf.train.load_checkpoint(literal_path(candidate))
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
