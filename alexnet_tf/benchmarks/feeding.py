"""How fast images reach the network, against textbook pipelines and against no pipeline at all (rows P9 and P10)."""

import dataclasses
import importlib.util
import pathlib
import tempfile

import numpy as np
import tensorflow as tf

from alexnet_tf.benchmarks import measuring
from alexnet_tf.benchmarks import peers
from alexnet_tf.data import augmentation
from alexnet_tf.data import examples
from alexnet_tf.data import loading
from alexnet_tf.data import pipeline
from alexnet_tf.data import prepared
from alexnet_tf.data import sampling
from alexnet_tf.runs import builders
from alexnet_tf.runs import dataset

# Images that are measured on; more would only fill the disk and the memory.
MOST_IMAGES = 2000
# Batches at the start of a turn that are not counted: more than any side keeps ready.
WARM_UP_BATCHES = 8
WARM_UP_STEPS = 2
CROP_SHAPE = (augmentation.CROP_SIZE, augmentation.CROP_SIZE, 3)

JPEG, RAW, CACHED = "JPEG records", "raw records", "cached"
TF_DATA, KERAS, TORCH = "tf.data textbook", "Keras", "torch"
DECODE, CROP, COPY = "decode_jpeg alone", "decode_and_crop_jpeg alone", "copy alone"


def ready_batches(request):
    """P9: float batches a second on the core that this process has, from prepared data and by others' pipelines.

    Every side that decodes, decodes the same JPEG bytes. Ours go through the compiled function that begins a training
    step. Files are read from the system's cache.

    Args:
      request: `measuring.Request`.

    Returns:
      `measuring.Result`.

    Raises:
      measuring.NotRunError: without JPEG records.
      ValueError, OSError: as `prepared.open_data_dir`.
    """
    found = _open_all(request.data_dirs)
    if False not in found:
        raise measuring.NotRunError("needs --data_dir, a prepared data set of JPEG records")
    _, image_statistics = found[False]
    splits = {is_raw: _first_images(source.splits["train"]) for is_raw, (source, _) in found.items()}
    config = request.config.resolved()
    _check_batch_size(config, splits[False])
    notes = [f"at most {MOST_IMAGES} images" if len(splits[False].labels) == MOST_IMAGES else "all training images"]
    with tempfile.TemporaryDirectory(prefix="alexnet_benchmark_") as folder:
        encoded = write_folder(splits[False], folder)
        ours = our_batches(config, splits, image_statistics)
        theirs, missing = peer_batches(folder, config, image_statistics)
        if RAW not in ours:
            notes.append(f"{RAW}: not run: needs --data_dir=JPEG,RAW")
        sides = {
            **{name: _counting(batches) for name, batches in ours.items()},
            **{name: _counting(batches) for name, batches in theirs.items()},
            DECODE: _decoding(encoded, None),
            CROP: _decoding(encoded, np.random.default_rng(0).integers(0, 33, [len(encoded), 2]).astype(np.int32)),
            COPY: _copying(config.batch_size),
        }
        rates = measuring.interleave(sides, rounds=request.rounds, seconds=request.seconds, warm_up=WARM_UP_BATCHES)
    reach = {JPEG: 1.35, RAW: 5.0, CACHED: 5.0}
    ratios = [measuring.Ratio(our, TF_DATA, reach[our]) for our in ours]
    ratios += [measuring.Ratio(our, their) for their in theirs if their != TF_DATA for our in ours]
    ratios += [measuring.Ratio(JPEG, CROP), measuring.Ratio(CROP, DECODE), measuring.Ratio(CACHED, COPY)]
    what = f"images ready for the network, batches of {config.batch_size}, one core"
    return measuring.Result(what, "images/s", rates, ratios, notes + missing)


def our_batches(config, splits, image_statistics):
    """The ways from prepared data to what the network takes.

    Args:
      config: a resolved `config.Config`.
      splits: dict of `sources.Split` by whether they are raw.
      image_statistics: `statistics.Statistics` of the training set.

    Returns:
      A dict by name of functions that begin an endless iterator of (float32 ``[batch, 224, 224, 3]``, labels).
    """
    data = {JPEG: examples.from_records(splits[False])}
    if True in splits:
        data[RAW] = examples.from_records(splits[True])
    data[CACHED] = loading.load(splits[False], cache="memory").examples
    prepare = builders.build_preprocessing(config, image_statistics)
    batches = {name: _training_batches(config, each) for name, each in data.items()}
    return {name: lambda each=each: map(prepare, each) for name, each in batches.items()}


def _training_batches(config, data, first_step=0):
    """The batches of a training run that never ends."""
    return pipeline.training_batches(data, builders.build_sampling(config, first_step=first_step, steps=1 << 40))


def peer_batches(folder, config, image_statistics):
    """Others' pipelines over a folder of class folders.

    Returns:
      A dict as `our_batches` gives, and a list of sides that are missing and why.
    """
    options = {
        "batch_size": config.batch_size,
        "mean_color": np.asarray(image_statistics.mean_image, np.float32).mean(axis=(0, 1)),
        "components": np.asarray(image_statistics.components, np.float32),
        "color_noise": config.color_noise,
    }
    batches = {TF_DATA: peers.tf_data(folder, **options), KERAS: peers.keras_layers(folder, **options)}
    sides = {name: lambda each=each: iter(each) for name, each in batches.items()}
    if not _installed("torch"):
        return sides, [f"{TORCH}: not installed"]
    if not _installed("PIL"):
        return sides, [f"{TORCH}: Pillow is not installed"]
    return {**sides, TORCH: lambda: peers.torch_loader(folder, **options)}, []


def _installed(name):
    return importlib.util.find_spec(name) is not None


def write_folder(split, folder):
    """Writes the images of a split of JPEG records as files in class folders.

    Returns:
      The files' contents, a list of bytes.
    """
    encoded = [bytes(split.records.image(index)) for index in range(len(split.labels))]
    for index, (content, label) in enumerate(zip(encoded, split.labels)):
        path = pathlib.Path(folder) / f"{label:05d}" / f"{index:06d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return encoded


def _counting(start):
    def work():
        for _, labels in start():
            yield len(labels)

    return work


def _decoding(encoded, offsets):
    """Only the decoding, whole or cut at offsets, int32 ``[images, 2]``: one pixel of each image leaves tf.data."""

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


def _copying(batch_size):
    """Only the copying of the pixels of a batch of crops, from more of them than a processor's cache holds."""
    crops = np.zeros([8 * batch_size, *CROP_SHAPE], np.uint8)
    # Memory that was never written to is one page for all.
    crops += 1

    def work():
        batch = np.empty([batch_size, *CROP_SHAPE], np.uint8)
        while True:
            for first in range(0, len(crops), batch_size):
                for place in range(batch_size):
                    batch[place] = crops[first + place]
                yield batch_size

    return work


def training(request):
    """P10: training steps of the full network on prepared data, and on one batch of noise again and again.

    Args:
      request: `measuring.Request`; the first data set is trained on.

    Returns:
      `measuring.Result`.

    Raises:
      measuring.NotRunError: without a data set.
      ValueError, OSError: as `prepared.open_data_dir`.
    """
    if not request.data_dirs:
        raise measuring.NotRunError("needs --data_dir, a prepared data set")
    config = dataclasses.replace(request.config, data_dir=str(request.data_dirs[0]), source="").resolved()
    source, image_statistics = dataset.open_data(config)
    _check_batch_size(config, source.splits["train"])
    data = loading.load(source.splits["train"], cache=config.cache).examples
    model = builders.build_model(config, len(source.class_names))
    trainer = builders.build_trainer(config, model, image_statistics)
    rates = builders.initial_rates(config)
    batches = _training_batches(config, data)
    noise = synthetic_batch(config.batch_size, len(source.class_names), config.seed)

    def fed_from(start):
        def work():
            for batch in start():
                # The loss is waited for, or a device's queue would be measured.
                trainer.step(batch, rates).loss.numpy()
                yield config.batch_size

        return work

    def same_again():
        while True:
            yield noise

    kind = "raw records" if source.splits["train"].is_raw else "JPEG records"
    cached = ", cached" if data.decode is None and kind == "JPEG records" else ""
    sides = {f"training from {kind}{cached}": fed_from(lambda: iter(batches)), "on one batch": fed_from(same_again)}
    # A step of the whole network takes a second or so of a small machine.
    rates_found = measuring.interleave(sides, rounds=request.rounds, seconds=4 * request.seconds, warm_up=WARM_UP_STEPS)
    what = f"training steps of the whole network, batches of {config.batch_size}"
    return measuring.Result(what, "images/s", rates_found, [measuring.Ratio(*sides, 0.95)])


def synthetic_batch(batch_size, num_classes, seed):
    """A batch like those of `pipeline.training_batches`, of noise; tensors."""
    generator = np.random.default_rng(seed)
    return {
        "crops": tf.constant(generator.integers(0, 256, [batch_size, *CROP_SHAPE], dtype=np.uint8)),
        "offsets": tf.constant(generator.integers(0, 33, [batch_size, 2]).astype(np.int32)),
        "flips": tf.constant(np.column_stack([np.zeros(batch_size, bool), generator.random(batch_size) < 0.5])),
        "labels": tf.constant(generator.integers(0, num_classes, batch_size).astype(np.int64)),
        "noise": tf.constant(generator.standard_normal([batch_size, 3]).astype(np.float32)),
    }


def _open_all(data_dirs):
    """(source, statistics) of data sets, by whether they are raw."""
    found = {}
    for directory in data_dirs:
        source, image_statistics = prepared.open_data_dir(directory)
        is_raw = source.splits["train"].is_raw
        if is_raw in found:
            kind = "raw" if is_raw else "JPEG"
            raise ValueError(f"Expected data sets of JPEG and of raw records. Received: two of {kind}, {data_dirs}")
        found[is_raw] = source, image_statistics
    return found


def _first_images(split):
    return split._replace(labels=split.labels[:MOST_IMAGES])


def _check_batch_size(config, split):
    sampling.batches_per_epoch(len(split.labels), config.batch_size)
