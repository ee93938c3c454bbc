"""Photographs in class folders: which of them are read, and a line for each kind of file or folder that is not."""

import collections
import functools
import os
import pathlib
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import NamedTuple

from alexnet_tf.utils import messages
from alexnet_tf.utils import pathnames

LAYOUT = (
    "DIR/train/CLASS/IMAGE, and optionally DIR/val/CLASS/IMAGE and DIR/test/CLASS/IMAGE with the same class folders; "
    "or DIR/CLASS/IMAGE without a validation and a test set"
)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp")
# The names of a split's folder, the first preferred; upper and lower case are the same.
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
# What version 0.1 read. Its split of a folder is drawn from these files.
_SUFFIXES_0_1 = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
_FOLDERS_0_1 = {"train": "train", "validation": "val", "test": "test"}

# Files that operating systems leave in folders, which need no line.
SYSTEM_FILES = (".DS_Store", "Thumbs.db", "desktop.ini")

_OTHER_FORMAT = ("file of another format", "files of other formats")
NESTED = ("file in a folder inside a class folder", "files in folders inside class folders")
_OUTSIDE = ("file outside of the class folders", "files outside of the class folders")
_NO_TARGET = ("link that leads nowhere", "links that lead nowhere")
_HIDDEN = ("hidden file or folder", "hidden files or folders")
_SPECIAL = ("special file", "special files")
_CYCLE = ("link to a folder that contains it", "links to folders that contain them")
_REMEDIES = {
    _OTHER_FORMAT: "; convert images to JPEG or PNG",
    NESTED: "; move images to the class folder, or pass --nested_folders",
    _OUTSIDE: "; move images to a class folder",
}
# Names in a line.
_MAX_LISTED = 5


class Folder(NamedTuple):
    """The photographs in a folder."""

    class_names: tuple[str, ...]  # sorted
    splits: dict[str, tuple[list[str], list[int]]]  # "train" and others: the path and label of each photograph
    notes: tuple[str, ...]  # a line for each kind of file or folder that is not read


class Unread:
    """Counts what is not read, by reason."""

    def __init__(self):
        self._counts = collections.Counter()
        self._first = {}
        self._suffixes = collections.Counter()

    def add(self, reason: tuple[str, str], path: str) -> None:
        """Counts one path; the reason is one that `why_unread` returns."""
        self._counts[reason] += 1
        self._first.setdefault(reason, path)
        if reason == _OTHER_FORMAT:
            self._suffixes[os.path.splitext(path)[1].lower() or "no suffix"] += 1

    def lines(self, root: str) -> Iterator[str]:
        """Yields a line for each reason, with the first path relative to `root`."""
        for reason, count in self._counts.items():
            what = f"{count} {reason[count > 1]}"
            if reason == _OTHER_FORMAT:
                what += f" ({_listed([f'{number} {suffix}' for suffix, number in self._suffixes.most_common()])})"
            first = os.path.relpath(self._first[reason], root)
            yield f"not read in {root}: {what}, the first {first}{_REMEDIES.get(reason, '')}"


def _listed(names):
    shown = ", ".join(names[:_MAX_LISTED])
    return shown + ", ..." if len(names) > _MAX_LISTED else shown


def open_folder(directory: str | os.PathLike, as_version_0_1: bool = False, nested: bool = False) -> Folder:
    """Finds the photographs of a folder of class folders; see `LAYOUT`.

    Args:
      directory: the folder.
      as_version_0_1: whether to read only what version 0.1 read: folders named train, val and test, and no WebP files.
      nested: whether to read the photographs in folders within a class folder too, as images of that class.

    Raises:
      FileNotFoundError: if there is no folder, train folder or class folder.
      ValueError: for a class folder without images, or one that the train folder does not have.
    """
    root = str(pathlib.Path(directory))
    if not os.path.isdir(root):
        raise FileNotFoundError(f"Expected class folders of images as {LAYOUT}. Received: {root}")
    suffixes = _SUFFIXES_0_1 if as_version_0_1 else IMAGE_SUFFIXES
    read_class = functools.partial(below if nested else _directly_in, suffixes=suffixes)
    unread, notes = Unread(), []
    folders = _split_folders(_subfolders(root), as_version_0_1)
    train = _join(root, folders["train"]) if "train" in folders else root
    if train == root:
        class_names = _classes_without_train_folder(root, folders.values(), read_class)
    else:
        class_names = _subfolders(train)
        _pass_over_loose(root, unread)
        if others := [name for name in _subfolders(root) if name not in folders.values()]:
            notes.append(_describe_unused(root, others))
    if not class_names:
        raise FileNotFoundError(f"Expected class folders in {train}: {LAYOUT}. Received: none")
    splits = {"train": _read_split(train, class_names, read_class, unread, every_class=True)}
    for split in ("validation", "test"):
        if split in folders:
            path = _join(root, folders[split])
            _check_classes(path, class_names, train)
            if found := _read_held_out(path, class_names, read_class, unread, notes):
                splits[split] = found
    return Folder(tuple(class_names), splits, tuple(map(messages.printable, (*unread.lines(root), *notes))))


def _classes_without_train_folder(root, split_folders, read_class):
    names = [name for name in _subfolders(root) if name not in split_folders]
    if not any(next(read_class(_join(root, name), Unread()), None) for name in names):
        raise FileNotFoundError(f"Expected class folders of images as {LAYOUT}. Received: {root}{_hint(root, names)}")
    return names


def _hint(root, names):
    """Returns what to do if there are images, but in folders inside class folders."""
    if not any(next(below(_join(root, name), Unread()), None) for name in names):
        return ""
    return "; pass --nested_folders to read the images in folders inside class folders"


def _check_classes(directory, class_names, train):
    known = _by_composed_name(train, class_names)
    if unknown := [name for name in _subfolders(directory) if pathnames.composed(name) not in known]:
        raise ValueError(
            f"Expected {directory} to have the class folders of {train} only. Received: {', '.join(unknown)}"
        )


def _by_composed_name(directory, names):
    """Returns a dict from the composed form of each name of a subfolder to the name as it is written."""
    found = {}
    for name in names:
        if not pathnames.is_text(name):
            raise ValueError(
                f"Expected class folders with names in UTF-8 in {directory}. Received: {pathnames.printable(name)}; "
                "rename it"
            )
        if (other := found.setdefault(pathnames.composed(name), name)) != name:
            written = " and ".join(each.encode("ascii", "backslashreplace").decode() for each in (other, name))
            raise ValueError(
                f"Expected class folders with different names in {directory}. Received: {name} twice, with its accents "
                f"written in two ways, {written}; move the images of one to the other"
            )
    return found


def _join(directory, name):
    # Without "./", as names of photographs are compared.
    return str(pathlib.Path(directory, name))


def entries(directory: str) -> list[os.DirEntry]:
    """Returns the entries of a folder, sorted by name."""
    return sorted(os.scandir(directory), key=lambda entry: entry.name)


def _subfolders(directory):
    return sorted(entry.name for entry in os.scandir(directory) if entry.name[0] != "." and _is(entry.is_dir))


def _is(check: Callable[[], bool]) -> bool:
    """Returns the result of a check of a directory entry; False for a link to itself."""
    try:
        return check()
    except OSError:
        return False


def _split_folders(names: Sequence[str], as_version_0_1: bool) -> dict[str, str]:
    """Returns the folder of each split, by split."""
    if as_version_0_1:
        return {split: name for split, name in _FOLDERS_0_1.items() if name in names}
    found = {}
    for split, known in SPLIT_FOLDERS.items():
        # Exact names before others.
        matches = [name for each in known for name in sorted(names, reverse=True) if name.lower() == each]
        if matches:
            found[split] = matches[0]
    return found


def _describe_unused(root, names):
    known = "; ".join(", ".join(each) for each in SPLIT_FOLDERS.values())
    rule = f"only one folder is read for each split, the first of {known}"
    return f"not read in {root}: the folders {_listed(names)}; {rule}"


def _read_held_out(directory, class_names, read_class, unread, notes):
    """Returns the paths and labels of a validation or test set; None, and a line in the notes, if it is not labeled."""
    if not _subfolders(directory):
        suffixes = read_class.keywords["suffixes"]
        loose = sum(why_unread(entry, suffixes) is None for entry in entries(directory))
        if loose:
            notes.append(f"not read: {directory}, as its {loose} images are not in class folders")
            return None
    paths, labels = _read_split(directory, class_names, read_class, unread, every_class=False)
    if not paths:
        raise ValueError(f"Expected images in {directory}. Received: none")
    present = set(labels)
    if lacking := [name for label, name in enumerate(class_names) if label not in present]:
        notes.append(f"{directory} has no images of {len(lacking)} of {len(class_names)} classes: {_listed(lacking)}")
    return paths, labels


def _read_split(directory, class_names, read_class, unread, *, every_class):
    paths, labels = [], []
    _pass_over_loose(directory, unread)
    folders = _by_composed_name(directory, _subfolders(directory))
    for label, class_name in enumerate(class_names):
        path = _join(directory, folders.get(pathnames.composed(class_name), class_name))
        found = list(read_class(path, unread)) if os.path.isdir(path) else []
        if not found and every_class:
            others = sum(entry.name[0] != "." for entry in os.scandir(path))
            received = f"{others} files or folders of other kinds" if others else "none"
            suffixes = ", ".join(read_class.keywords["suffixes"])
            raise ValueError(
                f"Expected images ({suffixes}) in {path}. Received: {received}{_hint(directory, [class_name])}"
            )
        paths += found
        labels += [label] * len(found)
    return paths, labels


def _directly_in(directory, unread, suffixes) -> Iterator[str]:
    """Yields the sorted paths of the images in a folder; counts what is not read."""
    for entry in entries(directory):
        reason = why_unread(entry, suffixes)
        if reason is None:
            # Plain strings, as there may be a million.
            yield entry.path
        elif reason == NESTED:
            for path in _files_below(entry.path):
                unread.add(reason, path)
        elif entry.name not in SYSTEM_FILES:
            unread.add(reason, entry.path)


def below(directory: str, unread: Unread, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> Iterator[str]:
    """Yields the paths of the images in a folder and in all folders below it, sorted within each.

    Args:
      directory: the folder.
      unread: counts what is not read.
      suffixes: of images.
    """
    # From the folder to the current one: its identity, and the entries that are left.
    opened = [(_identity(directory), iter(entries(directory)))]
    while opened:
        entry = next(opened[-1][1], None)
        if entry is None:
            opened.pop()
            continue
        reason = why_unread(entry, suffixes)
        if reason is None:
            yield entry.path
        elif reason == NESTED:
            identity = _identity(entry.path)
            if identity in [parent for parent, _ in opened]:
                unread.add(_CYCLE, entry.path)
            else:
                opened.append((identity, iter(entries(entry.path))))
        elif entry.name not in SYSTEM_FILES:
            unread.add(reason, entry.path)


def _identity(directory):
    found = os.stat(directory)
    return found.st_dev, found.st_ino


def why_unread(entry: os.DirEntry, suffixes: tuple[str, ...]) -> str | None:
    """Returns why an entry of a folder is not read as an image, a key of `Unread`; None if it is."""
    if entry.name[0] == ".":
        return _HIDDEN
    if _is(entry.is_file):
        return None if entry.name.lower().endswith(suffixes) else _OTHER_FORMAT
    if _is(entry.is_dir):
        return NESTED
    return _NO_TARGET if entry.is_symlink() else _SPECIAL


def _files_below(directory) -> Iterator[str]:
    for path, folders, names in os.walk(directory):
        folders.sort()
        for name in sorted(names):
            if name not in SYSTEM_FILES:
                yield os.path.join(path, name)


def _pass_over_loose(directory, unread):
    """Counts the files next to the class folders or the folders of splits."""
    for entry in entries(directory):
        if entry.name[0] == "." and entry.name not in SYSTEM_FILES:
            unread.add(_HIDDEN, entry.path)
        elif entry.name not in SYSTEM_FILES and not _is(entry.is_dir):
            unread.add(_OUTSIDE, entry.path)
