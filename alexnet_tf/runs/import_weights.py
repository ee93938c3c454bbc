"""Imports a weight file of another framework as a run."""

import contextlib
import os
import re
import shutil
from typing import Any
from typing import NamedTuple

import numpy as np

from alexnet_tf import config
from alexnet_tf import flagfiles
from alexnet_tf.data import photograph
from alexnet_tf.data import statistics
from alexnet_tf.models import variants
from alexnet_tf.runs import builders
from alexnet_tf.runs import packed_runs
from alexnet_tf.runs import restore
from alexnet_tf.utils import escaping
from alexnet_tf.utils import files
from alexnet_tf.utils import output
from alexnet_tf.utils import schema
from alexnet_tf.utils import text_files
from alexnet_tf.weights import caffe_model
from alexnet_tf.weights import convert
from alexnet_tf.weights import identify
from alexnet_tf.weights import layouts
from alexnet_tf.weights import packed

# Bytes.
_BLOCK = 1 << 24
_WORDNET_ID = re.compile(r"n\d{8}(\s|$)")


class Options(NamedTuple):
    """What the user says about a file. Empty values are taken from the file."""

    recipe: str = ""  # of the network "alexnet": the order and the constants of its layers
    channels: str = ""  # "RGB" or "BGR"
    mean: str = ""  # "R,G,B", or a file: .npy or .binaryproto
    deviation: tuple[float, ...] = ()  # of the channels, by which images are divided
    classes: str = ""  # a file with one class per line


_NO_OPTIONS = Options()


def import_weights(name: str | os.PathLike, workdir: str | os.PathLike, options: Options = _NO_OPTIONS) -> None:
    """Writes a weight file as a run, which can be evaluated, exported and used to initialize other runs.

    A file with convolutions alone becomes a run without a classifier.

    Args:
      name: path of the file, or a package among `identify.PACKAGES`.
      workdir: the run's directory, which must be new or empty.
      options: what the user says about the file.

    Raises:
      OSError: if a file is missing or cannot be written.
      ValueError: if the file is damaged, has another network, or does not state what `options` must then state.
    """
    if os.path.exists(workdir) and (not os.path.isdir(workdir) or os.listdir(workdir)):
        raise ValueError(f"Expected a new or empty workdir. Received: {workdir}")
    console = output.Console()
    if packed.is_packed(name):
        _unpack(name, workdir, options, console)
        return
    run = _read(name, workdir, options, console)
    with _new_directory(workdir) as part:
        statistics.save(run.image_statistics, os.path.join(part, "statistics.npz"))
        files.write_json(os.path.join(part, restore.IMPORT_RECORD), schema.sealed(run.record))
        with files.atomic_write(os.path.join(part, "config.flags")) as file:
            file.write(flagfiles.to_text(run.run_config))
        _save(run, part)
    for line in run.lines:
        console.print(line, markup=False)


def _unpack(name, workdir, options, console):
    if given := [f"--{option}" for option, value in options._asdict().items() if value]:
        raise ValueError(f"Expected no other options for {name}, which is a packed run. Received: {', '.join(given)}")
    with _new_directory(workdir) as part:
        summary = packed_runs.unpack(name, part)
    console.print(f"run {workdir}: {summary}", markup=False)


class _Run(NamedTuple):
    """What is written. Nothing else of the file is kept in memory."""

    run_config: config.Config
    layers: dict[str, convert.Layer]  # emptied by `_save`
    towers: str
    class_names: list[str]
    image_statistics: statistics.Statistics
    record: dict[str, Any]  # what is known of the file
    lines: list[str]  # warnings, notes and a summary, for the terminal


def _read(name, workdir, options, console):
    """Reads and converts what a run needs."""
    identified = identify.identify(name, channels=options.channels or None)
    recognized = identified.recognized
    recipe = _recipe(identified, options)
    preprocessing, mean = _preprocessing(identified, options)
    layers, scale = convert.fold_deviation(recognized.layers, preprocessing)
    run_config = _configuration(recognized, recipe, scale)
    class_names, words = _class_names(identified, options, console)
    # The file does not say how colors vary.
    image_statistics = statistics.Statistics(
        _mean_image(preprocessing, mean), np.eye(3, dtype=np.float32), np.zeros(3, np.float32), 0
    )
    warnings = [f"warning: {line}" for line in identified.warnings]
    return _Run(
        run_config,
        layers,
        recognized.towers,
        class_names,
        image_statistics,
        _record(identified, preprocessing, scale, words),
        [*warnings, *recognized.notes, _summary(identified, run_config, workdir)],
    )


@contextlib.contextmanager
def _new_directory(path):
    """Yields a temporary directory that becomes `path` at the end, or is removed after an error."""
    parent, name = os.path.split(os.path.abspath(path))
    # A name that only an import makes: nothing of a user is removed.
    part = os.path.join(parent, f".importing-{name}")
    # A killed import leaves it.
    shutil.rmtree(part, ignore_errors=True)
    os.makedirs(part)
    try:
        yield part
        if os.path.isdir(path):
            os.rmdir(path)
        os.rename(part, path)
        files.sync_directory(parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _recipe(identified, options):
    """Returns the recipe of the network: that of the file, or of the user if the file does not say."""
    own = identified.recognized.recipe
    if own is None and not options.recipe:
        raise ValueError(
            f"Expected a recipe, as {identified.path} does not state the order and the constants of normalization: "
            "--recipe=caffe for bvlc_alexnet, --recipe=caffenet for CaffeNet and Places365. Received: none"
        )
    if options.recipe and own and options.recipe != own:
        raise ValueError(f"Expected recipe={own}, as {identified.path} says. Received: {options.recipe}")
    if options.recipe and own == "":
        network = identified.recognized.network
        raise ValueError(f"Expected no recipe for {network}, which has no normalization. Received: {options.recipe}")
    return options.recipe or own or "paper"


def _preprocessing(identified, options):
    """Returns the preprocessing, and its mean image or None: those of the file, changed by what the user says."""
    image = identified.recognized.mean_image
    own = identified.recognized.preprocessing
    if own is None:
        raise ValueError(
            f"Expected the order of the channels, as {identified.path} does not state it: --channels=BGR for weights "
            "from Caffe, --channels=RGB for most others. Received: none"
        )
    if options.deviation:
        if len(options.deviation) != 3 or not min(options.deviation) > 0:
            raise ValueError(f"Expected three deviations above 0. Received: {', '.join(map(str, options.deviation))}")
        own = own._replace(deviation=tuple(options.deviation))
    if options.mean:
        image = _read_mean(options.mean)
        own = own._replace(mean=tuple(float(value) for value in image.mean(axis=(0, 1))))
    if own.mean is None:
        raise ValueError(
            f"Expected the mean to subtract, as {identified.path} does not state it: --mean=R,G,B or a file, such "
            "as 122.68,116.67,104.01 for Caffe's networks. Received: none"
        )
    return own, image


def _read_mean(mean):
    """Returns the mean that the user gives as an RGB image, float32 [height, width, 3]."""
    parts = mean.split(",")
    if len(parts) == 3:
        try:
            values = np.array([[[float(part) for part in parts]]], np.float32)
        except ValueError:
            raise ValueError(f"Expected --mean to be R,G,B or a file. Received: {mean}") from None
    elif mean.endswith(".binaryproto"):
        values = caffe_model.read_mean(mean)[..., ::-1]
    else:
        values = _read_array(mean)
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 255):
        raise ValueError(f"Expected a mean in [0, 255]. Received: {values.min():g} to {values.max():g} in {mean}")
    return values


def _read_array(path):
    """Reads a mean image of NumPy: [height, width, 3] in RGB or, as Caffe's, [3, height, width] in BGR."""
    values = schema.read_array(path, "a mean image")
    if values.dtype.kind not in "fiu" or values.ndim != 3 or 3 not in values.shape or not values.size:
        raise ValueError(
            f"Expected numbers of shape [height, width, 3] or [3, height, width] in {path}. Received: {values.dtype} "
            f"{list(values.shape)}"
        )
    return (values if values.shape[-1] == 3 else values.transpose(1, 2, 0)[..., ::-1]).astype(np.float32)


def _mean_image(preprocessing, image):
    """Returns the mean image, float32 [256, 256, 3], of `_preprocessing`'s results."""
    size = photograph.IMAGE_SIZE
    if image is None or image.shape[:2] == (1, 1):
        return np.zeros([size, size, 3], np.float32) + np.float32(preprocessing.mean)
    height, width = image.shape[:2]
    if max(height, width) > size:
        raise ValueError(f"Expected a mean image of at most {size} x {size} pixels. Received: {height} x {width}")
    # That of a central crop is continued to the edges.
    top, left = (size - height) // 2, (size - width) // 2
    return np.pad(image, ((top, size - height - top), (left, size - width - left), (0, 0)), mode="edge")


def _configuration(recognized, recipe, scale):
    """Returns the configuration of the run, without a data set."""
    changes = {"network": recognized.network, "recipe": recipe, "input_scale": scale}
    if recognized.network == "alexnet":
        changes |= {"towers": recognized.towers, "crop_size": variants.default_image_size(recipe)}
    return config.Config(**changes, split_rule="hash").resolved()


def _class_names(identified, options, console):
    """Returns the names of the classes, and a dict from names to words if the names are WordNet ids."""
    recognized = identified.recognized
    if recognized.num_classes is None:
        if options.classes:
            raise ValueError(
                f"Expected no classes for {identified.path}, which has no classifier. Received: {options.classes}"
            )
        return [], {}
    lines = list(recognized.class_names)
    if options.classes:
        text = text_files.read(options.classes, "one class per line")
        lines = [line.strip() for line in text.split("\n") if line.strip()]
    if not lines:
        console.print(
            f"warning: the classes are numbered, as {identified.path} does not name them; pass a file with one class "
            "per line in --classes",
            markup=False,
        )
        lines = [str(number) for number in range(recognized.num_classes)]
    if len(lines) != recognized.num_classes:
        where = options.classes or identified.path
        raise ValueError(f"Expected {recognized.num_classes} classes in {where}. Received: {len(lines)}")
    escaping.check_names(lines, "class")
    words = {}
    if all(_WORDNET_ID.match(line) for line in lines):
        pairs = [line.partition(" ") for line in lines]
        lines = [name for name, _, _ in pairs]
        words = {name: text.strip() for name, _, text in pairs if text.strip()}
    if len(set(lines)) != len(lines):
        raise ValueError(
            f"Expected a different name for each class. Received: {len(set(lines))} names for {len(lines)} classes"
        )
    return lines, words


def _save(run, workdir):
    """Writes the checkpoint of step 0. A layer is converted, copied into the network and removed before the next."""
    is_complete = run.layers.keys() >= set(convert.LAYERS)
    options = {"initialization": "zeros", "devices": None, "jit_compile": False}
    model = builders.build_model(run.run_config, max(2, len(run.class_names)), **options)
    own = {variable.path: variable.value for variable in model.variables}
    assigned = []
    while run.layers:
        assigned += _assign_last(run, own)
    schedule = builders.build_schedule(run.run_config)
    only = None if is_complete else assigned
    builders.build_checkpoints(run.run_config, model, None, schedule, run.class_names, workdir, only).save(0)


def _assign_last(run, variables):
    """Removes the last layer, assigns its values, and returns the paths of the variables."""
    readers = layouts.DROPOUT_READERS[run.run_config.network]
    # No name refers to the layer, so that it is freed as soon as it is converted.
    values = convert.to_variables(dict([run.layers.popitem()]), towers=run.towers, dropout_readers=readers)
    for path, value in values.items():
        _assign(variables[path], value)
    return list(values)


def _assign(variable, value):
    """Assigns an array in blocks. TensorFlow would copy it twice, once into its order in memory."""
    rows = max(1, _BLOCK // max(1, value[:1].nbytes))
    for first in range(0, len(value), rows):
        variable[first : first + rows].assign(value[first : first + rows])


def _record(identified, preprocessing, scale, words):
    """Returns what is known of the file, for JSON."""
    recognized, known = identified.recognized, identified.known
    published = None
    if known:
        published = known.file._asdict() | {"compared": "size" if known.by_size else "hash"}
    return {
        "file": os.path.basename(identified.path),
        "path": os.path.abspath(identified.path),
        "size": identified.size,
        "sha256": identified.sha256,
        "format": identified.found.format,
        "layout": recognized.convention,
        "layers": list(recognized.layers),
        "published": published,
        "preprocessing": {
            "channels": "RGB",
            "mean": list(preprocessing.mean),
            "deviation": list(preprocessing.deviation),
            "input_scale": scale,
        },
        "low_frequency_share": identified.low_frequency_share,
        "notes": list(recognized.notes),
        "class_words": words,
    }


def _summary(identified, run_config, workdir):
    recognized = identified.recognized
    network = run_config.network + (f" of recipe {run_config.recipe}" if run_config.network == "alexnet" else "")
    lines = [f"run {workdir}: {network}, {', '.join(recognized.layers)}"]
    if missing := recognized.missing_layers:
        lines.append(
            f"  start a run from it: --network={run_config.network} --initialize_from={workdir} "
            f"--new_layers={','.join(missing)}"
        )
    else:
        lines.append(f"  classes     {recognized.num_classes}")
    if identified.known:
        lines.append(f"  license     {identified.known.file.license}")
    return "\n".join(lines)
