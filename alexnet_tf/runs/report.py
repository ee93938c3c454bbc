"""Writes the report of a run: its errors, figures, cost and configuration on one page."""

import os
from collections.abc import Sequence

import keras
import numpy as np

from alexnet_tf import config
from alexnet_tf import flagfiles
from alexnet_tf.evaluation import errors
from alexnet_tf.models import registry
from alexnet_tf.reporting import figures
from alexnet_tf.reporting import pages
from alexnet_tf.reporting import pictures
from alexnet_tf.runs import builders
from alexnet_tf.runs import class_report
from alexnet_tf.runs import costs
from alexnet_tf.runs import dataset
from alexnet_tf.runs import diagnosis
from alexnet_tf.runs import kernel_report
from alexnet_tf.runs import map_report
from alexnet_tf.runs import placement
from alexnet_tf.runs import restore
from alexnet_tf.runs import selection
from alexnet_tf.runs import split_results
from alexnet_tf.training import best_checkpoint
from alexnet_tf.training import diagnostics
from alexnet_tf.training import metrics
from alexnet_tf.utils import escaping
from alexnet_tf.utils import files
from alexnet_tf.utils import machine
from alexnet_tf.utils import messages
from alexnet_tf.utils import output

# Images in a figure.
SHOWN = 8
# Classes named for an image.
NAMED = 5
# Class names in the summary.
_MAX_LISTED = 12


def make(workdir: str, *, source: str | None = None, data_dir: str | None = None, checkpoint: str = "auto") -> str:
    """Evaluates a checkpoint of an existing run and writes its report.

    Args:
      workdir: a directory in which `train.train` ran, even if it has not finished.
      source, data_dir: the new location of a data set that has moved; None for both uses the run's own.
      checkpoint: "best", "newest" or "auto", as in `selection.select`.

    Returns:
      The path of ``report.html``.

    Raises:
      ValueError, OSError: if a file is missing or does not belong to the run.
    """
    console = output.Console()
    run_config = restore.read_config(workdir, source, data_dir)
    data_source, _ = dataset.open_data(run_config, dataset.logger(console), workdir=workdir)
    splits = dataset.held_out_splits(data_source) or ["train"]
    run = restore.open_run(workdir, run_config, data_source.class_names, checkpoint)
    data = dataset.load_data(run_config, data_source, splits, run.image_statistics, console)
    results = split_results.evaluate_splits(run_config, run.model, data, splits, console)
    path = write(workdir, run_config, run.model, data, results, run.step, run.chosen)
    console.print(f"report {path}\n  checkpoint  {run.checkpoint} ({run.chosen.describe()})", markup=False)
    return path


def write(
    workdir: str,
    run_config: config.Config,
    model: keras.Model,
    data: dataset.Data,
    results: Sequence[split_results.SplitResult],
    step: int,
    chosen: selection.Selection | None = None,
) -> str:
    """Writes ``report.md``, ``report.html`` and their figures to the work directory.

    Args:
      workdir: the run's directory.
      run_config: its resolved configuration.
      model: its trained network.
      data: with the examples of the evaluated splits.
      results: of the evaluated splits. All sections but "Errors" and "Training curves" are about the last one;
        thresholds are chosen on the first.
      step: number of steps that the network was trained for, or with the best checkpoint may also be the run's last.
      chosen: which checkpoint was evaluated; None for the newest.

    Returns:
      The path of ``report.html``, a single file with all figures. Without matplotlib it has only the kernels, and says
      what is missing.

    Raises:
      OSError: if a file cannot be written.
    """
    os.makedirs(os.path.join(workdir, pictures.FOLDER), exist_ok=True)
    all_records = metrics.read(os.path.join(workdir, "metrics.jsonl"))
    is_best = bool(chosen and chosen.record)
    # The training after the best epoch belongs to the run, too.
    records = [record for record in all_records if is_best or record["step"] <= step]
    step = chosen.record.step if is_best else step
    last, names = results[-1], data.source.display_names
    examples = data.examples[last.split]
    blocks = [
        *_summary(run_config, model, data, last, step, chosen),
        *_errors(run_config, data, results),
        *_curves(workdir, records, results[0].split),
        *kernel_report.blocks(workdir, run_config.network, model, records),
        *_predictions(workdir, last, examples, names),
        *_confusion(workdir, last, names),
        *class_report.sections(workdir, results, names, step),
        *_hardest(workdir, last, data),
        *map_report.sections(workdir, run_config, model, data, last, _hardest_places(last)),
        *_neighbors(workdir),
        *_cost(run_config, model, records),
        *_placement(run_config, len(names)),
        *_warnings(
            # A warning of a later step is one that training ended with.
            [record for record in all_records if record["kind"] == "warning"],
            diagnosis.of_run(
                run_config,
                records,
                results,
                data.source,
                best_checkpoint.is_kept(os.path.join(workdir, "checkpoints")),
            ),
            data,
        ),
        *_configuration(run_config),
        *_license(data.source),
    ]
    title = f"Run {os.path.basename(os.path.abspath(workdir))}"
    path = os.path.join(workdir, "report.html")
    for name, text in (
        ("report.md", pages.markdown(title, blocks)),
        ("report.html", pages.html(title, blocks, workdir)),
    ):
        with files.atomic_write(os.path.join(workdir, name)) as file:
            file.write(text)
    return path


def _summary(run_config, model, data, result, step, chosen):
    names, num_train = data.source.display_names, len(data.source.splits["train"].labels)
    accuracy = 1 - result.results[result.headline].top1_error
    majority = 1 - errors.majority_error(result.labels)
    network = registry.find(run_config.network).description
    # As training counts: without the images of the partial batches.
    epochs = step / max(1, num_train // run_config.batch_size)
    listed = ", ".join(names[:_MAX_LISTED]) + (", ..." if len(names) > _MAX_LISTED else "")
    yield pages.Paragraph(
        f"{network} was trained on {num_train:,} images of {len(names)} classes ({listed}) for "
        f"{messages.significant(epochs)} epochs. It classifies {100 * accuracy:.1f}% of the "
        f"{len(result.labels):,} images of the {result.split} set correctly. Always predicting the most frequent class "
        f"would be correct for {100 * majority:.1f}%."
        + (f" {builders.describe_frozen(model)}" if run_config.freeze else "")
        + (f" Its checkpoint is the {chosen.describe()}." if chosen else "")
    )


def _errors(run_config, data, results):
    has_top5 = errors.have_top5(found for result in results for found in result.results.values())
    top5 = " Top-5 error: the true class is not among the five most probable." if has_top5 else ""
    yield pages.Heading("Errors")
    yield pages.Paragraph(
        f"Top-1 error: the most probable class is wrong.{top5} {_describe_views(run_config)} "
        f"{_describe_headline(results[-1])}"
    )
    rows = []
    for result in results:
        for views, found in result.results.items():
            percents = errors.percent(found.top1_error), errors.percent(found.top5_error)
            rows.append([f"this run, {result.split}, {views}", len(result.labels), *percents])
        majority = errors.percent(errors.majority_error(result.labels))
        rows.append([f"{errors.MAJORITY}, {result.split}", "", majority, "-"])
    recorded = registry.recorded_errors(run_config.network, data.source.name, data.source.class_names)
    rows += [[each.label, "", errors.percent(each.top1_error), errors.percent(each.top5_error)] for each in recorded]
    columns = 4 if has_top5 else 3
    yield pages.Table(["", "images", "top-1 error", "top-5 error"][:columns], [row[:columns] for row in rows])
    if not recorded:
        yield pages.Paragraph(
            "The paper's errors, 40.7% top-1 and 18.2% top-5, are for the 1,000 classes of ImageNet and cannot be "
            "compared with errors on this data set."
        )


def _describe_views(run_config):
    if run_config.crop_size == run_config.image_size:
        return (
            "Center crop: a single view, here the entire image. Ten views: the mean of the predictions for the image "
            "and its mirror image, as all crops are the same."
        )
    return (
        "Center crop: a single view. Ten views: the mean of the predictions for the four corners, the center and their "
        "mirror images, as in the paper."
    )


def _describe_headline(result):
    reason = ""
    if result.headline != "ten views":
        reason = ", because the network was trained without mirror images (--flips=none)"
    return f"All other sections use the {result.headline}{reason}."


def _curves(workdir, records, monitored):
    curve = metrics.curve(records)
    if not curve["epoch"]:
        return
    yield pages.Heading("Training curves")
    training = {
        key: curve[name] for key, name in (("epoch", "epoch"), ("error", "train_error"), ("loss", "train_loss"))
    }
    places = [place for place, error in enumerate(curve["watched_error"]) if error is not None]
    validation = {
        key: [curve[name][place] for place in places]
        for key, name in (("epoch", "epoch"), ("error", "watched_error"), ("loss", "watched_loss"))
    }
    yield from pictures.blocks(
        workdir,
        "curves.png",
        lambda: figures.error_curves(training, validation, name=monitored),
        f"Error and loss by epoch. The training error can be higher than the {monitored} error, because augmentation "
        "and dropout make training images harder to classify.",
    )


def _predictions(workdir, result, examples, names):
    places = np.linspace(0, len(result.labels) - 1, min(SHOWN, len(result.labels))).round().astype(int)
    probabilities = result.probabilities[result.headline]
    predicted = [_most_probable(probabilities[place], names) for place in places]
    shown = f"their {NAMED} most probable classes" if len(names) > NAMED else "the probabilities of all classes"
    yield pages.Heading("Example predictions")
    yield from pictures.blocks(
        workdir,
        "answers.png",
        lambda: figures.predictions(
            examples.images(places), [names[result.labels[place]] for place in places], predicted
        ),
        f"Images at regular intervals from the {result.split} set with {shown}. The true "
        "class is above each image, and its bar is red. (The paper's Figure 4, left.)",
    )


def _most_probable(probabilities, names):
    order = np.argsort(-probabilities, kind="stable")[:NAMED]
    return [(names[place], float(probabilities[place])) for place in order]


def _confusion(workdir, result, names):
    matrix = result.results[result.headline].confusion
    yield pages.Heading("Confusion matrix")
    yield from pictures.blocks(
        workdir,
        "confusion.png",
        lambda: figures.confusion_matrix(matrix, names),
        "Each row shows how the images of one class were classified, in percent.",
    )
    worst = errors.worst_confusions(matrix, names)
    if worst:
        rows = [[true, predicted, count, f"{100 * fraction:.1f}%"] for true, predicted, count, fraction in worst]
        yield pages.Table(["true class", "predicted class", "images", "share of the class"], rows)


def _hardest_places(result):
    """Returns the images whose true class has the lowest probability."""
    probabilities = result.probabilities[result.headline]
    of_true_class = probabilities[np.arange(len(result.labels)), result.labels]
    return np.argsort(of_true_class, kind="stable")[:SHOWN]


def _hardest(workdir, result, data):
    names, examples = data.source.display_names, data.examples[result.split]
    probabilities, places = result.probabilities[result.headline], _hardest_places(result)
    name_of = dataset.example_names(data, result.split)
    captions, rows = [], []
    for number, place in enumerate(places, start=1):
        predicted = int(probabilities[place].argmax())
        true = f"{messages.significant(100 * probabilities[place, result.labels[place]])}%"
        share = f"{messages.significant(100 * probabilities[place, predicted])}%"
        captions.append(f"{number}. {names[result.labels[place]]}: {true}\npredicted {names[predicted]}: {share}")
        rows.append([number, name_of(place), names[result.labels[place]], true, names[predicted], share])
    yield pages.Heading("Hardest images")
    yield from pictures.blocks(
        workdir,
        "hardest.png",
        lambda: figures.gallery(examples.images(places), captions),
        "The images whose true class has the lowest probability. Some of them may be mislabeled.",
    )
    yield pages.Table(["", "image", "true class", "probability", "predicted class", "probability"], rows)


def _neighbors(workdir):
    path = os.path.join(pictures.FOLDER, "neighbours.png")
    if os.path.exists(os.path.join(workdir, path)):
        yield pages.Heading("Nearest neighbors")
        yield pages.Picture(
            path,
            "Left: images that the network was not trained on. To the right of each: the six training images with the "
            "nearest features in the last hidden layer. (The paper's Figure 4, right.)",
        )


def _cost(run_config, model, records):
    yield pages.Heading("Cost")
    speed = metrics.images_per_second(records)
    flops = costs.training_flops(model)
    rows = [
        ["parameters", f"{model.count_params():,}"],
        ["training arithmetic per image", f"{messages.significant(flops / 1e9)} GFLOP"],
    ]
    if speed:
        peak = costs.peak_flops()
        seconds = sum(
            record["examples"] / record["images_per_second"] for record in records if record["kind"] == "train"
        )
        product = f"{costs.matrix_side()} x {costs.matrix_side()}"
        rows += [
            ["training time", _duration(seconds)],
            ["speed", f"{speed:.1f} images/s, {messages.significant(speed * flops / 1e9)} GFLOP/s"],
            [
                f"speed of {product} float32 matrix products on this machine",
                f"{messages.significant(peak / 1e9)} GFLOP/s",
            ],
            ["training speed relative to matrix products", _share(speed * flops / peak)],
        ]
    described = machine.describe()
    accelerators = ", ".join(described["accelerators"]) or "no GPU"
    rows.append(["machine", f"{described['processor']}, {described['cores']} cores, {accelerators}"])
    yield pages.Table(["", ""], rows)


def _share(value):
    # Training cannot be faster than the machine, so the measured peak was too low.
    return f"{100 * value:.0f}%" if value <= 1 else "unknown: the machine was busy when it was measured"


def _duration(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def _placement(run_config, num_classes):
    yield pages.Heading("Placement")
    is_split = registry.is_split(run_config.network, run_config.towers)
    devices = builders.tower_devices(run_config) if is_split else None
    if not devices:
        yield pages.Paragraph("The entire network runs on one device.")
        return
    yield pages.Paragraph(
        f"Tower a runs on {devices[0]}, tower b on {devices[1]}. From the graphs that TensorFlow executed for a step "
        f"of {run_config.batch_size} images:"
    )
    yield pages.Listing(placement.placement_account(run_config, num_classes))


def _warnings(recorded, found, data):
    yield pages.Heading("Warnings")
    lines = list(data.source.notes)
    lines += [
        f"{len(unreadable)} {split} files could not be read, the first {unreadable[0].name}: {unreadable[0].reason}"
        for split, unreadable in data.skipped.items()
        if unreadable
    ]
    lines += [f"step {record['step']}: {record['text']}" for record in recorded]
    lines += diagnostics.new_texts(found, recorded)
    yield pages.Listing("\n".join(map(escaping.one_line, lines))) if lines else pages.Paragraph("None.")


def _configuration(run_config):
    recipe = config.Config(recipe=run_config.recipe).resolved()
    changed = [[name, getattr(run_config, name), getattr(recipe, name)] for name in run_config.differences(recipe)]
    yield pages.Heading("Configuration")
    if changed:
        yield pages.Paragraph(f"Differences from the recipe {run_config.recipe}:")
        yield pages.Table(
            ["flag", "this run", "recipe"], [[name, _to_text(own), _to_text(usual)] for name, own, usual in changed]
        )
    yield pages.Paragraph(f"The complete configuration, a flagfile for {messages.program('train')} --flagfile:")
    yield pages.Listing(flagfiles.to_text(run_config))


def _to_text(value):
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value in ("", None) else value


def _license(source):
    if source.license:
        yield pages.Heading("Data license")
        yield pages.Paragraph(source.license)
