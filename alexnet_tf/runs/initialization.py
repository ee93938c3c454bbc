"""Starts a run from another one: its weights, and on request its preprocessing."""

import dataclasses
import os
from collections.abc import Callable

import keras

from alexnet_tf import config
from alexnet_tf import flagfiles
from alexnet_tf.data import statistics
from alexnet_tf.models import registry
from alexnet_tf.runs import builders
from alexnet_tf.runs import pretrained
from alexnet_tf.runs import restore
from alexnet_tf.runs import selection
from alexnet_tf.training import checkpoint_files
from alexnet_tf.training import parameter_groups


def inherit(
    run_config: config.Config, workdir: str | os.PathLike, log: Callable[[str], None] = lambda line: None
) -> config.Config:
    """Fills in the values that a run takes from its own record, or else from the run that it is initialized from.

    A run that has started keeps its values, so that the other run is not needed to resume. What a new run chooses by
    its images is left open.

    Args:
      run_config: the configuration.
      workdir: the run's directory, which may not exist.
      log: called with a line about the choice of ``initialize_from=auto``.

    Raises:
      FileNotFoundError: if a new run starts from a directory that has no run.
      ValueError: if a ``config.flags`` is damaged, or if ``initialize_from=auto`` contradicts the network.
    """
    recorded = _config_of(workdir)
    if recorded:
        run_config = run_config.with_record(recorded)
    elif run_config.initialize_from == config.AUTO:
        run_config = _choose(run_config, log)
    missing = [name for name in config.INHERITED_DEFAULTS if getattr(run_config, name) is None]
    if not (missing and run_config.initialize_from):
        return run_config
    _check(run_config, workdir)
    other = recorded or restore.read_config(pretrained.find(run_config.initialize_from))
    return dataclasses.replace(run_config, **{name: getattr(other, name) for name in missing})


def _choose(run_config, log):
    """Returns the configuration with a run, and its network, in place of ``initialize_from=auto``."""
    name, reason = config.IMPORTED_CONVOLUTIONS, "it is there"
    if not os.path.isfile(os.path.join(name, "config.flags")):
        name, reason = config.PACKAGED_CONVOLUTIONS, f"there is no run in {name}"
    other, default = restore.read_config(pretrained.find(name)), config.Config()
    fields = other.network_fields()
    accepted = {field: (getattr(default, field), getattr(other, field)) for field in fields}
    given = [field for field in fields if getattr(run_config, field) not in accepted[field]]
    if given:
        texts = ", ".join(f"{field}={flagfiles.format_value(getattr(run_config, field))}" for field in given)
        raise ValueError(
            f"Expected the network of {name}, which initialize_from=auto takes. Received: {texts}; name a run with "
            "this network in --initialize_from, or pass --initialize_from= to start from random weights"
        )
    log(f"initialize_from=auto: {name} with network={other.network}, as {reason}")
    return dataclasses.replace(run_config, initialize_from=name, **{field: getattr(other, field) for field in fields})


def check(run_config: config.Config, workdir: str | os.PathLike) -> None:
    """Checks that ``initialize_from`` has what a new run needs; a run that resumes needs nothing of it.

    Raises:
      FileNotFoundError: if there is no checkpoint or, if requested, no mean image.
      checkpoint_files.DamagedError: if there are checkpoints, but none can be read.
      ValueError: if the requested mean image is damaged or has another size.
    """
    if run_config.initialize_from:
        _check(run_config, workdir)
        if run_config.mean_image != "data" and not os.path.exists(os.path.join(workdir, "statistics.npz")):
            _other_mean_image(run_config)


def _check(run_config, workdir):
    if checkpoint_files.paths(os.path.join(workdir, "checkpoints")):
        return
    other = pretrained.find(run_config.initialize_from)
    chosen = _selected(other, _config_of(other))
    try:
        if chosen.path:
            checkpoint_files.read_metadata(chosen.path)
            return
    except checkpoint_files.DamagedError:
        pass  # `_load` warns of it.
    checkpoint_files.newest_checkpoint(chosen.directory)


def _selected(workdir, other):
    """Chooses a checkpoint of another run, of which `other` is the configuration, or None if it has none."""
    return selection.select(workdir, other or config.Config())


def with_mean_image(run_config: config.Config, image_statistics: statistics.Statistics) -> statistics.Statistics:
    """Returns the statistics of a new run: those of its images, with the mean image that ``mean_image`` asks for."""
    if run_config.mean_image == "data":
        return image_statistics
    return image_statistics._replace(mean_image=_other_mean_image(run_config))


def _other_mean_image(run_config):
    """Returns the mean image of the run in ``initialize_from``."""
    found = restore.read_statistics(pretrained.find(run_config.initialize_from)).mean_image
    size = run_config.image_size
    if found.shape[:2] != (size, size):
        raise ValueError(
            f"Expected a mean image of {size} x {size} in {run_config.initialize_from}. Received: "
            f"{found.shape[0]} x {found.shape[1]}; pass --mean_image=data or another --image_size"
        )
    return found


def initialize(
    run_config: config.Config,
    model: keras.Model,
    image_statistics: statistics.Statistics | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> str:
    """Initializes a network with the weights of another run, except for the new layers.

    Args:
      run_config: with ``initialize_from`` and ``new_layers``.
      model: the network. It may have a different number of classes than the other run if its last layer is new.
      image_statistics: what the new run subtracts, for the line about the preprocessing; None for no such line.
      log: called with lines about what is taken from the other run, and where the two differ.

    Returns:
      The path of the other run's checkpoint.

    Raises:
      FileNotFoundError: if the other run has no checkpoint.
      ValueError: if the network has no such new layer, or if another layer is not in the checkpoint or has a different
        shape there.
    """
    try:
        builders.check_layers("new_layers", run_config.new_layers, model, include_heads=True)
    except ValueError as error:
        default = ",".join(registry.find(run_config.network).output_layers)
        raise ValueError(f"{error}; the default for {run_config.network} is --new_layers={default}") from None
    # The random state of dropout is not a weight.
    kept = {
        variable.path: variable.value
        for variable in model.variables
        if parameter_groups.layer_of(variable.path) not in run_config.new_layers
        and not variable.path.startswith("dropout")
    }
    workdir = pretrained.find(run_config.initialize_from)
    other = _config_of(workdir)
    differing = network_differences(run_config, other) if other else []
    remedy = " ".join(f"--{name}={flagfiles.format_value(getattr(other, name))}" for name in differing)
    described = f"{run_config.initialize_from} was trained with {remedy.replace('--', '').replace(' ', ', ')}"
    try:
        path, chosen = _load(_selected(workdir, other), kept, log)
    except ValueError as error:
        hint = f". As {described}, pass {remedy}, or name" if differing else ". Name"
        raise ValueError(f"{error}{hint} layers to initialize at random in new_layers") from None
    new = f"all layers but {', '.join(run_config.new_layers)}" if run_config.new_layers else "all layers"
    log(f"initialized {new} from {path} ({chosen.describe()})")
    if differing:
        log(
            f"warning: {described}, so its weights compute something else here; pass {remedy} to start from its network"
        )
    if other and image_statistics:
        log(_preprocessing(run_config, other, image_statistics))
    return path


def _load(chosen, variables, log):
    """Assigns the values of the chosen checkpoint, or of the newest if that is damaged; returns its path and choice."""

    def load(path):
        trained = checkpoint_files.trained_names(chosen.directory, variables, path)
        values = {trained[name]: value for name, value in variables.items()}
        return checkpoint_files.load_weights(chosen.directory, values, log if path is None else lambda line: None, path)

    if chosen.path:
        try:
            return load(chosen.path), chosen
        except checkpoint_files.DamagedError as error:
            log(f"warning: {error}; the newest checkpoint is used")
    return load(None), selection.Selection("newest", chosen.directory, None)


def _config_of(workdir):
    """Returns the configuration of a run, or None for a directory that only has checkpoints."""
    return restore.read_config(workdir) if os.path.exists(os.path.join(workdir, "config.flags")) else None


def network_differences(run_config: config.Config, other: config.Config) -> list[str]:
    """Returns the names of the fields in which two networks differ, other than those that only matter in training."""
    # A layer that only one of them has is no difference if it, or what reads it, is new anyway.
    extra = {"sixth_convolution": "conv6", "bottleneck": "fc8"}
    return [
        name
        for name in run_config.network_fields()
        if getattr(run_config, name) != getattr(other, name) and extra.get(name) not in run_config.new_layers
    ]


def _preprocessing(run_config, other, image_statistics):
    """Returns the line about the preprocessing of the new run and that of the other one."""
    name, scale = run_config.initialize_from, f"input_scale={run_config.input_scale:g}"
    scale += f", as in {name}" if run_config.input_scale == other.input_scale else f" (not {other.input_scale:g})"
    if run_config.mean_image != "data":
        mean, advice = f"the mean image of {name} is subtracted", "--mean_image=data subtracts that of the data"
        return f"preprocessing: {scale}; {mean}; {advice}"
    mean = f"the mean image of the data is subtracted, {image_statistics.mean_image.mean():.1f} gray levels on average"
    try:
        others = restore.read_statistics(pretrained.find(name)).mean_image.mean()
    except (OSError, ValueError):
        return f"preprocessing: {scale}; {mean}"
    advice = "--mean_image=initialize_from subtracts that one"
    return f"preprocessing: {scale}; {mean}, not {others:.1f} as in {name}; {advice}"
