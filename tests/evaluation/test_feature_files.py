"""Features on disk: the same bytes after an interruption at any moment, and refusal of other or damaged directories."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from alexnet_tf.evaluation import feature_files

SHAPES = {"fc7": (5,), "conv5": (2, 2, 3)}
COUNT, BATCH = 11, 4
BAD = (5, 8, 9, 10)
FEATURES = {"weights": "abc"}


class Killed(BaseException):
    """The end of a process."""


def features_of(place):
    generator = np.random.default_rng(place)
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def write(directory, kill_after=None, features=FEATURES, seconds=0.0):
    """Writes features; `kill_after` batches the process ends without another word."""
    with feature_files.open_writer(directory, SHAPES, COUNT, features) as writer:
        if writer.is_complete:
            return writer
        batches = 0
        while writer.done < COUNT:
            if batches == kill_after:
                raise Killed
            places = range(writer.done, min(writer.done + BATCH, COUNT))
            rows = [features_of(place) for place in places if place not in BAD]
            skipped = [{"place": each, "name": str(each), "reason": "bad"} for each in places if each in BAD]
            writer.add({name: np.stack([row[name] for row in rows]) for name in SHAPES} if rows else {}, skipped)
            batches += 1
        writer.finish({"names": [str(place) for place in range(COUNT) if place not in BAD]})
        return writer


def contents(directory):
    return {path.name: path.read_bytes() for path in sorted(pathlib.Path(directory).iterdir())}


@pytest.fixture(autouse=True)
def record_each_batch(monkeypatch):
    monkeypatch.setattr(feature_files, "_SECONDS", 0.0)


@pytest.fixture
def complete(tmp_path):
    write(tmp_path / "complete")
    return tmp_path / "complete"


def test_arrays_are_read_by_numpy_with_the_names_of_their_rows(complete):
    images = json.loads((complete / "images.json").read_text())
    assert images["names"] == [str(place) for place in range(COUNT) if place not in BAD]
    assert [each["place"] for each in images["skipped"]] == list(BAD)
    for name, shape in SHAPES.items():
        array = np.load(complete / f"{name}.npy", mmap_mode="r")
        assert (array.dtype, array.shape) == (np.float32, (7, *shape))
        for row, place in zip(array, images["names"]):
            np.testing.assert_array_equal(row, features_of(int(place))[name])
    assert sorted(contents(complete)) == [".lock", "conv5.npy", "fc7.npy", "images.json", "request.json"]


@pytest.mark.parametrize("seconds", [0.0, 1e9])
@pytest.mark.parametrize("batches", [0, 1, 2])
def test_a_killed_computation_resumes_to_the_same_bytes(complete, tmp_path, monkeypatch, batches, seconds):
    monkeypatch.setattr(feature_files, "_SECONDS", seconds)
    directory = tmp_path / "killed"
    with pytest.raises(Killed):
        write(directory, kill_after=batches)
    # Rows of which there is no record.
    with open(directory / "fc7.npy.part", "ab") as file:
        file.write(b"more")
    with feature_files.open_writer(directory, SHAPES, COUNT, FEATURES) as writer:
        assert writer.done == (0 if seconds else batches * BATCH)
    write(directory)
    assert contents(directory) == contents(complete)


@pytest.mark.parametrize("name", ["replace", "write_json"])
@pytest.mark.parametrize("call", range(5))
def test_a_computation_that_is_killed_while_it_finishes_resumes(complete, tmp_path, monkeypatch, name, call):
    module = feature_files.os if name == "replace" else feature_files.files
    original, calls = getattr(module, name), []

    def killed(*args):
        calls.append(args)
        if len(calls) == call + 1:
            raise Killed
        return original(*args)

    monkeypatch.setattr(module, name, killed)
    directory = tmp_path / "killed"
    with pytest.raises(Killed):
        write(directory)
    monkeypatch.undo()
    write(directory)
    assert contents(directory) == contents(complete)


def test_a_complete_directory_is_left_alone(complete):
    before = {path: path.stat().st_mtime_ns for path in complete.glob("*.npy")}
    writer = write(complete)
    assert writer.is_complete and writer.done == COUNT and len(writer.skipped) == len(BAD)
    assert before == {path: path.stat().st_mtime_ns for path in complete.glob("*.npy")}


def test_other_features_or_files_are_refused(complete, tmp_path):
    with pytest.raises(ValueError, match="to have features of the same run, .* differ in weights; use another --out"):
        write(complete, features={"weights": "def"})
    other = tmp_path / "other"
    other.mkdir()
    (other / "fc7.npy").write_bytes(b"mine")
    with pytest.raises(ValueError, match="^Expected a new directory, or one with features. Received: .* with fc7.npy$"):
        write(other)
    with feature_files.open_writer(complete, SHAPES, COUNT, FEATURES):
        with pytest.raises(BlockingIOError, match="Another process is using"):
            write(complete)


def test_features_that_are_not_finite_or_of_another_shape_are_errors(tmp_path):
    with feature_files.open_writer(tmp_path / "a", SHAPES, COUNT, FEATURES) as writer:
        with pytest.raises(ValueError, match="^Expected finite features. Received: NaN or infinity in conv5; "):
            writer.add({"fc7": np.zeros([1, 5], "f"), "conv5": np.full([1, 2, 2, 3], np.nan, "f")}, [])
        with pytest.raises(ValueError, match="^Expected features .5,. of fc7. Received: .1, 4."):
            writer.add({"fc7": np.zeros([1, 4], "f"), "conv5": np.zeros([1, 2, 2, 3], "f")}, [])


@pytest.mark.parametrize("kill_after", [0, 2])
def test_a_link_in_the_place_of_a_part_is_not_followed(complete, tmp_path, kill_after):
    directory, target = tmp_path / "killed", tmp_path / "target"
    with pytest.raises(Killed):
        write(directory, kill_after=kill_after)
    part = directory / "fc7.npy.part"
    part.rename(target)
    part.symlink_to(target)
    before = target.read_bytes()
    if kill_after:
        with pytest.raises(ValueError, match="fc7.npy.part. Received: fewer, or a link; delete the directory to start"):
            write(directory)
    else:
        write(directory)
        assert contents(directory) == contents(complete)
    assert target.read_bytes() == before


@pytest.mark.parametrize("name", ["progress.json", "request.json", "fc7.npy.part"])
@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"done": 4, "rows": 4, "skipped": []}', None])
def test_damage_is_an_error_of_one_line(tmp_path, name, content):
    directory = tmp_path / "killed"
    with pytest.raises(Killed):
        write(directory, kill_after=2)
    copy = shutil.copytree(directory, tmp_path / "copy")
    (copy / name).unlink() if content is None else (copy / name).write_bytes(content)
    if name == "progress.json" and content in (None, b'{"done": 4, "rows": 4, "skipped": []}'):
        # Without progress it starts over; an honest record without a checksum is that of fewer rows.
        assert write(copy).is_complete
        return
    with pytest.raises(ValueError, match="^Expected .*") as caught:
        write(copy)
    assert "\n" not in str(caught.value)
