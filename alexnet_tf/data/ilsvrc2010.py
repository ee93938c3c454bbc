"""ILSVRC-2010 in the archives of image-net.org, which are read without unpacking them."""

import gzip
import io
import os
import pathlib
import re
import tarfile
import zlib
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from alexnet_tf.data import archives

TRAINING_IMAGES = "ILSVRC2010_images_train.tar"
VALIDATION_IMAGES = "ILSVRC2010_images_val.tar"
TEST_IMAGES = "ILSVRC2010_images_test.tar"
TEST_TRUTH = "ILSVRC2010_test_ground_truth.txt"
PATCHES = "patch_images.tar"
DEVKIT = "ILSVRC2010_devkit-1.0.tar.gz"
META = "devkit-1.0/data/meta.mat"
VALIDATION_TRUTH = "devkit-1.0/data/ILSVRC2010_validation_ground_truth.txt"

_WNID = re.compile(r"n\d{8}")


class Photographs(NamedTuple):
    """Labeled photographs that are read by index."""

    labels: np.ndarray  # int64 [examples]
    # Maps a scalar int64 tensor, an index, to the encoded photograph, a scalar string. Called inside tf.data.
    read: Callable[[tf.Tensor], tf.Tensor]
    # Maps an index to the example's name, such as "n01484850/n01484850_17.JPEG".
    name_of: Callable[[int], str]


class Ilsvrc2010(NamedTuple):
    """The data set. Labels are in the order of the WordNet identifiers."""

    # For each label a dict of "wnid", "ilsvrc2010_id" (int, from 1, in another order) and "words".
    classes: tuple[dict[str, Any], ...]
    splits: dict[str, Photographs]  # "train", "validation" and, if its ground truth exists, "test"


def open_archives(directory: str | os.PathLike, *, progress: Callable[[int, int], None] | None = None) -> Ilsvrc2010:
    """Opens ILSVRC-2010 and applies its patches.

    Args:
      directory: folder of ILSVRC2010_images_train.tar (or the class archives in it, unpacked to this folder or its
        subfolder train), ILSVRC2010_images_val.tar and ILSVRC2010_devkit-1.0.tar.gz (or the folder devkit-1.0). Used if
        they exist: patch_images.tar, and ILSVRC2010_test_ground_truth.txt with ILSVRC2010_images_test.tar.
      progress: called with the number of class archives read so far and the number of all.

    Returns:
      `Ilsvrc2010`. Examples are sorted by name, within their class if there are classes.

    Raises:
      FileNotFoundError: if files are missing; the message lists them.
      ModuleNotFoundError: without the package scipy, which reads the devkit.
      ValueError: if files are damaged or do not belong together.
    """
    root = pathlib.Path(directory)
    _expect_files(root)
    classes, counts = _classes(*_devkit_file(root, META))
    label_of = {str(each["ilsvrc2010_id"]): label for label, each in enumerate(classes)}
    patches = archives.members(root / PATCHES, suffix=".jpeg") if (root / PATCHES).is_file() else None

    def split(folder, locations, labels):
        if patches:
            locations = _patched(locations, folder, root / PATCHES, patches)
        return Photographs(labels, archives.reader(locations), lambda index: locations.names[index])

    labels = _labels(*_devkit_file(root, VALIDATION_TRUTH), label_of)
    splits = {"validation": split("val", _locations_in_order(root / VALIDATION_IMAGES, len(labels)), labels)}
    if (root / TEST_TRUTH).is_file():
        labels = _labels((root / TEST_TRUTH).read_bytes(), root / TEST_TRUTH, label_of)
        splits["test"] = split("test", _locations_in_order(root / TEST_IMAGES, len(labels)), labels)
    locations = _locations_by_class(root, [each["wnid"] for each in classes], counts, progress)
    train = split("train", locations, np.repeat(np.arange(len(classes), dtype=np.int64), counts))
    return Ilsvrc2010(tuple(classes), {"train": train, **splits})


def _expect_files(root):
    is_unpacked = all((root / name).is_file() for name in (META, VALIDATION_TRUTH))
    train, validation, devkit, test = (
        root / name for name in (TRAINING_IMAGES, VALIDATION_IMAGES, DEVKIT, TEST_IMAGES)
    )
    expected = {
        f"{train} (or its n########.tar in {root / 'train'} or {root})": train.is_file() or _class_archives(root),
        f"{validation}": validation.is_file(),
        f"{devkit} (or {root / META} and {root / VALIDATION_TRUTH})": devkit.is_file() or is_unpacked,
    }
    if (root / TEST_TRUTH).is_file():
        expected[f"{test} (for {root / TEST_TRUTH})"] = test.is_file()
    missing = [f"no {name.partition(' (')[0]}" for name, is_there in expected.items() if not is_there]
    if missing:
        raise FileNotFoundError(
            f"Expected ILSVRC-2010 (from image-net.org) as {', '.join(expected)}. Received: {', '.join(missing)}"
        )


def _class_archives(root):
    """Returns the archives of the classes in the folder train or, without any there, in `root` itself."""
    in_train, in_root = (
        sorted(path for path in folder.glob("*.tar") if _WNID.fullmatch(path.stem)) for folder in (root / "train", root)
    )
    return in_train or in_root


def _devkit_file(root, name):
    """Returns the contents of a file of the devkit, unpacked or not, and its name in error messages."""
    if (root / name).is_file():
        return (root / name).read_bytes(), root / name
    try:
        with tarfile.open(root / DEVKIT, "r:gz") as devkit:
            for member in devkit:
                # Such a member would be followed by itself, endlessly.
                if member.size < 0:
                    raise tarfile.ReadError(f"a size of {member.size} bytes")
                if member.isreg() and member.name.removeprefix("./") == name:
                    if member.size > archives.MAX_DECOMPRESSED_BYTES:
                        raise tarfile.ReadError(f"{member.size} bytes, more than {archives.MAX_DECOMPRESSED_BYTES}")
                    return devkit.extractfile(member).read(), f"{root / DEVKIT}: {name}"
        received = "an archive without it"
    # A size that is not a number causes a ValueError.
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, OverflowError) as error:
        received = archives.first_line(error)
    raise ValueError(f"Expected {name} in {root / DEVKIT}. Received: {received}")


def _classes(content, where):
    """Returns the classes of meta.mat in the order of their labels, and the number of training images of each."""
    try:
        import scipy.io
    except ModuleNotFoundError:
        raise ModuleNotFoundError("Expected the package scipy: pip install -e '.[ilsvrc2010]'") from None
    try:
        synsets = scipy.io.loadmat(io.BytesIO(content), squeeze_me=True, variable_names=["synsets"])["synsets"]
        # Synsets with children are the ancestors of the classes.
        rows = sorted(
            (int(synset["ILSVRC2010_ID"]), str(synset["WNID"]), str(synset["words"]), int(synset["num_train_images"]))
            for synset in np.atleast_1d(synsets)
            if int(synset["num_children"]) == 0
        )
    # scipy may raise almost any error for a damaged file.
    except Exception as error:
        received = f"{type(error).__name__}, {archives.first_line(error)}"
        raise ValueError(f"Expected the devkit's synsets in {where}. Received: {received}") from None
    are_numbered = rows and [row[0] for row in rows] == [*range(1, len(rows) + 1)]
    are_distinct = len({row[1] for row in rows}) == len(rows)
    if not are_numbered or not are_distinct or not all(_WNID.fullmatch(row[1]) and row[3] > 0 for row in rows):
        raise ValueError(
            f"Expected the classes in {where} to have consecutive ILSVRC2010_IDs from 1, distinct WNIDs and images. "
            f"Received: {len(rows)} classes, the first {rows[:1]}"
        )
    rows.sort(key=lambda row: row[1])
    classes = [{"wnid": wnid, "ilsvrc2010_id": number, "words": words} for number, wnid, words, _ in rows]
    return classes, np.array([row[3] for row in rows])


def _labels(content, where, label_of):
    """Returns the labels, int64 ``[examples]``, in a file with one ILSVRC2010_ID per line."""
    lines = content.decode("ascii", "replace").split()
    for number, line in enumerate(lines, 1):
        if line not in label_of:
            raise ValueError(
                f"Expected ILSVRC2010_IDs of 1 to {len(label_of)} in {where}. Received: {line!r} in line {number}"
            )
    return np.array([label_of[line] for line in lines], np.int64)


def _locations_by_class(root, wnids, counts, progress):
    """Returns the `archives.Locations` of the training images in the order of `wnids`, with `counts` images each."""
    archive = root / TRAINING_IMAGES
    if archive.is_file():
        found = archives.members(archive, suffix=".tar")
        where = {
            archives.base_name(name)[:-4]: {"path": archive, "start": start, "size": size, "name": f"{archive}: {name}"}
            for name, start, size in zip(found.names, found.offsets.tolist(), found.sizes.tolist())
        }
    else:
        where = {path.stem: {"path": path, "name": str(path)} for path in _class_archives(root)}
    missing, unknown = sorted(set(wnids) - set(where)), sorted(set(where) - set(wnids))
    if missing or unknown:
        few = [f"no {wnid}.tar" for wnid in missing[:5]] or [f"{wnid}.tar" for wnid in unknown[:5]]
        raise ValueError(
            f"Expected a tar archive for each of the devkit's {len(wnids)} classes in "
            f"{archive if archive.is_file() else root}. Received: {len(missing)} missing, {len(unknown)} unknown: "
            f"{', '.join(few)}"
        )
    names, offsets, sizes = [], [], []
    for done, (wnid, count) in enumerate(zip(wnids, counts.tolist()), 1):
        found = archives.members(**where[wnid], suffix=".jpeg")
        if len(found.names) != count:
            raise ValueError(
                f"Expected the class's {count} images in {where[wnid]['name']}. Received: {len(found.names)}"
            )
        names += [f"{wnid}/{archives.base_name(name)}" for name in found.names]
        offsets.append(found.offsets)
        sizes.append(found.sizes)
        if progress:
            progress(done, len(wnids))
    file_of = np.repeat(np.arange(len(wnids), dtype=np.int16), counts)
    paths = [where[wnid]["path"] for wnid in wnids]
    return archives.Locations(names, paths, file_of, np.concatenate(offsets), np.concatenate(sizes))


def _locations_in_order(archive, count):
    """Returns the `archives.Locations` of the `count` images in an archive without classes."""
    found = archives.members(archive, suffix=".jpeg")
    if len(found.names) != count:
        raise ValueError(
            f"Expected an image for each of {count} lines of ground truth in {archive}. Received: {len(found.names)}"
        )
    return archives.Locations(
        [*map(archives.base_name, found.names)], [archive], np.zeros(count, np.int16), found.offsets, found.sizes
    )


def _patched(locations, folder, archive, patches):
    """Returns `archives.Locations` that read the images in the folder `folder` of `patches` from there."""
    patch_of = {
        archives.base_name(name): patch
        for patch, name in enumerate(patches.names)
        if name.split("/")[-2:-1] == [folder]
    }
    patched = [index for index, name in enumerate(locations.names) if archives.base_name(name) in patch_of]
    missing = sorted(set(patch_of) - {archives.base_name(locations.names[index]) for index in patched})
    if missing:
        raise ValueError(f"Expected {archive} to have patches of existing images only. Received: {folder}/{missing[0]}")
    sources = [patch_of[archives.base_name(locations.names[index])] for index in patched]
    locations.file_of[patched] = len(locations.paths)
    locations.offsets[patched] = patches.offsets[sources]
    locations.sizes[patched] = patches.sizes[sources]
    return locations._replace(paths=[*locations.paths, archive])
