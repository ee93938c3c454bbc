"""Batches from other processes: equal to those of one process, in order, even if a process is killed."""

import contextlib
import pathlib
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from alexnet_tf.benchmarks import workers
from alexnet_tf.data import examples
from alexnet_tf.data import pipeline
from alexnet_tf.data import prepare
from alexnet_tf.data import prepared
from alexnet_tf.data import sampling
from alexnet_tf.data import service
from alexnet_tf.data import sources

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Six batches an epoch; two images are left over.
IMAGES, BATCH = 26, 4


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Returns data sets by storage, in shards of seven; read-only."""
    root = tmp_path_factory.mktemp("service")
    for number in range(IMAGES):
        path = root / "photographs" / "train" / ("cat", "dog")[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, [9, 9, 3], dtype=np.uint8)
        PIL.Image.fromarray(pixels).resize([256, 256]).save(path)
    source = sources.folder(root / "photographs")
    for storage in prepare.STORAGES:
        prepare.prepare(source, root / storage, prepare.Options(storage=storage, shard_examples=7))
    return {storage: root / storage for storage in prepare.STORAGES}


def sampling_of(**options):
    return sampling.Sampling(**{"batch_size": BATCH, "seed": 3, **options})


def expected_batches(data_dir, **options):
    """Returns the batches of `pipeline.training_batches`."""
    data = examples.from_records(prepared.open_data_dir(data_dir)[0].splits["train"])
    return list(pipeline.training_batches(data, sampling_of(**options)).as_numpy_iterator())


def dataset_of(data_dir, **options):
    return service.training_batches(data_dir, sampling_of(**options))


def served(address, data_dir, *, first_step=0, steps, patience=service.PATIENCE, **options):
    """Returns the batches of a service."""
    batches_from = lambda first: dataset_of(data_dir, first_step=first, steps=steps, **options)
    return service.from_service(address, batches_from, first_step=first_step, steps=steps, patience=patience)


def assert_same(found, expected):
    assert len(found) == len(expected)
    for batch, other in zip(found, expected, strict=True):
        assert batch.keys() == other.keys()
        for name, values in other.items():
            values_found = np.asarray(batch[name])
            assert values_found.dtype == values.dtype
            if name == "noise":
                np.testing.assert_allclose(values_found, values, rtol=1e-6, atol=1e-7)
            else:
                np.testing.assert_array_equal(values_found, values, err_msg=name)


@pytest.mark.parametrize(
    "storage, options",
    [
        ("jpeg", {}),
        ("raw", {}),
        ("jpeg", {"first_step": 4}),
        ("raw", {"first_step": 8, "flips": "both", "images_per_draw": 3}),
        ("raw", {"worker": (1, 2), "images_per_draw": 3}),
        ("jpeg", {"first_step": 4, "reshuffle": False, "worker": (1, 2)}),
        ("jpeg", {"crop_size": 250, "pad": 6}),
        ("raw", {"crop_size": 256, "pad": 4}),
        ("raw", {"crops": "area", "images_per_draw": 3}),
        ("raw", {"first_step": 4, "noise_epochs": 1.5, "crops": "center", "crop_size": 200}),
    ],
)
def test_batches_equal_those_of_the_pipeline(made, storage, options):
    """From the start or resumed within an epoch, to the third epoch."""
    options = {"first_step": 0, "steps": 13, **options}
    found = list(dataset_of(made[storage], **options).as_numpy_iterator())
    assert [batch.pop("step") for batch in found] == list(range(options["first_step"], 13))
    assert_same(found, expected_batches(made[storage], **options))


def test_element_spec(made):
    ours = dataset_of(made["jpeg"], first_step=0, steps=1).element_spec
    data = examples.from_records(prepared.open_data_dir(made["jpeg"])[0].splits["train"])
    theirs = pipeline.training_batches(data, sampling_of(first_step=0, steps=1)).element_spec
    assert ours == {**theirs, "step": tf.TensorSpec([], tf.int64)}


def test_service_gives_the_batches_of_one_process(made):
    with service.serving() as address:
        found = list(served(address, made["raw"], first_step=5, steps=15))
    assert_same(found, expected_batches(made["raw"], first_step=5, steps=15))


def test_batches_are_copied_to_a_device(made):
    with service.serving() as address:
        batches_from = lambda first: dataset_of(made["raw"], first_step=first, steps=2)
        batches = list(service.from_service(address, batches_from, first_step=0, steps=2, device="/CPU:1"))
    assert all(values.device.endswith("CPU:1") for batch in batches for values in batch.values())


def refused(address, data_dir, patience):
    with pytest.raises(ConnectionError) as caught:
        list(served(address, data_dir, steps=6, patience=patience))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("storage", prepare.STORAGES)
def test_damaged_record_raises(made, storage, tmp_path):
    shutil.copytree(made[storage], tmp_path / "data")
    index = prepared.read_index(tmp_path / "data", "train")
    shard = sorted(tmp_path.glob("data/prepared-train*"))[2]
    content = bytearray(shard.read_bytes())
    place = int(index.places[17] + index.image_places[17]) + 100
    content[place] ^= 4
    shard.write_bytes(content)
    with service.serving() as address:
        message = refused(address, tmp_path / "data", patience=60)
    assert message.startswith(f"Expected a batch from the data service at {address}. Received: ")
    assert "corrupted record" in message


def test_unreachable_service_is_a_connection_error(made):
    address = f"grpc://{workers.free_addresses(1)[0]}"
    message = refused(address, made["raw"], patience=2)
    assert message == f"Expected a batch from the data service at {address} within 2 s. Received: none"


@pytest.mark.parametrize(
    "address",
    ["localhost:5050", "grpc://localhost", "grpc://:5050", "grpc://localhost:0", "grpc://a:70000", "http://a:1", ""],
)
def test_invalid_address_raises(address):
    message = f"Expected the address of a data service, grpc://HOST:PORT. Received: {address}"
    with pytest.raises(ValueError) as caught:
        service.from_service(address, None, first_step=0, steps=1)
    assert str(caught.value) == message
    if address:
        with pytest.raises(ValueError) as caught, service.serving(dispatcher=address):
            pass
        assert str(caught.value) == message


def test_port_in_use_raises():
    with socket.socket() as listening:
        listening.bind(("", 0))
        listening.listen()
        port = listening.getsockname()[1]
        for flags in ({"port": port}, {"worker_port": port}):
            with pytest.raises(OSError) as caught, service.serving(**flags):
                pass
            assert str(caught.value) == f"Expected port {port} to be free. Received: Address already in use"
    with service.serving(port=port) as address:
        assert address == f"grpc://localhost:{port}"
        with pytest.raises(OSError, match=f"Expected port {port} to be free"), service.serving(port=port):
            pass


def test_invalid_arguments_raise(made):
    with pytest.raises(
        ValueError, match="Expected batch_size to be a multiple of the 3 workers. Received: batch_size=4"
    ):
        dataset_of(made["raw"], first_step=0, steps=1, worker=(0, 3))
    with pytest.raises(ValueError, match="Expected crops to be one of random, center, area. Received: crops='centre'"):
        dataset_of(made["raw"], first_step=0, steps=1, crops="centre")
    with pytest.raises(
        ValueError, match="Expected batch_size to be at most the 26 training images. Received: batch_size=27"
    ):
        dataset_of(made["raw"], first_step=0, steps=1, batch_size=27)


def start(*flags):
    command = [sys.executable, str(ROOT / "tools" / "data_service.py"), *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


@pytest.fixture
def processes():
    """Returns a list of processes that are killed at the end."""
    started = []
    yield started
    for process in started:
        process.kill()
        process.communicate(timeout=60)


@pytest.mark.slow
def test_batches_continue_after_a_data_worker_is_killed(made, processes):
    """A second data worker is killed and replaced by one in this process; then the service ends."""
    address = f"grpc://{workers.free_addresses(1)[0]}"
    # Started together: a data worker waits for its service.
    processes += [start(f"--port={address.rpartition(':')[2]}"), start(f"--dispatcher={address}")]
    assert processes[0].stdout.readline() == f"data service at {address}\n"
    assert processes[1].stdout.readline() == f"data worker of {address}\n"
    # Enough steps that the lost batches are requested again as soon as enough later batches have arrived.
    steps = 100
    found = []
    with contextlib.ExitStack() as stack:
        for batch in served(address, made["raw"], steps=steps):
            found.append(batch)
            if len(found) == 5:
                processes[1].kill()
                stack.enter_context(service.serving(dispatcher=address))
        assert_same(found, expected_batches(made["raw"], first_step=0, steps=steps))

    batches = served(address, made["raw"], steps=10**6, patience=10)
    next(batches)
    processes[0].terminate()
    begun = time.monotonic()
    with pytest.raises(ConnectionError) as caught:
        list(batches)
    assert time.monotonic() - begun < 60
    assert f"Expected a batch from the data service at {address} within 10 s. Received: " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert processes[0].communicate(timeout=60) == ("", "")
    assert processes[0].returncode == 0


@pytest.mark.parametrize(
    "flags, status, message",
    [
        (["--port=70000"], 2, "port"),
        (["surplus"], 2, "Expected flags only. Received: surplus"),
    ],
)
def test_invalid_flags_get_one_line(flags, status, message):
    process = start(*flags)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == status and not output
    assert message in errors and len(errors.strip().splitlines()) == 1, errors
