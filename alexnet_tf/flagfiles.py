"""Converts a configuration to absl flags and flagfiles and back, and prints it as a table.

A run saves its configuration as a flagfile (`to_text`), so the same command line syntax runs it again.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import re
import textwrap
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence

from absl import flags

from alexnet_tf import config
from alexnet_tf.utils import pathnames
from alexnet_tf.utils import text_files

# Old spellings of flags, which stay valid in command lines, flagfiles and the headers of flagfiles.
ALIASES = {
    "left_out": "removed_layer",
    "most_drops": "max_drops",
    "most_bias_drops": "max_bias_drops",
    # A flag of `commands.experiments`.
    "harvest": "collect",
}
# Old spellings of values, by flag.
VALUE_ALIASES = {
    "mean_crop": {"central": "center"},
    "views": {"centre": "center"},
}

# For messages about files.
WHAT = "a flagfile"

_PACKAGE = os.path.dirname(os.path.abspath(__file__))
# Where flagfiles are found by name: in an installed package, and in a checkout.
FLAGFILE_DIRECTORIES = (os.path.join(_PACKAGE, "_flags"), os.path.join(os.path.dirname(_PACKAGE), "flags"))
_MAX_INCLUDES = 50
# What contradicts no other field, of fields that only training needs.
_NEUTRAL = {"schedule": "epochs", "drop_epochs": (), "stop_after": 0, "checkpoint": "auto"}
_NUMBERS = {int: flags.IntegerParser, float: flags.FloatParser}
_QUOTED = re.compile(r'".*"', re.DOTALL)


class _PathParser(flags.ArgumentParser):
    """Parses a path."""

    def parse(self, argument):
        return pathnames.expand(super().parse(argument))


class _NumberParser(flags.ArgumentParser):
    """Parses a number, or the word `config.AUTO`."""

    def __init__(self, parser):
        self._parser = parser
        self.syntactic_help = f"{parser.syntactic_help} or {config.AUTO}"

    def parse(self, argument):
        return argument if argument == config.AUTO else self._parser.parse(argument)

    def flag_type(self):
        return self._parser.flag_type()


class _PathsParser(flags.ListParser):
    """Parses paths separated by commas, which are also allowed within quotes and in the names of existing files."""

    def parse(self, argument):
        items = super().parse(argument)
        if not isinstance(argument, str) or '"' in argument:
            return [pathnames.expand(item) for item in items]
        parts, paths = argument.split(",") if argument else [], []
        while parts:
            joined = [pathnames.expand(",".join(parts[:count]).strip()) for count in range(1, len(parts) + 1)]
            # The first that exists: a file "a,b.jpg" is one path, unless there is a file "a".
            count = next((count for count, path in enumerate(joined, 1) if os.path.lexists(path)), 1)
            paths.append(joined[count - 1])
            parts = parts[count:]
        return paths


def define_path(name: str, default: str, help: str, flag_values: flags.FlagValues) -> flags.FlagHolder[str]:
    """Defines a flag of a path, in which ``~`` stands for the home directory: see `pathnames.expand`."""
    return flags.DEFINE(_PathParser(), name, default, help, flag_values, flags.ArgumentSerializer())


def define_paths(
    name: str, default: Sequence[str], help: str, flag_values: flags.FlagValues
) -> flags.FlagHolder[list[str]]:
    """Defines a flag of paths separated by commas; see `define_path`."""
    return flags.DEFINE(_PathsParser(), name, default, help, flag_values, flags.CsvListSerializer(","))


def define_flags(flag_values: flags.FlagValues) -> None:
    """Defines one flag per field of `config.Config`."""
    define = {
        str: flags.DEFINE_string,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        bool: flags.DEFINE_boolean,
        tuple: flags.DEFINE_list,
        list: flags.DEFINE_list,
    }
    for field in dataclasses.fields(config.Config):
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        text = f"{field.metadata['help']} ({field.metadata['source']})"
        kind = field.metadata["kind"]
        if kind in _NUMBERS and field.metadata["may_be_auto"]:
            parser = _NumberParser(_NUMBERS[kind]())
            flags.DEFINE(parser, field.name, default, text, flag_values, flags.ArgumentSerializer())
        else:
            define_field = define_path if field.metadata["is_path"] else define[kind]
            define_field(field.name, default, text, flag_values=flag_values)


def from_flags(flag_values: flags.FlagValues, fields: Sequence[str] = ()) -> config.Config:
    """Returns the configuration that parsed flags describe.

    Args:
      flag_values: the parsed flags.
      fields: the fields that the program uses; empty for all. Others that only training needs, such as the schedule,
        do not contradict them.

    Raises:
      ValueError: for a value outside its range, or an item of a list of numbers that is not a number.
    """
    values = {}
    for field in dataclasses.fields(config.Config):
        value = getattr(flag_values, field.name)
        if isinstance(value, list):
            value = tuple(item.strip() for item in value if item.strip())
            if field.metadata["kind"] is list:
                value = tuple(_number(field.name, item) for item in value)
        values[field.name] = value
    if fields:
        values |= {name: value for name, value in _NEUTRAL.items() if name not in fields}
    return config.Config(**values)


def _number(name, text):
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"Expected {name} to be numbers separated by commas. Received: {text!r}") from None


def read_flagfile(path: str | os.PathLike) -> config.Config:
    """Returns the configuration that a flagfile describes.

    Args:
      path: the flagfile, such as a run's config.flags.

    Raises:
      ValueError: for a file that cannot be read, an unknown flag, a line that is not a flag or a value outside its
        range.
    """
    flag_values = flags.FlagValues()
    define_flags(flag_values)
    try:
        _, *rest = flag_values(["read_flagfile", *expand(_read_lines(str(path), ()), flag_values)])
    # absl's search for a similar flag recurses over the characters of an unknown one.
    except (flags.Error, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    if rest:
        # absl stops parsing flags at the first word that is not one.
        raise ValueError(f"{path}: Expected --flag=value on each line. Received: {rest[0]!r}")
    return from_flags(flag_values)


def from_values(values: Mapping[str, str], where: str | os.PathLike) -> config.Config:
    """Returns the configuration of values by field, as in a flagfile. Other fields have their defaults.

    Args:
      values: texts by field.
      where: what messages name.

    Raises:
      ValueError: for an unknown field, or a value outside its range.
    """
    flag_values = flags.FlagValues()
    define_flags(flag_values)
    if unknown := [name for name in values if name not in flag_values]:
        raise ValueError(f"{where}: Expected fields of the configuration. Received: {unknown[0]!r}")
    try:
        flag_values(["from_values", *(f"--{name}={value}" for name, value in values.items())])
        return from_flags(flag_values)
    except (flags.Error, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None


def expand(arguments: Sequence[str], flag_values: flags.FlagValues) -> list[str]:
    """Replaces ``--flagfile`` by the flags of that file, and old spellings by current ones.

    Args:
      arguments: a command line without the program's name.
      flag_values: the flags that are defined.

    Returns:
      The arguments for ``flag_values`` to parse. Whatever follows the first word that is not a flag is unchanged.

    Raises:
      ValueError: for a flagfile that is not found or cannot be read.
    """
    expanded, rest = [], list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument == "--" or not argument.startswith("-"):
            return [*expanded, argument, *rest]
        dashes = "--" if argument.startswith("--") else "-"
        name, equals, value = argument.removeprefix(dashes).partition("=")
        name = ALIASES.get(name, name)
        takes_next = not equals and rest and (name == "flagfile" or name in flag_values)
        if takes_next and (name == "flagfile" or not flag_values[name].boolean):
            equals, value = "=", rest.pop(0)
        if name == "flagfile":
            if not value:
                raise ValueError("Expected a file in --flagfile=FILE. Received: none")
            rest = _read_lines(find_flagfile(value), ()) + rest
        else:
            expanded.append(f"{dashes}{name}{equals}{current_value(name, value)}")
    return expanded


def _read_lines(path, including):
    """The flags in a flagfile and in those that it includes; `including` are the files that led to it."""
    real_path = os.path.realpath(path)
    if real_path in including:
        return []
    if len(including) == _MAX_INCLUDES:
        raise ValueError(f"Expected at most {_MAX_INCLUDES} flagfiles that include each other. Received: more")
    lines = []
    for line in map(str.strip, text_files.read(path, WHAT).split("\n")):
        if line.startswith(("--flagfile=", "-flagfile=")):
            included = find_flagfile(line.partition("=")[2].strip(), included_from=path)
            lines += _read_lines(included, (*including, real_path))
        elif line and not line.startswith(("#", "//")):
            name, equals, value = line.partition("=")
            lines.append(f"{name}{equals}{_unquote(value)}")
    return lines


def _quote(value):
    """Returns a value as it is written in a flagfile: as a JSON string if the line could not be read back otherwise.

    Such are values that begin or end with a space or have quotes around them, and those with a newline.
    """
    is_plain = value == value.strip() and value.isprintable() and not _QUOTED.fullmatch(value)
    return value if is_plain else json.dumps(value)


def _unquote(value):
    """Returns the value that a text in a flagfile stands for; without quotes around it, the text itself."""
    if _QUOTED.fullmatch(value):
        with contextlib.suppress(ValueError):
            return json.loads(value)
    return value


def find_flagfile(name: str, included_from: str = "") -> str:
    """Returns the path of a flagfile.

    It is searched for in the directory of the file that includes it, in the current directory, and among the flagfiles
    that come with the package, where NAME, NAME.flags and flags/NAME.flags are the same.

    Args:
      name: a path, or the name of a flagfile that comes with the package, such as "quickstart".
      included_from: the path of the flagfile that includes it; empty for none.

    Raises:
      ValueError: if there is no such file, naming the places searched.
    """
    name = pathnames.expand(name)
    places = [name]
    if included_from:
        folder = os.path.dirname(included_from)
        above, folder_name = os.path.split(os.path.abspath(folder))
        # In flags/a.flags, flags/b.flags is the file next to it, from whatever directory a program is started.
        siblings = [os.path.join(above, name)] if name.split("/")[0] == folder_name else []
        places = [os.path.join(folder, name), *siblings, name]
    directory, base = os.path.split(name)
    if directory in ("", "flags"):
        base = base.removesuffix(".flags") + ".flags"
        places += [os.path.join(place, base) for place in FLAGFILE_DIRECTORIES if os.path.isdir(place)]
    for place in places:
        if os.path.exists(place) and not os.path.isdir(place):
            return place
    raise ValueError(
        f"Expected a flagfile. Received: {name}; searched {', '.join(dict.fromkeys(places))}"
        + (f"; {included_from} names it" if included_from else "")
    )


def current_value(name: str, value):
    """Returns the current spelling of a flag's value."""
    return VALUE_ALIASES[name].get(value, value) if name in VALUE_ALIASES else value


def current_fields(values: dict) -> dict:
    """Returns values of fields of `config.Config`, by name, in their current spelling."""
    return {ALIASES.get(name, name): current_value(name, value) for name, value in values.items()}


def to_text(run_config: config.Config) -> str:
    """Returns a configuration as the text of a flagfile."""
    lines = ["# The configuration of a run. To repeat it: alexnet-tf train --flagfile=THIS --workdir=DIR"]
    for field in dataclasses.fields(run_config):
        value = getattr(run_config, field.name)
        if value is not None:
            lines.append(f"--{field.name}={_quote(format_value(value))}")
    return "\n".join(lines) + "\n"


def fixed_values(run_config: config.Config) -> dict[str, str]:
    """Returns the values that must not change within a run, as in a flagfile, by field."""
    return {
        field.name: format_value(getattr(run_config, field.name))
        for field in dataclasses.fields(run_config)
        if not field.metadata["may_change"]
    }


def format_value(value) -> str:
    """Returns a flag's value as in a flagfile; empty for None."""
    if isinstance(value, (tuple, list)):
        return ",".join(format_value(item) for item in value)
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def help_table(names: Sequence[str] = ()) -> str:
    """Returns hyperparameters with default, range, meaning and source, as text of at most 100 columns.

    Args:
      names: the fields of `config.Config` to list; empty for all.
    """
    rows = []
    section = None
    for field in dataclasses.fields(config.Config):
        if names and field.name not in names:
            continue
        if field.metadata["section"] != section:
            section = field.metadata["section"]
            rows += ["", section.upper(), ("flag", "default", "range", "meaning [source]")]
        rows.append(_help_row(field))
    return "\n".join(columns(rows)).lstrip("\n")


def _help_row(field):
    depends_on_recipe = any(field.name in defaults for defaults in config.RECIPE_DEFAULTS.values())
    default = "by recipe" if depends_on_recipe else format_value(field.default) or "(none)"
    values = config.describe_range(field)
    if field.metadata["choices"]:
        values = values.replace(" | ", "\n")
    return f"--{field.name}", default, values, f"{field.metadata['help']} [{field.metadata['source']}]"


def columns(rows: Iterable[str | tuple[str, ...]], width: int = 100) -> list[str]:
    """Aligns rows of cells in columns, and wraps the last column.

    Args:
      rows: tuples of equally many cells, and strings, which become lines of their own.
      width: the length of a line.

    Returns:
      A list of lines.
    """
    rows = list(rows)
    firsts = zip(*(row[:-1] for row in rows if isinstance(row, tuple)))
    widths = [2 + max(len(line) for cell in cells for line in cell.split("\n")) for cells in firsts]
    lines = []
    for row in rows:
        if isinstance(row, str):
            lines.append(row)
            continue
        # Not at hyphens, which flags and names have.
        text = textwrap.wrap(row[-1], width - 2 - sum(widths), break_on_hyphens=False)
        cells = [*(cell.split("\n") for cell in row[:-1]), text]
        for parts in itertools.zip_longest(*cells, fillvalue=""):
            aligned = [f"{part:<{size}}" for part, size in zip(parts, (*widths, 0))]
            lines.append(f"  {''.join(aligned)}".rstrip())
    return lines
