"""Describes weight files: which AlexNet each one has."""

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from alexnet_tf.reporting import kernels
from alexnet_tf.utils import escaping
from alexnet_tf.utils import messages
from alexnet_tf.utils import output
from alexnet_tf.weights import identify


class UnrecognizedError(ValueError):
    """Some of the files have no AlexNet that the package can be."""


def inspect(names: Sequence[str], *, as_json: bool = False, kernels_file: str = "") -> None:
    """Prints a description of each weight file.

    Args:
      names: paths, or packages among `identify.PACKAGES`.
      as_json: prints a JSON list instead of text.
      kernels_file: if given, the kernels of conv1 of a single file are drawn there, as a PNG.

    Raises:
      UnrecognizedError: if a file could not be read or has no AlexNet, after all have been described.
    """
    if kernels_file and len(names) != 1:
        raise ValueError(f"Expected one file to draw kernels of. Received: {len(names)}")
    console = output.Console()
    descriptions, failures = [], []
    for name in names:
        try:
            identified = identify.identify(name)
        except (ValueError, OSError) as error:
            failures.append(name)
            descriptions.append({"file": name, "error": messages.first_line(error)})
        else:
            descriptions.append(describe(identified))
            if kernels_file:
                layer = identified.recognized.layers["conv1"]
                kernels.save_png(kernels.tile([layer.kernel]), kernels_file)
        if not as_json:
            console.print(_text(descriptions[-1]), markup=False)
    if as_json:
        console.print(json.dumps(descriptions, indent=2, ensure_ascii=False), markup=False, soft_wrap=True)
    if kernels_file and not failures and not as_json:
        console.print(f"kernels of conv1: {kernels_file}", markup=False)
    if failures:
        raise UnrecognizedError(f"{len(failures)} of {len(names)} files were not recognized, the first: {failures[0]}")


def describe(identified: identify.Identified) -> dict[str, Any]:
    """Returns a description of a weight file, for JSON."""
    recognized, known = identified.recognized, identified.known
    kernel = recognized.layers["conv1"].kernel
    preprocessing = recognized.preprocessing
    return {
        "file": identified.path,
        "size": identified.size,
        "sha256": identified.sha256,
        "format": identified.found.format,
        "layout": recognized.convention,
        "network": recognized.network,
        "towers": recognized.towers,
        "recipe": recognized.recipe,
        "layers": {name: list(layer.kernel.shape) for name, layer in recognized.layers.items()},
        "missing_layers": list(recognized.missing_layers),
        "classes": recognized.num_classes,
        "preprocessing": None if preprocessing is None else preprocessing._asdict(),
        "published": None
        if known is None
        else known.file._asdict() | {"compared": "size" if known.by_size else "hash"},
        "conv1": {
            "mean": float(kernel.mean()),
            "standard_deviation": float(kernel.std()),
            "largest": float(np.abs(kernel).max()),
            "low_frequency_share": identified.low_frequency_share,
        },
        "notes": list(recognized.notes),
        "warnings": identified.warnings,
    }


_RECIPES = {
    "caffe": "ReLU, LRN, pooling, k=1 (recipe caffe)",
    "caffenet": "ReLU, pooling, LRN, k=1 (recipe caffenet)",
    "": "none",
    None: "not stated by the file; pass --recipe to import it",
}


def _text(description):
    name = os.path.basename(description["file"])
    if "error" in description:
        return escaping.one_line(f"{name}: {description['error']}")
    conv1 = description["conv1"]
    share = 100 * conv1["low_frequency_share"]
    rows = {
        "format": f"{description['format']}, in the layout of {description['layout']}",
        "network": f"{description['network']}, {description['towers']} tower{'s' * (description['towers'] == 'two')}",
        "normalization": _RECIPES[description["recipe"]],
        "layers": ", ".join(description["layers"]),
        "classes": description["classes"] or "none: convolutions alone, to initialize other runs",
        "images": _images(description),
        "conv1": f"standard deviation {conv1['standard_deviation']:.3g}, {share:.0f}% of the energy at low frequencies",
    }
    if published := description["published"]:
        compared = "equal size; no hash is published" if published["compared"] == "size" else "equal hash"
        rows["published as"] = f"{published['name']} ({compared}), license: {published['license']}"
        if published["top1_accuracy"]:
            rows["accuracy"] = (
                f"{published['top1_accuracy']}% top-1, {published['top5_accuracy']}% top-5 as published "
                f"(ILSVRC-2012 validation, {published['views']})"
            )
    lines = [name, *(f"  {key:<14}{value}" for key, value in rows.items())]
    lines += [f"  note: {note}" for note in description["notes"]]
    lines += [f"  warning: {warning}" for warning in description["warnings"]]
    # What a file says may have line breaks.
    return "\n".join(map(escaping.one_line, lines))


def _images(description):
    preprocessing = description["preprocessing"]
    side = 224 if description["network"] == "alexnet_owt" else 227
    if preprocessing is None:
        return "the order of the channels is not stated by the file; pass --channels to import it"
    mean = preprocessing["mean"]
    text = f"RGB in [0, 255], {side} x {side}"
    text += (
        f", minus {', '.join(f'{value:g}' for value in mean)}"
        if mean
        else ", minus a mean that the file does not state; pass --mean to import it"
    )
    deviation = preprocessing["deviation"]
    return text if set(deviation) == {1.0} else f"{text}, divided by {', '.join(f'{value:g}' for value in deviation)}"
