"""An export in use, in this process, in another engine and on a server under load (rows P12, P15 and load)."""

import concurrent.futures
import contextlib
import importlib.util
import itertools
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from alexnet_tf import config
from alexnet_tf.benchmarks import measuring
from alexnet_tf.benchmarks import sides
from alexnet_tf.export import saved_model
from alexnet_tf.export import signatures
from alexnet_tf.runs import builders
from alexnet_tf.serving import client
from alexnet_tf.serving import protocol
from alexnet_tf.serving import stub_server

BATCH = 32
# Height and width of typical photographs; the second is ImageNet's usual size.
SIZES = ((120, 90), (375, 500), (1200, 1600))
CLIENTS = (1, 8, 32)
# Requests of the load test with the default number of rounds; memory is read after the first tenth and at the end.
REQUESTS = 2000
BAD = b"\xff\xd8\xff not a photograph"
# Largest difference of probabilities, as batches are summed in a different order.
TOLERANCE = 1e-5


@contextlib.contextmanager
def exported(run_config: config.Config) -> Iterator[str]:
    """Exports the untrained network with a thousand classes; yields the directory, which is temporary."""
    model = builders.build_model(run_config, sides.NUM_CLASSES, devices=None, jit_compile=False)
    mean_image = np.full([run_config.image_size, run_config.image_size, 3], 120, np.float32)
    preprocessing = signatures.Preprocessing(mean_image, run_config.crop_size, scale=run_config.input_scale)
    class_names = [f"class {number}" for number in range(sides.NUM_CLASSES)]
    with tempfile.TemporaryDirectory(prefix="alexnet_export_") as directory:
        saved_model.export(model, preprocessing, class_names, {}, directory)
        yield directory


def synthetic_jpeg(height: int, width: int, seed: int = 0) -> bytes:
    """Returns a JPEG file of a smooth synthetic image with a little noise."""
    generator = np.random.default_rng(seed)
    coarse = generator.uniform(0, 255, [1, 9, 12, 3]).astype(np.float32)
    pixels = tf.image.resize(coarse, [height, width], "bicubic")[0] + generator.normal(0, 6, [height, width, 3])
    return tf.io.encode_jpeg(tf.cast(tf.clip_by_value(pixels, 0, 255), tf.uint8)).numpy()


def answers(request: measuring.Request) -> measuring.Result:
    """P12: classification of files and of pixels, one and 32 at a time, and the first answer after warming up.

    Args:
      request: `measuring.Request`.

    Returns:
      `measuring.Result`.
    """
    run_config = request.config.resolved()
    # The same image as a file and as pixels, and a photograph of the usual size.
    same, usual = synthetic_jpeg(run_config.image_size, run_config.image_size), synthetic_jpeg(*SIZES[1])
    pixels = tf.io.decode_jpeg(same)[None]
    with exported(run_config) as directory:
        loaded = _load_warm(directory)
        # The signatures take keyword arguments only.
        of_files = lambda files: loaded["serving_default"](image_bytes=files)
        of_pixels = lambda images: loaded["images"](images=images)
        start = time.perf_counter()
        of_files(tf.constant([usual]))
        first = time.perf_counter() - start
        measured = {
            "pixels, 1": sides.repeat(1, of_pixels, pixels),
            "same file, 1": sides.repeat(1, of_files, tf.constant([same])),
            "file, 1": sides.repeat(1, of_files, tf.constant([usual])),
            f"files, {BATCH}": sides.repeat(BATCH, of_files, tf.constant([usual] * BATCH)),
        }
        rates = sides.interleave(request, measured)
    ratios = [
        measuring.Ratio(f"files, {BATCH}", "file, 1", 2.3),
        # The ratio of latencies, so of rates the other way round.
        measuring.Ratio("pixels, 1", "same file, 1", 1.15, measuring.AT_MOST),
        measuring.Ratio("pixels, 1", "file, 1"),
    ]
    steady = first * float(np.median(rates["file, 1"]))
    values = [measuring.Value("first file after warming up / median", steady, "", 2, measuring.AT_MOST)]
    description = f"an export in use, JPEG of {SIZES[1][1]} x {SIZES[1][0]}, {run_config.precision}"
    return measuring.Result(description, "images/s", rates, ratios, values=values)


def _load_warm(directory):
    """Loads the signatures of an export and replays its warm-up requests."""
    path, _ = client.newest_version(directory)
    loaded = tf.saved_model.load(path).signatures
    for record in tf.data.TFRecordDataset(os.path.join(path, protocol.WARMUP_REQUESTS)).as_numpy_iterator():
        request = protocol.warmup_request(record)
        inputs = {name: tf.constant(value) for name, value in protocol.arrays(request.inputs).items()}
        loaded[request.model_spec.signature_name](**inputs)
    return loaded


def openvino_inference(directory: str, sizes: Sequence[int], image_size: int) -> dict[str, measuring.Side]:
    """Sides for another process: an export in OpenVINO, one for each batch size.

    Args:
      directory: of the versions.
      sizes: the batch sizes.
      image_size: side of the images.
    """
    import openvino

    loaded = tf.saved_model.load(client.newest_version(directory)[0])
    model = openvino.convert_model(loaded.signatures["probabilities"])
    # float32, as TensorFlow computes, rather than bfloat16 where the processor has it.
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    images = {size: _pixels(size, image_size) for size in sizes}
    return {f"OpenVINO, {size}": sides.repeat(size, compiled, {"images": images[size]}) for size in sizes}


def engines(request: measuring.Request) -> measuring.Result:
    """P15: probabilities of pixels by an export in OpenVINO and in TensorFlow, in batches of 1 and 32.

    Args:
      request: `measuring.Request`; no batch is larger than the configuration's.

    Returns:
      `measuring.Result`.

    Raises:
      NotRunError: if OpenVINO is not installed.
    """
    if importlib.util.find_spec("openvino") is None:
        raise measuring.NotRunError("needs openvino: pip install openvino")
    run_config = request.config.resolved()
    sizes = sorted({min(size, run_config.batch_size) for size in (1, BATCH)})
    with exported(run_config) as directory:
        ours = tf.saved_model.load(client.newest_version(directory)[0]).signatures["probabilities"]
        measured = {}
        for size in sizes:
            images = tf.constant(_pixels(size, run_config.image_size))
            measured[f"{sides.OURS}, {size}"] = sides.repeat(size, lambda images: ours(images=images), images)
        with measuring.in_subprocesses((openvino_inference, directory, sizes, run_config.image_size)) as theirs:
            rates = sides.interleave(request, measured | theirs)
    ratios = [measuring.Ratio(f"OpenVINO, {size}", f"{sides.OURS}, {size}", 1.1, measuring.AT_MOST) for size in sizes]
    description = f"an export in OpenVINO and in TensorFlow, {run_config.precision}"
    return measuring.Result(description, "images/s", rates, ratios)


def _pixels(count, size):
    return np.random.default_rng(0).uniform(0, 255, [count, size, size, 3]).astype(np.float32)


def load(request: measuring.Request) -> measuring.Result:
    """Row load: a local server under load, its latencies by number of clients, and its memory over mixed requests.

    Every answer to a mixed request, including those with invalid files, is compared with that of the same export in
    this process, to 1e-5.

    Args:
      request: `measuring.Request`; fewer rounds than 7 make fewer requests.

    Returns:
      `measuring.Result` without targets.

    Raises:
      ValueError: for a wrong answer.
    """
    run_config = request.config.resolved()
    requests = max(20, REQUESTS * request.rounds // 7)
    with exported(run_config) as directory, _serving(directory) as (address, process):
        rates, values = _latencies(address, requests)
        mixed = mixed_requests(requests)
        start, rest = mixed[: requests // 10], mixed[requests // 10 :]
        _check_answers(directory, start, _ask_all(address, start, 8)[1])
        before = _resident(process)
        _check_answers(directory, rest, _ask_all(address, rest, 8)[1])
        after = _resident(process)
    values += [
        measuring.Value(f"memory after {len(start)} mixed requests", before / 1e6, "MB"),
        measuring.Value(f"memory after {len(mixed)}", after / 1e6, "MB"),
    ]
    description = "requests of one photograph to a server in Python on the same cores"
    return measuring.Result(description, "requests/s", rates, [], values=values)


def _latencies(address, requests):
    """Returns rates, and percentiles of the latency as `measuring.Value`s, for each number of clients."""
    one = synthetic_jpeg(*SIZES[1])
    rates, values = {}, []
    for clients in CLIENTS:
        # Connects the clients.
        _ask_all(address, [[one]] * clients, clients)
        start = time.perf_counter()
        seconds, _ = _ask_all(address, [[one]] * max(clients, requests // 10), clients)
        rates[f"{clients} clients"] = [len(seconds) / (time.perf_counter() - start)]
        for percentile in (50, 95, 99):
            value = 1000 * float(np.percentile(seconds, percentile))
            values.append(measuring.Value(f"latency, {clients} clients, {percentile}%", value, "ms"))
    return rates, values


@contextlib.contextmanager
def _serving(directory):
    """Starts a server in another process; yields its address and the process."""
    command = [sys.executable, "-m", stub_server.__name__, f"--directory={directory}", f"--workers={2 * max(CLIENTS)}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            port = process.stdout.readline().strip()
            if not port:
                raise ChildProcessError(f"The server did not start: {process.stderr.read().strip()[-200:]}")
            yield f"127.0.0.1:{port}", process
        finally:
            process.terminate()


def mixed_requests(count: int) -> list[list[bytes]]:
    """Returns requests of one to four files each, of all sizes, JPEG and PNG; every fifth has an invalid file too."""
    small = tf.io.encode_png(tf.io.decode_jpeg(synthetic_jpeg(*SIZES[0], seed=9))).numpy()
    files = [*(synthetic_jpeg(*size, seed) for seed, size in enumerate(SIZES)), small]
    turns = itertools.cycle(files)
    mixed = []
    for number in range(count):
        # Only one request in 50 has the largest file, which would otherwise dominate the time.
        chosen = [next(turns) for _ in range(1 + number % 4)]
        chosen = [file if file is not files[2] or number % 50 == 3 else files[1] for file in chosen]
        mixed.append([*chosen, BAD] if number % 5 == 0 else chosen)
    return mixed


def _ask_all(address, requests, clients):
    """Sends requests from several clients at once; returns two lists, the seconds and the answer of each request."""

    def work(own):
        with client.Grpc(address, timeout=600) as server:
            found = []
            for files in own:
                start = time.perf_counter()
                answer = server.predict(files)
                found.append((time.perf_counter() - start, answer))
            return found

    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        parts = list(pool.map(work, [requests[place::clients] for place in range(clients)]))
    found: list[Any] = [None] * len(requests)
    for place, part in enumerate(parts):
        found[place::clients] = part
    return [seconds for seconds, _ in found], [answer for _, answer in found]


def _check_answers(directory, requests, received):
    """Raises ValueError if files were answered differently than by the export in this process."""
    known = {}
    wrong = 0
    with client.SavedModel(directory) as local:
        for files, answer in zip(requests, received):
            for place, file in enumerate(files):
                if file not in known:
                    known[file] = local.predict([file])
                expected = known[file]
                differs = np.abs(answer["probabilities"][place] - expected["probabilities"][0]).max() > TOLERANCE
                wrong += bool(differs or answer["errors"][place] != expected["errors"][0])
    if wrong:
        raise ValueError(f"Expected the answers of the export in this process. Received: {wrong} different answers")


def _resident(process):
    """Returns the resident memory of a process in bytes."""
    try:
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    except OSError as error:
        raise measuring.NotRunError(f"this system does not report the memory of a process: {error}") from None
    return 1024 * int(re.search(r"^VmRSS:\s*(\d+) kB", status, re.MULTILINE)[1])
