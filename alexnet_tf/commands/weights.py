"""Writes the weights of a run to a file that other programs read.

alexnet-tf weights export --workdir=runs/quickstart --file=quickstart.onnx

The action is the first argument:

  export    the newest checkpoint as .onnx, .safetensors, .keras or .npz: the network alone, with
            its preprocessing in FILE.json and the mean image in FILE.mean.npy

alexnet-tf weights ACTION --help lists the flags of an action.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import NamedTuple

from absl import flags

from alexnet_tf import flagfiles
from alexnet_tf.commands import program

# The flags of all actions. An action accepts those that it names.
FLAGS = flags.FlagValues()
_WORKDIR = flagfiles.define_path("workdir", "", "directory of a trained run", flag_values=FLAGS)
_FILE = flagfiles.define_path("file", "", "file to write: .onnx, .safetensors, .keras or .npz", flag_values=FLAGS)
_NAMES = flags.DEFINE_enum(
    "names",
    "ours",
    ["ours", "torchvision"],
    "names and layout of the weights in .safetensors and .npz; torchvision for network alexnet_owt",
    flag_values=FLAGS,
)


class Action(NamedTuple):
    """What the program does after a first argument of this name."""

    purpose: str  # the first lines of its help
    function: Callable[[list[str]], None]  # of the arguments that follow the flags
    flags: tuple[flags.FlagHolder, ...]
    required: tuple[flags.FlagHolder, ...] = ()
    arguments: str = ""  # a name for the arguments after the flags, if there are any


def main(argv: Sequence[str]) -> None:
    name = argv[1] if len(argv) > 1 else ""
    if name not in ACTIONS:
        if {"--help", "-h", "--helpshort", "--helpfull"} & set(argv[1:]):
            program.parse(argv, __doc__, FLAGS)
        received = name or "none"
        program.fail_usage(argv[0], f"Expected an action: {', '.join(ACTIONS)}, or --help. Received: {received}")
    action = ACTIONS[name]
    own_flags = flags.FlagValues()
    for holder in action.flags:
        own_flags[holder.name] = FLAGS[holder.name]

    # The flags themselves are shared; those of other actions keep their defaults.
    FLAGS.mark_as_parsed()
    program.run_plain(
        action.function,
        [f"{argv[0]} {name}", *argv[2:]],
        action.purpose,
        own_flags,
        arguments=action.arguments,
        required=action.required,
    )


def _export(_):
    from alexnet_tf.runs import weights

    weights.export_weights(_WORKDIR.value, _FILE.value, names=_NAMES.value)


ACTIONS = {
    "export": Action(
        """Writes the newest checkpoint of a run as a file of weights or a network.

alexnet-tf weights export --workdir=runs/quickstart --file=quickstart.safetensors

The suffix of --file chooses the format. What the network expects of images is written next to it,
to FILE.json, and the mean image to FILE.mean.npy.""",
        _export,
        (_WORKDIR, _FILE, _NAMES),
        required=(_WORKDIR, _FILE),
    ),
}
