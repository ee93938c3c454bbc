"""Training batches from other processes: the tf.data service, for machines with too few cores of their own.

A pipeline that runs in another process may consist of TensorFlow operations only. For a prepared data set that is
enough, and the batches are those of `pipeline.training_batches`. Each batch carries its step, so it does not matter
which data worker makes it, how many workers there are, or whether one of them is killed.
"""

import contextlib
import math
import os
import queue
import re
import socket
import threading
import time
from collections.abc import Callable
from collections.abc import Iterator

import tensorflow as tf

from alexnet_tf.data import augmentation
from alexnet_tf.data import examples
from alexnet_tf.data import graph_draws
from alexnet_tf.data import prepared
from alexnet_tf.data import records
from alexnet_tf.data import sampling
from alexnet_tf.utils import messages

# Seconds to wait for a batch, and for a dispatcher.
PATIENCE = 60

# Batches that are read ahead for the trainer, in addition to those that TensorFlow itself reads ahead.
_READ_AHEAD = 2

# Batches of later steps that are kept while one is missing, before it is requested again.
_MAX_AHEAD = 64

# Seconds between two requests to a service that reported an error.
_PAUSE = 0.5


def training_batches(data_dir: str | os.PathLike, options: sampling.Sampling) -> tf.data.Dataset:
    """Returns the batches of `pipeline.training_batches` for a prepared data set, in TensorFlow operations alone.

    The checksums of each record are verified as it is read.

    Args:
      data_dir: directory of the data set; it has the same name on all machines.
      options: `sampling.Sampling`.

    Returns:
      A ``tf.data.Dataset`` of dicts as in `pipeline.training_batches`, with ``step``, int64, the number of steps before
      the batch.

    Raises:
      ValueError: as `pipeline.training_batches` and `prepared.open_data_dir`.
      FileNotFoundError: as `prepared.open_data_dir`.
    """
    source, _ = prepared.open_data_dir(data_dir)
    split = source.splits["train"]
    num_examples = len(split.labels)
    steps_per_epoch = sampling.batches_per_epoch(num_examples, options.batch_size)
    no_order = (tf.constant(-1, tf.int64), tf.zeros([0], tf.int64))

    dataset = tf.data.Dataset.range(options.first_step, options.steps)
    dataset = dataset.scan(no_order, _order_function(num_examples, steps_per_epoch, options))
    dataset = dataset.map(_draw_function(split.records, steps_per_epoch, options)).unbatch()
    read = _read_function(split.is_raw, options.read_size(examples.IMAGE_SIZE))
    dataset = dataset.map(read, deterministic=True, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.batch(options.images_per_worker, drop_remainder=True)
    # At most one: while a data worker holds finished batches, the others get ahead of it.
    return dataset.map(lambda batch: {**batch, "step": batch["step"][0]}).prefetch(1)


def _order_function(num_examples, steps_per_epoch, options):
    """Returns the function from (epoch of an order, order) and a step to its new state and (step, indices)."""

    def choose(state, step):
        # The order of an epoch is computed once.
        known_epoch, order = state
        position = options.position(step, steps_per_epoch)
        order = tf.cond(
            position.order_epoch == known_epoch,
            lambda: order,
            lambda: graph_draws.order(num_examples, options.seed, position.order_epoch),
        )
        places = position.order_first + tf.range(options.images_per_worker, dtype=tf.int64)
        return (position.order_epoch, order), (step, tf.gather(order, places % num_examples))

    return choose


def _draw_function(images, steps_per_epoch, options):
    """Returns the function from a step and indices to a batch's draws and the location of its records."""
    locate = _locate_function(images)
    share = options.images_per_worker
    draw_options = options.draw_options(examples.IMAGE_SIZE)

    def draw(step, indices):
        position = options.position(step, steps_per_epoch)
        drawn = graph_draws.draw(options.seed, position.epoch, position.first, share, **draw_options)
        noise = tf.where(options.has_noise(step, steps_per_epoch), drawn.noise, tf.zeros_like(drawn.noise))
        # Every image carries the step, as images are read one by one.
        columns = drawn._asdict()
        if options.has_areas:
            area_options = options.area_options(examples.IMAGE_SIZE)
            columns |= graph_draws.areas(options.seed, position.epoch, position.first, share, **area_options)._asdict()
        return {"step": tf.fill([share], step), **columns, "noise": noise, **locate(indices)}

    return draw


def _locate_function(images):
    """Returns the function from indices to a dict of "paths" and fields of `image_records.Index`."""
    paths = tf.constant([os.path.abspath(path) for path in images.paths])
    fields = ("labels", "shards", "places", "lengths", "image_places", "image_lengths")
    columns = {field: tf.constant(getattr(images.index, field)) for field in fields}

    def locate(indices):
        entries = {field: tf.gather(column, indices) for field, column in columns.items()}
        return {"paths": tf.gather(paths, entries.pop("shards")), **entries}

    return locate


def _read_function(is_raw, size):
    """Returns the function from an image's draws and location to a square of the image, and its draws."""
    decode = examples.decode_raw_crop if is_raw else examples.decode_jpeg_crop

    def read(example):
        example = dict(example)
        record = _record(example.pop("paths"), example.pop("places"), example.pop("lengths"))
        image = tf.strings.substr(record, example.pop("image_places"), example.pop("image_lengths"))
        crop = decode(image, augmentation.inside(example["offsets"], examples.IMAGE_SIZE - size), size)
        return {"crops": tf.ensure_shape(crop, [size, size, 3]), **example}

    return read


def _record(path, place, length):
    """Reads the data of the record at a position of a file, a scalar string, and verifies its checksums."""
    found = tf.raw_ops.TFRecordDatasetV2(
        filenames=path[None], compression_type="", buffer_size=length + records.OVERHEAD, byte_offsets=place[None]
    )
    return tf.data.experimental.from_variant(found, tf.TensorSpec([], tf.string)).take(1).get_single_element()


def from_service(
    address: str,
    batches_from: Callable[[int], tf.data.Dataset],
    *,
    first_step: int,
    steps: int,
    device: str | None = None,
    patience: float = PATIENCE,
) -> Iterator[dict[str, tf.Tensor]]:
    """Returns the batches that a data service makes, in the order of their steps, read ahead in a thread.

    The batches that a killed data worker still owed are requested again. There may be about fifteen data workers: what
    they make in parallel must be less than what is kept (`_MAX_AHEAD`).

    Args:
      address: "grpc://HOST:PORT".
      batches_from: maps a first step to a dataset as `training_batches` returns it.
      first_step, steps: ints; the batches are those of steps `first_step` + 1 to `steps`.
      device: name of the TensorFlow device to copy the batches to; None leaves them where they are.
      patience: seconds to wait for a batch.

    Returns:
      An iterator of dicts as in `pipeline.training_batches`. It raises ConnectionError if no batch arrives in time, or
      if the service reports a permanent error, such as a damaged record.

    Raises:
      ValueError: if the address does not have this form.
    """
    _check_address(address)
    return _in_order(address, batches_from, first_step, steps, device, patience)


def _in_order(address, batches_from, next_step, steps, device, patience):
    """Implements the iterator of `from_service`."""
    received = "none"
    last = time.monotonic()
    while next_step < steps:
        request = _Request(address, batches_from, next_step, device)
        begun = time.monotonic()
        later = {}
        try:
            while next_step < steps and len(later) < _MAX_AHEAD:
                # A batch that later ones overtake may be lost.
                seconds = min(last + patience, begun + patience / 4 if later else math.inf) - time.monotonic()
                answer = request.answer(max(seconds, 0))
                if answer is None:
                    break
                if isinstance(answer, Exception):
                    received = _check_transient(answer, address)
                    time.sleep(_PAUSE)
                    break
                later[int(answer.pop("step"))] = answer
                while next_step in later:
                    yield later.pop(next_step)
                    next_step += 1
                    received = "none"
                    begun = last = time.monotonic()
        finally:
            request.end()
        if next_step < steps and time.monotonic() >= last + patience:
            raise ConnectionError(
                f"Expected a batch from the data service at {address} within {patience:g} s. Received: {received}"
            )


def _check_transient(error, address):
    """Returns the first line of an error that may be transient, such as a network error.

    Raises:
      ConnectionError: for another error of the service.
      Exception: the error itself, if it does not come from the service.
    """
    if not isinstance(error, tf.errors.OpError):
        raise error
    line = messages.first_line(error)
    if isinstance(error, (tf.errors.DataLossError, tf.errors.InvalidArgumentError)):
        raise ConnectionError(f"Expected a batch from the data service at {address}. Received: {line}")
    return line


class _Request:
    """A request for the batches from a step on. A thread reads the answers.

    Args:
      address, batches_from, device: as of `from_service`.
      step: int, the first step.
    """

    def __init__(self, address, batches_from, step, device):
        self._answers = queue.Queue(_READ_AHEAD)
        self._ended = threading.Event()
        # A service that has gone may block the thread forever, which must not keep the program from ending.
        threading.Thread(target=self._read, args=[address, batches_from, step, device], daemon=True).start()

    def answer(self, seconds):
        """Returns the next batch or an exception; None at the end of the batches or after `seconds`."""
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
            # Each step is assigned to one data worker.
            shared = services.distribute(services.ShardingPolicy.DYNAMIC, address, compression=None)
            for batch in batches_from(step).apply(shared):
                if device:
                    with tf.device(device):
                        batch = {name: tf.identity(value) for name, value in batch.items()}
                if not self._put(batch):
                    return
            self._put(None)
        except Exception as error:
            # The traceback would keep the iterator alive. Without its service it takes long to end, and must end in
            # this thread.
            self._put(error.with_traceback(None))

    def _put(self, answer):
        """Hands over an answer; returns False if the request has ended."""
        while not self._ended.is_set():
            with contextlib.suppress(queue.Full):
                self._answers.put(answer, timeout=0.1)
                return True
        return False


@contextlib.contextmanager
def serving(
    *, host: str = "localhost", port: int = 0, dispatcher: str = "", worker: bool = True, worker_port: int = 0
) -> Iterator[str]:
    """Runs a data service, or one data worker of a service, while the context lasts.

    Args:
      host: name under which trainers and data workers reach this machine.
      port: int, port of the service; 0 for any free one. Ignored with a `dispatcher`.
      dispatcher: "grpc://HOST:PORT" of the service that this process works for; "" starts a service.
      worker: bool, whether this process makes batches itself or only assigns them to others. With a `dispatcher` it
        always makes batches.
      worker_port: int, port from which this process sends its batches; 0 for any free one.

    Yields:
      The service's address, "grpc://HOST:PORT".

    Raises:
      ValueError: if the dispatcher's address does not have this form.
      OSError: if a port is in use.
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
    # TensorFlow would share a port that is in use.
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
