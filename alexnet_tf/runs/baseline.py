"""What the method before AlexNet reaches on a data set: SIFT, Fisher vectors and a linear classifier."""

import os
import time
from typing import Any

import numpy as np

from alexnet_tf import config
from alexnet_tf.evaluation import errors
from alexnet_tf.evaluation import fisher_vectors
from alexnet_tf.runs import builders
from alexnet_tf.runs import dataset
from alexnet_tf.utils import files
from alexnet_tf.utils import output

_BATCH_SIZE = 32
_NO_STATISTICS = builders.blank_statistics()


def run(
    run_config: config.Config,
    *,
    split: str = "",
    penalty: float = 1.0,
    modes: int = fisher_vectors.MODES,
    json_path: str | os.PathLike = "",
) -> dict[str, Any]:
    """Trains the classifier on the training split, and prints its errors on another split.

    Vectors of all images are kept in memory: 33 kB each with 64 modes.

    Args:
      run_config: of which the fields of the data set matter, and the seed.
      split: to evaluate; empty for the test split, or the validation split if there is none.
      penalty: as in `fisher_vectors.classifier`.
      modes: as in `fisher_vectors.fit_encoder`.
      json_path: also writes the result to this file; empty for no file.

    Returns:
      The result, for JSON. Errors are fractions in [0, 1].

    Raises:
      ValueError: if the data set has no such split, or only one class among its training images.
      OSError: if a file is missing or cannot be written.
    """
    console = output.Console()
    source, _ = dataset.open_data(run_config, dataset.logger(console))
    split = split or ("test" if "test" in source.splits else dataset.monitored_split(source))
    if split not in source.splits or split == "train":
        expected = ", ".join(name for name in source.splits if name != "train")
        raise ValueError(f"Expected split to be one of {expected}. Received: {split}")
    # The statistics of the images are not needed.
    data = dataset.load_data(run_config, source, ["train", split], _NO_STATISTICS, console)
    train, evaluated = data.examples["train"], data.examples[split]
    if len(np.unique(train.labels)) < 2:
        raise ValueError("Expected training images of two classes or more. Received: one class")
    start = time.monotonic()
    encoder = fisher_vectors.fit_encoder(_images(train), len(train), modes=modes, seed=run_config.seed)
    vectors = {name: _encode(encoder, data.examples[name], name, console) for name in ("train", split)}
    trained = fisher_vectors.classifier(vectors["train"], train.labels, penalty=penalty, seed=run_config.seed)
    result = {
        "source": source.name,
        "split": split,
        "num_classes": len(source.class_names),
        "training_images": len(train),
        "descriptors": {"step": fisher_vectors.STEP, "patch_sizes": list(fisher_vectors.PATCH_SIZES)},
        "vector_size": encoder.size,
        "penalty": penalty,
        "seed": run_config.seed,
        "errors": {
            name: _errors(trained, vectors[name], data.examples[name].labels, len(source.class_names))
            for name in ("train", split)
        },
        "majority_error": 1 - np.bincount(evaluated.labels).max() / len(evaluated),
        "seconds": round(time.monotonic() - start, 1),
    }
    _print(result, console)
    if json_path:
        files.write_json(json_path, result)
    return result


def _images(examples):
    for first in range(0, len(examples), _BATCH_SIZE):
        yield from examples.images(range(first, min(first + _BATCH_SIZE, len(examples))))


def _encode(encoder, examples, name, console):
    vectors = np.empty([len(examples), encoder.size], np.float32)
    with dataset.progress_bar(console) as bar:
        task = bar.add_task(f"encoding {len(examples)} {name} images", total=len(examples))
        for place, image in enumerate(_images(examples)):
            vectors[place] = encoder.encode(image)
            bar.update(task, completed=place + 1)
    return vectors


def _errors(trained, vectors, labels, num_classes):
    order = np.argsort(-fisher_vectors.scores(trained, vectors, num_classes), axis=1, kind="stable")
    is_right = order == labels[:, None]
    return {
        "num_examples": len(labels),
        "top1_error": float(1 - is_right[:, 0].mean()),
        "top5_error": float(1 - is_right[:, :5].any(axis=1).mean()) if num_classes > 5 else None,
    }


def _print(result, console):
    console.print(
        f"\nSIFT, Fisher vectors of {result['vector_size']} elements, linear classifier: {result['seconds']:.0f} s",
        markup=False,
    )
    for name, found in result["errors"].items():
        top5 = "" if found["top5_error"] is None else f", top-5 {found['top5_error']:.2%}"
        console.print(f"  {name:<12}{found['num_examples']} images: error {found['top1_error']:.2%}{top5}")
    console.print(f"  {errors.MAJORITY}: {result['majority_error']:.2%}")
