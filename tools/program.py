"""What all programs share: flags and flagfiles, settings of the process, one line for an error."""

import importlib
import os
import sys
import tempfile
import textwrap

# Before TensorFlow is loaded: its C++ log says nothing that a user could act on.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import flags  # noqa: E402

from alexnet_tf import config as configuration  # noqa: E402
from alexnet_tf import flagfiles  # noqa: E402
from alexnet_tf.models import registry  # noqa: E402
from alexnet_tf.training import stopping  # noqa: E402
from alexnet_tf.utils import machine  # noqa: E402
from alexnet_tf.utils import messages  # noqa: E402

USAGE_ERROR = 2

FLAGS = flags.FLAGS


def run(main, purpose, own_flags=()):
    """Parses flags and calls ``main(config)``; ends the process with status 1 on an error, 2 on bad usage.

    Args:
      main: takes a `config.Config`; what it returns is ignored.
      purpose: the first lines of ``--help``.
      own_flags: names of the flags that the program has beside the configuration's.
    """
    parse(purpose, own_flags)
    try:
        config = flagfiles.from_flags(FLAGS)
    except ValueError as error:
        fail(error, 1)
    _call(main, config, config)


def run_plain(main, purpose, own_flags, arguments=""):
    """As `run`, for a program whose only flags are its own: calls ``main(rest)``.

    Args:
      main: takes the list of what stands on the command line beside flags.
      purpose, own_flags: as in `run`.
      arguments: what may stand there, for ``--help``; nothing may where it is empty.
    """
    rest = parse(purpose, own_flags, arguments, configurable=False)
    _call(main, rest, configuration.Config().resolved())


def _call(main, argument, config):
    """Calls the program with TensorFlow set up as a configuration says, and ends the process on an error."""
    try:
        load_tensorflow_quietly()
        _set_up_process(config)
        main(argument)
    except KeyboardInterrupt:
        sys.exit(130)
    except stopping.Stopped as stopped:
        fail(stopped, stopped.code)
    except Exception as error:
        if FLAGS.traceback or not isinstance(error, _expected_errors()):
            raise
        fail(error, getattr(error, "exit_status", 1))


def parse(purpose, own_flags=(), arguments="", *, configurable=True):
    """Defines shared flags and parses the command line; ends the process after help, or with status 2.

    Args:
      purpose, own_flags, arguments: as in `run_plain`.
      configurable: whether the configuration's flags are among the program's.

    Returns:
      The list of what stands on the command line beside flags.
    """
    if configurable:
        flagfiles.define_flags(FLAGS)
    flags.DEFINE_boolean("traceback", False, "show where an error came from")
    if {"--help", "-h", "--helpshort", "--helpfull"} & set(sys.argv):
        print(_help(purpose, own_flags, arguments, configurable))
        sys.exit(0)
    try:
        rest = FLAGS([sys.argv[0], *flagfiles.expand(sys.argv[1:], FLAGS)])[1:]
        if rest and not arguments:
            raise flags.Error(f"Expected flags only. Received: {' '.join(rest)}")
        if arguments and not rest:
            raise flags.Error(f"Expected at least one {arguments.rstrip('.')}. Received: none")
    # absl's search for a similar flag recurses over the characters of an unknown one.
    except (flags.Error, ValueError, RecursionError) as error:
        fail(error, USAGE_ERROR)
    return rest


def require(name):
    """The value of a program's own flag.

    Raises:
      SystemExit: with the status of bad usage, if it is empty.
    """
    value = getattr(FLAGS, name)
    if not value:
        fail(ValueError(f"Expected --{name}. Received: none"), USAGE_ERROR)
    return value


def load_tensorflow_quietly():
    """Imports TensorFlow without the lines that it writes to standard error before any log level counts."""
    sys.stderr.flush()
    standard_error = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            importlib.import_module("tensorflow")
        except BaseException:
            said.seek(0)
            os.write(standard_error, said.read())
            raise
        finally:
            os.dup2(standard_error, 2)
            os.close(standard_error)


def _expected_errors():
    import tensorflow as tf

    return (ValueError, OSError, ModuleNotFoundError, tf.errors.OpError)


def fail(error, status):
    """Ends the process with a status and the error in one line."""
    # What came through a graph brings a traceback along; the first line is what was expected and received.
    text = messages.first_line(error) if type(error).__module__.startswith("tensorflow") else str(error)
    print(f"{os.path.basename(sys.argv[0])}: {' '.join(text.split())}", file=sys.stderr)
    sys.exit(status)


def _set_up_process(config):
    """Settings that hold for the whole process, so no library function makes them."""
    import absl.logging
    import tensorflow as tf

    absl.logging.set_verbosity(absl.logging.ERROR)
    tf.get_logger().setLevel("ERROR")
    # Of processes that this one starts, too: TensorFlow would take all of a GPU's memory.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    wanted = [int(name.rsplit(":", 1)[1]) for name in config.devices if _is_cpu(name)]
    if config.distribute == "mirrored" and not tf.config.list_physical_devices("GPU"):
        wanted = [machine.available_cores() - 1]
    if wanted and max(wanted) > 0:
        # A CPU is one device; towers and replicas get logical ones.
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration() for _ in range(min(max(wanted), 7) + 1)],
        )
    intra, inter = threads(config)
    tf.config.threading.set_intra_op_parallelism_threads(intra)
    tf.config.threading.set_inter_op_parallelism_threads(inter)
    tf.config.experimental.enable_tensor_float_32_execution(config.tf32)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()


def threads(config):
    """Threads within and between operations; 0 leaves them to TensorFlow.

    On two cores a core for each tower is faster than both cores for one tower after the other (BUILD_NOTES.md). With
    more cores, or a GPU, TensorFlow's own choice stands: nothing else was measured there.
    """
    import tensorflow as tf

    is_split = registry.is_split(config.network, config.towers)
    own = (
        (1, 2) if is_split and machine.available_cores() == 2 and not tf.config.list_physical_devices("GPU") else (0, 0)
    )
    given = (config.intra_op_threads, config.inter_op_threads)
    return tuple(chosen or default for chosen, default in zip(given, own))


def _is_cpu(name):
    return name.upper().startswith("/CPU:") and name.rsplit(":", 1)[1].isdigit()


def _help(purpose, own_flags, arguments, configurable):
    shared = {"flagfile": "a file of flags, one a line", "traceback": FLAGS["traceback"].help}
    own = {name: FLAGS[name].help for name in own_flags}
    lines = [purpose.strip(), "", "PROGRAM", *([f"  {arguments}"] if arguments else [])]
    for name, text in (own | shared).items():
        meaning = textwrap.wrap(text, 78)
        lines.append(f"  --{name:<29}{meaning[0]}")
        lines += [f"  {'':<31}{line}" for line in meaning[1:]]
    return "\n".join(lines + (["", flagfiles.help_table()] if configurable else []))
