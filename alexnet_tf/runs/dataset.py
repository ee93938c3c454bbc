"""Opens the data set of a configuration, reads its images for a run, and prepares it."""

import dataclasses
import os
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import numpy as np
import rich.console
import rich.progress

from alexnet_tf import config
from alexnet_tf.data import duplicates
from alexnet_tf.data import examples
from alexnet_tf.data import loading
from alexnet_tf.data import prepare
from alexnet_tf.data import prepared
from alexnet_tf.data import sources
from alexnet_tf.data import statistics
from alexnet_tf.runs import data_record
from alexnet_tf.training import diagnostics
from alexnet_tf.utils import escaping
from alexnet_tf.utils import output
from alexnet_tf.utils import pathnames

# Unreadable files that are listed by name.
_MAX_LISTED = 10
# Images per batch of an evaluation; ten views make ten times as many crops.
EVALUATION_BATCH_SIZE = 64


class Data(NamedTuple):
    """A data set whose images can be read by index."""

    source: sources.Source
    examples: dict[str, examples.Examples]  # by split
    statistics: statistics.Statistics  # of the training images
    skipped: dict[str, list[loading.SkippedImage]]  # by split: unreadable images, which are not among the examples


def open_data(
    run_config: config.Config,
    log: Callable[[str], None] = lambda line: None,
    *,
    workdir: str | os.PathLike = "",
    resuming: bool = False,
) -> tuple[sources.Source, statistics.Statistics | None]:
    """Opens the data set of a configuration.

    If the data set has no validation split, ``validation_fraction`` of the training images become one, if there are
    enough. With a fraction of 0 none is made, and training monitors the test split (`monitored_split`). If
    ``training_images`` is positive, that many of the remaining training images are used. A run that has a record of its
    images (`data_record`) keeps to that.

    Args:
      run_config: the configuration.
      log: called with a line about each kind of file or folder that is not read.
      workdir: the directory of a run, if the data set is a run's; it need not exist.
      resuming: as in `data_record.keep_to`.

    Returns:
      The data set, and the statistics of its training images if they are stored with it, else None.

    Raises:
      ValueError, FileNotFoundError, ModuleNotFoundError: as `sources.open_source`, `sources.hashed_subset` and
        `prepared.open_data_dir`.
    """
    if run_config.data_dir:
        if run_config.source:
            raise ValueError(
                f"Expected either source or data_dir. Received: source={run_config.source}, "
                f"data_dir={run_config.data_dir}"
            )
        source, image_statistics = prepared.open_data_dir(run_config.data_dir)
    else:
        options = run_config.split_rule == "shuffle", run_config.nested_folders
        source, image_statistics = sources.open_source(run_config.source, *options), None
    if run_config.nested_folders and not run_config.source.startswith("folder:"):
        log(f"warning: nested_folders has no effect on {source.name}")
    for note in source.notes:
        log(f"warning: {note}")
    record = data_record.read(workdir) if workdir else None
    if record:
        whole = not run_config.training_images
        source = data_record.keep_to(record, source, workdir, resuming=resuming, log=log, whole=whole)
    for line in source.duplicates:
        log(f"warning: {line}")
    is_final = record or run_config.data_dir or "validation" in source.splits or not run_config.validation_fraction
    if not is_final:
        source = _hold_out(source, run_config, log)
    if run_config.training_images and not record:
        options = run_config.training_images, run_config.split_seed, source.root
        chosen = sources.hashed_subset(source.splits["train"], *options)
        source = source._replace(splits={**source.splits, "train": chosen})
    if workdir and not held_out_splits(source):
        log(f"warning: {diagnostics.nothing_held_out()}")
    return source, image_statistics


def _hold_out(source, run_config, log):
    """Returns the data set with a share of its training images as validation split."""
    options = source.splits["train"], run_config.validation_fraction, run_config.split_seed
    try:
        if run_config.split_rule == "shuffle":
            train, validation = sources.stratified_split(*options)
        else:
            train, validation = sources.hashed_split(*options, source.root)
    except sources.TooFewImagesError:
        images, classes = len(source.splits["train"].labels), len(source.class_names)
        log(f"warning: no image is held out, as {images} images of {classes} classes are too few")
        return source
    lacking = np.setdiff1d(train.labels, validation.labels)
    if len(lacking):
        names = ", ".join(source.class_names[label] for label in lacking[:_MAX_LISTED])
        log(
            f"warning: nothing is held out of {len(lacking)} of {len(source.class_names)} classes, which have too few "
            f"images: {names}{', ...' * (len(lacking) > _MAX_LISTED)}"
        )
    return source._replace(splits={**source.splits, "train": train, "validation": validation})


def held_out_splits(source: sources.Source) -> list[str]:
    """Returns the names of the splits that the network is not trained on, "validation" first; there may be none."""
    return [split for split in ("validation", "test") if split in source.splits]


def monitored_split(source: sources.Source) -> str:
    """Returns the split that training evaluates after each epoch: "validation", or "test", or "train" without both."""
    return next(iter(held_out_splits(source)), "train")


def check_for_training(source: sources.Source, run_config: config.Config) -> None:
    """Checks that a network can be trained on a data set.

    Raises:
      ValueError: if it has a single class, or nothing is held out of it although there are enough images.
    """
    if len(source.class_names) < 2:
        raise ValueError(
            f"Expected {source.name} to have at least two classes to train on. Received: {source.class_names[0]} only"
        )
    enough = np.bincount(source.splits["train"].labels).max() > 1
    if enough and not (held_out_splits(source) or run_config.validation_fraction or run_config.data_dir):
        raise ValueError(
            f"Expected validation_fraction above 0, as {source.name} has no validation or test set. Received: 0"
        )


def with_duplicates(data: Data, console: rich.console.Console) -> Data:
    """Returns the data with the photographs that are in the training and a held-out split, and prints their number."""
    if data.source.duplicates:
        return data
    found = tuple(duplicates.describe(data.source))
    for line in found:
        console.print(f"warning: {line}", markup=False)
    return data._replace(source=data.source._replace(duplicates=found))


def example_names(data: Data, split: str) -> Callable[[int], str]:
    """Returns the function from the index of an example of a split to the name of its file.

    Names are relative to the folder of the data set, if there is one.
    """
    part = data.source.splits[split]
    unreadable = {each.name for each in data.skipped.get(split, ())}
    indices = range(len(part.labels))
    if unreadable:
        indices = [index for index in indices if part.name_of(index) not in unreadable]
    return lambda place: part.name_of(indices[place]).removeprefix(f"{data.source.root}/")


def prepare_data_dir(
    run_config: config.Config, options: prepare.Options, console: rich.console.Console
) -> dict[str, Any]:
    """Writes the images of a configuration's source to its ``data_dir``; resumes where an earlier call stopped.

    Args:
      run_config: with both ``source`` and ``data_dir``. Of the other fields, only those of the validation split matter.
      options: how the data set is written.
      console: prints what was written.

    Returns:
      The manifest.

    Raises:
      ValueError, OSError: as `prepare.prepare`.
    """
    data_dir = run_config.data_dir
    if not (run_config.source and data_dir):
        raise ValueError(f"Expected source and data_dir. Received: source={run_config.source!r}, data_dir={data_dir!r}")
    rule = _split_rule(run_config)
    source, _ = open_data(dataclasses.replace(run_config, data_dir="", split_rule=rule), logger(console))
    settings = {"validation_fraction": run_config.validation_fraction, "split_seed": run_config.split_seed}
    if rule != "shuffle":
        # Version 0.1 had no other rule, and did not write it.
        settings["split_rule"] = rule
    total = sum(len(split.labels) for split in source.splits.values())
    prepare.import_tfds()
    with progress_bar(console) as bar:
        task = bar.add_task(f"preparing {total} images", total=total)
        update = lambda done: bar.update(task, completed=done)
        manifest = prepare.prepare(
            source, data_dir, options, settings=settings, progress=update, report_slow=slow_reporter(console)
        )
    for split, metadata in manifest["splits"].items():
        console.print(f"{split}: {metadata['examples']} images in {len(metadata['shards'])} shards", markup=False)
        _print_skipped([(each["name"], each["reason"]) for each in metadata["skipped"]], split, console)
    for line in manifest.get("duplicates", ()):
        console.print(f"warning: {line}", markup=False)
    console.print(f"data set in {data_dir}; train with --data_dir={data_dir}", markup=False)
    return manifest


def _split_rule(run_config):
    """Returns the split rule of a preparation: that of the existing one in place of "auto", and of a new one "hash"."""
    if run_config.split_rule != "auto":
        return run_config.split_rule
    request = prepared.read_request(run_config.data_dir)
    return "hash" if request is None else request.get("settings", {}).get("split_rule", "shuffle")


def verify_data_dir(data_dir: str, console: rich.console.Console) -> None:
    """Reads a prepared data set completely and checks every image.

    Raises:
      ValueError: if the data set is damaged. Each defect is printed on a line.
    """
    manifest = prepared.read_manifest(data_dir)
    total = sum(metadata["examples"] for metadata in manifest["splits"].values())
    with progress_bar(console) as bar:
        task = bar.add_task(f"verifying {total} images", total=total)
        defects = prepared.verify(data_dir, lambda done: bar.update(task, completed=done))
    for line in defects:
        console.print(escaping.one_line(line), markup=False)
    if defects:
        raise ValueError(
            f"Expected {data_dir} to be undamaged. Received: {len(defects)} defects, the first: {defects[0]}"
        )
    console.print(f"{data_dir}: all {total} images are undamaged", markup=False)


def logger(console: rich.console.Console) -> Callable[[str], None]:
    """Returns a function that prints a line."""
    return lambda line: console.print(line, markup=False)


def progress_bar(console: rich.console.Console | None) -> output.Progress:
    """Returns a progress bar with the remaining time; it is disabled if the console is None."""
    columns = (
        rich.progress.TextColumn("{task.description}", markup=False),
        rich.progress.BarColumn(bar_width=24),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(elapsed_when_finished=True),
    )
    is_disabled = console is None
    return output.Progress(*columns, console=console or output.Console(), transient=True, disable=is_disabled)


def slow_reporter(console: rich.console.Console | None) -> Callable[[str, float], None]:
    """Returns the function that prints a line about a photograph that took long to read; nothing without a console."""

    def report(name, seconds):
        if console:
            line = f"warning: {pathnames.printable(name)} took {seconds:.0f} s to read"
            console.print(escaping.one_line(line), markup=False)

    return report


def _print_skipped(skipped, split, console):
    """Prints a warning about unreadable files, pairs of name and reason."""
    if skipped:
        console.print(f"warning: skipped {len(skipped)} {split} files that could not be read", markup=False)
        for name, reason in skipped[:_MAX_LISTED]:
            console.print(escaping.one_line(f"  {name}: {reason}"), markup=False)


def load_data(
    run_config: config.Config,
    source: sources.Source,
    splits: Sequence[str],
    image_statistics: statistics.Statistics | None,
    console: rich.console.Console,
) -> Data:
    """Makes splits of a data set readable by index, as `loading.load` does.

    Args:
      run_config: the configuration.
      source: from `open_data`.
      splits: names of the splits to read.
      image_statistics: of the training images; None computes them, and then "train" must be among the splits.
      console: prints the number of images and those that cannot be read.
    """
    loaded_examples, all_skipped, promised = {}, {}, 0
    for split in splits:
        count = len(source.splits[split].labels)
        with progress_bar(console) as bar:
            task = bar.add_task(f"reading {count} {split} images", total=count)
            loaded = loading.load(
                source.splits[split],
                image_size=run_config.image_size,
                cache=run_config.cache,
                collect_statistics=split == "train" and image_statistics is None,
                progress=lambda done, bar=bar, task=task: bar.update(task, completed=done),
                report_slow=slow_reporter(console),
                promised=promised,
            )
        promised += loaded.examples.promised
        console.print(f"{split}: {len(loaded.examples)} images of {len(source.class_names)} classes", markup=False)
        _print_skipped(loaded.skipped, split, console)
        loaded_examples[split], all_skipped[split] = loaded.examples, loaded.skipped
        image_statistics = loaded.statistics or image_statistics
    return Data(source, loaded_examples, image_statistics, all_skipped)
