"""Tiny ImageNet in the layout of its distribution: 200 classes of ImageNet, photographs of 64 x 64 pixels."""

import os
import pathlib
import re
from typing import NamedTuple

from alexnet_tf.data import folders
from alexnet_tf.utils import escaping
from alexnet_tf.utils import messages

LAYOUT = (
    "DIR/wnids.txt, DIR/words.txt, DIR/train/WNID/images/*.JPEG, DIR/val/images/*.JPEG and DIR/val/val_annotations.txt"
)
LICENSE = (
    "Tiny ImageNet (Stanford CS231n), photographs of ImageNet at 64 x 64: for non-commercial research and education"
)
_IDENTIFIERS = "wnids.txt"
_WORDS = "words.txt"
_ANNOTATIONS = os.path.join("val", "val_annotations.txt")
_PARTS = (_IDENTIFIERS, _WORDS, "train", os.path.join("val", "images"), _ANNOTATIONS)
_WORDNET_ID = re.compile(r"n\d{8}")


class TinyImagenet(NamedTuple):
    """The data set. Labels are in the order of the WordNet identifiers."""

    classes: tuple[dict[str, str], ...]  # for each label a dict of "wnid" and, if words.txt has them, "words"
    splits: dict[str, tuple[list[str], list[int]]]  # "train" and "validation": the path and label of each photograph
    notes: tuple[str, ...]  # a line for each kind of file or folder that is not read


def open_folder(directory: str | os.PathLike) -> TinyImagenet:
    """Finds the photographs and labels of Tiny ImageNet; see `LAYOUT`. The test set has no labels and is not read.

    Args:
      directory: the folder, such as ``tiny-imagenet-200``.

    Raises:
      FileNotFoundError: if files are missing; the message lists them.
      ValueError: if files are damaged or do not belong together.
    """
    root = str(pathlib.Path(directory))
    missing = [name for name in _PARTS if not os.path.exists(os.path.join(root, name))]
    if missing:
        raise FileNotFoundError(
            f"Expected Tiny ImageNet as {LAYOUT}; for folders of images by class, use folder:DIR. Received: {root} "
            f"without {', '.join(missing)}"
        )
    identifiers = _read_identifiers(os.path.join(root, _IDENTIFIERS))
    words = _read_words(os.path.join(root, _WORDS), set(identifiers))
    classes = tuple({"wnid": each} | ({"words": words[each]} if each in words else {}) for each in identifiers)
    unread, notes = folders.Unread(), []
    splits = {
        "train": _read_train(root, identifiers, unread, notes),
        "validation": _read_validation(root, identifiers, unread),
    }
    test = os.path.join(root, "test", "images")
    if os.path.isdir(test):
        notes.append(f"not read: {test}, as its {len(os.listdir(test)):,} files have no labels")
    return TinyImagenet(classes, splits, tuple(map(messages.printable, (*unread.lines(root), *notes))))


def _lines(path):
    """Yields the number and the text of each line that is not empty."""
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line.rstrip("\r\n")


def _read_identifiers(path):
    """Returns the sorted WordNet identifiers of the classes."""
    found = set()
    for number, line in _lines(path):
        name = line.strip()
        if not _WORDNET_ID.fullmatch(name) or name in found:
            received = escaping.one_line(name[:100])
            raise ValueError(
                f"Expected a different WordNet identifier, such as n01443537, in each line of {path}. Received: "
                f"{received!r} in line {number}"
            )
        found.add(name)
    return sorted(found)


def _read_words(path, identifiers):
    """Returns the words of the classes that have some, by WordNet identifier."""
    pairs = (line.partition("\t") for _, line in _lines(path))
    return {name: escaping.one_line(text.strip()) for name, _, text in pairs if name in identifiers and text.strip()}


def _images(directory, unread):
    """Returns the sorted names of the image files in a folder."""
    names = []
    for entry in folders.entries(directory):
        reason = folders.why_unread(entry, folders.IMAGE_SUFFIXES)
        if reason is None:
            names.append(entry.name)
        elif entry.name not in folders.SYSTEM_FILES:
            unread.add(reason, entry.path)
    return names


def _read_train(root, identifiers, unread, notes):
    paths, labels = [], []
    train = os.path.join(root, "train")
    for label, name in enumerate(identifiers):
        directory = os.path.join(train, name, "images")
        found = _images(directory, unread) if os.path.isdir(directory) else []
        if not found:
            raise ValueError(
                f"Expected images of each of the {len(identifiers)} classes of {_IDENTIFIERS} in {train}. Received: "
                f"none in {directory}"
            )
        paths += [os.path.join(directory, each) for each in found]
        labels += [label] * len(found)
    others = [
        entry.name for entry in folders.entries(train) if entry.name not in identifiers and os.path.isdir(entry.path)
    ]
    if others:
        notes.append(
            f"not read in {train}: {_IDENTIFIERS} does not name {len(others)} of the folders, such as {others[0]}"
        )
    return paths, labels


def _read_validation(root, identifiers, unread):
    path, directory = os.path.join(root, _ANNOTATIONS), os.path.join(root, "val", "images")
    label_of = {name: label for label, name in enumerate(identifiers)}
    annotated = {}
    for number, line in _lines(path):
        # The name of a file, a class and the corners of a box.
        name, _, rest = line.partition("\t")
        identifier = rest.partition("\t")[0].strip()
        if identifier not in label_of or name in annotated:
            received = escaping.one_line(line[:100])
            raise ValueError(
                f"Expected a different image and one of {len(identifiers)} classes in each line of {path}. Received: "
                f"{received!r} in line {number}"
            )
        annotated[name] = label_of[identifier]
    found = _images(directory, unread)
    missing, unknown = sorted(annotated.keys() - set(found)), sorted(set(found) - annotated.keys())
    if missing or unknown or not found:
        few = [f"no {name}" for name in missing[:1]] + [f"{name} in addition" for name in unknown[:1]]
        raise ValueError(
            f"Expected the {len(annotated)} images of {path} in {directory}. Received: {len(found)} images, "
            f"{len(missing)} missing, {len(unknown)} unexpected ({', '.join(few) or 'none'})"
        )
    return [os.path.join(directory, name) for name in found], [annotated[name] for name in found]
