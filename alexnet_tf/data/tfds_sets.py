"""Image classification data sets of TensorFlow Datasets (TFDS), whose features and labels are checked when opened."""

import contextlib
import os
import pathlib
import re
import tarfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from alexnet_tf.utils import messages
from alexnet_tf.utils import pathnames

# A data set in files that cannot be read by index, such as TFRecord, is held in memory, encoded, up to this size.
MAX_BYTES_IN_MEMORY = 2 * 2**30
# The names of splits, the first preferred.
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}

# A data set in the package tensorflow-datasets. For a name with a namespace, such as "kubric:movi", TFDS would download
# a program and run it.
_NAME = re.compile(r"\w+(/[\w.+-]+)?(:[\d*][\d.*]*)?")


class Examples(NamedTuple):
    """The labeled examples of a split, read by index."""

    labels: np.ndarray  # int64 [examples]
    # Maps a scalar int64 tensor, an index, to the encoded image, a scalar string. Called inside tf.data.
    read: Callable[[tf.Tensor], tf.Tensor]
    name_of: Callable[[int], str]


class TfdsSet(NamedTuple):
    """A data set of TFDS."""

    class_names: tuple[str, ...]
    splits: dict[str, Examples]  # "train" and, if they exist, "validation" and "test"
    notes: tuple[str, ...]  # a line for each split that is not read, and for examples without labels
    version: str  # such as "mnist/3.0.1"


def open_imagenet2012(directory: str | os.PathLike) -> TfdsSet:
    """Opens ILSVRC-2012 through TFDS, which repairs the few files with a wrong format.

    Args:
      directory: folder of ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar. TFDS prepares them once, in a subfolder,
        and does not need them afterwards.

    Raises:
      FileNotFoundError: if files are missing; the message lists them.
    """
    import tensorflow_datasets as tfds

    root = pathlib.Path(directory)
    expected = [root / f"ILSVRC2012_img_{part}.tar" for part in ("train", "val")]
    missing = [str(path) for path in expected if not path.is_file()]
    # TFDS renames its folder once it is complete.
    prepared = any((root / "tfds" / "imagenet2012").glob("[0-9]*/dataset_info.json"))
    if missing and not prepared:
        raise FileNotFoundError(
            f"Expected the ImageNet 2012 archives (from image-net.org) as {expected[0]} and {expected[1]}. "
            f"Received: no {', no '.join(missing)}"
        )
    config = tfds.download.DownloadConfig(manual_dir=str(root))
    return open_set("imagenet2012", config, data_dir=str(root / "tfds"))


def open_set(name, download_config=None, data_dir=None, as_version_0_1: bool = False) -> TfdsSet:
    """Opens a data set of TFDS by name, and prepares it if necessary.

    Args:
      name: NAME, NAME/CONFIG or NAME:VERSION.
      download_config: a ``tfds.download.DownloadConfig`` or None.
      data_dir: where TFDS has its data sets; None for its default.
      as_version_0_1: whether to read only splits named train, validation and test, as version 0.1 did.

    Raises:
      ValueError: if there is no such data set, its features are not an image and a class label, a label is not that of
        a class, or it has no training split.
    """
    builder = _builder(name, data_dir)
    class_names = _check_features(name, builder.info.features)
    try:
        builder.download_and_prepare(download_config=download_config)
    except (AssertionError, tarfile.TarError) as error:
        raise ValueError(f"Expected TFDS to prepare {name}. Received: {messages.first_line(error)}") from None
    available = list(builder.info.splits)
    chosen = {
        split: next((known for known in (names[:1] if as_version_0_1 else names) if known in available), None)
        for split, names in SPLITS.items()
    }
    if not chosen["train"]:
        raise ValueError(f"Expected a split named train. Received: {', '.join(available)}")
    notes = []
    if unused := [split for split in available if split not in chosen.values()]:
        notes.append(f"not read in tfds:{name}: the splits {', '.join(unused)}")
    splits = {}
    for split, own_name in chosen.items():
        if own_name and (found := _labeled(name, builder, own_name, len(class_names), notes)):
            splits[split] = found
    if "train" not in splits:
        raise ValueError(f"Expected labels in the split train of tfds:{name}. Received: none; {notes[-1]}")
    return TfdsSet(class_names, splits, tuple(map(messages.printable, notes)), builder.info.full_name)


def _builder(name, data_dir):
    import tensorflow_datasets as tfds

    try:
        if not _NAME.fullmatch(name):
            raise ValueError("not NAME, NAME/CONFIG or NAME:VERSION")
        data_dir = _without_patterns(data_dir, tfds.core.constants.DATA_DIR)
        builder = tfds.builder(name, data_dir=data_dir)
        if not builder.is_prepared():
            # Files of this format can be read by index. A data set that is already prepared keeps its format.
            builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
        return builder
    # TFDS raises an AssertionError for an unknown version, and below for files that it cannot download.
    except (tfds.core.registered.DatasetNotFoundError, ValueError, AttributeError, AssertionError) as error:
        raise ValueError(
            f"Expected the name of a TFDS data set. Received: {name!r} ({messages.first_line(error)})"
        ) from None


def _without_patterns(data_dir, default):
    """Returns TFDS's data directory as TFDS finds its files there: in ``d[0]`` it would prepare them each time."""
    directory = str(data_dir or default)
    if not pathnames.has_patterns(directory):
        return data_dir
    os.makedirs(directory, exist_ok=True)
    return pathnames.without_patterns(directory)


def _check_features(name, features):
    """Returns the class names; raises ValueError unless there are 8-bit images and class labels."""
    import tensorflow_datasets as tfds

    is_labeled = {"image", "label"} <= set(features) and isinstance(features["label"], tfds.features.ClassLabel)
    if not is_labeled:
        raise ValueError(
            f"Expected a TFDS data set of images with labels. Received: {name!r} with {', '.join(features)}"
        )
    image = features["image"]
    is_image = isinstance(image, tfds.features.Image)
    # A GIF has a shape of four: its frames, of which the first is read.
    if not is_image or np.dtype(image.np_dtype) != np.uint8 or image.shape[-1] not in (None, 1, 3, 4):
        raise ValueError(
            f"Expected the feature image of tfds:{name} to be a tfds.features.Image of uint8 with 1, 3 or 4 channels. "
            f"Received: {type(image).__name__} of {image.np_dtype}, shape {image.shape}; write the data set with 8-bit "
            "images, or save them to class folders for folder:DIR"
        )
    return tuple(features["label"].names)


def _labeled(name, builder, split, num_classes, notes):
    """Returns the examples of a split that have a label, None if none has; adds a line about the others."""
    # ImageNet's test set is published without labels, and reading its examples would take long.
    found = None if name.startswith("imagenet2012") and split == "test" else _read(builder, split)
    valid = np.flatnonzero((found.labels >= 0) & (found.labels < num_classes)) if found else []
    if found and len(valid) == len(found.labels):
        return found
    if not len(valid):
        notes.append(f"not read in tfds:{name}: {split}, whose examples have no labels")
        return None
    others = np.unique(np.delete(found.labels, valid))
    notes.append(
        f"not read in tfds:{name}: {len(found.labels) - len(valid)} of {len(found.labels)} {split} examples, whose "
        f"labels ({', '.join(map(str, others[:5]))}) are not those of the {num_classes} classes"
    )
    table = tf.constant(valid, tf.int64)
    return Examples(
        found.labels[valid],
        lambda index: found.read(tf.gather(table, index)),
        lambda index: found.name_of(int(valid[index])),
    )


def _read(builder, split):
    """Returns the `Examples` of a split, held in memory if its files cannot be read by index."""
    import tensorflow_datasets as tfds

    decoders = {"image": tfds.decode.SkipDecoding()}
    with contextlib.suppress(NotImplementedError):
        records = builder.as_data_source(split, decoders=decoders)
        labels = np.array([records[index]["label"] for index in range(len(records))], np.int64)

        def fetch(index):
            return records[int(index)]["image"]

        def read(index):
            return tf.ensure_shape(tf.numpy_function(fetch, [index], tf.string), [])

        return Examples(labels, read, lambda index: f"{builder.name} {split} {index}")
    size = builder.info.splits[split].num_bytes
    if size > MAX_BYTES_IN_MEMORY:
        raise ValueError(
            f"Expected {builder.name} in files that can be read by index: prepare it again with TFDS and "
            f"file_format='array_record'. Received: {size / 2**30:.1f} GiB of "
            f"{builder.info.file_format.value} in {builder.data_dir}"
        )
    return _in_memory(builder, split, decoders)


def _in_memory(builder, split, decoders):
    images, labels = [], []
    for example in builder.as_dataset(split=split, decoders=decoders, shuffle_files=False):
        images.append(example["image"].numpy())
        labels.append(int(example["label"]))
    table = tf.constant(images, tf.string)
    return Examples(
        np.array(labels, np.int64),
        lambda index: tf.gather(table, index),
        lambda index: f"{builder.name} {split} {index}",
    )
