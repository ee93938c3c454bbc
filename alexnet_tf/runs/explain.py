"""Writes images with maps of what a run's predictions for them depend on."""

import os
import pathlib
from collections.abc import Iterator
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from alexnet_tf.data import image_files
from alexnet_tf.data import sources
from alexnet_tf.reporting import kernels
from alexnet_tf.reporting import overlays
from alexnet_tf.runs import dataset
from alexnet_tf.runs import explanations
from alexnet_tf.runs import inputs
from alexnet_tf.runs import loaded
from alexnet_tf.utils import escaping
from alexnet_tf.utils import files
from alexnet_tf.utils import output
from alexnet_tf.utils import pathnames

# An image's gradients take more memory than its evaluation.
_BATCH_SIZE = 16


class Result(NamedTuple):
    """What was written."""

    paths: list[str]  # of the PNG files
    failures: list[str]  # a line for each image that could not be read


def explain_files(
    workdir: str | os.PathLike,
    images: Sequence[str],
    out: str | os.PathLike,
    *,
    method: explanations.Method = explanations.DEFAULT_METHOD,
    class_name: str = "",
    values: bool = False,
    checkpoint: str = "auto",
) -> Result:
    """Writes a PNG file for each image: its center crop, and next to it the same with a map over it.

    Args:
      workdir: as in `loaded.load`.
      images: as in `image_files.find_or_keep`.
      out: directory of the results.
      method: how maps are computed.
      class_name: as in `loaded.LoadedRun.explain`.
      values: whether to write an .npz file next to each PNG file, with ``values`` for each pixel of the crop,
        ``grid``, ``class_name``, ``probability`` and ``method``.
      checkpoint: as in `loaded.load`.

    Raises:
      ValueError, OSError: for invalid arguments, a damaged run, or files that cannot be written. Images that cannot be
        read are printed.
    """
    console = output.Console()
    found = image_files.find_or_keep(images)
    for note in found.notes:
        console.print(f"warning: {note}", markup=False)
    run = loaded.load(workdir, jit_compile=True, checkpoint=checkpoint)
    console.print(f"checkpoint {run.checkpoint} ({run.chosen.describe()})", markup=False)
    explain, label = run.explainer(method), run.class_index(class_name) if class_name else -1
    os.makedirs(out, exist_ok=True)
    result = Result([], [])
    names = _file_names(found.paths, method.name)
    read = inputs.reporting_slow(
        lambda place: inputs.read_file(found.paths[place], run.config.image_size),
        found.paths.__getitem__,
        dataset.slow_reporter(console),
    )
    first = 0
    for batch in inputs.batches(read, range(len(found.paths)), _BATCH_SIZE):
        readable = [each for each in batch if not isinstance(each, ValueError)]
        explained = iter(explain(np.stack(readable), [label] * len(readable)) if readable else [])
        for place, each in enumerate(batch, start=first):
            if isinstance(each, ValueError):
                result.failures.append(str(each))
                console.print(escaping.one_line(each), markup=False)
                continue
            path = os.path.join(out, next(names))
            explanation = next(explained)
            _write(path, explanation, method, values)
            shown = _line(explanation, method, run.class_words.get(explanation.class_name, ""))
            line = f"{pathnames.printable(found.paths[place])}: {shown}  {path}"
            console.print(escaping.one_line(line), markup=False)
            result.paths.append(path)
        first += len(batch)
    return result


def _file_names(paths, method) -> Iterator[str]:
    """Yields a different name of a PNG file for each image."""
    taken = set()
    for path in paths:
        stem, number = pathnames.printable(pathlib.Path(path).stem), 1
        name = f"{stem}.{method}.png"
        while name in taken:
            number += 1
            name = f"{stem}-{number}.{method}.png"
        taken.add(name)
        yield name


def _write(path, explanation, method, values):
    kernels.save_png(overlays.side_by_side(explanation.pixels, explanation.values), path)
    if values:
        with files.atomic_write(f"{path.removesuffix('.png')}.npz", "wb") as file:
            np.savez(
                file,
                values=explanation.values,
                grid=explanation.grid,
                class_name=np.str_(explanation.class_name),
                probability=np.float32(explanation.probability),
                method=np.str_(method.name),
            )


def _line(explanation, method, words):
    """Describes an explanation; the words of a class are shown before its name."""
    name = sources.display_name(explanation.class_name, words)
    line = f"{name} {100 * explanation.probability:.2f}%"
    if method.name == "occlusion":
        return f"{line}, {100 * (explanation.probability - explanation.grid.max()):.2f}% at the most sensitive position"
    return line if explanation.grid.any() else f"{line}, and no position supports it"
