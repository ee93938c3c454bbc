"""A configuration's data set: opened where it is, made ready for a run, or prepared once and for all."""

import dataclasses
from typing import NamedTuple

import rich.progress

from alexnet_tf.data import loading
from alexnet_tf.data import prepare as preparation
from alexnet_tf.data import prepared
from alexnet_tf.data import sources
from alexnet_tf.data import statistics

MOST_SKIPPED_NAMED = 10
# Images per batch of an evaluation; with ten views, ten times as many crops.
EVALUATION_BATCH_SIZE = 64


class Data(NamedTuple):
    """A data set, read and ready."""

    source: sources.Source
    examples: dict  # of examples.Examples, by split
    statistics: statistics.Statistics
    skipped: dict  # of lists of loading.SkippedImage, by split: what is not among the examples


def open_data(config):
    """The configuration's data set, with a validation set held out of the training set where it has none.

    With a ``validation_fraction`` of 0 nothing is held out, and the test set is what is watched (`monitored_split`).

    Returns:
      A `sources.Source`, and the training set's `statistics.Statistics` where the data come with them, else None.

    Raises:
      ValueError, FileNotFoundError, ModuleNotFoundError: as `sources.open_source` and `prepared.open_data_dir`.
    """
    if config.data_dir:
        if config.source:
            raise ValueError(f"Expected source or data_dir. Received: both, {config.source} and {config.data_dir}")
        return prepared.open_data_dir(config.data_dir)
    source = sources.open_source(config.source)
    if "validation" in source.splits or not config.validation_fraction:
        return source, None
    first, second = sources.stratified_split(source.splits["train"], config.validation_fraction, config.split_seed)
    return source._replace(splits={**source.splits, "train": first, "validation": second}), None


def monitored_split(source):
    """The split whose error is taken at every epoch's end: the validation set, or without one the test set.

    Raises:
      ValueError: if there is neither.
    """
    for split in ("validation", "test"):
        if split in source.splits:
            return split
    raise ValueError(f"Expected validation_fraction above 0, as {source.name} has no test set. Received: 0")


def prepare(config, options, console):
    """Writes the photographs of a configuration's source to its ``data_dir``, or what is missing of them.

    Args:
      config: a `config.Config` with a source; of the rest, only how a validation set is held out matters.
      options: `prepare.Options`.
      console: a ``rich.console.Console``.

    Returns:
      The manifest, a dict.

    Raises:
      ValueError, OSError: as `prepare.prepare`.
    """
    data_dir = config.data_dir
    if not (config.source and data_dir):
        raise ValueError(f"Expected source and data_dir. Received: source={config.source!r}, data_dir={data_dir!r}")
    source, _ = open_data(dataclasses.replace(config, data_dir=""))
    settings = {"validation_fraction": config.validation_fraction, "split_seed": config.split_seed}
    total = sum(len(split.labels) for split in source.splits.values())
    with progress_bar(console) as bar:
        task = bar.add_task(f"preparing {total} photographs", total=total)
        tell = lambda done: bar.update(task, completed=done)
        manifest = preparation.prepare(source, data_dir, options, settings=settings, progress=tell)
    for split, metadata in manifest["splits"].items():
        console.print(f"{split}: {metadata['examples']} images in {len(metadata['shards'])} shards", markup=False)
        _warn_of_skipped([(each["name"], each["reason"]) for each in metadata["skipped"]], split, console)
    console.print(f"data set in {data_dir}; train with --data_dir={data_dir}", markup=False)
    return manifest


def verify(data_dir, console):
    """Reads a prepared data set from end to end.

    Raises:
      ValueError: if anything is not as it was written; what, is printed, a line each.
    """
    manifest = prepared.read_manifest(data_dir)
    total = sum(metadata["examples"] for metadata in manifest["splits"].values())
    with progress_bar(console) as bar:
        task = bar.add_task(f"verifying {total} images", total=total)
        wrong = prepared.verify(data_dir, lambda done: bar.update(task, completed=done))
    for line in wrong:
        console.print(line, markup=False)
    if wrong:
        raise ValueError(f"Expected {data_dir} as it was written. Received: {len(wrong)} damages, the first {wrong[0]}")
    console.print(f"{data_dir}: {total} images are as they were written", markup=False)


def progress_bar(console):
    """A progress bar that says how many a second and how long yet; none without a console."""
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(bar_width=24),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(elapsed_when_finished=True),
    )
    return rich.progress.Progress(*columns, console=console, transient=True, disable=console is None)


def _warn_of_skipped(skipped, split, console):
    """Tells of photographs, pairs of name and reason, that could not be read."""
    if skipped:
        console.print(f"warning: {len(skipped)} {split} files could not be read and are left out", markup=False)
        for name, reason in skipped[:MOST_SKIPPED_NAMED]:
            console.print(f"  {name}: {reason}", markup=False)


def load_data(config, source, splits, image_statistics, console):
    """Makes splits of a source ready to be read by index; photographs that were not prepared are read once.

    Args:
      config: of the run.
      source: from `open_data`.
      splits: names of the splits to read.
      image_statistics: the training set's `statistics.Statistics`; None computes them, then "train" must be among the
        splits.
      console: a ``rich.console.Console`` that is told about photographs that cannot be read.

    Returns:
      `Data`.
    """
    examples, all_skipped = {}, {}
    for split in splits:
        count = len(source.splits[split].labels)
        with progress_bar(console) as bar:
            task = bar.add_task(f"reading {count} {split} images", total=count)
            examples[split], skipped, found = loading.load(
                source.splits[split],
                image_size=config.image_size,
                cache=config.cache,
                collect_statistics=split == "train" and image_statistics is None,
                progress=lambda done, bar=bar, task=task: bar.update(task, completed=done),
            )
        console.print(f"{split}: {len(examples[split])} images of {len(source.class_names)} classes", markup=False)
        _warn_of_skipped(skipped, split, console)
        all_skipped[split] = skipped
        image_statistics = found or image_statistics
    return Data(source, examples, image_statistics, all_skipped)
