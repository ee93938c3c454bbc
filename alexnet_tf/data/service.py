"""Training batches made by other processes: the tf.data service, for a machine whose own cores are too few.

A pipeline that another process runs may have TensorFlow operations only, which for a prepared data set is enough: its
batches are those of `pipeline.training_batches`. Each is asked for by its step, so that it does not matter which data
worker makes it, nor how many there are, nor whether one of them is killed.
"""

import contextlib
import math
import os
import queue
import re
import socket
import threading
import time

import tensorflow as tf

from alexnet_tf.data import graph_draws
from alexnet_tf.data import pipeline
from alexnet_tf.data import prepared
from alexnet_tf.data import records
from alexnet_tf.utils import messages

# Seconds to wait for a batch, and for a dispatcher.
PATIENCE = 60

# Batches that wait for the trainer, beside those that TensorFlow itself reads ahead.
_READ_AHEAD = 2

# Batches of later steps that are kept while one is missing, before it is asked for again.
_MOST_AHEAD = 64

# Seconds between two questions to a service that reported an error.
_PAUSE = 0.5


def training_batches(
    data_dir,
    *,
    batch_size,
    seed,
    first_step,
    steps,
    crop_size=pipeline.CROP_SIZE,
    crops="random",
    flips="horizontal",
    images_per_draw=1,
    reshuffle=True,
    noise_epochs=None,
    worker=(0, 1),
):
    """The batches of `pipeline.training_batches` in TensorFlow operations alone, for a prepared data set.

    Each record's checksums are compared as it is read.

    Args:
      data_dir: the data set, under the same name on all machines.
      batch_size, seed, first_step, steps, crop_size, crops, flips, images_per_draw, reshuffle, noise_epochs, worker: as
        in `pipeline.training_batches`.

    Returns:
      A ``tf.data.Dataset`` of dicts: those of `pipeline.training_batches` and ``step``, int64, the steps before it.

    Raises:
      ValueError: as `pipeline.training_batches` and `prepared.open_data_dir`.
      FileNotFoundError: as `prepared.open_data_dir`.
    """
    source, _ = prepared.open_data_dir(data_dir)
    split = source.splits["train"]
    count = len(split.labels)
    steps_per_epoch, share = pipeline.check_training(
        count, batch_size=batch_size, crops=crops, flips=flips, worker=worker
    )
    part = worker[0]
    look_up = _look_up(split.records)
    decode = pipeline.prepared_examples(split).decode or _crop_of_pixels

    def choose(state, step):
        # An epoch's order is computed once.
        known, order = state
        epoch = step // steps_per_epoch
        turn = epoch if reshuffle else tf.zeros_like(epoch)
        order = tf.cond(turn == known, lambda: order, lambda: graph_draws.order(count, seed, turn))
        first = step % steps_per_epoch * batch_size + part * share
        place = first if reshuffle else epoch * steps_per_epoch * batch_size + first
        indices = tf.gather(order, (place + tf.range(share, dtype=tf.int64)) % count)
        return (turn, order), (step, epoch, first, indices)

    def draw(step, epoch, first, indices):
        drawn = graph_draws.draw(
            seed,
            epoch,
            first,
            share,
            margin=pipeline.IMAGE_SIZE - crop_size,
            crops=crops,
            flips=flips,
            images_per_draw=images_per_draw,
        )
        noise = drawn.noise
        if noise_epochs is not None:
            noise = tf.where(step / steps_per_epoch >= noise_epochs, tf.zeros_like(noise), noise)
        # The step too for each image, as they are read one by one.
        return {"step": tf.fill([share], step), **drawn._asdict(), "noise": noise, **look_up(indices)}

    def read(example):
        example = dict(example)
        record = _record(example.pop("paths"), example.pop("places"), example.pop("lengths"))
        image = tf.strings.substr(record, example.pop("image_places"), example.pop("image_lengths"))
        crop = decode(image, example["offsets"], crop_size)
        return {"crops": tf.ensure_shape(crop, [crop_size, crop_size, 3]), **example}

    none = (tf.constant(-1, tf.int64), tf.zeros([0], tf.int64))
    dataset = tf.data.Dataset.range(first_step, steps).scan(none, choose)
    dataset = dataset.map(draw).unbatch()
    dataset = dataset.map(read, deterministic=True, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.batch(share, drop_remainder=True).map(lambda batch: {**batch, "step": batch["step"][0]})
    # What a data worker makes ahead, the others overtake: no more than one.
    return dataset.prefetch(1)


def _look_up(image_records):
    """The function from indices to what is known of the images: a dict of "paths" and fields of `prepared.Index`."""
    paths = tf.constant([os.path.abspath(path) for path in image_records.paths])
    fields = ("labels", "shards", "places", "lengths", "image_places", "image_lengths")
    columns = {field: tf.constant(getattr(image_records.index, field)) for field in fields}

    def look_up(indices):
        entries = {field: tf.gather(column, indices) for field, column in columns.items()}
        return {"paths": tf.gather(paths, entries.pop("shards")), **entries}

    return look_up


def _record(path, place, length):
    """The data of the record at a place of a file, a scalar string, its checksums compared."""
    found = tf.raw_ops.TFRecordDatasetV2(
        filenames=path[None], compression_type="", buffer_size=length + records.OVERHEAD, byte_offsets=place[None]
    )
    return tf.data.experimental.from_variant(found, tf.TensorSpec([], tf.string)).take(1).get_single_element()


def _crop_of_pixels(stored, offset, size):
    """The crop of an image that is stored as pixels, uint8 ``[size, size, 3]``."""
    pixels = tf.reshape(tf.io.decode_raw(stored, tf.uint8), [pipeline.IMAGE_SIZE, pipeline.IMAGE_SIZE, 3])
    return tf.slice(pixels, tf.concat([offset, [0]], axis=0), [size, size, 3])


def from_service(address, batches_from, *, first_step, steps, device=None, patience=PATIENCE):
    """Batches that a data service makes, in the order of their steps, read ahead in a thread.

    What a data worker that was killed had still to give is asked for again. Some fifteen data workers at most: what
    they make at the same time must be less than is kept (`_MOST_AHEAD`).

    Args:
      address: "grpc://HOST:PORT".
      batches_from: maps a first step to a dataset as `training_batches` returns it.
      first_step, steps: ints; the batches are those of steps `first_step` + 1 to `steps`.
      device: name of the TensorFlow device to copy them to; None leaves them where they are.
      patience: seconds to wait for a batch.

    Returns:
      An iterator of dicts as those of `pipeline.training_batches`. It raises ConnectionError if no batch comes in time,
      or if the service reports what will not pass, such as a damaged record.

    Raises:
      ValueError: for an address of another form.
    """
    _check_address(address)
    return _in_order(address, batches_from, first_step, steps, device, patience)


def _in_order(address, batches_from, wanted, steps, device, patience):
    """The generator that `from_service` returns; `wanted` is the next step."""
    received = "none"
    last = time.monotonic()
    while wanted < steps:
        job = _Job(address, batches_from, wanted, device)
        begun = time.monotonic()
        later = {}
        try:
            while wanted < steps and len(later) < _MOST_AHEAD:
                # A batch that later ones overtake may be lost.
                seconds = min(last + patience, begun + patience / 4 if later else math.inf) - time.monotonic()
                answer = job.answer(max(seconds, 0))
                if answer is None:
                    break
                if isinstance(answer, Exception):
                    received = _what_may_pass(answer, address)
                    time.sleep(_PAUSE)
                    break
                later[int(answer.pop("step"))] = answer
                while wanted in later:
                    yield later.pop(wanted)
                    wanted += 1
                    received = "none"
                    begun = last = time.monotonic()
        finally:
            job.end()
        if wanted < steps and time.monotonic() >= last + patience:
            raise ConnectionError(
                f"Expected a batch from the data service at {address} within {patience:g} s. Received: {received}"
            )


def _what_may_pass(error, address):
    """The first line of an error that may pass by itself, such as one of the network.

    Raises:
      ConnectionError: for another error of the service.
      Exception: the error, if it is none of the service.
    """
    if not isinstance(error, tf.errors.OpError):
        raise error
    line = messages.first_line(error)
    if isinstance(error, (tf.errors.DataLossError, tf.errors.InvalidArgumentError)):
        raise ConnectionError(f"Expected a batch from the data service at {address}. Received: {line}")
    return line


class _Job:
    """A question for the batches from a step on, whose answers a thread reads.

    Args:
      address, batches_from, device: as of `from_service`.
      step: int, the first.
    """

    def __init__(self, address, batches_from, step, device):
        self._answers = queue.Queue(_READ_AHEAD)
        self._ended = threading.Event()
        # A service that is gone may keep it waiting for ever, which must not keep the program from ending.
        threading.Thread(target=self._read, args=[address, batches_from, step, device], daemon=True).start()

    def answer(self, seconds):
        """The next batch or an exception; None if the service has no more or the time is over."""
        try:
            return self._answers.get(timeout=seconds)
        except queue.Empty:
            return None

    def end(self):
        """Lets the thread end."""
        self._ended.set()

    def _read(self, address, batches_from, step, device):
        services = tf.data.experimental.service
        try:
            # Each step is given to one data worker.
            shared = services.distribute(services.ShardingPolicy.DYNAMIC, address, compression=None)
            for batch in batches_from(step).apply(shared):
                if device:
                    with tf.device(device):
                        batch = {name: tf.identity(value) for name, value in batch.items()}
                if not self._give(batch):
                    return
            self._give(None)
        except Exception as error:
            # Without what it passed through: an iterator whose service is gone takes long to end, and is to do it here.
            self._give(error.with_traceback(None))

    def _give(self, answer):
        """Whether the answer is wanted."""
        while not self._ended.is_set():
            with contextlib.suppress(queue.Full):
                self._answers.put(answer, timeout=0.1)
                return True
        return False


@contextlib.contextmanager
def serving(*, host="localhost", port=0, dispatcher="", worker=True, worker_port=0):
    """A data service, or a data worker of one, as long as the context lasts.

    Args:
      host: name under which trainers and data workers reach this machine.
      port: int, where the service is asked; 0 for any that is free. Of no account with a `dispatcher`.
      dispatcher: "grpc://HOST:PORT" of the service that this process works for; "" begins a service.
      worker: whether this process makes batches, rather than only telling others which; with a `dispatcher` it does.
      worker_port: int, where this process hands over its batches; 0 for any that is free.

    Yields:
      The service's address, "grpc://HOST:PORT".

    Raises:
      ValueError: for an address of another form.
      OSError: if a port is taken.
      tf.errors.OpError: if the dispatcher cannot be reached within `PATIENCE`.
    """
    services = tf.data.experimental.service
    servers = []
    if dispatcher:
        _check_address(dispatcher)
        address, nearest = dispatcher, dispatcher
    else:
        _check_free(port)
        servers.append(services.DispatchServer(services.DispatcherConfig(port=port, protocol="grpc")))
        nearest = servers[0].target
        address = f"grpc://{host}:{nearest.rpartition(':')[2]}"
    if worker or dispatcher:
        _check_free(worker_port)
        config = services.WorkerConfig(
            dispatcher_address=nearest.removeprefix("grpc://"),
            worker_address=f"{host}:%port%",
            port=worker_port,
            protocol="grpc",
            heartbeat_interval_ms=1000,
            dispatcher_timeout_ms=1000 * PATIENCE,
        )
        servers.append(services.WorkerServer(config))
    try:
        yield address
    finally:
        for server in reversed(servers):
            server.stop()


def _check_free(port):
    # TensorFlow would share a port that is taken.
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("", port))
        except OSError as error:
            raise OSError(f"Expected port {port} to be free. Received: {error.strerror}") from None


def _check_address(address):
    match = re.fullmatch(r"grpc://[^/:\s]+:(\d{1,5})", address)
    if not match or not 0 < int(match[1]) < 2**16:
        raise ValueError(f"Expected the address of a data service, grpc://HOST:PORT. Received: {address}")
