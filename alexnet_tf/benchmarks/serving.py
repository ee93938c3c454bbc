"""An export in use: row P12, and a server under load."""

import concurrent.futures
import contextlib
import itertools
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import numpy as np
import tensorflow as tf

from alexnet_tf.benchmarks import measuring
from alexnet_tf.benchmarks import steps
from alexnet_tf.export import saved_model
from alexnet_tf.export import signatures
from alexnet_tf.runs import builders
from alexnet_tf.serving import client
from alexnet_tf.serving import protocol
from alexnet_tf.serving import stub_server

BATCH = 32
# Height and width of photographs as people send them; the second is ImageNet's usual one.
SIZES = ((120, 90), (375, 500), (1200, 1600))
CLIENTS = (1, 8, 32)
# Requests of the load test with the usual number of rounds, the first tenth of which is the start.
REQUESTS = 2000
BAD = b"\xff\xd8\xff no photograph"
# A difference of probabilities that is one: batches are summed in another order.
TOLERANCE = 1e-5


@contextlib.contextmanager
def _exported(config):
    """The network with a thousand classes, not trained, as an export; its directory."""
    model = builders.build_model(config, steps.NUM_CLASSES, devices=None, jit_compile=False)
    mean_image = np.full([config.image_size, config.image_size, 3], 120, np.float32)
    preprocessing = signatures.Preprocessing(mean_image, config.crop_size, scale=config.input_scale)
    class_names = [f"class {number}" for number in range(steps.NUM_CLASSES)]
    with tempfile.TemporaryDirectory(prefix="alexnet_export_") as directory:
        saved_model.export(model, preprocessing, class_names, {}, directory)
        yield directory


def photograph(height, width, seed=0):
    """A JPEG of a picture that is neither flat nor noise."""
    generator = np.random.default_rng(seed)
    coarse = generator.uniform(0, 255, [1, 9, 12, 3]).astype(np.float32)
    pixels = tf.image.resize(coarse, [height, width], "bicubic")[0] + generator.normal(0, 6, [height, width, 3])
    return tf.io.encode_jpeg(tf.cast(tf.clip_by_value(pixels, 0, 255), tf.uint8)).numpy()


def answers(request):
    """Row P12: photographs as files and as pixels, one and 32 at a time, and the first answer after warming up.

    Args:
      request: `measuring.Request`.

    Returns:
      `measuring.Result`.
    """
    config = request.config.resolved()
    # The same picture as a file and as pixels, and a photograph as large as they usually are.
    same, usual = photograph(config.image_size, config.image_size), photograph(*SIZES[1])
    pixels = tf.io.decode_jpeg(same)[None]
    with _exported(config) as directory:
        path, _ = client.newest_version(directory)
        loaded = tf.saved_model.load(path).signatures
        for record in tf.data.TFRecordDataset(os.path.join(path, protocol.WARMUP_REQUESTS)).as_numpy_iterator():
            asked = protocol.warmup_request(record)
            inputs = {name: tf.constant(value) for name, value in protocol.arrays(asked.inputs).items()}
            loaded[asked.model_spec.signature_name](**inputs)
        # Called by the name of their inputs, which `repeating` has no place for.
        of_files = lambda files: loaded["serving_default"](image_bytes=files)
        of_pixels = lambda images: loaded["images"](images=images)
        began = time.perf_counter()
        of_files(tf.constant([usual]))
        first = time.perf_counter() - began
        sides = {
            "pixels, 1": steps.repeating(1, of_pixels, pixels),
            "same file, 1": steps.repeating(1, of_files, tf.constant([same])),
            "file, 1": steps.repeating(1, of_files, tf.constant([usual])),
            f"files, {BATCH}": steps.repeating(BATCH, of_files, tf.constant([usual] * BATCH)),
        }
        rates = steps.interleave(request, sides)
    ratios = [
        measuring.Ratio(f"files, {BATCH}", "file, 1", 2.3),
        # Of latencies, the other way round than of rates.
        measuring.Ratio("pixels, 1", "same file, 1", 1.15, measuring.AT_MOST),
        measuring.Ratio("pixels, 1", "file, 1"),
    ]
    steady = first * float(np.median(rates["file, 1"]))
    figures = [measuring.Figure("first file after warming up / median", steady, "", 2, measuring.AT_MOST)]
    what = f"an export in use, JPEG of {SIZES[1][1]} x {SIZES[1][0]}, {config.precision}"
    return measuring.Result(what, "images/s", rates, ratios, figures=figures)


def load(request):
    """A server on loopback under load: latencies by the number of clients, and memory over many mixed requests.

    Every answer is compared with that of the same export in this process, to 1e-5, bad files among them.

    Args:
      request: `measuring.Request`; fewer rounds than 7 make fewer requests.

    Returns:
      `measuring.Result`; nothing is claimed.

    Raises:
      ValueError: for a wrong answer.
    """
    config = request.config.resolved()
    requests = max(20, REQUESTS * request.rounds // 7)
    with _exported(config) as directory, _serving(directory) as (address, process):
        one = photograph(*SIZES[1])
        rates, figures = {}, []
        for clients in CLIENTS:
            # In the first, connections are made.
            _ask_all(address, [[one]] * clients, clients)
            began = time.perf_counter()
            seconds, _ = _ask_all(address, [[one]] * max(clients, requests // 10), clients)
            rates[f"{clients} clients"] = [len(seconds) / (time.perf_counter() - began)]
            for share in (50, 95, 99):
                value = 1000 * float(np.percentile(seconds, share))
                figures.append(measuring.Figure(f"latency, {clients} clients, {share} %", value, "ms"))
        mixed = _mixed(requests)
        start = mixed[: requests // 10]
        wrong = _wrong(directory, start, _ask_all(address, start, 8)[1])
        before = _resident(process)
        rest = mixed[len(start) :]
        wrong += _wrong(directory, rest, _ask_all(address, rest, 8)[1])
        if wrong:
            raise ValueError(f"Expected the answers of the export in this process. Received: {wrong} others")
        after = _resident(process)
    figures += [
        measuring.Figure(f"memory after {len(start)} mixed requests", before / 1e6, "MB"),
        measuring.Figure(f"memory after {len(mixed)}", after / 1e6, "MB"),
    ]
    what = "requests of one photograph to a server in Python on the same cores"
    return measuring.Result(what, "requests/s", rates, [], figures=figures)


@contextlib.contextmanager
def _serving(directory):
    """A server in a process of its own: its address and the process."""
    command = [sys.executable, "-m", stub_server.__name__, f"--directory={directory}", f"--workers={2 * max(CLIENTS)}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            port = process.stdout.readline().strip()
            if not port:
                raise ChildProcessError(f"Expected a server. Received: {process.stderr.read().strip()[-200:]}")
            yield f"127.0.0.1:{port}", process
        finally:
            process.terminate()


def _mixed(count):
    """Requests of one to four files each, of all sizes and both kinds, every fifth with a bad one."""
    small = tf.io.encode_png(tf.io.decode_jpeg(photograph(*SIZES[0], seed=9))).numpy()
    files = [*(photograph(*size, seed) for seed, size in enumerate(SIZES)), small]
    turns = itertools.cycle(files)
    mixed = []
    for number in range(count):
        # The largest, two in a hundred, would be all that is measured.
        asked = [next(turns) for _ in range(1 + number % 4)]
        asked = [file if file is not files[2] or number % 50 == 3 else files[1] for file in asked]
        mixed.append([*asked, BAD] if number % 5 == 0 else asked)
    return mixed


def _ask_all(address, requests, clients):
    """Asks as several clients at once; seconds and answer of each request, two lists."""

    def work(own):
        with client.Grpc(address, timeout=600) as server:
            found = []
            for files in own:
                began = time.perf_counter()
                answer = server.predict(files)
                found.append((time.perf_counter() - began, answer))
            return found

    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        parts = list(pool.map(work, [requests[place::clients] for place in range(clients)]))
    found = [None] * len(requests)
    for place, part in enumerate(parts):
        found[place::clients] = part
    return [seconds for seconds, _ in found], [answer for _, answer in found]


def _wrong(directory, requests, received):
    """How many files were answered otherwise than by the export in this process."""
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
    return wrong


def _resident(process):
    """Bytes of main memory that a process holds."""
    try:
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    except OSError as error:
        raise measuring.NotRunError(f"this system does not say what memory a process holds: {error}") from None
    return 1024 * int(re.search(r"^VmRSS:\s*(\d+) kB", status, re.MULTILINE)[1])
