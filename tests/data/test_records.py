"""Record files against TensorFlow's own reader and writer, and with each of their bits flipped."""

import concurrent.futures
import gc
import hashlib
import os
import struct

import full_disk
import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf.data import records

PAYLOADS = [b"a first one", b"", bytes(range(256)), b"\0", b"the last" * 1000]


def crc32c(data):
    """Bit by bit: the reflected polynomial 0x82F63B78."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def opened(paths, payloads, per_file):
    """Returns `Records` of files with `per_file` payloads each; offsets are computed from the lengths alone."""
    lengths = np.array([len(payload) for payload in payloads])
    file_of = np.arange(len(payloads)) // per_file
    places = np.concatenate(
        [[0, *np.cumsum(lengths[file_of == number] + 16)[:-1]] for number in range(len(paths))]
    ).astype(np.int64)
    return records.Records(paths, file_of, places, lengths, lambda index: f"record {index}")


def several_files(folder, count):
    """Returns `count` files of two records, and their payloads."""
    paths = [folder / f"{number}.tfrecord" for number in range(count)]
    payloads = [f"payload {number}".encode() * (number + 1) for number in range(2 * count)]
    for number, path in enumerate(paths):
        records.write(path, payloads[2 * number : 2 * number + 2])
    return paths, payloads


def open_files(folder):
    """Returns the names of the files in a folder that this process has open."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except FileNotFoundError:
            continue
    return [name for name in found if name.startswith(f"{folder}/")]


@pytest.mark.parametrize("data", [b"", b"a", b"123456789", bytes(32), bytes(range(256)) * 3])
def test_checksum_is_a_masked_crc_32c(data):
    assert crc32c(b"123456789") == 0xE3069283  # the published check value
    checksum = crc32c(data)
    rotated = (checksum >> 15 | checksum << 17) & 0xFFFFFFFF
    assert records.masked_checksum(data) == (rotated + 0xA282EAD8) % 2**32


def test_tensorflow_reads_what_is_written(tmp_path):
    path = tmp_path / "a.tfrecord"
    places, digest = records.write(path, iter(PAYLOADS))
    assert list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator()) == PAYLOADS
    content = path.read_bytes()
    assert digest == hashlib.sha256(content).hexdigest()
    assert places.dtype == np.int64
    for place, payload in zip(places.tolist(), PAYLOADS, strict=True):
        assert struct.unpack_from("<Q", content, place) == (len(payload),)
        assert content[place + 12 : place + 12 + len(payload)] == payload
    assert os.listdir(tmp_path) == ["a.tfrecord"]


def test_file_equals_tensorflows_and_is_read_by_index(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    records.write(ours, PAYLOADS)
    with tf.io.TFRecordWriter(str(theirs)) as writer:
        for payload in PAYLOADS:
            writer.write(payload)
    assert ours.read_bytes() == theirs.read_bytes()
    found = opened([theirs], PAYLOADS, len(PAYLOADS))
    assert len(found) == len(PAYLOADS)
    for index in (3, 0, 4, 1, 2, 2, 0):
        assert found.read(index) == PAYLOADS[index]


def test_no_records_make_an_empty_file(tmp_path):
    places, digest = records.write(tmp_path / "a", [])
    assert (places.shape, places.dtype) == ((0,), np.int64)
    assert digest == hashlib.sha256(b"").hexdigest()
    assert (tmp_path / "a").read_bytes() == b""


def test_every_flipped_bit_is_detected_and_named(tmp_path):
    """In header, length, data and both checksums; the other record is still readable."""
    path = tmp_path / "a.tfrecord"
    payloads = [b"one payload", b"another"]
    records.write(path, payloads)
    content = path.read_bytes()
    border = len(payloads[0]) + 16
    assert len(content) == border + len(payloads[1]) + 16
    found = opened([path], payloads, 2)
    with open(path, "r+b", buffering=0) as file:
        for bit in range(8 * len(content)):
            byte = bit // 8
            file.seek(byte)
            file.write(bytes([content[byte] ^ 1 << bit % 8]))
            damaged = int(byte >= border)
            with pytest.raises(records.DamagedRecordError) as caught:
                found.read(damaged)
            assert str(caught.value).endswith(f" at record {damaged} in {path}"), f"bit {bit}"
            assert found.read(1 - damaged) == payloads[1 - damaged]
            file.seek(byte)
            file.write(content[byte : byte + 1])
    assert [found.read(index) for index in range(2)] == payloads


def test_truncation_anywhere_is_detected_and_named(tmp_path):
    path = tmp_path / "a.tfrecord"
    payloads = [b"one payload", b"another"]
    records.write(path, payloads)
    found = opened([path], payloads, 2)
    size = path.stat().st_size
    for left in range(size - 1, len(payloads[0]) + 16 - 1, -1):
        os.truncate(path, left)
        assert found.read(0) == payloads[0]
        with pytest.raises(records.DamagedRecordError) as caught:
            found.read(1)
        assert str(caught.value).endswith(f"the file ends at record 1 in {path}")
        assert "\n" not in str(caught.value)


def test_record_of_another_length_has_a_damaged_header(tmp_path):
    path = tmp_path / "a.tfrecord"
    records.write(path, [b"123456", b"7"])
    wrong = records.Records([path], [0], [0], [5], lambda index: "the first")
    with pytest.raises(records.DamagedRecordError, match=f"a damaged header at the first in {path}"):
        wrong.read(0)


def test_missing_file_is_an_os_error(tmp_path):
    found = opened([tmp_path / "none"], [b"a"], 1)
    with pytest.raises(FileNotFoundError, match="none"):
        found.read(0)


@pytest.mark.parametrize("max_open", [0, 2, 500])
def test_more_files_than_are_kept_open(tmp_path, monkeypatch, max_open):
    monkeypatch.setattr(records, "_MAX_OPEN_FILES", max_open)
    paths, payloads = several_files(tmp_path, 6)
    found = opened(paths, payloads, 2)
    for index in [*range(12), *reversed(range(12))]:
        assert found.read(index) == payloads[index]
    assert len(open_files(tmp_path)) == min(max_open, 6)
    del found
    gc.collect()
    assert open_files(tmp_path) == []


@pytest.mark.parametrize("max_open", [2, 500])
def test_threads_read_the_same_files(tmp_path, monkeypatch, max_open):
    monkeypatch.setattr(records, "_MAX_OPEN_FILES", max_open)
    paths, payloads = several_files(tmp_path, 6)
    found = opened(paths, payloads, 2)
    indices = np.random.default_rng(0).integers(0, 12, 3000).tolist()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(found.read, indices)) == [payloads[index] for index in indices]
    assert len(open_files(tmp_path)) == min(max_open, 6)


def test_full_disk_leaves_no_file(tmp_path):
    path = tmp_path / "a.tfrecord"
    with full_disk.full_disk(10_000), pytest.raises(OSError):
        records.write(path, (bytes(700) for _ in range(100)))
    assert os.listdir(tmp_path) == []


def test_failed_write_keeps_the_previous_file(tmp_path):
    path = tmp_path / "a.tfrecord"
    records.write(path, [b"before"])
    before = path.read_bytes()

    def stopped():
        yield b"after"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        records.write(path, stopped())
    with full_disk.full_disk(10), pytest.raises(OSError):
        records.write(path, [b"after"])
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.tfrecord"]
