"""The report of a run, for people: what it learnt from what, how well, what it looks like, and what it cost."""

import concurrent.futures
import os
import time

import numpy as np
import rich.console
import tensorflow as tf

from alexnet_tf import config as configuration
from alexnet_tf import flagfiles
from alexnet_tf.evaluation import errors
from alexnet_tf.models import registry
from alexnet_tf.reporting import figures
from alexnet_tf.reporting import kernels
from alexnet_tf.reporting import pages
from alexnet_tf.runs import builders
from alexnet_tf.runs import dataset
from alexnet_tf.runs import placement
from alexnet_tf.runs import restore
from alexnet_tf.runs import split_results
from alexnet_tf.training import metrics
from alexnet_tf.utils import files
from alexnet_tf.utils import machine

# Where a run's pictures are, in its directory.
FIGURES = "figures"
# Photographs in a picture of them.
SHOWN = 8
NAMED = 5
# Side of the matrices whose product is taken for what the machine can do.
MATRIX_SIDE = 3072


def make(workdir, *, source=None, data_dir=None):
    """Writes the report of a run that is there, from its newest checkpoint, and says where.

    Args:
      workdir: a directory in which `train.train` ran, be it not to the end.
      source, data_dir: another place of the data set, where it has moved; None for both takes the run's.

    Returns:
      The path of ``report.html``.

    Raises:
      ValueError, OSError: for what is not there, or not of this run.
    """
    console = rich.console.Console(soft_wrap=True, highlight=False)
    config = restore.read_config(workdir, source, data_dir)
    data_source, _ = dataset.open_data(config)
    splits = [split for split in ("validation", "test") if split in data_source.splits]
    run = restore.open_run(workdir, config, data_source.class_names)
    data = dataset.load_data(config, data_source, splits, run.image_statistics, console)
    judged = split_results.evaluate_splits(config, run.model, data, splits, console)
    path = write(workdir, config, run.model, data, judged, run.step)
    console.print(f"report {path}\n  of          {run.checkpoint}", markup=False)
    return path


def write(workdir, config, model, data, judged, step):
    """Writes ``report.md`` and ``report.html`` of a run, and the pictures in them.

    Args:
      workdir: the run's directory.
      config: its `config.Config`, resolved.
      model: its network, trained.
      data: `dataset.Data` with the examples of the judged splits.
      judged: list of `split_results.SplitResult`, the split that counts last.
      step: int, the steps that the network was trained for.

    Returns:
      The path of ``report.html``: one file that opens without a network. Without matplotlib it has the kernels alone,
      and says so.

    Raises:
      OSError: if it cannot be written.
    """
    os.makedirs(os.path.join(workdir, FIGURES), exist_ok=True)
    records = [record for record in metrics.read(os.path.join(workdir, "metrics.jsonl")) if record["step"] <= step]
    counted = judged[-1]
    names = data.source.class_names
    blocks = [
        *_summary(config, data, counted, step),
        *_errors(config, data, judged),
        *_curves(workdir, records, judged),
        *_kernels(workdir, config, model),
        *_answers(workdir, counted, data.examples[counted.split], names),
        *_confusion(workdir, counted, names),
        *_hardest(workdir, counted, data.examples[counted.split], names),
        *_neighbours(workdir),
        *_cost(config, model, records),
        *_placement(config, len(names)),
        *_warnings(records, data.skipped),
        *_configuration(config),
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


def _summary(config, data, judged, step):
    names, source = data.source.class_names, data.source
    train = len(source.splits["train"].labels)
    result = judged.results[judged.headline]
    wrong, majority = result.top1_error, errors.majority_error(judged.labels)
    network = registry.find(config.network).description
    passes = step * config.batch_size / train
    listed = ", ".join(names[:12]) + (" and others" if len(names) > 12 else "")
    yield pages.Paragraph(
        f"{network} was shown {train:,} photographs of {len(names)} classes ({listed}), {passes:.3g} times each. Of "
        f"{len(judged.labels):,} others, the {judged.split} set, it names {100 * (1 - wrong):.1f} % rightly. Always "
        f"giving the commonest answer would be right for {100 * (1 - majority):.1f} %."
    )


def _errors(config, data, judged):
    yield pages.Heading("Errors")
    yield pages.Paragraph(
        "Top-1: the most probable class is wrong. Top-5: the right one is not among the five most probable. "
        f"{_ways(config)} {_elsewhere(judged[-1])}"
    )
    rows = []
    for each in judged:
        for way, result in each.results.items():
            figures_of_way = (errors.percent(result.top1_error), errors.percent(result.top5_error))
            rows.append([f"this run, {each.split}, {way}", len(each.labels), *figures_of_way])
        rows.append(
            [f"always the commonest class, {each.split}", "", errors.percent(errors.majority_error(each.labels)), "-"]
        )
    recorded = registry.recorded_errors(config.network, data.source.name, data.source.class_names)
    rows += [[r.label, "", errors.percent(r.top1_error), errors.percent(r.top5_error)] for r in recorded]
    yield pages.Table(["", "images", "top-1 error", "top-5 error"], rows)
    if not recorded:
        yield pages.Paragraph(
            "The paper's own errors, 40.7 % top-1 and 18.2 % top-5, are on ImageNet's 1,000 classes: they say nothing "
            "about these photographs."
        )


def _ways(config):
    if config.crop_size == config.image_size:
        return (
            "Centre crop: the network looks once, at the whole image. Ten views, which are two here: at the image and "
            "its mirror image, and its answers are averaged."
        )
    return (
        "Centre crop: the network looks once, at the middle. Ten views: at the corners and the middle and their mirror "
        "images, and its ten answers are averaged, as in the paper."
    )


def _elsewhere(judged):
    why = ""
    if judged.headline != "ten views":
        why = ", as the training had no mirror images (--flips=none) and half of the ten views are such"
    return f"What this page says elsewhere is by the {judged.headline}{why}."


def _curves(workdir, records, judged):
    curve = metrics.curve(records)
    if not curve["epoch"]:
        return
    yield pages.Heading("How it learnt")
    training = {
        key: curve[name] for key, name in (("epoch", "epoch"), ("error", "train_error"), ("loss", "train_loss"))
    }
    seen = [place for place, error in enumerate(curve["watched_error"]) if error is not None]
    watched = {
        key: [curve[name][place] for place in seen]
        for key, name in (("epoch", "epoch"), ("error", "watched_error"), ("loss", "watched_loss"))
    }
    yield from _picture(
        workdir,
        "curves.png",
        lambda: figures.error_curves(training, watched, name=judged[0].split),
        "Errors and losses, epoch by epoch. Random crops, mirror images, other colours and dropout, where the "
        "configuration has them, make training harder than use: so the training error may lie above the other.",
    )


def _kernels(workdir, config, model):
    first_layers = registry.find(config.network).first_layers
    layers = [layer for layer in model.layers if layer.name in first_layers]
    weights = [layer.kernel.numpy() for layer in layers]
    yield pages.Heading("What its first layer looks for")
    kernels.save_png(kernels.tile(weights), os.path.join(workdir, "kernels.png"))
    shares = [kernels.color_share(each) for each in weights]
    caption = (
        f"Its {sum(each.shape[-1] for each in weights)} kernels, each stretched to the whole range of grey levels. "
        "Trained on ImageNet they become edges, stripes and blobs of colour; after little training they look like "
        "noise. "
    )
    if len(weights) == 2:
        caption += (
            f"The upper half is of tower a, the lower of b. Colour makes up {shares[0]:.2f} and {shares[1]:.2f} of "
            "their weights' squares (0 is grey, 0.67 noise): the paper's one tower became grey, the other coloured."
        )
    else:
        caption += f"Colour makes up {shares[0]:.2f} of their weights' squares (0 is grey, 0.67 noise)."
    yield pages.Picture("kernels.png", caption)


def _answers(workdir, judged, examples, names):
    places = np.linspace(0, len(judged.labels) - 1, min(SHOWN, len(judged.labels))).round().astype(int)
    probabilities = judged.probabilities[judged.headline]
    named = [_most_probable(probabilities[place], names) for place in places]
    yield pages.Heading("What it says")
    yield from _picture(
        workdir,
        "answers.png",
        lambda: figures.predictions(examples.images(places), [names[judged.labels[place]] for place in places], named),
        f"Photographs of the {judged.split} set, taken at even distances, with the most probable classes. Above each "
        "stands its right class; where that is among the five, its bar is red. (The paper's Figure 4, left.)",
    )


def _most_probable(probabilities, names):
    order = np.argsort(-probabilities, kind="stable")[:NAMED]
    return [(names[place], float(probabilities[place])) for place in order]


def _confusion(workdir, judged, names):
    matrix = judged.results[judged.headline].confusion
    yield pages.Heading("What it confuses")
    yield from _picture(
        workdir,
        "confusion.png",
        lambda: figures.confusion_matrix(matrix, names),
        "For each right class, a row, the share of its photographs that was given each answer.",
    )
    worst = errors.worst_confusions(matrix, names)
    if worst:
        rows = [[right, answered, times, f"{100 * share:.1f} %"] for right, answered, times, share in worst]
        yield pages.Table(["right", "taken for", "times", "of its photographs"], rows)


def _hardest(workdir, judged, examples, names):
    probabilities = judged.probabilities[judged.headline]
    right = probabilities[np.arange(len(judged.labels)), judged.labels]
    places = np.argsort(right, kind="stable")[:SHOWN]
    captions = []
    for place in places:
        answer = int(probabilities[place].argmax())
        captions.append(
            f"{names[judged.labels[place]]}: {100 * right[place]:.2g} %\n"
            f"said {names[answer]}: {100 * probabilities[place, answer]:.3g} %"
        )
    yield pages.Heading("What is hardest")
    yield from _picture(
        workdir,
        "hardest.png",
        lambda: figures.gallery(examples.images(places), captions),
        "The photographs to whose right class it gave the least probability. Some may bear a wrong label.",
    )


def _neighbours(workdir):
    path = os.path.join(FIGURES, "neighbours.png")
    if os.path.exists(os.path.join(workdir, path)):
        yield pages.Heading("What it finds alike")
        yield pages.Picture(
            path,
            "Left, photographs that it was not trained on; beside each the six training photographs whose features, "
            "what its last layer reads, are nearest. (The paper's Figure 4, right.)",
        )


def _picture(workdir, name, draw, caption):
    """Draws a picture and yields it; without matplotlib, what is missing."""
    try:
        figures.require_matplotlib("this picture")
    except ModuleNotFoundError as error:
        yield pages.Paragraph(str(error))
        return
    path = os.path.join(FIGURES, name)
    figures.save_figure(draw(), os.path.join(workdir, path))
    yield pages.Picture(path, caption)


def _cost(config, model, records):
    speed = metrics.images_per_second(records)
    yield pages.Heading("What it cost")
    flops = training_flops(model, registry.find(config.network).first_layers)
    rows = [
        ["parameters", f"{model.count_params():,}"],
        ["arithmetic of an image in training", f"{flops / 1e9:.4g} GFLOP"],
    ]
    if speed:
        peak = peak_flops()
        seconds = sum(
            record["examples"] / record["images_per_second"] for record in records if record["kind"] == "train"
        )
        rows += [
            ["time in training", _duration(seconds)],
            ["speed", f"{speed:.1f} images/s, {speed * flops / 1e9:.4g} GFLOP/s"],
            [
                f"this machine now: products of {MATRIX_SIDE} x {MATRIX_SIDE} float32 matrices",
                f"{peak / 1e9:.4g} GFLOP/s",
            ],
            ["share of that", _share(speed * flops / peak)],
        ]
    facts = machine.describe()
    rows.append(
        ["machine", f"{facts['processor']}, {facts['cores']} cores, {', '.join(facts['accelerators']) or 'no GPU'}"]
    )
    yield pages.Table(["", ""], rows)


def _share(value):
    # Nothing is faster than the machine that it runs on.
    return f"{100 * value:.0f} %" if value <= 1 else "not told: the machine has other work now"


def training_flops(model, first_layers):
    """The floating point operations that one image takes in training, forward and backward.

    Convolutions and matrix products alone, 2 for each multiplication and addition: forward, the gradient of the weights
    and that of the inputs, which the layers that see the image do not need.

    Args:
      model: a functional ``keras.Model`` of convolutions and fully connected layers.
      first_layers: the names of the layers that read the images.

    Returns:
      An int.
    """
    total = 0
    for layer in model.layers:
        kernel = getattr(layer, "kernel", None)
        if kernel is None:
            continue
        positions = int(np.prod(layer.output.shape[1:-1]))
        forward = 2 * int(np.prod(kernel.shape)) * positions
        total += forward * (2 if layer.name in first_layers else 3)
    return total


def peak_flops(rounds=3):
    """The float32 operations a second of products of large matrices on this machine.

    On a GPU one after the other; on a CPU one for each core at a time, however many threads TensorFlow has for one.

    Returns:
      A float, of the fastest of several rounds; too low where the machine has other work.
    """
    first, second = tf.random.stateless_normal([2, MATRIX_SIDE, MATRIX_SIDE], [0, 0])
    at_once = 1 if tf.config.list_physical_devices("GPU") else machine.available_cores()
    multiply = lambda _: tf.matmul(first, second).numpy()
    times = []
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        for _ in range(1 + rounds):
            began = time.perf_counter()
            list(pool.map(multiply, range(at_once)))
            times.append(time.perf_counter() - began)
    # In the first, memory is taken.
    return 2 * MATRIX_SIDE**3 * at_once / min(times[1:])


def _duration(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def _placement(config, num_classes):
    yield pages.Heading("Where it was calculated")
    is_split = registry.is_split(config.network, config.towers)
    devices = builders.home_devices(config) if is_split else None
    if not devices:
        yield pages.Paragraph("All of it on one device.")
        return
    yield pages.Paragraph(
        f"Tower a on {devices[0]}, tower b on {devices[1]}. From the graphs that TensorFlow executed, a step of "
        f"{config.batch_size} images:"
    )
    yield pages.Listing(placement.placement_account(config, num_classes))


def _warnings(records, skipped):
    yield pages.Heading("Warnings")
    met = [
        f"{len(files_of_split)} {split} files could not be read, the first {files_of_split[0].name}: "
        f"{files_of_split[0].reason}"
        for split, files_of_split in skipped.items()
        if files_of_split
    ]
    met += [f"step {record['step']}: {record['text']}" for record in records if record["kind"] == "warning"]
    yield pages.Listing("\n".join(met)) if met else pages.Paragraph("None.")


def _configuration(config):
    usual = configuration.Config(recipe=config.recipe).resolved()
    changed = [[name, getattr(config, name), getattr(usual, name)] for name in config.differences(usual)]
    yield pages.Heading("Configuration")
    if changed:
        yield pages.Paragraph(f"What differs from recipe {config.recipe}:")
        yield pages.Table(
            ["", "here", "recipe"], [[name, _plain(here), _plain(there)] for name, here, there in changed]
        )
    yield pages.Paragraph("All of it; it runs again by tools/train.py --flagfile.")
    yield pages.Listing(flagfiles.to_text(config))


def _plain(value):
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value in ("", None) else value


def _license(source):
    if source.license:
        yield pages.Heading("Data")
        yield pages.Paragraph(source.license)
