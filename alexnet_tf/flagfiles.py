"""Converts a configuration to absl flags and flagfiles and back, and prints it as a table.

A run saves its configuration as a flagfile (`to_text`), so the same command line syntax runs it again.
"""

import dataclasses
import os
import textwrap

from absl import flags

from alexnet_tf import config


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
        define[field.metadata["kind"]](field.name, default, text, flag_values=flag_values)


def from_flags(flag_values: flags.FlagValues) -> config.Config:
    """Returns the configuration that parsed flags describe.

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
      ValueError: for an unknown flag, a line that is not a flag or a value outside its range.
    """
    flag_values = flags.FlagValues()
    define_flags(flag_values)
    try:
        _, *rest = flag_values(["read_flagfile", f"--flagfile={path}"])
    except flags.CantOpenFlagFileError as error:
        raise ValueError(f"{path}: {unreadable_flagfile(error)}") from None
    # A long chain of files, each naming the next, ends in a RecursionError.
    except (flags.Error, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from None
    if rest:
        # absl stops parsing flags at the first word that is not one.
        raise ValueError(f"{path}: Expected --flag=value on each line. Received: {rest[0]!r}")
    return from_flags(flag_values)


def unreadable_flagfile(error: flags.CantOpenFlagFileError) -> str:
    """Returns the message of an error about a flagfile that cannot be opened."""
    return f"Expected a flagfile that can be read. Received: {str(error).rpartition('flagfile: ')[2]}"


def to_text(run_config: config.Config) -> str:
    """Returns a configuration as the text of a flagfile."""
    lines = ["# A run's whole configuration: python tools/train.py --flagfile=THIS --workdir=DIR"]
    for field in dataclasses.fields(run_config):
        value = getattr(run_config, field.name)
        if value is not None:
            lines.append(f"--{field.name}={_format(value)}")
    return "\n".join(lines) + "\n"


def _format(value):
    if isinstance(value, tuple):
        return ",".join(_format(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def help_table() -> str:
    """Returns every hyperparameter with default, range, meaning and source, as text of at most 110 columns."""
    lines = []
    section = None
    for field in dataclasses.fields(config.Config):
        metadata = field.metadata
        if metadata["section"] != section:
            section = metadata["section"]
            lines += ["", section.upper(), f"  {'flag':<29}{'default':<11}{'range':<19}meaning [source]"]
        by_recipe = any(field.name in defaults for defaults in config.RECIPE_DEFAULTS.values())
        default = "by recipe" if by_recipe else "" if field.default is None else _format(field.default)
        default = default or "(none)"
        meaning = textwrap.wrap(f"{metadata['help']} [{metadata['source']}]", 49)
        allowed = config.describe_range(field)
        allowed = allowed.split(" | ") if metadata["choices"] else [allowed]
        for row in range(max(len(meaning), len(allowed))):
            name = f"--{field.name}" if row == 0 else ""
            value = default if row == 0 else ""
            values = allowed[row] if row < len(allowed) else ""
            text = meaning[row] if row < len(meaning) else ""
            lines.append(f"  {name:<29}{value:<11}{values:<19}{text}".rstrip())
    return "\n".join(lines).lstrip("\n")
