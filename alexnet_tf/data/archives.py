"""Photographs read by index straight out of tar archives, which are never unpacked; ILSVRC-2010 as it is given out.

An archive is looked through once, header by header; names, places and sizes are all that is kept of it.
"""

import gzip
import io
import os
import pathlib
import re
import tarfile
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

TRAINING_IMAGES = "ILSVRC2010_images_train.tar"
VALIDATION_IMAGES = "ILSVRC2010_images_val.tar"
TEST_IMAGES = "ILSVRC2010_images_test.tar"
TEST_TRUTH = "ILSVRC2010_test_ground_truth.txt"
PATCHES = "patch_images.tar"
DEVKIT = "ILSVRC2010_devkit-1.0.tar.gz"
META = "devkit-1.0/data/meta.mat"
VALIDATION_TRUTH = "devkit-1.0/data/ILSVRC2010_validation_ground_truth.txt"

# What is decompressed, a photograph that was compressed once more or a file of the devkit, may not become larger.
MAX_DECOMPRESSED_BYTES = 64 * 2**20

_WNID = re.compile(r"n\d{8}")


class Members(NamedTuple):
    """Regular files in a tar archive, in the order of their names without folders."""

    names: list  # of str, as the archive has them
    offsets: np.ndarray  # int64 [members], from the beginning of the file that the archive is or lies in
    sizes: np.ndarray  # int64 [members], bytes


class Photographs(NamedTuple):
    """Labelled photographs that are read by index."""

    labels: np.ndarray  # int64 [examples]
    # Maps a scalar int64 tensor, an index, to the encoded photograph, a scalar string. Called inside tf.data.
    read: Callable
    # What an example is called, such as "n01484850/n01484850_17.JPEG".
    name_of: Callable


class Ilsvrc2010(NamedTuple):
    """The data set; labels are by sorted WordNet identifier."""

    classes: tuple  # of a dict for each label: "wnid", "ilsvrc2010_id" (int, 1 and up, in another order) and "words"
    splits: dict  # of Photographs: "train", "validation" and, where its ground truth is there, "test"


class _Places(NamedTuple):
    """Where each example lies."""

    names: list  # of str [examples]
    paths: list  # files
    file_of: np.ndarray  # int16 [examples], index into paths
    offsets: np.ndarray  # int64 [examples]
    sizes: np.ndarray  # int64 [examples], bytes


def members(path, *, suffix, start=0, size=None, name=None):
    """Finds the files in an uncompressed tar archive by reading its headers.

    Links, folders, devices and files with holes are passed over, as are names that begin with a dot.

    Args:
      path: a file that is or holds the archive.
      suffix: what the names looked for end with, in any case, such as ".jpeg".
      start: int, where in the file the archive begins.
      size: int, the archive's bytes; None for all there are.
      name: what the archive is called in messages; None for `path`.

    Returns:
      `Members`.

    Raises:
      ValueError: if it is no archive, was cut or damaged, or has a name twice.
    """
    name = name or str(path)
    found, last = [], ""
    with open(path, "rb") as file:
        end = os.fstat(file.fileno()).st_size if size is None else start + size
        file.seek(start)
        try:
            # "r:" takes no compressed archive: in one, members have no place of their own.
            with tarfile.open(fileobj=file, mode="r:") as archive:
                while (member := archive.next()) is not None:
                    # Else it keeps all that it has seen, a kilobyte for each.
                    archive.members.clear()
                    if member.size < 0 or member.offset_data + member.size > end:
                        raise tarfile.ReadError(f"no whole {member.name}")
                    base = _base(member.name)
                    if member.isreg() and not member.issparse() and base[:1] != "." and base.lower().endswith(suffix):
                        found.append((base, member.name, member.offset_data, member.size))
                    last = member.name
                # tarfile takes a damaged or missing header for the end of the archive; the true one is marked by zeros.
                mark = os.pread(file.fileno(), tarfile.BLOCKSIZE, archive.offset)
                if archive.offset + tarfile.BLOCKSIZE > end or mark != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError("no mark at its end")
        except (tarfile.TarError, ValueError, OverflowError) as error:
            where = f"cut or damaged after {last}" if last else f"without a whole member ({_first_line(error)})"
            raise ValueError(
                f"Expected {name} to be a whole, uncompressed tar archive. Received: {end - start} bytes, {where}"
            ) from None
    found.sort()
    for (base, *_), (following, *_) in zip(found, found[1:]):
        if base == following:
            raise ValueError(f"Expected every name in {name} once. Received: {base} twice")
    offsets, sizes = (np.array([entry[column] for entry in found], np.int64) for column in (2, 3))
    return Members([entry[1] for entry in found], offsets, sizes)


def ilsvrc2010(directory, *, progress=None):
    """ILSVRC-2010 in the files that image-net.org gives out, with the patches that belong to it applied.

    Args:
      directory: holds ILSVRC2010_images_train.tar (or the archives of the classes that it consists of, there or in a
        folder train), ILSVRC2010_images_val.tar and ILSVRC2010_devkit-1.0.tar.gz (or the folder devkit-1.0). Used if
        they are there: patch_images.tar, and ILSVRC2010_test_ground_truth.txt with ILSVRC2010_images_test.tar.
      progress: called with how many of the classes' archives have been looked through, and how many there are.

    Returns:
      `Ilsvrc2010`. Within a class, or a split without classes, examples are in the order of their names.

    Raises:
      FileNotFoundError: naming the files that are missing.
      ModuleNotFoundError: without the package scipy, which reads the devkit.
      ValueError: for files that are damaged or do not belong together.
    """
    root = pathlib.Path(directory)
    _expect_files(root)
    classes, counts = _classes(*_devkit_file(root, META))
    label_of = {str(each["ilsvrc2010_id"]): label for label, each in enumerate(classes)}
    patches = members(root / PATCHES, suffix=".jpeg") if (root / PATCHES).is_file() else None

    def split(folder, places, labels):
        if patches:
            places = _patched(places, folder, root / PATCHES, patches)
        return Photographs(labels, _reader(places), lambda index: places.names[index])

    labels = _labels(*_devkit_file(root, VALIDATION_TRUTH), label_of)
    splits = {"validation": split("val", _places_in_order(root / VALIDATION_IMAGES, len(labels)), labels)}
    if (root / TEST_TRUTH).is_file():
        labels = _labels((root / TEST_TRUTH).read_bytes(), root / TEST_TRUTH, label_of)
        splits["test"] = split("test", _places_in_order(root / TEST_IMAGES, len(labels)), labels)
    places = _places_by_class(root, [each["wnid"] for each in classes], counts, progress)
    train = split("train", places, np.repeat(np.arange(len(classes), dtype=np.int64), counts))
    return Ilsvrc2010(tuple(classes), {"train": train, **splits})


def _base(name):
    return name.rpartition("/")[2]


def _first_line(error):
    return (str(error).splitlines() or [type(error).__name__])[0]


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
    """The archives of classes that lie in the folder train or else in `root` itself."""
    in_train, in_root = (
        sorted(path for path in folder.glob("*.tar") if _WNID.fullmatch(path.stem)) for folder in (root / "train", root)
    )
    return in_train or in_root


def _devkit_file(root, name):
    """The content of a file of the devkit, unpacked or not, and what to call it."""
    if (root / name).is_file():
        return (root / name).read_bytes(), root / name
    try:
        with tarfile.open(root / DEVKIT, "r:gz") as devkit:
            for member in devkit:
                # Such a member would begin where it ends, again and again.
                if member.size < 0:
                    raise tarfile.ReadError(f"a size of {member.size} bytes")
                if member.isreg() and member.name.removeprefix("./") == name:
                    if member.size > MAX_DECOMPRESSED_BYTES:
                        raise tarfile.ReadError(f"{member.size} bytes, more than {MAX_DECOMPRESSED_BYTES}")
                    return devkit.extractfile(member).read(), f"{root / DEVKIT}: {name}"
        received = "an archive without it"
    # A ValueError is what a size that is no number ends in.
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, OverflowError) as error:
        received = _first_line(error)
    raise ValueError(f"Expected {name} in {root / DEVKIT}. Received: {received}")


def _classes(content, where):
    """The classes of meta.mat in the order of their labels, and the number of training images of each, int."""
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
    # What scipy raises for a damaged file can be nearly anything.
    except Exception as error:
        received = f"{type(error).__name__}, {_first_line(error)}"
        raise ValueError(f"Expected the devkit's synsets in {where}. Received: {received}") from None
    are_numbered = rows and [row[0] for row in rows] == [*range(1, len(rows) + 1)]
    are_distinct = len({row[1] for row in rows}) == len(rows)
    if not are_numbered or not are_distinct or not all(_WNID.fullmatch(row[1]) and row[3] > 0 for row in rows):
        raise ValueError(
            f"Expected the classes in {where} to have ILSVRC2010_IDs from 1 on, WNIDs of their own and images. "
            f"Received: {len(rows)} classes, the first {rows[:1]}"
        )
    rows.sort(key=lambda row: row[1])
    classes = [{"wnid": wnid, "ilsvrc2010_id": number, "words": words} for number, wnid, words, _ in rows]
    return classes, np.array([row[3] for row in rows])


def _labels(content, where, label_of):
    """The labels, int64 ``[examples]``, in a file of one ILSVRC2010_ID a line."""
    lines = content.decode("ascii", "replace").split()
    for number, line in enumerate(lines, 1):
        if line not in label_of:
            raise ValueError(
                f"Expected in {where} the ILSVRC2010_IDs 1 to {len(label_of)}. Received: {line!r} in line {number}"
            )
    return np.array([label_of[line] for line in lines], np.int64)


def _places_by_class(root, wnids, counts, progress):
    """`_Places` of the training images, in the order of `wnids`, of each of which there are so many."""
    archive = root / TRAINING_IMAGES
    if archive.is_file():
        found = members(archive, suffix=".tar")
        where = {
            _base(name)[:-4]: {"path": archive, "start": start, "size": size, "name": f"{archive}: {name}"}
            for name, start, size in zip(found.names, found.offsets.tolist(), found.sizes.tolist())
        }
    else:
        where = {path.stem: {"path": path, "name": str(path)} for path in _class_archives(root)}
    missing, unknown = sorted(set(wnids) - set(where)), sorted(set(where) - set(wnids))
    if missing or unknown:
        few = [f"no {wnid}.tar" for wnid in missing[:5]] or [f"{wnid}.tar" for wnid in unknown[:5]]
        raise ValueError(
            f"Expected in {archive if archive.is_file() else root} a tar archive for each of the devkit's "
            f"{len(wnids)} classes. Received: {len(missing)} missing, {len(unknown)} unknown: {', '.join(few)}"
        )
    names, offsets, sizes = [], [], []
    for done, (wnid, count) in enumerate(zip(wnids, counts.tolist()), 1):
        found = members(**where[wnid], suffix=".jpeg")
        if len(found.names) != count:
            raise ValueError(
                f"Expected in {where[wnid]['name']} the class's {count} images. Received: {len(found.names)}"
            )
        names += [f"{wnid}/{_base(name)}" for name in found.names]
        offsets.append(found.offsets)
        sizes.append(found.sizes)
        if progress:
            progress(done, len(wnids))
    file_of = np.repeat(np.arange(len(wnids), dtype=np.int16), counts)
    paths = [where[wnid]["path"] for wnid in wnids]
    return _Places(names, paths, file_of, np.concatenate(offsets), np.concatenate(sizes))


def _places_in_order(archive, count):
    """`_Places` of the images of an archive without classes, for which there are `count` lines of ground truth."""
    found = members(archive, suffix=".jpeg")
    if len(found.names) != count:
        raise ValueError(
            f"Expected in {archive} an image for each of {count} lines of ground truth. Received: {len(found.names)}"
        )
    return _Places([*map(_base, found.names)], [archive], np.zeros(count, np.int16), found.offsets, found.sizes)


def _patched(places, folder, archive, patches):
    """`_Places` in which the images that `patches` has in a folder `folder` are read from there."""
    patch_of = {_base(name): patch for patch, name in enumerate(patches.names) if name.split("/")[-2:-1] == [folder]}
    patched = [index for index, name in enumerate(places.names) if _base(name) in patch_of]
    missing = sorted(set(patch_of) - {_base(places.names[index]) for index in patched})
    if missing:
        raise ValueError(f"Expected in {archive} patches of images that are there. Received: {folder}/{missing[0]}")
    sources = [patch_of[_base(places.names[index])] for index in patched]
    places.file_of[patched] = len(places.paths)
    places.offsets[patched] = patches.offsets[sources]
    places.sizes[patched] = patches.sizes[sources]
    return places._replace(paths=[*places.paths, archive])


def _reader(places):
    """Maps a scalar int64 tensor to the bytes at that place, decompressed if need be, a scalar string."""

    def fetch(index):
        path, size = places.paths[places.file_of[index]], int(places.sizes[index])
        # Opened for each: a process may hold about a thousand files, and there can be a thousand archives.
        descriptor = os.open(path, os.O_RDONLY)
        try:
            content = os.pread(descriptor, size, int(places.offsets[index]))
        finally:
            os.close(descriptor)
        if len(content) != size:
            raise ValueError(f"Expected {size} bytes of {places.names[index]} in {path}. Received: {len(content)}")
        return _decompressed(content, f"{places.names[index]} in {path}") if content[:2] == b"\x1f\x8b" else content

    return lambda index: tf.ensure_shape(tf.numpy_function(fetch, [index], tf.string, stateful=False), [])


def _decompressed(content, where):
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    received = "the beginning of one"
    try:
        plain = stream.decompress(content, MAX_DECOMPRESSED_BYTES + 1)
        if len(plain) > MAX_DECOMPRESSED_BYTES:
            received = "more"
        elif stream.eof:
            return plain
    except zlib.error as error:
        received = _first_line(error)
    raise ValueError(
        f"Expected {where} to be a whole gzip file of at most {MAX_DECOMPRESSED_BYTES} bytes. Received: {received}"
    )
