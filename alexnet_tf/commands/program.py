"""Command lines, settings of the process, and one line for an error: what the programs share."""

import dataclasses
import importlib
import os
import signal
import sys
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import NamedTuple
from typing import NoReturn

from absl import flags

from alexnet_tf import config
from alexnet_tf import flagfiles
from alexnet_tf.commands import interruptions
from alexnet_tf.models import keras_import
from alexnet_tf.models import registry
from alexnet_tf.training import stopping
from alexnet_tf.utils import escaping
from alexnet_tf.utils import machine
from alexnet_tf.utils import messages
from alexnet_tf.utils import pathnames
from alexnet_tf.utils import standard_error

USAGE_STATUS = 2
ALL_FIELDS = tuple(field.name for field in dataclasses.fields(config.Config))
# Fields that take effect in any process, and not only in training.
PROCESS_FIELDS = ("devices", "deterministic", "intra_op_threads", "inter_op_threads", "tf32")
# What a program says that is stopped, unless it knows more.
STARTS_OVER = "stopped; nothing half-written remains, and the same command starts over"
# Fields that a program uses when it evaluates a run, whose own configuration has all others.
RUN_FIELDS = ("source", "data_dir", "checkpoint", *PROCESS_FIELDS)


class UsageError(ValueError):
    """A command line that is incomplete or contradictory. The program exits with status 2."""

    exit_status = USAGE_STATUS


class Parsed(NamedTuple):
    """A parsed command line."""

    program: str  # name of the program, for messages
    flag_values: flags.FlagValues
    arguments: list[str]  # what follows the flags


def run(
    main: Callable[[config.Config], None],
    argv: Sequence[str],
    purpose: str,
    own_flags: flags.FlagValues,
    *,
    fields: Sequence[str] = ALL_FIELDS,
    required: Sequence[flags.FlagHolder] = (),
    stop: stopping.Stop | None = None,
    for_process: Callable[[config.Config], config.Config] = lambda run_config: run_config,
) -> None:
    """Parses a command line, sets up TensorFlow and calls ``main(run_config)``.

    Exits with status 1 and one line on an error, or with status 2 if the command line is invalid.

    Args:
      main: function of a `config.Config`.
      argv: the name of the program and its arguments.
      purpose: the first lines of ``--help``.
      own_flags: flags of the program other than the configuration's.
      fields: the fields of `config.Config` that the program uses. Flags of other fields are accepted, with a warning
        that they have no effect.
      required: flags that must be given.
      stop: as in `call`.
      for_process: function from the configuration to the one that `set_up_process` gets. It must not use TensorFlow.
    """
    parsed = parse(argv, purpose, own_flags, fields=fields)

    def call_main():
        run_config = flagfiles.from_flags(parsed.flag_values, fields)
        for flag in required:
            require(flag)
        set_up_process(for_process(run_config))
        main(run_config)

    call(parsed, call_main, stop)


def run_plain(
    main: Callable[[list[str]], None],
    argv: Sequence[str],
    purpose: str,
    own_flags: flags.FlagValues,
    *,
    arguments: str = "",
    required: Sequence[flags.FlagHolder] = (),
) -> None:
    """Like `run`, for a program without the configuration's flags: calls ``main(arguments)``.

    Args:
      main: function of a list of the arguments that follow the flags.
      argv, purpose, own_flags, required: as in `run`.
      arguments: a name for these arguments, at least one of which is required; empty if the program takes none.
    """
    parsed = parse(argv, purpose, own_flags, arguments=arguments)

    def call_main():
        for flag in required:
            require(flag)
        set_up_process(config.Config().resolved())
        main(parsed.arguments)

    call(parsed, call_main)


def call(parsed: Parsed, function: Callable[[], None], stop: stopping.Stop | None = None) -> None:
    """Calls a function; on a request to stop, and on an error that a user can act on, exits with one line.

    Args:
      parsed: from `parse`.
      function: the program.
      stop: the request that Ctrl-C, SIGHUP and SIGTERM make. A second Ctrl-C ends the program at once. With None, each
        of them ends it at once, which is safe, as files are written atomically.
    """
    stop = stop or stopping.Stop(STARTS_OVER)
    with interruptions.unread_output_is_dropped(), interruptions.handled(stop.request):
        try:
            function()
            sys.stdout.flush()
        except KeyboardInterrupt:
            _fail(parsed.program, "stopped at once", 128 + signal.SIGINT)
        except stopping.Stopped as stopped:
            _fail(parsed.program, stopped, stopped.code)
        except Exception as error:
            if parsed.flag_values.traceback or not _is_expected(error):
                raise
            _fail(parsed.program, error, getattr(error, "exit_status", 1))


def parse(
    argv: Sequence[str],
    purpose: str,
    own_flags: flags.FlagValues,
    *,
    fields: Sequence[str] = (),
    arguments: str = "",
) -> Parsed:
    """Parses a command line. Exits with status 0 after ``--help``, and with status 2 if it is invalid.

    Args:
      argv, purpose, own_flags, fields: as in `run`.
      arguments: as in `run_plain`.
    """
    name = os.path.basename(argv[0])
    own_flags.unparse_flags()
    flag_values = flags.FlagValues()
    flag_values.append_flag_values(own_flags)
    if fields:
        flagfiles.define_flags(flag_values)
    flags.DEFINE_boolean("traceback", False, "show the traceback of an error", flag_values=flag_values)
    if {"--help", "-h", "--helpshort", "--helpfull"} & set(argv[1:]):
        print_help(_help(purpose, flag_values, [*own_flags, "traceback"], fields, arguments))
        sys.exit(0)
    try:
        rest = flag_values([name, *flagfiles.expand(argv[1:], flag_values)])[1:]
        _check_text(argv[1:], rest if arguments else [])
        if rest and not arguments:
            raise UsageError(f"Expected flags only. Received: {' '.join(rest)}")
        if arguments and not rest:
            raise UsageError(f"Expected at least one {arguments.rstrip('.')}. Received: none")
    # absl's search for a similar flag recurses over the characters of an unknown one.
    except (flags.Error, ValueError, RecursionError) as error:
        _fail(name, error, USAGE_STATUS)
    own_flags.mark_as_parsed()
    if unused := [field for field in ALL_FIELDS if fields and field not in fields and flag_values[field].present]:
        print(f"{name}: no effect in this program: --{', --'.join(unused)}", file=sys.stderr)
    return Parsed(name, flag_values, rest)


def _check_text(given, images):
    """Raises UsageError for an argument, other than an image to read, that is not UTF-8: no file could contain it."""
    for argument in given:
        if not pathnames.is_text(argument) and argument not in images:
            received = pathnames.printable(argument)
            remedy = "rename the file or folder, or use a link to it"
            raise UsageError(f"Expected arguments in UTF-8. Received: {received}; {remedy}")


def define_checkpoint(flag_values: flags.FlagValues) -> flags.FlagHolder:
    """Defines the configuration's flag ``checkpoint`` for a program without the others."""
    field = next(field for field in dataclasses.fields(config.Config) if field.name == "checkpoint")
    return flags.DEFINE_enum(
        field.name, field.default, field.metadata["choices"], field.metadata["help"], flag_values=flag_values
    )


def print_help(text: str) -> None:
    """Prints a text, of which a reader such as ``head`` may take only the beginning."""
    with interruptions.unread_output_is_dropped():
        print(text)


def require(flag: flags.FlagHolder):
    """Returns the value of a flag.

    Raises:
      UsageError: if it is empty.
    """
    if not flag.value:
        raise UsageError(f"Expected --{flag.name}. Received: none")
    return flag.value


def report_unused(holders: Iterable[flags.FlagHolder], where: str) -> None:
    """Prints a line about flags that were given but have no effect.

    Args:
      holders: the flags that have none.
      where: why not, such as "without --server".
    """
    if given := [f"--{holder.name}" for holder in holders if holder.present]:
        print(f"warning: no effect {where}: {', '.join(given)}", file=sys.stderr)


def integers(flag: flags.FlagHolder, example: str) -> tuple[int, ...]:
    """Returns the value of a list flag as integers of at least 0.

    Raises:
      UsageError: if an item is not such a number; `example` is what the message shows.
    """
    if not all(text.strip().isdecimal() for text in flag.value):
        raise UsageError(f"Expected --{flag.name} such as {example}. Received: {','.join(flag.value)}")
    return tuple(map(int, flag.value))


def command(name: str) -> list[str]:
    """Returns the command, without flags, that starts ``alexnet-tf NAME`` in another process, installed or not."""
    return [sys.executable, os.path.join(os.path.dirname(os.path.abspath(__file__)), "__main__.py"), name]


def load_tensorflow() -> None:
    """Imports TensorFlow, and suppresses what it logs to standard error meanwhile."""
    # Read on import: its C++ log has nothing that a user could act on.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with standard_error.suppressed():
        importlib.import_module("tensorflow")


def set_up_process(run_config: config.Config) -> None:
    """Imports TensorFlow and makes the settings that hold for the whole process.

    Raises:
      ValueError: if the environment or the user's settings of Keras choose another Keras than this package needs.
    """
    if message := keras_import.problem():
        raise ValueError(message)
    load_tensorflow()
    import absl.logging
    import tensorflow as tf

    absl.logging.set_verbosity(absl.logging.ERROR)
    tf.get_logger().setLevel("ERROR")
    # Otherwise TensorFlow, in child processes as well, reserves all memory of a GPU.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    last_cpu = max((int(name.rsplit(":", 1)[1]) for name in run_config.devices if _is_cpu(name)), default=0)
    if run_config.distribute == "mirrored" and not tf.config.list_physical_devices("GPU"):
        last_cpu = machine.available_cores() - 1
    if last_cpu > 0:
        # TensorFlow has one CPU device; towers and replicas get logical ones.
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration() for _ in range(min(last_cpu, 7) + 1)],
        )
    intra, inter = threads(run_config)
    tf.config.threading.set_intra_op_parallelism_threads(intra)
    tf.config.threading.set_inter_op_parallelism_threads(inter)
    tf.config.experimental.enable_tensor_float_32_execution(run_config.tf32)
    if run_config.deterministic:
        tf.config.experimental.enable_op_determinism()


def threads(run_config: config.Config) -> tuple[int, int]:
    """Returns the numbers of threads within and between operations; 0 leaves them to TensorFlow.

    On two cores, one core per tower is faster than both cores for one tower after the other (BUILD_NOTES.md). With
    more cores, or a GPU, TensorFlow chooses, as nothing else was measured there.
    """
    import tensorflow as tf

    is_split = registry.is_split(run_config.network, run_config.towers)
    one_core_per_tower = is_split and machine.available_cores() == 2 and not tf.config.list_physical_devices("GPU")
    intra, inter = (1, 2) if one_core_per_tower else (0, 0)
    return run_config.intra_op_threads or intra, run_config.inter_op_threads or inter


def fail_usage(program: str, message: str) -> NoReturn:
    """Exits with status 2 and a message about the command line."""
    _fail(os.path.basename(program), message, USAGE_STATUS)


def _is_cpu(name):
    return name.upper().startswith("/CPU:") and name.rsplit(":", 1)[1].isdigit()


def _is_expected(error):
    """Whether an error is one that a user can act on, as opposed to a bug."""
    if isinstance(error, (ValueError, OSError, ModuleNotFoundError)):
        return True
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(error, tensorflow.errors.OpError)


def _fail(program, error, status) -> NoReturn:
    """Exits with a status and the error in one line."""
    # An error inside a graph ends with a traceback; its first line is the message.
    message = messages.first_line(error) if type(error).__module__.startswith("tensorflow") else str(error)
    print(escaping.one_line(f"{program}: {' '.join(message.split())}"), file=sys.stderr)
    sys.exit(status)


def _help(purpose, flag_values, own_names, fields, arguments):
    rows = [(arguments, "", "")] if arguments else []
    rows += [
        (f"--{name}", flagfiles.format_value(flag_values[name].default), flag_values[name].help) for name in own_names
    ]
    rows.append(("--flagfile", "", "a file of flags, one per line, or the name of one in flags/"))
    parts = [purpose.strip(), "\n".join(["FLAGS", *flagfiles.columns([("flag", "default", "meaning"), *rows])])]
    if fields:
        parts.append(flagfiles.help_table(fields))
    return "\n\n".join(parts)
