"""The fitted temperatures of a run: ``temperature.json`` in its work directory."""

import os
from typing import Any

from alexnet_tf.evaluation import calibration
from alexnet_tf.runs import classification
from alexnet_tf.runs import split_results
from alexnet_tf.utils import files
from alexnet_tf.utils import messages
from alexnet_tf.utils import schema

NAME = "temperature.json"
_TEMPERATURE = schema.Number(low=calibration.MIN_TEMPERATURE, high=calibration.MAX_TEMPERATURE)
_KEYS = {views: split_results.json_key(views) for views in split_results.VIEWS}
_FILE = schema.Object(
    {
        "step": schema.Number(low=0, integer=True),
        "split": schema.Text(),
        "num_examples": schema.Number(low=1, integer=True),
        **dict.fromkeys(_KEYS.values(), _TEMPERATURE),
    }
)


def write(workdir: str | os.PathLike, choice: classification.Choice, step: int) -> str:
    """Writes the temperatures that were fitted for the checkpoint of a step; returns the path."""
    path = os.path.join(workdir, NAME)
    values = {"step": step, "split": choice.split, "num_examples": choice.num_examples}
    files.write_json(path, values | {_KEYS[views]: each for views, each in choice.temperatures.items()})
    return path


def read(workdir: str | os.PathLike, step: int) -> dict[str, Any] | None:
    """Reads the temperatures of a checkpoint.

    Args:
      workdir: the run's directory.
      step: of the checkpoint.

    Returns:
      A dict: "split", "num_examples", and the temperature by each name of `split_results.VIEWS`. None if none was
      fitted for this checkpoint.

    Raises:
      OSError, ValueError: if the file cannot be read, or is damaged.
    """
    path = os.path.join(workdir, NAME)
    if not os.path.exists(path):
        return None
    stored = schema.read_json(path, _FILE, "the temperatures of a run", f"delete it, and run {_command(workdir)}")
    if stored["step"] != step:
        return None
    return {**{views: stored[key] for views, key in _KEYS.items()}, **{k: stored[k] for k in ("split", "num_examples")}}


def require(workdir: str | os.PathLike, step: int) -> dict[str, Any]:
    """As `read`, but raises a ValueError if no temperature was fitted for the checkpoint."""
    found = read(workdir, step)
    if found is None:
        raise ValueError(
            f"Expected a temperature that was fitted for step {step} in {workdir}. Received: none; run "
            f"{_command(workdir)}"
        )
    return found


def _command(workdir):
    return f"{messages.program('evaluate')} --workdir={workdir} --fit_temperature"
