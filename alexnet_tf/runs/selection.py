"""Which checkpoint of a run is evaluated: that of the best epoch, or the newest."""

import os
from typing import Any
from typing import NamedTuple

from alexnet_tf import config
from alexnet_tf.training import best_checkpoint
from alexnet_tf.utils import messages

CHOICES = ("auto", "best", "newest")


class Selection(NamedTuple):
    """A choice between the checkpoints of a run."""

    name: str  # "best" or "newest"
    directory: str  # of the newest checkpoints
    record: best_checkpoint.Record | None  # of the best checkpoint; None for the newest

    @property
    def path(self) -> str | None:
        """The path of the best checkpoint; None for the newest one that is complete."""
        return best_checkpoint.path_of(self.directory, self.record) if self.record else None

    def describe(self) -> str:
        """Returns what was chosen, and what that means for its error."""
        if not self.record:
            return "newest"
        return (
            f"best, epoch {messages.epochs(self.record.epoch)}: {100 * self.record.top1_error:.2f}% error on the "
            f"{self.record.split} set, optimistic because the epoch was selected on it"
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the choice for JSON; a file that has none is about the newest checkpoint."""
        if not self.record:
            return {"selected": self.name}
        note = f"lowest error of all epochs on the {self.record.split} set, which makes that error optimistic"
        return {"selected": self.name, "selection": {**self.record._asdict(), "note": note}}


def select(workdir: str | os.PathLike, run_config: config.Config, requested: str = "auto") -> Selection:
    """Chooses a checkpoint of a run.

    Args:
      workdir: the run's directory.
      run_config: its configuration, whose ``checkpoint`` holds for "auto"; if that is "auto" too, the best checkpoint
        is chosen if the run has recorded one, and the newest otherwise.
      requested: one of `CHOICES`.

    Raises:
      ValueError: for another choice, or if "best" is requested and the run has none.
    """
    if requested not in CHOICES:
        raise ValueError(f"Expected checkpoint to be one of {', '.join(CHOICES)}. Received: {requested!r}")
    directory = os.path.join(workdir, "checkpoints")
    name = run_config.checkpoint if requested == "auto" else requested
    record = None if name == "newest" else best_checkpoint.read(directory)
    if requested == "best" and not record:
        raise ValueError(
            f"Expected a best checkpoint in {directory}, as runs with a validation set record it. Received: none; use "
            "--checkpoint=newest"
        )
    return Selection("best" if record else "newest", directory, record)
