"""Analyses of networks: gradients by layer before training, and features of trained runs under translation."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from alexnet_tf import config
from alexnet_tf.data import statistics
from alexnet_tf.evaluation import gradient_flow
from alexnet_tf.evaluation import translation
from alexnet_tf.models import registry
from alexnet_tf.reporting import analysis_figures
from alexnet_tf.reporting import figures
from alexnet_tf.runs import builders
from alexnet_tf.runs import dataset
from alexnet_tf.runs import inputs
from alexnet_tf.runs import queries
from alexnet_tf.runs import restore
from alexnet_tf.utils import files
from alexnet_tf.utils import output

_BATCH_SIZE = 64


def gradients(
    run_config: config.Config,
    *,
    others: Sequence[str] = (),
    activations: Sequence[str] = (),
    images: int = 128,
    seeds: Sequence[int] = (0, 1, 2),
    figure_path: str | os.PathLike = "",
    json_path: str | os.PathLike = "",
) -> dict[str, Any]:
    """Measures the norm of the gradient in each layer of initialized networks, on photographs, and prints it.

    The mean of the images is subtracted from them. The networks have no dropout.

    Args:
      run_config: its data set, image sizes, `input_scale`, and options of the networks.
      others: networks to compare with that of the configuration.
      activations: activation functions; empty for that of the configuration.
      images: number of training images, at regular intervals.
      seeds: of the initial weights.
      figure_path, json_path: PNG of the figure, and file of the result; empty for none.

    Returns:
      The result, for JSON: for each activation and network the layers, and their norms by seed.

    Raises:
      ValueError: for a network without a choice of activation functions, or an invalid configuration.
      ModuleNotFoundError: if matplotlib is needed and not installed.
    """
    if figure_path:
        figures.require_matplotlib("the figure of gradients")
    networks = list(dict.fromkeys([run_config.network, *others]))
    activations = list(activations) or [run_config.activation]
    if refused := [name for name in networks if name not in registry.networks_with("activation")]:
        expected = ", ".join(registry.networks_with("activation"))
        raise ValueError(f"Expected networks among {expected}. Received: {refused[0]}")
    configs = {
        (activation, name): dataclasses.replace(run_config, network=name, activation=activation).resolved()
        for activation in activations
        for name in networks
    }
    console = output.Console()
    source, _ = dataset.open_data(run_config, dataset.logger(console))
    pixels, labels = _examples(source.splits["train"], images, run_config.image_size)
    result = {"source": source.name, "images": len(pixels), "input_scale": run_config.resolved().input_scale}
    result["norms"] = {activation: {} for activation in activations}
    for (activation, name), each in configs.items():
        found = [_gradients(each, seed, pixels, labels, len(source.class_names)) for seed in seeds]
        norms = [[by_layer[layer] for layer in found[0]] for by_layer in found]
        result["norms"][activation][name] = {"layers": list(found[0]), "seeds": list(seeds), "norms": norms}
        console.print(_gradient_line(activation, name, norms), markup=False)
    if figure_path:
        panels = {
            activation: {f"{name} ({registry.find(name).depth} layers)": each["norms"] for name, each in of.items()}
            for activation, of in result["norms"].items()
        }
        figures.save_figure(analysis_figures.gradients(panels), figure_path)
    return _written(result, json_path)


def _gradients(run_config, seed, pixels, labels, num_classes):
    without_dropout = {"dropout": 0.0} if "dropout" in registry.find(run_config.network).options else {}
    model = builders.build_model(
        dataclasses.replace(run_config, seed=seed), num_classes, devices=None, jit_compile=False, **without_dropout
    )
    mean_image = pixels.mean(axis=0, dtype=np.float64).astype(np.float32)
    mean = statistics.Statistics(mean_image, np.eye(3, dtype=np.float32), np.ones(3, np.float32), len(pixels))
    images = builders.central_view(run_config, mean)(pixels)
    return gradient_flow.kernel_gradients(model, images, labels)


def _gradient_line(activation, name, norms):
    first, last = np.exp(np.log(np.maximum(norms, 1e-300)).mean(axis=0))[[0, -1]]
    return f"{activation:<8}{name:<14}first layer {first:.3g}, last layer {last:.3g}, ratio {first / last:.2g}"


def _examples(part, count, image_size):
    """Returns images of a split at regular intervals, and their labels."""
    places = np.unique(np.linspace(0, len(part.labels) - 1, count).round().astype(int))
    pixels = np.stack([inputs.read_example(part, int(place), image_size) for place in places])
    return pixels, np.asarray(part.labels)[places]


def translations(
    workdirs: Sequence[str],
    *,
    split: str = "",
    images: int = 128,
    largest_shift: int = 8,
    layers: Sequence[str] = (),
    poolings: Sequence[str] = (),
    source: str = "",
    data_dir: str = "",
    checkpoint: str = "auto",
    figure_path: str | os.PathLike = "",
    json_path: str | os.PathLike = "",
) -> dict[str, Any]:
    """Measures how much features of runs move when images shift by 1 to `largest_shift` pixels, and prints it.

    Args:
      workdirs: directories of runs.
      split: a split of each run's data set; empty for the test split, or the validation split if there is none.
      images: number of images of the split, at regular intervals.
      largest_shift: in pixels, at most the difference of a run's image_size and crop_size.
      layers: names as of `activations.part`; empty for `translation.default_layers` of each run.
      poolings: of the networks, which have the same weights with each; empty for a run's own.
      source, data_dir: the new location of the data set if it has moved.
      checkpoint: "best", "newest" or "auto", as in `selection.select`.
      figure_path, json_path: PNG of the figure, and file of the result; empty for none.

    Returns:
      The result, for JSON: for each run the layers, the distances by shift and layer, and the shares by shift, as of
      `translation.Movement`.

    Raises:
      ValueError, OSError: for a damaged run, a split or a layer that does not exist, or shifts that are too large.
      ModuleNotFoundError: if matplotlib is needed and not installed.
    """
    if figure_path:
        figures.require_matplotlib("the figure of translations")
    console = output.Console()
    shifts = list(range(1, largest_shift + 1))
    result = {"shifts": shifts, "runs": {}}
    for workdir in workdirs:
        run_config = restore.read_config(workdir, source, data_dir)
        data_source, _ = dataset.open_data(run_config, dataset.logger(console), workdir=workdir)
        chosen = split or ("test" if "test" in data_source.splits else dataset.monitored_split(data_source))
        queries.check_split(data_source, chosen)
        pixels, _ = _examples(data_source.splits[chosen], images, run_config.image_size)
        for pooling in poolings or ("",):
            changes = {"pooling": pooling} if pooling else {}
            run = restore.open_run(workdir, run_config, checkpoint=checkpoint, jit_compile=False, **changes)
            movement = _movement(run, pixels, shifts, layers)
            name = ", ".join([os.path.basename(os.path.abspath(workdir)), *changes.values()])
            result["runs"][name] = {
                "split": chosen,
                "images": len(pixels),
                "layers": movement.layers,
                "distances": movement.distances.tolist(),
                "same_class": movement.same_class.tolist(),
            }
            console.print("\n".join(_translation_lines(name, shifts, movement)), markup=False)
    if figure_path:
        curves = {
            name: (each["layers"], np.array(each["distances"]), np.array(each["same_class"]))
            for name, each in result["runs"].items()
        }
        figures.save_figure(analysis_figures.translation(shifts, curves), figure_path)
    return _written(result, json_path)


def _movement(run, pixels, shifts, layers):
    return translation.movement(
        run.model,
        builders.central_view(run.config, run.image_statistics),
        np.array_split(pixels, -(-len(pixels) // _BATCH_SIZE)),
        crop_size=run.config.crop_size,
        shifts=shifts,
        layers=list(layers) or translation.default_layers(run.model),
    )


def _translation_lines(name, shifts, movement):
    yield f"{name}: distance to the shifted image, relative to the distance between two different images"
    rows = [("shift", *shifts)]
    rows += [
        (layer, *(f"{each:.3f}" for each in column)) for layer, column in zip(movement.layers, movement.distances.T)
    ]
    rows.append(("same class", *(f"{share:.1%}" for share in movement.same_class)))
    for first, *others in rows:
        yield f"  {first:<12}" + "".join(f"{each!s:>8}" for each in others)


def _written(result, json_path):
    if json_path:
        files.write_json(json_path, result)
    return result
