"""How fast images reach the network, against textbook pipelines and against no pipeline (rows P9 and P10)."""

import dataclasses
import importlib.util
import itertools
import pathlib
import tempfile
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from alexnet_tf import config
from alexnet_tf.benchmarks import measuring
from alexnet_tf.benchmarks import pipeline_peers
from alexnet_tf.benchmarks import sides
from alexnet_tf.data import augmentation
from alexnet_tf.data import examples
from alexnet_tf.data import loading
from alexnet_tf.data import pipeline
from alexnet_tf.data import prepared
from alexnet_tf.data import sampling
from alexnet_tf.data import sources
from alexnet_tf.data import statistics
from alexnet_tf.runs import builders
from alexnet_tf.runs import dataset

# Images used; more would only fill disk and memory.
MAX_IMAGES = 2000
# Batches at the start of a turn that are not counted: more than any side prefetches.
WARM_UP_BATCHES = 8
WARM_UP_STEPS = 2
CROP_SHAPE = (augmentation.CROP_SIZE, augmentation.CROP_SIZE, 3)

JPEG, RAW, CACHED = "JPEG records", "raw records", "cached"
TF_DATA, KERAS, TORCH = "tf.data textbook", "Keras", "torch"
DECODE, CROP, COPY = "decode_jpeg only", "decode_and_crop_jpeg only", "copy only"
_TARGETS = {JPEG: 1.7, RAW: 6.0, CACHED: 6.0}


def ready_batches(request: measuring.Request) -> measuring.Result:
    """P9: float batches per second on the one core of this process, from prepared data and from others' pipelines.

    Every side that decodes, decodes the same JPEG bytes. Ours include the preprocessing that a training step begins
    with. Files are read from the page cache.

    Args:
      request: `measuring.Request`.

    Returns:
      `measuring.Result`.

    Raises:
      measuring.NotRunError: without JPEG records.
      ValueError, OSError: as `prepared.open_data_dir`.
    """
    opened = _open_all(request.data_dirs)
    if False not in opened:
        raise measuring.NotRunError("needs --data_dir, a prepared data set of JPEG records")
    _, image_statistics = opened[False]
    splits = {is_raw: _first_images(source.splits["train"]) for is_raw, (source, _) in opened.items()}
    run_config = request.config.resolved()
    _check_batch_size(run_config, splits[False])
    count = len(splits[False].labels)
    notes = [f"at most {MAX_IMAGES} images" if count == MAX_IMAGES else "all training images"]
    with tempfile.TemporaryDirectory(prefix="alexnet_benchmark_") as folder:
        encoded = write_folder(splits[False], folder)
        ours = our_batches(run_config, splits, image_statistics)
        theirs, missing = peer_batches(folder, run_config, image_statistics)
        if RAW not in ours:
            notes.append(f"{RAW}: not run: needs --data_dir=JPEG,RAW")
        measured = {
            **{name: _count_images(batches) for name, batches in (ours | theirs).items()},
            DECODE: _decode(encoded, None),
            CROP: _decode(encoded, np.random.default_rng(0).integers(0, 33, [len(encoded), 2]).astype(np.int32)),
            COPY: _copy(run_config.batch_size),
        }
        rates = measuring.interleave(measured, rounds=request.rounds, seconds=request.seconds, warm_up=WARM_UP_BATCHES)
    ratios = [measuring.Ratio(our, TF_DATA, _TARGETS[our]) for our in ours]
    ratios += [measuring.Ratio(our, their) for their in theirs if their != TF_DATA for our in ours]
    ratios += [measuring.Ratio(JPEG, CROP), measuring.Ratio(CROP, DECODE), measuring.Ratio(CACHED, COPY)]
    description = f"preprocessed images, batches of {run_config.batch_size}, one core"
    return measuring.Result(description, "images/s", rates, ratios, notes + missing)


def our_batches(
    run_config: config.Config, splits: Mapping[bool, sources.Split], image_statistics: statistics.Statistics
) -> dict[str, Callable[[], Iterable]]:
    """Returns our pipelines from prepared data to the network's input.

    Args:
      run_config: a resolved `config.Config`.
      splits: dict of `sources.Split` by whether they are raw.
      image_statistics: `statistics.Statistics` of the training set.

    Returns:
      A dict by name of functions that start an endless iterator of (float32 ``[batch, 224, 224, 3]``, labels).
    """
    data = {JPEG: examples.from_records(splits[False])}
    if True in splits:
        data[RAW] = examples.from_records(splits[True])
    data[CACHED] = loading.load(splits[False], cache="memory").examples
    preprocess = builders.build_preprocessing(run_config, image_statistics)
    batches = {name: _training_batches(run_config, each) for name, each in data.items()}
    return {name: lambda each=each: map(preprocess, each) for name, each in batches.items()}


def _training_batches(run_config, data):
    """Returns the batches of a training run without end."""
    return pipeline.training_batches(data, builders.build_sampling(run_config, first_step=0, steps=1 << 40))


def peer_batches(
    folder: str | pathlib.Path, run_config: config.Config, image_statistics: statistics.Statistics
) -> tuple[dict[str, Callable[[], Iterable]], list[str]]:
    """Returns others' pipelines over a folder of class folders.

    Returns:
      A dict as from `our_batches`, and a list of sides that are missing and why.
    """
    options = {
        "batch_size": run_config.batch_size,
        "mean_color": np.asarray(image_statistics.mean_image, np.float32).mean(axis=(0, 1)),
        "components": np.asarray(image_statistics.components, np.float32),
        "color_noise": run_config.color_noise,
    }
    batches = {
        TF_DATA: pipeline_peers.tf_data(folder, **options),
        KERAS: pipeline_peers.keras_layers(folder, **options),
    }
    found = {name: lambda each=each: iter(each) for name, each in batches.items()}
    if not _is_installed("torch"):
        return found, [f"{TORCH}: not installed"]
    if not _is_installed("PIL"):
        return found, [f"{TORCH}: Pillow is not installed"]
    return {**found, TORCH: lambda: pipeline_peers.torch_loader(folder, **options)}, []


def _is_installed(name):
    return importlib.util.find_spec(name) is not None


def write_folder(split: sources.Split, folder: str | pathlib.Path) -> list[bytes]:
    """Writes the images of a split of JPEG records as files in class folders.

    Returns:
      The contents of the files.
    """
    encoded = [bytes(split.records.image(index)) for index in range(len(split.labels))]
    for index, (content, label) in enumerate(zip(encoded, split.labels)):
        path = pathlib.Path(folder) / f"{label:05d}" / f"{index:06d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return encoded


def _count_images(start):
    """Returns a side of batches, counted in images."""

    def work():
        for _, labels in start():
            yield len(labels)

    return work


def _decode(encoded, offsets):
    """Returns a side of decoding only: entire images, or crops at offsets, int32 ``[images, 2]``.

    One pixel of each image leaves tf.data.
    """

    def decode(content, offset=None):
        if offset is None:
            return tf.io.decode_jpeg(content, channels=3)[0, 0]
        return tf.io.decode_and_crop_jpeg(content, tf.concat([offset, CROP_SHAPE[:2]], axis=0), channels=3)[0, 0]

    inputs = (encoded,) if offsets is None else (encoded, offsets)
    decoded = tf.data.Dataset.from_tensor_slices(inputs).repeat().map(decode, num_parallel_calls=tf.data.AUTOTUNE)
    decoded = decoded.batch(128).prefetch(tf.data.AUTOTUNE)

    def work():
        for pixels in decoded:
            yield len(pixels)

    return work


def _copy(batch_size):
    """Returns a side of copying crops into batches only, from more crops than the processor's cache holds."""
    crops = np.zeros([8 * batch_size, *CROP_SHAPE], np.uint8)
    # Pages that were never written to share one page of zeros.
    crops += 1

    def work():
        batch = np.empty([batch_size, *CROP_SHAPE], np.uint8)
        while True:
            for first in range(0, len(crops), batch_size):
                for place in range(batch_size):
                    batch[place] = crops[first + place]
                yield batch_size

    return work


def training(request: measuring.Request) -> measuring.Result:
    """P10: training steps of the full network on prepared data, and on one synthetic batch repeated.

    Args:
      request: `measuring.Request`; the first data set is used.

    Returns:
      `measuring.Result`.

    Raises:
      measuring.NotRunError: without a data set.
      ValueError, OSError: as `prepared.open_data_dir`.
    """
    if not request.data_dirs:
        raise measuring.NotRunError("needs --data_dir, a prepared data set")
    run_config = dataclasses.replace(request.config, data_dir=str(request.data_dirs[0]), source="").resolved()
    source, image_statistics = dataset.open_data(run_config)
    split, num_classes = source.splits["train"], len(source.class_names)
    _check_batch_size(run_config, split)
    data = loading.load(split, cache=run_config.cache).examples
    model = builders.build_model(run_config, num_classes)
    trainer = builders.build_trainer(run_config, model, image_statistics)
    kind = "raw records" if split.is_raw else "JPEG records"
    cached = ", cached" if data.decode is None and kind == "JPEG records" else ""
    measured = {
        f"training from {kind}{cached}": _train_on(trainer, run_config, _training_batches(run_config, data)),
        "on one batch": _train_on(
            trainer, run_config, itertools.repeat(sides.synthetic_batch(run_config, num_classes))
        ),
    }
    # A step of the full network takes about a second on a small machine.
    seconds = 4 * request.seconds
    rates = measuring.interleave(measured, rounds=request.rounds, seconds=seconds, warm_up=WARM_UP_STEPS)
    description = f"training steps of the full network, batches of {run_config.batch_size}"
    return measuring.Result(description, "images/s", rates, [measuring.Ratio(*measured, 0.97)])


def _train_on(trainer, run_config, batches):
    """Returns a side of training steps on batches."""
    rates = builders.initial_rates(run_config)

    def work():
        for batch in batches:
            # Reading the loss waits for the step; otherwise only queueing would be measured.
            trainer.step(batch, rates).loss.numpy()
            yield run_config.batch_size

    return work


def _open_all(data_dirs):
    """Returns (source, statistics) of data sets, by whether they are raw."""
    opened = {}
    for directory in data_dirs:
        source, image_statistics = prepared.open_data_dir(directory)
        is_raw = source.splits["train"].is_raw
        if is_raw in opened:
            kind = "raw" if is_raw else "JPEG"
            raise ValueError(
                f"Expected one data set of JPEG records and one of raw records. Received: two of {kind}, {data_dirs}"
            )
        opened[is_raw] = source, image_statistics
    return opened


def _first_images(split):
    return split._replace(labels=split.labels[:MAX_IMAGES])


def _check_batch_size(run_config, split):
    sampling.batches_per_epoch(len(split.labels), run_config.batch_size)
