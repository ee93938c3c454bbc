"""Experiments: what a flagfile's header says, and in what its configuration differs from its base's.

An experiment is a flagfile that begins with such a header, a run is an experiment with a seed.
"""

import dataclasses
import os
import pathlib
import re
import tempfile
from typing import NamedTuple

from alexnet_tf import config as configuration
from alexnet_tf import flagfiles

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
# What stands in results for each value of the key "Views".
VIEWS = {"centre": "centre_crop", "ten": "ten_views"}

_KEY_LINE = re.compile(r"# ([A-Z][a-z]+):(?: (.*))?")
_FIGURES = re.compile(r"(\d+(?:\.\d+)?)(?: / (\d+(?:\.\d+)?))?(?![\d.])")
_NONE = re.compile(r"none\b")
# Where a run finds things, but not what it learns.
PLACES = ("source", "data_dir")
IMAGENET = ("imagenet", "ilsvrc")


class Header(NamedTuple):
    """The keys of a flagfile's first comment; empty where they are missing."""

    claim: str
    command: str
    data: str  # such as cifar10 or ilsvrc2012
    cost: str
    expectation: str  # what is expected, as it is written
    expected: tuple = ()  # top-1 error in percent, or top-1 and top-5; empty where nobody has recorded one
    band: tuple = ()  # how far from each of these is still as expected, in points
    paper: str = ""
    original: str = ""
    base: str = ""  # the experiment to compare with
    changes: tuple = ()  # fields of the configuration in which it differs from its base
    views: str = ""  # of VIEWS

    @property
    def needs_imagenet(self):
        return self.data.lower().startswith(IMAGENET)


class Experiment(NamedTuple):
    """A flagfile."""

    name: str  # the file's stem
    path: str
    header: Header
    config: configuration.Config  # resolved, as it is written


def read_header(path):
    """Reads the comment that a flagfile begins with: ``# Key: value`` lines, then whatever comment.

    A value goes on in lines that are indented.

    Args:
      path: of the flagfile.

    Returns:
      A `Header`.

    Raises:
      ValueError: for an unknown, missing or doubled key or a value that is none, naming file and key; or a file that
        cannot be read.
    """
    values = _split_header(path)
    if missing := [key for key in MANDATORY if key not in values]:
        raise ValueError(f"{path}: Expected {missing[0]} in the header. Received: {', '.join(values) or 'no key'}")
    found = {key.lower(): value for key, value in values.items()}
    if found.get("base") == "none":
        del found["base"]
    if "changes" in found:
        found["changes"] = tuple(found["changes"].replace(",", " ").split())
        fields = [field.name for field in dataclasses.fields(configuration.Config)]
        if unknown := [name for name in found["changes"] if name not in fields]:
            raise ValueError(f"{path}: Expected Changes to be flags of the configuration. Received: {unknown[0]}")
    if found.get("views", "ten") not in VIEWS:
        raise ValueError(f"{path}: Expected Views to be {' | '.join(VIEWS)}. Received: {found['views']!r}")
    found["expectation"] = found["expected"]
    for key in ("expected", "band"):
        figures = _FIGURES.match(found[key])
        if not figures and not _NONE.match(found[key]):
            raise ValueError(
                f"{path}: Expected {key.title()} to begin with errors in percent, such as 18 or 40.7 / 18.2, or with "
                f"none. Received: {found[key]!r}"
            )
        found[key] = tuple(float(figure) for figure in figures.groups() if figure) if figures else ()
    if len(found["expected"]) != len(found["band"]):
        raise ValueError(
            f"{path}: Expected Band to have as many figures as Expected. Received: Expected {values.get('Expected')}, "
            f"Band {values.get('Band')}"
        )
    return Header(**found)


def _split_header(path):
    """The header's values by key, as text."""
    values, key, is_free = {}, None, False
    try:
        lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"Expected a flagfile. Received: {path} ({error})") from None
    for line in lines:
        if not line.startswith("#"):
            break
        found = _KEY_LINE.fullmatch(line.rstrip())
        if found and is_free and found[1] in KEYS:
            raise ValueError(f"{path}: Expected {found[1]} before other comments. Received: it behind them")
        if is_free:
            continue
        if found:
            key = found[1]
            if key not in KEYS:
                raise ValueError(f"{path}: Expected keys among {', '.join(KEYS)}. Received: {key}")
            if key in values:
                raise ValueError(f"{path}: Expected {key} once. Received: twice")
            values[key] = found[2] or ""
        elif key and line.startswith("#  ") and line[1:].strip():
            values[key] = f"{values[key]} {line[1:].strip()}".strip()
        else:
            is_free = bool(line[1:].strip())
    if empty := [key for key, value in values.items() if not value.strip()]:
        raise ValueError(f"{path}: Expected a value behind {empty[0]}. Received: none")
    return values


def read_experiment(path):
    """Reads a flagfile and its header.

    Returns:
      An `Experiment`.

    Raises:
      ValueError: for a bad header or configuration, naming the file.
    """
    return Experiment(pathlib.Path(path).stem, str(path), read_header(path), configure(path))


def configure(path, flags=()):
    """The resolved configuration of a flagfile with flags behind it."""
    try:
        if not flags:
            return flagfiles.read_flagfile(path).resolved()
        # In the syntax that a run gets.
        with tempfile.NamedTemporaryFile("w", suffix=".flags", encoding="utf-8") as file:
            file.write("\n".join([f"--flagfile={path}", *flags]) + "\n")
            file.flush()
            return flagfiles.read_flagfile(file.name).resolved()
    except ValueError as error:
        raise ValueError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None


def base_path(path, header):
    """The path of the base's flagfile, beside the file itself."""
    base = os.path.join(os.path.dirname(path), f"{header.base}.flags")
    if not os.path.isfile(base):
        raise ValueError(f"{path}: Expected Base to name a flagfile beside it. Received: {header.base}, no {base}")
    return base


def check_base(experiment):
    """Raises ValueError unless an experiment differs from its base in just what its header says."""
    header, path = experiment.header, experiment.path
    if header.base == experiment.name:
        raise ValueError(f"{path}: Expected Base to name another flagfile. Received: itself")
    found = _base_difference(experiment)
    if header.base and sorted(found) != sorted(header.changes):
        raise ValueError(
            f"{path}: Expected Changes to name what differs from {header.base}: {' '.join(found)}. Received: "
            f"{' '.join(header.changes) or 'none'}"
        )


def base_difference(path):
    """The fields of the configuration in which a flagfile differs from its base, all but the data's place and the seed.

    Args:
      path: of the flagfile.

    Returns:
      A list of names in the order of `config.Config`; empty without a base.

    Raises:
      ValueError: for a bad header or configuration, or a base that is not there.
    """
    return _base_difference(read_experiment(path))


def _base_difference(experiment):
    if not experiment.header.base:
        return []
    return different(experiment.config, configure(base_path(experiment.path, experiment.header)))


def different(config, other, but=(*PLACES, "seed")):
    """Names of the fields, `but` some, that differ between two configurations."""
    names = [field.name for field in dataclasses.fields(config) if field.name not in but]
    return [name for name in names if getattr(config, name) != getattr(other, name)]


def learns_differently(config, other):
    """Names of the fields that differ and change what is learnt."""
    config, other = published(config), published(other)
    return [*config.differences(other), *(["epochs"] if config.epochs != other.epochs else [])]


def published(config):
    """A configuration without the paths of a machine, as it stands in a result.

    A run that another one begins with is named by its experiment, as in a flagfile: it has the same seed.
    """
    name = os.path.basename(config.initialize_from.rstrip("/")).removesuffix(f"-{config.seed}")
    return dataclasses.replace(config, source="", data_dir="", initialize_from=name)
