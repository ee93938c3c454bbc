"""The checkpoint of the epoch with the lowest monitored error, which is kept besides the newest ones.

It is in ``best/`` within the directory of the checkpoints, with ``best.json``, which names it. Its files are hard links
where the file system has them. A checkpoint in ``best/`` counts only once ``best.json`` names it, and the one before is
removed after that; so a kill or a full disk leaves one of the two.
"""

import glob
import math
import os
import re
import shutil
from collections.abc import Iterable
from typing import Any
from typing import NamedTuple

from alexnet_tf.training import checkpoint_files
from alexnet_tf.training import loop
from alexnet_tf.training import metrics
from alexnet_tf.utils import files
from alexnet_tf.utils import schema

_FOLDER = "best"
_RECORD = "best.json"
_OWN = re.compile(r"(ckpt-\d+)\.(index|data-\d{5}-of-\d{5})(\.part)?|best\.json\.part")
_WHAT = "the record of the best checkpoint"
_REMEDY = "delete it, or use --checkpoint=newest"
_STEP = schema.Number(low=1, integer=True)
_STRUCTURE = schema.Object(
    {
        "step": _STEP,
        "epoch": schema.Number(positive=True),
        "top1_error": schema.Number(low=0, high=1),
        "loss": schema.Number(),
        "split": schema.Text(),
    }
)


class Record(NamedTuple):
    """An epoch and its result on the monitored split."""

    step: int  # steps taken at the end of the epoch
    epoch: float
    top1_error: float  # on the monitored split, in [0, 1]
    loss: float  # there, in nats
    split: str

    def is_better_than(self, other: "Record | None") -> bool:
        """Whether the error is lower, or equal with a lower loss, or both are equal and the epoch is earlier."""
        return other is None or self._order() < other._order()

    def _order(self):
        return self.top1_error, self.loss, self.step


class Monitor:
    """Follows the monitored split by epoch.

    Args:
      split: its name.
      validations: records of earlier epochs of the run, as `metrics.validations` returns them.
      recorded: from `read`; None if there is no best checkpoint yet.

    Attributes:
      best: `Record` of the best epoch, or None.
    """

    def __init__(self, split: str, validations: Iterable[dict[str, Any]] = (), recorded: Record | None = None):
        self._split = split
        self._errors = []
        self.best = recorded
        for each in validations:
            self.add(each["step"], each["epoch"], each["top1_error"], each["loss"])

    def add(self, step: int, epoch: float, top1_error: float, loss: float) -> None:
        """Records the result of an epoch."""
        self._errors.append(top1_error)
        record = Record(step, epoch, top1_error, loss, self._split)
        if math.isfinite(top1_error) and math.isfinite(loss) and record.is_better_than(self.best):
            self.best = record

    @property
    def epochs_without_improvement(self) -> int:
        """Number of epochs since the lowest error was first reached."""
        return metrics.epochs_without_improvement(self._errors)


class Keeper:
    """Keeps the best checkpoint; an action that must follow the one that saves checkpoints.

    Args:
      directory: of the checkpoints.
      monitor: of the run, already updated when an epoch ends.
    """

    def __init__(self, directory: str, monitor: Monitor):
        self._directory = directory
        self._monitor = monitor

    def __call__(self, progress: loop.Progress) -> None:
        if progress.epoch_ended and self._monitor.best and self._monitor.best.step == progress.step:
            self._keep(self._monitor.best)

    def resume(self) -> None:
        """Completes what a killed process left. Must not be called while another process saves."""
        best, recorded = self._monitor.best, read(self._directory)
        name = best and f"ckpt-{best.step}"
        if best != recorded and name in map(os.path.basename, checkpoint_files.paths(self._directory)):
            self._keep(best)
        elif os.path.isdir(os.path.join(self._directory, _FOLDER)):
            self._remove_others(recorded)

    def _keep(self, best):
        folder = os.path.join(self._directory, _FOLDER)
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(self._directory, f"ckpt-{best.step}")
        for source in glob.glob(f"{glob.escape(path)}.*"):
            _link(source, os.path.join(folder, os.path.basename(source)))
        files.sync_directory(folder)
        files.write_json(os.path.join(folder, _RECORD), schema.sealed(best._asdict()))
        self._remove_others(best)

    def _remove_others(self, best):
        folder = os.path.join(self._directory, _FOLDER)
        for name in os.listdir(folder):
            own = _OWN.fullmatch(name)
            if own and (name.endswith(".part") or not best or own[1] != f"ckpt-{best.step}"):
                os.remove(os.path.join(folder, name))


def _link(source, target):
    """Gives a file, which is never changed, a second name; a copy where the file system has no hard links."""
    temporary = f"{target}.part"
    if os.path.lexists(temporary):
        os.remove(temporary)
    try:
        os.link(source, temporary)
    except OSError:
        try:
            with files.named_if_full(target):
                shutil.copyfile(source, temporary)
            files.sync([temporary])
        except BaseException:
            if os.path.lexists(temporary):
                os.remove(temporary)
            raise
    if os.path.lexists(target):
        # Renaming a link to another link of the same file would do nothing.
        os.remove(target)
    os.replace(temporary, target)


def is_kept(directory: str) -> bool:
    """Whether there is a best checkpoint; its record is not read.

    Args:
      directory: of the checkpoints.
    """
    return os.path.isfile(os.path.join(directory, _FOLDER, _RECORD))


def read(directory: str) -> Record | None:
    """Returns the record of the best checkpoint, or None if there is none.

    Args:
      directory: of the checkpoints.

    Raises:
      ValueError: if the record is damaged.
    """
    if not is_kept(directory):
        return None
    path = os.path.join(directory, _FOLDER, _RECORD)
    record = schema.read_json(path, _STRUCTURE, _WHAT, _REMEDY)
    schema.check_seal(record, _WHAT, path, _REMEDY)
    return Record(**{name: record[name] for name in Record._fields})


def path_of(directory: str, record: Record) -> str:
    """Returns the path of the best checkpoint, without the suffixes of its files."""
    return os.path.join(directory, _FOLDER, f"ckpt-{record.step}")
