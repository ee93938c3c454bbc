"""The headers of flagfiles, and the differences between their configurations.

An experiment is a flagfile that begins with a header; a run is an experiment with a seed.
"""

import dataclasses
import os
import pathlib
import re
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

from alexnet_tf import config
from alexnet_tf import flagfiles
from alexnet_tf.utils import text_files

KEYS = (
    "Claim",
    "Command",
    "Paper",
    "Original",
    "Expected",
    "Band",
    "Base",
    "Changes",
    "Data",
    "Views",
    "Cost",
)
MANDATORY = ("Claim", "Command", "Expected", "Band", "Data", "Cost")
# The key of an evaluation's results for each value of "Views".
VIEWS = {"center": "center_crop", "ten": "ten_views"}

_KEY_LINE = re.compile(r"# ([A-Z][a-z]+):(?: (.*))?")
_ERRORS = re.compile(r"(\d+(?:\.\d+)?)(?: / (\d+(?:\.\d+)?))?(?![\d.])")
_NONE = re.compile(r"none\b")
# Fields that say where the data are. They don't change what is trained.
DATA_FIELDS = ("source", "data_dir")
IMAGENET = ("imagenet", "ilsvrc")
# A part of ImageNet that anybody can get.
TINY_IMAGENET = "tiny_imagenet"


class Header(NamedTuple):
    """The header of a flagfile; missing keys are empty."""

    claim: str
    command: str
    data: str  # such as cifar10 or ilsvrc2012
    cost: str
    expectation: str  # the text of the key "Expected"
    expected: tuple[float, ...] = ()  # top-1, or top-1 and top-5 error in percent; empty where none is recorded
    band: tuple[float, ...] = ()  # tolerance of each expected error, in percentage points
    paper: str = ""
    original: str = ""
    base: str = ""  # the experiment to compare with
    changes: tuple[str, ...] = ()  # fields of the configuration that differ from the base's
    views: str = ""  # a key of VIEWS

    @property
    def needs_imagenet(self) -> bool:
        return self.data.lower().startswith(IMAGENET)

    @property
    def has_top5_error(self) -> bool:
        """Whether the top-5 error is compared even if none is expected."""
        return self.needs_imagenet or self.data == TINY_IMAGENET


class Experiment(NamedTuple):
    """A flagfile with a header."""

    name: str  # the file name without its extension
    path: str
    header: Header
    config: config.Config  # resolved, without overrides


def read_header(path: str | os.PathLike) -> Header:
    """Reads the header of a flagfile.

    A header is the comment at the beginning of the file: lines ``# Key: value``, then free text. Indented lines
    continue a value.

    Args:
      path: path of the flagfile.

    Returns:
      A `Header`.

    Raises:
      ValueError: if a key is unknown, missing or repeated, if a value is invalid, or if the file cannot be read. The
        message names the file and the key.
    """
    texts = _split_header(path)
    if missing := [key for key in MANDATORY if key not in texts]:
        raise ValueError(f"{path}: Expected {missing[0]} in the header. Received: {', '.join(texts) or 'no key'}")
    values = {key.lower(): text for key, text in texts.items()}
    if values.get("base") == "none":
        del values["base"]
    if "changes" in values:
        values["changes"] = _parse_changes(path, values["changes"])
    if "views" in values:
        values["views"] = _parse_views(path, values["views"])
    values["expectation"] = values["expected"]
    for key in ("expected", "band"):
        values[key] = _parse_errors(path, key.title(), values[key])
    if len(values["expected"]) != len(values["band"]):
        raise ValueError(
            f"{path}: Expected Band to have as many numbers as Expected. Received: Expected {texts['Expected']}, "
            f"Band {texts['Band']}"
        )
    return Header(**values)


def _parse_changes(path, text):
    names = tuple(flagfiles.ALIASES.get(name, name) for name in text.replace(",", " ").split())
    fields = [field.name for field in dataclasses.fields(config.Config)]
    if unknown := [name for name in names if name not in fields]:
        raise ValueError(f"{path}: Expected Changes to be flags of the configuration. Received: {unknown[0]}")
    return names


def _parse_views(path, text):
    views = flagfiles.current_value("views", text)
    if views not in VIEWS:
        raise ValueError(f"{path}: Expected Views to be {' | '.join(VIEWS)}. Received: {text!r}")
    return views


def _parse_errors(path, key, text):
    errors = _ERRORS.match(text)
    if not errors and not _NONE.match(text):
        raise ValueError(
            f"{path}: Expected {key} to begin with errors in percent, such as 18 or 40.7 / 18.2, or with "
            f"none. Received: {text!r}"
        )
    return tuple(float(error) for error in errors.groups() if error) if errors else ()


def _split_header(path):
    """Returns the header's values by key, as text."""
    values, key, is_free_text = {}, None, False
    for line in _read_comment(path):
        match = _KEY_LINE.fullmatch(line.rstrip())
        if is_free_text:
            if match and match[1] in KEYS:
                raise ValueError(f"{path}: Expected {match[1]} before other comments, but it follows them")
        elif match:
            key = match[1]
            if key not in KEYS:
                raise ValueError(f"{path}: Expected keys among {', '.join(KEYS)}. Received: {key}")
            if key in values:
                raise ValueError(f"{path}: Expected {key} once in the header, but it is repeated")
            values[key] = match[2] or ""
        elif key and line.startswith("#  ") and line[1:].strip():
            values[key] = f"{values[key]} {line[1:].strip()}".strip()
        else:
            is_free_text = bool(line[1:].strip())
    if empty := [key for key, value in values.items() if not value.strip()]:
        raise ValueError(f"{path}: Expected a value for {empty[0]}, but it is empty")
    return values


def _read_comment(path):
    """Returns the lines of the comment that a file begins with."""
    lines = text_files.read(path, flagfiles.WHAT).splitlines()
    end = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return lines[:end]


def read_experiment(path: str | os.PathLike) -> Experiment:
    """Reads a flagfile and its header.

    Raises:
      ValueError: if the header or the configuration is invalid. The message names the file.
    """
    return Experiment(pathlib.Path(path).stem, str(path), read_header(path), configure(path))


def configure(path: str | os.PathLike, flags: Sequence[str] = ()) -> config.Config:
    """Returns the configuration of a flagfile followed by `flags`, such as ``--epochs=2``, as before a run starts."""
    try:
        if not flags:
            return flagfiles.read_flagfile(path).resolved(before_start=True)
        # A file, so that flags are parsed exactly as a run parses them.
        with tempfile.NamedTemporaryFile("w", suffix=".flags", encoding="utf-8") as file:
            file.write("\n".join([f"--flagfile={path}", *flags]) + "\n")
            file.flush()
            return flagfiles.read_flagfile(file.name).resolved(before_start=True)
    except ValueError as error:
        raise ValueError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None


def base_path(path: str, header: Header) -> str:
    """Returns the path of the base's flagfile, found as one that the flagfile includes.

    Raises:
      ValueError: if there is no such file.
    """
    try:
        return flagfiles.find_flagfile(f"{header.base}.flags", included_from=path)
    except ValueError as error:
        raise ValueError(f"{path}: Base: {error}") from None


def check_base(experiment: Experiment) -> None:
    """Checks that an experiment differs from its base in exactly the fields that its header names.

    Raises:
      ValueError: if it does not.
    """
    header, path = experiment.header, experiment.path
    if header.base == experiment.name:
        raise ValueError(f"{path}: Expected Base to name another flagfile. Received: itself")
    difference = _base_difference(experiment)
    if header.base and sorted(difference) != sorted(header.changes):
        raise ValueError(
            f"{path}: Expected Changes to name what differs from {header.base}: {' '.join(difference)}. Received: "
            f"{' '.join(header.changes) or 'none'}"
        )


def base_difference(path: str | os.PathLike) -> list[str]:
    """Returns the fields in which a flagfile differs from its base, other than the data's location and the seed.

    Args:
      path: path of the flagfile.

    Returns:
      A list of names in the order of `config.Config`; empty without a base.

    Raises:
      ValueError: if the header or the configuration is invalid, or the base does not exist.
    """
    return _base_difference(read_experiment(path))


def _base_difference(experiment):
    if not experiment.header.base:
        return []
    return differing_fields(experiment.config, configure(base_path(experiment.path, experiment.header)))


def differing_fields(
    first: config.Config, second: config.Config, ignored: Sequence[str] = (*DATA_FIELDS, "seed")
) -> list[str]:
    """Returns the names of the fields, other than the `ignored` ones, that differ between two configurations."""
    names = [field.name for field in dataclasses.fields(first) if field.name not in ignored]
    # What a run takes from another one is known when it starts.
    inherited = [name for name in config.INHERITED_DEFAULTS if None in (getattr(first, name), getattr(second, name))]
    if not (first.initialize_from or second.initialize_from):
        inherited.append("new_layers")
    return [name for name in names if getattr(first, name) != getattr(second, name) and name not in inherited]


def training_differences(first: config.Config, second: config.Config) -> list[str]:
    """Returns the names of the fields that differ and change the trained weights."""
    first, second = without_paths(first.with_record(second)), without_paths(second.with_record(first))
    return [*first.differences(second), *(["epochs"] if first.epochs != second.epochs else [])]


def without_paths(run_config: config.Config) -> config.Config:
    """Returns a configuration without the paths of a machine, as results contain it.

    A run from which another one is initialized is named by its experiment, as in a flagfile: both have the same seed.
    """
    name = os.path.basename(run_config.initialize_from.rstrip("/")).removesuffix(f"-{run_config.seed}")
    return dataclasses.replace(run_config, source="", data_dir="", initialize_from=name)
