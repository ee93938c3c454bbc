"""Photographs that a CSV file lists with their labels."""

import csv
import decimal
import io
import os
import pathlib
import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

from alexnet_tf.data import folders
from alexnet_tf.utils import escaping
from alexnet_tf.utils import pathnames
from alexnet_tf.utils import text_files

LAYOUT = "a CSV file whose first line names the columns path, label and, optionally, split"
# The names of the columns, the first preferred; upper and lower case are the same.
COLUMNS = {
    "path": ("path", "file", "filename", "image"),
    "label": ("label", "class"),
    "split": ("split", "set"),
}
_DELIMITERS = (",", ";", "\t")
_SPLITS = {name: split for split, names in folders.SPLIT_FOLDERS.items() for name in names}
_NUMBER = re.compile(r"[+-]?\d{1,18}(\.\d{0,18})?", re.ASCII)
# Names in a line.
_MAX_LISTED = 5


class Table(NamedTuple):
    """The photographs that a CSV file lists."""

    class_names: tuple[str, ...]  # sorted: as numbers if all of them are, otherwise as text
    splits: dict[str, tuple[list[str], list[int]]]  # "train" and others: the path and label of each photograph
    root: str  # the folder that relative paths begin at
    notes: tuple[str, ...]  # a line for each kind of line or column that is not read


class _Line(NamedTuple):
    number: int
    path: str  # of the file, or as it is written if there is none
    exists: bool
    label: str
    split: str


def open_table(path: str | os.PathLike) -> Table:
    """Reads a CSV file of paths and labels, and finds the photographs.

    The file is UTF-8, with commas, semicolons or tabs between its columns. Paths are relative to its folder. Without a
    column of splits, all photographs are the training set's. Photographs are sorted by path, whatever their order.

    Args:
      path: of the CSV file.

    Raises:
      FileNotFoundError: if there is no such file, or none of the photographs.
      ValueError: for a file that is not as `LAYOUT`, or that contradicts itself.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        received = f"the directory {path}" if os.path.isdir(path) else path
        raise FileNotFoundError(f"Expected {LAYOUT}. Received: {received}")
    root = str(pathlib.Path(path).parent)
    notes = []
    lines = list(_read(path, root, notes))
    lines = _once(lines, path, notes)
    class_of = _classes({line.label for line in lines}, path)
    numbers = _numbers(lines, class_of, path, notes)
    lines = _existing(lines, root, path, notes)
    splits = {}
    for split in folders.SPLIT_FOLDERS:
        pairs = sorted((line.path, numbers[class_of[line.label]]) for line in lines if line.split == split)
        if pairs:
            splits[split] = tuple(map(list, zip(*pairs)))
    return Table(tuple(numbers), splits, root, tuple(map(escaping.one_line, notes)))


def _read(path, root, notes) -> Iterator[_Line]:
    """Yields the lines of the file."""
    rows = _rows(path)
    number, header = next(rows, (1, []))
    columns = _columns(header, path, number, notes)
    for number, row in rows:
        # Spreadsheets end all lines with as many delimiters as the longest line has.
        if len(row) < len(header) or any(row[len(header) :]):
            raise _error(path, number, f"{len(row)} columns, not the {len(header)} of the first line")
        cells = {name: row[place] for name, place in columns.items()}
        for name, cell in cells.items():
            if not cell:
                raise _error(path, number, f"no {name}")
        split = _SPLITS.get(cells.get("split", "train").lower())
        if split is None:
            raise _error(path, number, f"the split {_quoted(cells['split'])}, not train, val or test")
        listed = str(pathlib.Path(root, pathnames.expand(cells["path"])))
        file = _find(listed)
        yield _Line(number, file or listed, file is not None, pathnames.composed(cells["label"]), split)


def _rows(path):
    """Yields the number and the cells of each line that is not blank."""
    text = text_files.read(path, LAYOUT)
    first = next((line for line in text.split("\n") if line.strip()), "")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(first), strict=True, skipinitialspace=True)
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise _error(path, reader.line_num, str(error)) from None


def _delimiter(header):
    """Returns the delimiter with which a header names most of the columns."""
    return max(_DELIMITERS, key=lambda each: len(_known(header.replace('"', "").split(each))))


def _known(names):
    """Returns the place of each column that is known among the names of columns, the preferred one of several."""
    names = [name.strip().lower() for name in names]
    found = {}
    for column, known in COLUMNS.items():
        if matches := [name for name in known if name in names]:
            found[column] = names.index(matches[0])
    return found


def _columns(header, path, number, notes):
    columns = _known(header)
    for column in ("path", "label"):
        if column not in columns:
            raise _error(path, number, f"no column {column}, but {_listed(header) or 'nothing'}")
    lowered = [name.lower() for name in header]
    for column, place in columns.items():
        if lowered.count(lowered[place]) > 1:
            raise _error(path, number, f"two columns {_quoted(header[place])}, but only one may be the {column}")
    others = [name for place, name in enumerate(header) if name and place not in columns.values()]
    if others:
        notes.append(f"not read in {path}: {'columns' if len(others) > 1 else 'column'} {_listed(others)}")
    return columns


def _once(lines, path, notes):
    """Returns the lines without repetitions; a photograph that is listed again must have the same label and split."""
    found, repeated = {}, []
    for line in lines:
        first = found.setdefault(line.path, line)
        if first is line:
            continue
        for name in ("label", "split"):
            now, before = getattr(line, name), getattr(first, name)
            if now != before:
                received = f"{line.path} with {name} {_quoted(now)}, but {_quoted(before)} on line {first.number}"
                raise _error(path, line.number, received)
        repeated.append(line)
    if repeated:
        what = "lines that repeat others" if len(repeated) > 1 else "line that repeats another"
        notes.append(f"not read in {path}: {len(repeated)} {what}, the first line {repeated[0].number}")
    if not found:
        raise ValueError(f"Expected lines with a path and a label in {path}. Received: none")
    return list(found.values())


def _classes(labels: set[str], path: str) -> dict[str, str]:
    """Returns the name of the class of each label, sorted by class.

    Spreadsheets and pandas write whole numbers as 1.0 where a cell of their column is empty.
    """
    if not all(map(_NUMBER.fullmatch, labels)):
        return {label: label for label in sorted(labels)}
    values = {label: decimal.Decimal(label) for label in labels}
    are_whole = all(value == value.to_integral_value() for value in values.values())
    class_of = {label: label.partition(".")[0] if are_whole else label for label in sorted(labels, key=values.get)}
    names = {}
    for label, name in class_of.items():
        other = names.setdefault(values[label], name)
        if other != name:
            received = " and ".join(sorted((name, other)))
            raise ValueError(f"Expected each number among the labels of {path} in one spelling. Received: {received}")
    return class_of


def _numbers(lines, class_of, path, notes):
    """Returns the number of each class, those of the training set."""
    trained = {class_of[line.label] for line in lines if line.split == "train"}
    if not trained:
        raise ValueError(f"Expected lines of the split train in {path}. Received: none")
    for split in ("validation", "test"):
        own = [line for line in lines if line.split == split]
        for line in own:
            if class_of[line.label] not in trained:
                received = f"the label {_quoted(line.label)}, which no line of the split train has"
                raise _error(path, line.number, received)
        lacking = [name for name in class_of.values() if name in trained - {class_of[line.label] for line in own}]
        if own and lacking:
            names = _listed(dict.fromkeys(lacking))
            notes.append(f"the {split} set of {path} has no images of some of the {len(trained)} classes: {names}")
    return {
        name: number for number, name in enumerate(name for name in dict.fromkeys(class_of.values()) if name in trained)
    }


def _existing(lines, root, path, notes):
    """Returns the lines of photographs that exist."""
    found = [line for line in lines if line.exists]
    missing = [line for line in lines if not line.exists]
    if not any(line.split == "train" for line in found):
        first = next(line for line in missing if line.split == "train")
        raise FileNotFoundError(
            f"Expected the training images that {path} lists, with paths relative to {root}. Received: missing files "
            f"only, the first {escaping.one_line(first.path)} on line {first.number}"
        )
    if missing:
        what = "files that do not exist" if len(missing) > 1 else "file that does not exist"
        first = f"{missing[0].path} on line {missing[0].number}"
        notes.append(f"not read in {path}: {len(missing)} {what}, the first {first}")
    return found


def _find(path):
    """Returns the path of a file: as it is written, with separators of Windows, or with accents of other systems."""
    accents = (unicodedata.normalize(form, path) for form in ("NFC", "NFD"))
    candidates = dict.fromkeys((path, path.replace("\\", "/"), *accents))
    return next(filter(os.path.isfile, candidates), None)


def _listed(names):
    names = list(names)
    return ", ".join(map(_quoted, names[:_MAX_LISTED])) + ", ..." * (len(names) > _MAX_LISTED)


def _quoted(text):
    shown = escaping.one_line(text)
    return f"'{shown if len(shown) <= 60 else shown[:57] + '...'}'"


def _error(path, number, received):
    return ValueError(escaping.one_line(f"Expected {LAYOUT}. Received: {path}, line {number}: {received}"))
