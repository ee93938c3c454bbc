"""Sources of labeled photographs. Every source is read by index, so any order can resume at any position."""

import contextlib
import os
import pathlib
import re
import tarfile
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from alexnet_tf.data import ilsvrc2010
from alexnet_tf.data import image_records
from alexnet_tf.utils import messages
from alexnet_tf.utils import pathnames

FOLDER_LAYOUT = (
    "DIR/train/CLASS/IMAGE, and if there are any DIR/val/CLASS/IMAGE and DIR/test/CLASS/IMAGE, "
    "with the same class folders in each"
)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")

# A TFDS data set in TFRecord files cannot be read by index. Up to this size it is held in memory, encoded.
MAX_BYTES_IN_MEMORY = 2 * 2**30

# A data set in the package tensorflow-datasets. For a name with a namespace, such as "kubric:movi", TFDS would download
# a program and run it.
_TFDS_NAME = re.compile(r"\w+(/[\w.+-]+)?(:[\d*][\d.*]*)?")


class Split(NamedTuple):
    """Labeled photographs that are read by index."""

    labels: np.ndarray  # int64 [examples]
    # Maps a scalar int64 tensor, an index, to the photograph: an encoded file (scalar string) or uint8
    # [height, width, channels]. Called inside tf.data.
    read: Callable[[tf.Tensor], tf.Tensor]
    # Maps an index to the example's name in messages.
    name_of: Callable[[int], str]
    # For prepared data only: 256 x 256 images, encoded or, if `is_raw`, as pixels.
    records: image_records.ImageRecords | None = None
    is_raw: bool = False


class Source(NamedTuple):
    """A data set."""

    name: str
    class_names: tuple[str, ...]
    splits: dict[str, Split]  # "train" and, if they exist, "validation" and "test"
    license: str = ""
    # For each class a dict of further metadata, such as its WordNet identifier; or empty.
    class_metadata: tuple[dict[str, Any], ...] = ()
    # The folder with which the names of all examples begin, if there is one.
    root: str = ""


def open_source(specification: str) -> Source:
    """Opens a data set.

    Args:
      specification: ``elpv``, ``folder:DIR``, ``tfds:NAME``, ``imagenet2012:DIR`` (the folder of the two tar files),
        ``ilsvrc2010:DIR`` (the folder of `ilsvrc2010.open_archives`) or ``synthetic``.

    Returns:
      A `Source`.

    Raises:
      ValueError: for any other specification, or a data set with fewer than two classes.
      FileNotFoundError: if files are missing; the message lists them.
      ModuleNotFoundError: if a package is missing; the message says how to install it.
    """
    kind, _, argument = specification.partition(":")
    alone = {"elpv": elpv, "synthetic": synthetic}
    with_argument = {
        "folder": folder,
        "tfds": tfds_by_name,
        "imagenet2012": imagenet2012,
        "ilsvrc2010": imagenet2010,
    }
    if argument and kind in with_argument:
        source = with_argument[kind](argument)
    elif not argument and kind in alone:
        source = alone[kind]()
    else:
        raise ValueError(
            "Expected source to be elpv, folder:DIR, tfds:NAME, imagenet2012:DIR, ilsvrc2010:DIR or synthetic. "
            f"Received: {specification!r}"
        )
    if len(source.class_names) < 2:
        raise ValueError(f"Expected {specification} to have at least two classes. Received: {source.class_names}")
    return source


def stratified_split(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Divides a split in two at random, class by class.

    Args:
      split: a `Split`.
      fraction: float in (0, 1), the fraction of each class in the second part; its number of examples is rounded.
      seed: int, seed of the random choice.

    Returns:
      Two `Split`, each in the order of the original.

    Raises:
      ValueError: if one of them would be empty.
    """
    generator = np.random.default_rng(seed)
    second = []
    for label in np.unique(split.labels):
        members = generator.permutation(np.flatnonzero(split.labels == label))
        second.append(members[: round(len(members) * fraction)])
    second = np.sort(np.concatenate(second))
    first = np.setdiff1d(np.arange(len(split.labels)), second)
    if not len(first) or not len(second):
        raise ValueError(
            f"Expected enough images to hold out a fraction of {fraction} of each class. "
            f"Received: {len(split.labels)} images"
        )
    return subset(split, first), subset(split, second)


def subset(split: Split, indices: np.ndarray) -> Split:
    """Returns the examples of a `Split` at `indices`, an int array, as a `Split`."""
    table = tf.constant(indices, tf.int64)
    return Split(
        labels=split.labels[indices],
        read=lambda index: split.read(tf.gather(table, index)),
        name_of=lambda index: split.name_of(int(indices[index])),
    )


def _files(paths, labels):
    """Returns a `Split` of image files."""
    table = tf.constant([os.fsencode(path) for path in paths], tf.string)
    return Split(
        labels=np.array(labels, np.int64),
        read=lambda index: tf.io.read_file(tf.gather(table, index)),
        name_of=lambda index: pathnames.printable(paths[index]),
    )


def folder(directory: str | os.PathLike) -> Source:
    """Opens a folder of class folders; see `FOLDER_LAYOUT`. Classes are sorted by name.

    Files without an image suffix and files whose names begin with a dot are ignored.

    Raises:
      FileNotFoundError: if there is no folder, train folder or class folder.
      ValueError: for a class folder without images, or one that the train folder does not have.
    """
    root = pathlib.Path(directory)
    if not (root / "train").is_dir():
        raise FileNotFoundError(f"Expected class folders of images as {FOLDER_LAYOUT}. Received: {directory}")
    class_names = tuple(_subfolders(root / "train"))
    if not class_names:
        raise FileNotFoundError(f"Expected class folders in {root / 'train'}: {FOLDER_LAYOUT}. Received: none")
    splits = {}
    for split, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        if split != "train" and not (root / name).is_dir():
            continue
        unknown = sorted(set(_subfolders(root / name)) - set(class_names))
        if unknown:
            raise ValueError(
                f"Expected {root / name} to have the class folders of {root / 'train'} only. "
                f"Received: {', '.join(unknown)}"
            )
        splits[split] = _folder_split(root / name, class_names, every_class=split == "train")
    return Source(f"folder:{directory}", class_names, splits, root=str(root))


def _subfolders(directory):
    return sorted(entry.name for entry in os.scandir(directory) if entry.is_dir() and entry.name[0] != ".")


def _entries(directory):
    """Returns the entries of a folder; none if it does not exist."""
    return os.scandir(directory) if directory.is_dir() else ()


def _folder_split(directory, class_names, *, every_class):
    paths, labels = [], []
    for label, class_name in enumerate(class_names):
        # Plain strings, as there may be a million.
        found = sorted(
            entry.path
            for entry in _entries(directory / class_name)
            if entry.name.lower().endswith(IMAGE_SUFFIXES) and entry.name[0] != "." and entry.is_file()
        )
        if not found and every_class:
            raise ValueError(
                f"Expected images ({', '.join(IMAGE_SUFFIXES)}) in {directory / class_name}. Received: none"
            )
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise ValueError(f"Expected images in {directory}. Received: none")
    return _files(paths, labels)


def elpv() -> Source:
    """Opens 2,624 electroluminescence images of solar cells, sound or defective (package elpv-dataset).

    A cell counts as defective if the experts' probability of a defect is above one half. License: CC BY-NC-SA 4.0.
    """
    try:
        import elpv_dataset
    except ModuleNotFoundError:
        raise ModuleNotFoundError("Expected the package elpv-dataset: pip install -e '.[quickstart]'") from None
    root = pathlib.Path(elpv_dataset.__file__).parent / "data"
    rows = [line.split() for line in (root / "labels.csv").read_text().splitlines() if line.strip()]
    paths = [root / row[0] for row in rows]
    labels = [int(float(row[1]) > 0.5) for row in rows]
    license = (
        "ELPV, a benchmark of solar cells by electroluminescence (Buerhop-Lutz, Deitsch et al. 2018), "
        "CC BY-NC-SA 4.0: not for commercial use"
    )
    return Source("elpv", ("sound", "defective"), {"train": _files(paths, labels)}, license, root=str(root))


def synthetic(num_classes: int = 10, examples: tuple[int, int] = (1000, 200)) -> Source:
    """Returns noisy images of ten colors and textures, computed from their index: for tests and benchmarks.

    Args:
      num_classes: int.
      examples: pair of ints, the numbers of images for training and for validation.
    """

    def split(first, count):
        labels = np.arange(first, first + count, dtype=np.int64) % num_classes

        def read(index):
            label = tf.cast((index + first) % num_classes, tf.float32)
            wave = tf.sin(tf.range(256, dtype=tf.float32) * (0.02 + 0.04 * label))
            pattern = wave[:, None, None] * wave[None, :, None]
            color = tf.stack([tf.cos(label), tf.cos(label + 2.0), tf.cos(label + 4.0)])
            noise = tf.random.stateless_normal([256, 256, 3], seed=tf.stack([index + first, 0]))
            return tf.cast(tf.clip_by_value(128 + 40 * pattern * color + 25 * noise, 0, 255), tf.uint8)

        return Split(labels, read, lambda index: f"synthetic image {first + index}")

    names = tuple(f"pattern {number}" for number in range(num_classes))
    splits = {"train": split(0, examples[0]), "validation": split(examples[0], examples[1])}
    return Source("synthetic", names, splits)


def imagenet2012(directory: str | os.PathLike) -> Source:
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
    return _tfds_source("imagenet2012", config, data_dir=str(root / "tfds"))


def imagenet2010(directory: str | os.PathLike) -> Source:
    """Opens ILSVRC-2010 from the archives of image-net.org; see `ilsvrc2010.open_archives`."""
    found = ilsvrc2010.open_archives(directory)
    splits = {name: Split(*split) for name, split in found.splits.items()}
    class_names = tuple(each["wnid"] for each in found.classes)
    return Source(f"ilsvrc2010:{directory}", class_names, splits, class_metadata=found.classes)


def tfds_by_name(name: str) -> Source:
    """Opens any image classification data set of TFDS, which prepares it at first use in its own data directory."""
    return _tfds_source(name, None, data_dir=None)


def _tfds_source(name, download_config, data_dir):
    import tensorflow_datasets as tfds

    try:
        if not _TFDS_NAME.fullmatch(name):
            raise ValueError("not NAME, NAME/CONFIG or NAME:VERSION")
        builder = tfds.builder(name, data_dir=data_dir)
        if not builder.is_prepared():
            # Files of this format can be read by index. A data set that is already prepared keeps its format.
            builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    # TFDS raises an AssertionError for an unknown version, and below for files that it cannot download.
    except (tfds.core.registered.DatasetNotFoundError, ValueError, AttributeError, AssertionError) as error:
        raise ValueError(
            f"Expected the name of a TFDS data set. Received: {name!r} ({messages.first_line(error)})"
        ) from None
    features = builder.info.features
    if not {"image", "label"} <= set(features) or not isinstance(features["label"], tfds.features.ClassLabel):
        raise ValueError(
            f"Expected a TFDS data set of images with labels. Received: {name!r} with {', '.join(features)}"
        )
    try:
        builder.download_and_prepare(download_config=download_config)
    except (AssertionError, tarfile.TarError) as error:
        raise ValueError(f"Expected TFDS to prepare {name}. Received: {messages.first_line(error)}") from None
    splits = {
        split: _tfds_split(tfds, builder, split)
        for split in ("train", "validation", "test")
        if split in builder.info.splits and _is_labeled(name, split)
    }
    if "train" not in splits:
        raise ValueError(f"Expected a split named train. Received: {', '.join(builder.info.splits)}")
    return Source(f"tfds:{name}", tuple(features["label"].names), splits)


def _is_labeled(name, split):
    """Returns whether a split has labels: ImageNet's test set is published without."""
    return not (name.startswith("imagenet2012") and split == "test")


def _tfds_split(tfds, builder, split):
    """Returns a `Split` of a TFDS data set, held in memory if its files cannot be read by index."""
    decoders = {"image": tfds.decode.SkipDecoding()}
    with contextlib.suppress(NotImplementedError):
        records = builder.as_data_source(split, decoders=decoders)
        labels = np.array([records[index]["label"] for index in range(len(records))], np.int64)

        def fetch(index):
            return records[int(index)]["image"]

        def read(index):
            return tf.ensure_shape(tf.numpy_function(fetch, [index], tf.string), [])

        return Split(labels, read, lambda index: f"{builder.name} {split} {index}")
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
    return Split(
        np.array(labels, np.int64),
        lambda index: tf.gather(table, index),
        lambda index: f"{builder.name} {split} {index}",
    )
