"""Opens existing runs: their configuration, class names, image statistics and trained network."""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras

from alexnet_tf import config
from alexnet_tf import flagfiles
from alexnet_tf.data import statistics
from alexnet_tf.runs import builders
from alexnet_tf.runs import data_record
from alexnet_tf.runs import selection
from alexnet_tf.training import checkpoint_files
from alexnet_tf.utils import messages
from alexnet_tf.utils import schema

# What an imported run has in place of a `data_record`.
IMPORT_RECORD = "weights.json"
_IMPORT_STRUCTURE = schema.Object({}, optional={"class_words": schema.Map(schema.Text())})


class OpenedRun(NamedTuple):
    """An existing run with the network of one of its checkpoints."""

    workdir: str
    config: config.Config  # resolved
    class_names: list[str]
    image_statistics: statistics.Statistics
    model: keras.Model
    step: int  # how many steps the network was trained for
    checkpoint: str  # path, without the suffixes of its files
    chosen: selection.Selection  # which checkpoint that is
    # Keras layers whose weights the checkpoint does not have, as that of an import of convolutions alone.
    missing_layers: tuple[str, ...] = ()


def read_config(workdir: str | os.PathLike, source: str | None = None, data_dir: str | None = None) -> config.Config:
    """Returns the resolved configuration of an existing run.

    Args:
      workdir: the run's directory.
      source, data_dir: the new location of a data set that has moved; None or empty for both keeps the run's own.

    Raises:
      FileNotFoundError: if there is no run in the directory.
      ValueError: if ``config.flags`` is damaged.
    """
    path = os.path.join(workdir, "config.flags")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"Expected a run with its config.flags in {workdir}. Received: none")
    run_config = flagfiles.read_flagfile(path).resolved()
    if run_config.split_rule == "auto":
        # Version 0.1 had no other rule, and did not write it.
        run_config = dataclasses.replace(run_config, split_rule="shuffle")
    if source or data_dir:
        run_config = dataclasses.replace(run_config, source=source or "", data_dir=data_dir or "")
    return run_config


def read_class_names(workdir: str | os.PathLike) -> list[str]:
    """Returns the names of a run's classes, from its newest checkpoint.

    Raises:
      FileNotFoundError: if there is no checkpoint.
      ValueError: if the checkpoint cannot be read.
    """
    newest = checkpoint_files.newest_checkpoint(os.path.join(workdir, "checkpoints"))
    return list(checkpoint_files.read_metadata(newest)["classes"])


def read_class_words(workdir: str | os.PathLike) -> dict[str, str]:
    """Returns the words of a run's classes, such as "goldfish, Carassius auratus" of n01443537, by class name.

    Empty if there are none, and for a run whose names of classes are words.

    Raises:
      ValueError: if the file that has them is damaged.
    """
    path = os.path.join(workdir, IMPORT_RECORD)
    if os.path.isfile(path):
        what, remedy = "the record of an import", "import the weights again"
        record = schema.read_json(path, _IMPORT_STRUCTURE, what, remedy)
        schema.check_seal(record, what, path, remedy)
        return record.get("class_words", {})
    return data_record.read_class_words(workdir)


def read_statistics(workdir: str | os.PathLike) -> statistics.Statistics:
    """Returns the statistics of the images that a run was trained on.

    Raises:
      FileNotFoundError: if the run has no ``statistics.npz``.
      ValueError: if the file is damaged.
    """
    return statistics.load(os.path.join(workdir, "statistics.npz"))


def restore_network(
    run_config: config.Config,
    class_names: Sequence[str],
    workdir: str | os.PathLike,
    log: Callable[[str], None] = lambda line: None,
    path: str | None = None,
    **changes: Any,
) -> tuple[keras.Model, int, str]:
    """Restores the network of a run from a checkpoint, on one device.

    Args:
      run_config: from `read_config`.
      class_names: those of the data set, or from `read_class_names`.
      workdir: the run's directory.
      log: called with one line if a newer checkpoint is damaged.
      path: of the checkpoint; None for the newest one that is complete.
      **changes: arguments of the network that differ from the configuration.

    Returns:
      The network, the number of steps that it was trained for, and the path of the checkpoint.

    Raises:
      FileNotFoundError: if there is no checkpoint.
      ValueError: if the checkpoint has other classes or another network, or cannot be read.
    """
    if not class_names:
        raise ValueError(
            f"Expected a run with a classifier in {workdir}. Received: a run without one; train a "
            f"classifier with {messages.program('train')} --initialize_from={workdir}"
        )
    model = builders.build_model(run_config, len(class_names), devices=None, **changes)
    return model, *restore_weights(model, run_config, class_names, workdir, log, path)


def restore_weights(
    model: keras.Model,
    run_config: config.Config,
    class_names: Sequence[str],
    workdir: str | os.PathLike,
    log: Callable[[str], None] = lambda line: None,
    path: str | None = None,
) -> tuple[int, str]:
    """Restores the weights of a network as `restore_network`; returns the number of steps and the checkpoint's path."""
    schedule = builders.build_schedule(run_config)
    saved = builders.build_checkpoints(run_config, model, None, schedule, class_names, workdir)
    if not (path or saved.latest):
        raise FileNotFoundError(f"Expected a checkpoint in {workdir}/checkpoints. Received: none")
    with _remedy(path):
        step = saved.restore(log, path)
    return step, saved.current


@contextlib.contextmanager
def _remedy(path):
    """Says what to do if the best checkpoint, at `path`, is damaged; None for the newest, of which others are tried."""
    try:
        yield
    except checkpoint_files.DamagedError as error:
        if path:
            raise checkpoint_files.DamagedError(f"{error}; use --checkpoint=newest") from None
        raise


def open_run(
    workdir: str | os.PathLike,
    run_config: config.Config | None = None,
    class_names: Sequence[str] | None = None,
    checkpoint: str = "auto",
    **changes: Any,
) -> OpenedRun:
    """Opens an existing run at its best or newest checkpoint. Its data set is not needed.

    Args:
      workdir: the run's directory.
      run_config: from `read_config`, possibly changed; None reads it.
      class_names: those of the data set, which the checkpoint must match; None takes the checkpoint's.
      checkpoint: "best", "newest" or "auto", as in `selection.select`.
      **changes: arguments of the network that differ from the configuration.

    Raises:
      FileNotFoundError: if a file of the run is missing.
      ValueError: if a file of the run is damaged, or the checkpoint has other classes or another network.
    """
    run_config = run_config or read_config(workdir)
    chosen = selection.select(workdir, run_config, checkpoint)
    names = list(read_class_names(workdir) if class_names is None else class_names)
    model, step, path = restore_network(run_config, names, workdir, path=chosen.path, **changes)
    return OpenedRun(os.fspath(workdir), run_config, names, read_statistics(workdir), model, step, path, chosen)


def open_available(
    workdir: str | os.PathLike,
    log: Callable[[str], None] = lambda line: None,
    checkpoint: str = "auto",
    **changes: Any,
) -> OpenedRun:
    """Opens a run as `open_run` does, also one whose checkpoint has the weights of some layers only.

    Args:
      workdir: the run's directory.
      log: called with one line if a newer checkpoint is damaged.
      checkpoint: as in `open_run`.
      **changes: arguments of the network that differ from the configuration.

    Returns:
      An `OpenedRun`. Its `missing_layers` have random weights.

    Raises:
      FileNotFoundError, ValueError: as `open_run`, and if the checkpoint has no layer of the network.
    """
    run_config = read_config(workdir)
    directory = os.path.join(workdir, "checkpoints")
    chosen = selection.select(workdir, run_config, checkpoint)
    path = chosen.path or checkpoint_files.newest_checkpoint(directory)
    with _remedy(chosen.path):
        metadata = checkpoint_files.read_metadata(path)
    names = list(metadata["classes"])
    # A network has at least two classes, even if the checkpoint lacks the layer that distinguishes them.
    model = builders.build_model(run_config, max(2, len(names)), devices=None, **changes)
    lacking = set(checkpoint_files.lacking(path, [variable.path for variable in model.variables]))
    missing = ()
    if lacking:
        _check_metadata(path, metadata, run_config)
        kept, missing = _kept(model, lacking, path)
        with _remedy(chosen.path):
            path = checkpoint_files.load_weights(directory, kept, log, chosen.path)
        step = checkpoint_files.read_step(path)
    else:
        step, path = restore_weights(model, run_config, names, workdir, log, chosen.path)
    run_statistics = read_statistics(workdir)
    return OpenedRun(os.fspath(workdir), run_config, names, run_statistics, model, step, path, chosen, missing)


def _kept(model, lacking, path):
    """Returns the variables to restore, by name, and the layers that a checkpoint lacks entirely."""
    by_layer = {layer.name: layer.variables for layer in model.layers if layer.count_params()}
    missing = tuple(name for name, own in by_layer.items() if all(variable.path in lacking for variable in own))
    if len(missing) == len(by_layer):
        raise ValueError(f"Expected weights of {model.name} in {path}. Received: none")
    kept = [variable for name, own in by_layer.items() if name not in missing for variable in own]
    return {variable.path: variable.value for variable in kept}, missing


def _check_metadata(path, metadata, run_config):
    for name in ("network", "recipe"):
        expected, received = getattr(run_config, name), metadata.get(name)
        if received != expected:
            raise ValueError(f"Expected {path} to have {name}={expected}. Received: {name}={received}")


def identity(run: OpenedRun) -> dict[str, Any]:
    """Returns what features of a run depend on, for JSON."""
    return {
        "run": os.path.abspath(run.workdir),
        "checkpoint": os.path.basename(run.checkpoint),
        "step": run.step,
        # The index of a checkpoint has a checksum of each weight.
        "weights": hashlib.sha256(pathlib.Path(f"{run.checkpoint}.index").read_bytes()).hexdigest(),
        "precision": run.config.precision,
    }
