"""Sources of labeled photographs. Every source is read by index, so any order can resume at any position."""

import functools
import hashlib
import os
import pathlib
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from alexnet_tf.data import folders
from alexnet_tf.data import ilsvrc2010
from alexnet_tf.data import image_records
from alexnet_tf.data import image_table
from alexnet_tf.data import tfds_sets
from alexnet_tf.data import tiny_imagenet
from alexnet_tf.utils import escaping
from alexnet_tf.utils import pathnames


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
    # Maps int64 [indices] to the sizes of the photographs' files in bytes, -1 for a missing file; None if unknown.
    sizes_of: Callable[[np.ndarray], np.ndarray] | None = None
    # Maps an index to the path of the photograph's file; None if photographs are not files.
    file_of: Callable[[int], str] | None = None

    def sizes(self) -> np.ndarray:
        """Returns the sizes of the files of all examples in bytes, int64 ``[examples]``; -1 if unknown."""
        count = len(self.labels)
        return np.full(count, -1, np.int64) if self.sizes_of is None else self.sizes_of(np.arange(count))

    def names(self, root: str = "") -> np.ndarray:
        """Returns the names of all examples relative to `Source.root`, bytes ``[examples]``."""
        if self.records is not None:
            return self.records.index.names
        prefix = f"{root}/"
        relative = (self.name_of(index).removeprefix(prefix) for index in range(len(self.labels)))
        # Other systems write accents as separate characters.
        same_everywhere = (name if name.isascii() else pathnames.composed(name) for name in relative)
        return np.array([os.fsencode(name) for name in same_everywhere], "S")


class Source(NamedTuple):
    """A data set."""

    name: str
    class_names: tuple[str, ...]
    splits: dict[str, Split]  # "train" and, if they exist, "validation" and "test"
    license: str = ""
    # For each class a dict of further metadata, such as "wnid", its WordNet identifier, and "words"; or empty.
    class_metadata: tuple[dict[str, Any], ...] = ()
    # The folder with which the names of all examples begin, if there is one.
    root: str = ""
    # Identifies the content of a prepared or TFDS data set; empty for photographs.
    version: str = ""
    notes: tuple[str, ...] = ()  # a line for each kind of file, folder, split or example that is not read
    # A line for each held-out split with photographs of the training set, if they were compared.
    duplicates: tuple[str, ...] = ()

    @property
    def class_words(self) -> dict[str, str]:
        """The words of the classes that have some, by class name: "goldfish, Carassius auratus" of n01443537."""
        found = {name: each.get("words") for name, each in zip(self.class_names, self.class_metadata)}
        return {name: words for name, words in found.items() if words and isinstance(words, str)}

    @property
    def display_names(self) -> tuple[str, ...]:
        """The names of the classes as people read them: with the first of their words, as in "goldfish (n01443537)"."""
        words = self.class_words
        return tuple(display_name(name, words.get(name, "")) for name in self.class_names)


def display_name(name: str, words: str = "") -> str:
    """Returns the name of a class as people read it: with the first of its words, if it has any."""
    return f"{words.split(',')[0]} ({name})" if words else name


def open_source(specification: str, as_version_0_1: bool = False, nested_folders: bool = False) -> Source:
    """Opens a data set.

    Args:
      specification: ``elpv``, ``folder:DIR``, ``csv:FILE``, ``tfds:NAME``, ``imagenet2012:DIR`` (the folder of the two
        tar files), ``ilsvrc2010:DIR`` (the folder of `ilsvrc2010.open_archives`), ``tiny_imagenet:DIR`` (that of
        `tiny_imagenet.open_folder`) or ``synthetic``.
      as_version_0_1: whether to read only the files and splits that version 0.1 read; see `folders.open_folder` and
        `tfds_sets.open_set`.
      nested_folders: whether to read folders within class folders, too; only ``folder:DIR`` has some.

    Returns:
      A `Source`.

    Raises:
      ValueError: for any other specification, or control characters in the name of a class.
      FileNotFoundError: if files are missing; the message lists them.
      ModuleNotFoundError: if a package is missing; the message says how to install it.
    """
    kind, _, argument = specification.partition(":")
    alone = {"elpv": elpv, "synthetic": synthetic}
    with_argument = {
        "folder": functools.partial(folder, as_version_0_1=as_version_0_1, nested=nested_folders),
        "csv": csv_table,
        "tfds": functools.partial(tfds_by_name, as_version_0_1=as_version_0_1),
        "imagenet2012": imagenet2012,
        "ilsvrc2010": open_ilsvrc2010,
        "tiny_imagenet": open_tiny_imagenet,
    }
    if argument and kind in with_argument:
        source = with_argument[kind](argument)
    elif not argument and kind in alone:
        source = alone[kind]()
    else:
        raise ValueError(
            "Expected source to be elpv, folder:DIR, csv:FILE, tfds:NAME, imagenet2012:DIR, ilsvrc2010:DIR, "
            f"tiny_imagenet:DIR or synthetic. Received: {specification!r}"
        )
    escaping.check_names(source.class_names, "class")
    return source


class TooFewImagesError(ValueError):
    """A split has too few images to hold some out."""


def hashed_split(split: Split, fraction: float, seed: int, root: str = "") -> tuple[Split, Split]:
    """Divides a split in two, class by class, by a hash of each example's name and the seed.

    So an example that is added or removed moves at most one other of its class from one part to the other.

    Args:
      split: a `Split`.
      fraction: float in (0, 1), the fraction of each class in the second part. Its number of examples is rounded, but
        at least one, and all of a class with a single example are in the first part.
      seed: int.
      root: `Source.root`, which is not part of the names.

    Returns:
      Two `Split`, each in the order of the original.

    Raises:
      TooFewImagesError: if one of them would be empty.
    """
    ranks = _hashed_ranks(split, seed, root)
    second = []
    for label in np.unique(split.labels):
        members = np.flatnonzero(split.labels == label)
        count = min(len(members) - 1, max(1, round(len(members) * fraction)))
        second.append(members[np.argsort(ranks[members], kind="stable")[:count]])
    return _parts(split, np.concatenate(second), fraction)


def _hashed_ranks(split, seed, root):
    """Returns a number for each example that depends on its name and the seed alone, uint64 ``[examples]``."""
    keys = [hashlib.blake2b(name, digest_size=8, key=b"%d" % seed).digest() for name in split.names(root).tolist()]
    return np.array([int.from_bytes(key, "big") for key in keys], np.uint64)


def hashed_subset(split: Split, count: int, seed: int, root: str = "", name: str = "training_images") -> Split:
    """Chooses examples by a hash of each example's name and the seed, the same fraction of each class.

    The subset of a smaller count is part of that of a larger one.

    Args:
      split: a `Split`.
      count: int, the number of examples to choose.
      seed: int.
      root: `Source.root`, which is not part of the names.
      name: the option that says how many, for messages.

    Returns:
      A `Split` in the order of the original.

    Raises:
      ValueError: if the split has fewer examples than `count`, or `count` is less than the number of its classes.
    """
    classes, sizes = np.unique(split.labels, return_counts=True)
    if not len(classes) <= count <= len(split.labels):
        raise ValueError(
            f"Expected {name} to be from {len(classes)}, one per class, to {len(split.labels)}, all of them. "
            f"Received: {count}"
        )
    ranks = _hashed_ranks(split, seed, root)
    # Of each example, the fraction of its class that comes before it.
    fractions = np.empty(len(split.labels))
    for label, size in zip(classes, sizes):
        members = np.flatnonzero(split.labels == label)
        fractions[members[np.argsort(ranks[members], kind="stable")]] = np.arange(size) / size
    return subset(split, np.sort(np.argsort(fractions, kind="stable")[:count]))


def _parts(split, second, fraction):
    """Returns the examples not in `second` and those in it, as two splits in the order of the original."""
    second = np.sort(second)
    first = np.setdiff1d(np.arange(len(split.labels)), second)
    if not len(first) or not len(second):
        raise TooFewImagesError(
            f"Expected enough images to hold out a fraction of {fraction:g} of each class. Received: "
            f"{len(split.labels)} images of {len(np.unique(split.labels))} classes"
        )
    return subset(split, first), subset(split, second)


def stratified_split(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Divides a split in two at random, class by class, as version 0.1 did.

    The choice depends on the list of all examples: when one is added, others move.

    Args:
      split: a `Split`.
      fraction: float in (0, 1), the fraction of each class in the second part; its number of examples is rounded.
      seed: int, seed of the random choice.

    Returns:
      Two `Split`, each in the order of the original.

    Raises:
      TooFewImagesError: if one of them would be empty.
    """
    generator = np.random.default_rng(seed)
    second = []
    for label in np.unique(split.labels):
        members = generator.permutation(np.flatnonzero(split.labels == label))
        second.append(members[: round(len(members) * fraction)])
    return _parts(split, np.concatenate(second), fraction)


def subset(split: Split, indices: np.ndarray) -> Split:
    """Returns the examples of a `Split` at `indices`, an int array, as a `Split`."""
    table = tf.constant(indices, tf.int64)
    return Split(
        labels=split.labels[indices],
        read=lambda index: split.read(tf.gather(table, index)),
        name_of=lambda index: split.name_of(int(indices[index])),
        records=split.records and split.records.subset(indices),
        is_raw=split.is_raw,
        sizes_of=split.sizes_of and (lambda places: split.sizes_of(indices[places])),
        file_of=split.file_of and (lambda index: split.file_of(int(indices[index]))),
    )


def _files(paths, labels):
    """Returns a `Split` of image files."""
    table = tf.constant([os.fsencode(path) for path in paths], tf.string)
    return Split(
        labels=np.array(labels, np.int64),
        read=lambda index: tf.io.read_file(tf.gather(table, index)),
        name_of=lambda index: pathnames.printable(paths[index]),
        sizes_of=lambda places: np.array([_size(paths[place]) for place in places.tolist()], np.int64),
        file_of=lambda index: paths[index],
    )


def _size(path):
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def folder(directory: str | os.PathLike, as_version_0_1: bool = False, nested: bool = False) -> Source:
    """Opens a folder of class folders; see `folders.open_folder`. Classes are sorted by name."""
    found = folders.open_folder(directory, as_version_0_1, nested)
    splits = {split: _files(*part) for split, part in found.splits.items()}
    root = pathnames.printable(pathlib.Path(directory))
    return Source(f"folder:{directory}", found.class_names, splits, root=root, notes=found.notes)


def csv_table(path: str | os.PathLike) -> Source:
    """Opens the photographs that a CSV file lists with their labels; see `image_table.open_table`."""
    found = image_table.open_table(path)
    splits = {split: _files(*part) for split, part in found.splits.items()}
    root = pathnames.printable(found.root)
    return Source(f"csv:{path}", found.class_names, splits, root=root, notes=found.notes)


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
    """Opens ILSVRC-2012 through TFDS; see `tfds_sets.open_imagenet2012`."""
    return _of_tfds("imagenet2012", tfds_sets.open_imagenet2012(directory))


def open_ilsvrc2010(directory: str | os.PathLike) -> Source:
    """Opens ILSVRC-2010 from the archives of image-net.org; see `ilsvrc2010.open_archives`."""
    found = ilsvrc2010.open_archives(directory)
    splits = {name: Split(*split) for name, split in found.splits.items()}
    class_names = tuple(each["wnid"] for each in found.classes)
    return Source(f"ilsvrc2010:{directory}", class_names, splits, class_metadata=found.classes)


def open_tiny_imagenet(directory: str | os.PathLike) -> Source:
    """Opens Tiny ImageNet; see `tiny_imagenet.open_folder`. Classes are sorted by WordNet identifier."""
    found = tiny_imagenet.open_folder(directory)
    return Source(
        f"tiny_imagenet:{directory}",
        tuple(each["wnid"] for each in found.classes),
        {split: _files(*part) for split, part in found.splits.items()},
        tiny_imagenet.LICENSE,
        class_metadata=found.classes,
        root=pathnames.printable(pathlib.Path(directory)),
        notes=found.notes,
    )


def tfds_by_name(name: str, as_version_0_1: bool = False) -> Source:
    """Opens any image classification data set of TFDS, which prepares it at first use in its own data directory."""
    return _of_tfds(name, tfds_sets.open_set(name, as_version_0_1=as_version_0_1))


def _of_tfds(name, found):
    splits = {split: Split(*part) for split, part in found.splits.items()}
    return Source(f"tfds:{name}", found.class_names, splits, version=f"tfds {found.version}", notes=found.notes)
