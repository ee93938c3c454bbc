"""Which images a run was started with, and that resuming and evaluating it keep to them.

``data.json`` and ``data.npz`` in the work directory have the name, label and file size of every image of each split.
They are written once, when training starts. Later the data set is compared with them, without reading images: what the
run was trained on is never evaluated as held out, and images that were added since are left out.
"""

import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from alexnet_tf.data import sources
from alexnet_tf.utils import files
from alexnet_tf.utils import messages
from alexnet_tf.utils import pathnames
from alexnet_tf.utils import schema

FILE = "data.json"
ARRAYS = "data.npz"
_WHAT = "the images of the run"
_REMEDY = "restore data.json and data.npz from a copy"
_STRUCTURE = schema.Object(
    {
        "source": schema.Text(),
        "version": schema.Text(),
        "classes": schema.List(schema.Text()),
        "splits": schema.Map(schema.Object({"digest": schema.Text()})),
    },
    optional={"class_words": schema.Map(schema.Text()), "duplicates": schema.List(schema.Text())},
)
_COLUMNS = {
    "names": schema.Array("S", (None,)),
    "labels": schema.Array("i", (None,)),
    "sizes": schema.Array("i", (None,)),
}


class SplitRecord(NamedTuple):
    """The images of a split: arrays with one entry per image."""

    names: np.ndarray  # bytes: relative to the data set's folder
    labels: np.ndarray  # int64
    sizes: np.ndarray  # int64: bytes of the file, -1 if unknown

    def digest(self) -> str:
        """Returns a SHA-256 that depends on all entries."""
        parts = [b"\0".join(self.names.tolist()), self.labels.tobytes(), self.sizes.tobytes()]
        return files.digest(parts)


class Record(NamedTuple):
    """The images that a run was started with."""

    source: str  # `sources.Source.name`
    version: str  # `sources.Source.version`
    class_names: tuple[str, ...]
    splits: dict[str, SplitRecord]
    class_words: dict[str, str] = {}  # `sources.Source.class_words`
    duplicates: tuple[str, ...] = ()  # `sources.Source.duplicates`


def of_source(source: sources.Source) -> Record:
    """Returns the record of a data set with the splits of a run."""
    splits = {split: _split_record(part, source.root) for split, part in source.splits.items()}
    return Record(source.name, source.version, tuple(source.class_names), splits, source.class_words, source.duplicates)


def _split_record(part, root):
    return SplitRecord(part.names(root), np.asarray(part.labels, np.int64), part.sizes())


def write(workdir: str | os.PathLike, source: sources.Source) -> None:
    """Writes the record of a run, unless it has one."""
    directory = pathlib.Path(workdir)
    if (directory / FILE).exists():
        return
    record = of_source(source)
    arrays = {
        f"{split}.{field}": column for split, part in record.splits.items() for field, column in part._asdict().items()
    }
    with files.atomic_write(directory / ARRAYS, "wb") as file:
        np.savez_compressed(file, **arrays)
    splits = {split: {"examples": len(part.names), "digest": part.digest()} for split, part in record.splits.items()}
    values = {"source": record.source, "version": record.version, "classes": record.class_names, "splits": splits}
    if record.class_words:
        values["class_words"] = record.class_words
    if record.duplicates:
        values["duplicates"] = record.duplicates
    # Last: without it there is no record.
    files.write_json(directory / FILE, schema.sealed(values))


def read(workdir: str | os.PathLike) -> Record | None:
    """Returns the record of a run; None for a run of version 0.1, which has none.

    Raises:
      ValueError: if the record is damaged.
    """
    directory = pathlib.Path(workdir)
    if not (directory / FILE).exists():
        return None
    values = _read_values(directory / FILE)
    columns = {f"{split}.{field}": array for split in values["splits"] for field, array in _COLUMNS.items()}
    path = directory / ARRAYS
    if not path.is_file():
        raise schema.error(_WHAT, path, "none", _REMEDY)
    arrays = schema.read_npz(path, columns, _WHAT, _REMEDY)
    splits = {
        split: SplitRecord(*(arrays[f"{split}.{field}"] for field in SplitRecord._fields)) for split in values["splits"]
    }
    damaged = [split for split, part in splits.items() if part.digest() != values["splits"][split]["digest"]]
    if damaged:
        raise ValueError(
            f"Expected the {damaged[0]} images that {directory / FILE} describes in {directory / ARRAYS}. "
            "Received: different ones; restore both files from a copy"
        )
    words, duplicates = values.get("class_words", {}), tuple(values.get("duplicates", ()))
    return Record(values["source"], values["version"], tuple(values["classes"]), splits, words, duplicates)


def read_class_words(workdir: str | os.PathLike) -> dict[str, str]:
    """Returns the words of a run's classes by class name, as of `sources.Source.class_words`; empty if it has none.

    Raises:
      ValueError: if the record is damaged.
    """
    path = pathlib.Path(workdir) / FILE
    return _read_values(path).get("class_words", {}) if path.exists() else {}


def _read_values(path):
    values = schema.read_json(path, _STRUCTURE, _WHAT, _REMEDY)
    schema.check_seal(values, _WHAT, path, _REMEDY)
    return values


class _Match(NamedTuple):
    """Where the images of a recorded split are in the data set."""

    split: str  # of the data set
    places: np.ndarray  # int64 [images of the record]: index in that split; -1 if missing
    changed: np.ndarray  # bool [images of the record]


def keep_to(
    record: Record,
    source: sources.Source,
    workdir: str | os.PathLike,
    *,
    resuming: bool,
    log: Callable[[str], None],
    whole: bool = True,
) -> sources.Source:
    """Returns a data set with the images and splits of a run's record.

    Args:
      record: the run's.
      source: the data set as it is now, before anything is held out.
      workdir: the run's directory, for messages.
      resuming: whether the run is to be trained further, which needs every image; otherwise those that are missing or
        changed are left out.
      log: called with a line about images that were added, are missing or have changed.
      whole: whether the run was started with all training images; otherwise the others are not reported as added.

    Raises:
      ValueError: if the data set has another version or, to resume, other classes, or if images are missing or have
        changed.
    """
    if resuming:
        _check_classes(record, source, workdir)
    if record.version and source.version and record.version != source.version:
        _check_version(record, source, workdir, resuming, log)
    names = {split: part.names(source.root) for split, part in source.splits.items()}
    same_classes = _composed(source.class_names) == _composed(record.class_names)
    matches = {}
    for split, own in record.splits.items():
        # Where only held-out images are evaluated, a million training images need not be looked up on disk.
        with_sizes = resuming or split != "train" or source.name != record.source
        matches[split] = _match(own, names, source, same_classes, with_sizes)
    kept = {split: np.flatnonzero((match.places >= 0) & ~match.changed) for split, match in matches.items()}
    if not resuming and source.name != record.source and not any(map(len, kept.values())):
        log(f"warning: {source.name} has none of the images of {workdir}: it is evaluated as another data set")
        if source.splits.keys() == {"train"}:
            # The network was trained on none of them.
            return source._replace(splits={**source.splits, "test": source.splits["train"]})
        return source
    if resuming:
        _check_complete(record, matches, source, workdir)
    splits = {}
    for split, match in matches.items():
        _report(record.splits[split], match, split, workdir, log)
        if not len(kept[split]):
            raise ValueError(
                f"Expected the {len(match.places)} {split} images of {workdir} in {source.name}. Received: none of "
                "them unchanged; name the folder that has them with --source"
            )
        splits[split] = _subset(source.splits[match.split], match.places[kept[split]])
    splits |= _added(record, matches, source, names, resuming, log, whole)
    return source._replace(splits=splits, duplicates=record.duplicates or source.duplicates)


def _match(own, names, source, same_classes, with_sizes):
    """Returns the `_Match` of a recorded split with the split of the data set that has most of its names."""
    places = {split: _places(part, own.names) for split, part in names.items()}
    split = max(places, key=lambda name: np.count_nonzero(places[name] >= 0))
    part, found = source.splits[split], places[split]
    there = np.flatnonzero(found >= 0)
    changed = np.zeros(len(found), bool)
    if with_sizes and part.sizes_of:
        changed[there] = (part.sizes_of(found[there]) != own.sizes[there]) & (own.sizes[there] >= 0)
    if same_classes:
        changed[there] |= part.labels[found[there]] != own.labels[there]
    return _Match(split, found, changed)


def _places(names, wanted):
    """Returns the index in `names` of each name in `wanted`, -1 for one that is not there."""
    order = np.argsort(names, kind="stable")
    found = order[np.minimum(np.searchsorted(names, wanted, sorter=order), len(names) - 1)]
    return np.where(names[found] == wanted, found, -1)


def _subset(part, places):
    return part if np.array_equal(places, np.arange(len(part.labels))) else sources.subset(part, places)


def _composed(names):
    return [pathnames.composed(name) for name in names]


def _check_classes(record, source, workdir):
    # Accents may be written in another way, as after a copy from another system.
    now, before = _composed(source.class_names), _composed(record.class_names)
    added = [name for name in now if name not in before]
    missing = [name for name in before if name not in now]
    differences = [f"{name} in addition" for name in added[:1]] + [f"no {name}" for name in missing[:1]]
    if differences:
        raise ValueError(
            f"Expected the {len(record.class_names)} classes of {workdir} in {source.name}. Received: "
            f"{len(source.class_names)} classes, {' and '.join(map(messages.printable, differences))}; to train with "
            f"other classes, use a new --workdir, with --initialize_from={workdir} to start from its weights"
        )


def _check_version(record, source, workdir, resuming, log):
    """Raises ValueError if the version of a data set differs in a way that does not allow to go on."""
    kind = record.version.partition(" ")[0]
    if kind != source.version.partition(" ")[0]:
        return
    if kind == "prepared":
        same = record.splits.keys() == source.splits.keys() and all(
            np.array_equal(np.sort(part.names), np.sort(source.splits[split].names()))
            for split, part in record.splits.items()
        )
        if same and not resuming:
            log(f"warning: {source.name} was prepared again, or with other options, since {workdir} was trained on it")
            return
        raise ValueError(
            f"Expected the prepared data set that {workdir} was trained on. Received: {source.name} with "
            "different content or options; use the original --data_dir, or train a new run with another --workdir"
        )
    raise ValueError(
        f"Expected {record.version.partition(' ')[2]}, which {workdir} was trained on. Received: "
        f"{source.version.partition(' ')[2]}; name the version, as in --source=tfds:NAME:VERSION"
    )


def _check_complete(record, matches, source, workdir):
    """Raises ValueError unless the data set has all images of the record, unchanged."""
    parts = [_describe(record.splits[split], match) for split, match in matches.items()]
    if any(parts):
        received = "; ".join(f"of {split}, {text}" for split, text in zip(matches, parts) if text)
        raise ValueError(
            f"Expected the images that {workdir} was started with in {source.name}. Received: {received}; restore "
            "them, or train a new run with another --workdir"
        )


def _describe(own, match):
    """Returns how many images are missing or have changed, with the first of each; empty if all are there."""
    texts = []
    for places, singular, plural in (
        (np.flatnonzero(match.places < 0), "is missing", "are missing"),
        (np.flatnonzero(match.changed), "has changed", "have changed"),
    ):
        if len(places):
            first = messages.printable(os.fsdecode(own.names[places[0]]))
            texts.append(f"{len(places)} {plural if len(places) > 1 else singular} (the first {first})")
    return " and ".join(texts)


def _report(own, match, split, workdir, log):
    if text := _describe(own, match):
        log(f"warning: of the {len(match.places)} {split} images of {workdir}, {text}; these are left out")


def _added(record, matches, source, names, resuming, log, whole):
    """Reports the images that are not in the record; returns the splits that may be evaluated although they are new."""
    counts, new_splits = {}, {}
    train_is_complete = bool((matches["train"].places >= 0).all())
    for split, part in source.splits.items():
        known = [match.places for match in matches.values() if match.split == split]
        added = len(part.labels) - len(np.unique(np.concatenate([[-1], *known]))) + 1
        # An image that is no longer in the training set could be in the new split.
        if added == len(part.labels) and split not in matches and not resuming and train_is_complete:
            log(f"the {split} set was added to {source.name} after the run was started")
            new_splits[split] = part
        elif added and (whole or split != matches["train"].split):
            counts[split] = added
    if counts:
        total = ", ".join(f"{count} {split} image{'s' * (count > 1)}" for split, count in counts.items())
        log(f"warning: images that were added to {source.name} after the run was started are left out: {total}")
    return new_splits
