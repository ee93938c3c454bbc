"""Features of many images: files and directories, the run's data set, unreadable images, interruptions and memory."""

import dataclasses
import json
import os
import signal
import time

import forks
import numpy as np
import pictures
import PIL.Image
import pytest
import untrained_runs

import alexnet_tf
from alexnet_tf.commands import __main__ as console_command
from alexnet_tf.commands import program
from alexnet_tf.data import loading
from alexnet_tf.evaluation import feature_files
from alexnet_tf.runs import dataset
from alexnet_tf.runs import features
from alexnet_tf.runs import neighbours

CLASS_NAMES = ["apple", "pear", "plum"]
ALL_TRAIN = {"validation_fraction": 0.0, "schedule": "linear"}
BAD = "train/pear/07.png"
COUNT = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with twelve training images of three classes, one of which is unreadable."""
    root = tmp_path_factory.mktemp("photographs")
    for number in range(COUNT):
        path = root / "train" / CLASS_NAMES[number % 3] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(pictures.noise(5, 6, seed=number)).resize((44, 50)).save(path)
    (root / BAD).write_bytes((root / BAD).read_bytes()[:200])
    return root


@pytest.fixture(scope="module")
def workdir(folder, tmp_path_factory):
    # Compiling response normalization would take most of the time of these tests.
    changes = {"network": "alexnet", "normalization": "none", "source": f"folder:{folder}", **ALL_TRAIN}
    config = dataclasses.replace(untrained_runs.SMALL, **changes)
    return untrained_runs.make_run(tmp_path_factory.mktemp("runs") / "run", config, CLASS_NAMES)


@pytest.fixture(scope="module")
def paths(folder):
    return [str(path) for path in sorted(folder.glob("*/*/*.png")) if str(path) != str(folder / BAD)]


@pytest.fixture(scope="module")
def expected(workdir, paths):
    run = alexnet_tf.load(workdir)
    return {name: run.features(paths, layer=name) for name in ("fc7", "conv5")}


def test_an_archive_has_an_array_for_each_layer(workdir, folder, paths, expected, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loading, "SLOW_SECONDS", -1.0)
    out = tmp_path / "features.npz"
    result = features.compute(workdir, ["fc7", "conv5", "fc7"], out, images=[str(folder)])
    archive = np.load(out, allow_pickle=False)
    assert archive["names"].tolist() == paths and archive["skipped"].tolist() == [str(folder / BAD)]
    for name, array in expected.items():
        assert archive[name].dtype == np.float32
        np.testing.assert_allclose(archive[name], array, rtol=1e-4, atol=1e-6)
    assert result.shapes == {"fc7": (11, 512), "conv5": (11, 7, 7, 64)} and len(result.skipped) == 1
    said = capsys.readouterr().out
    assert f"skipped {folder / BAD}: Expected an image in {folder / BAD}. Received: " in said
    assert said.count("warning: ") == COUNT and f"warning: {paths[0]} took 0 s to read" in said
    assert "fc7: float32 [11, 512], 0.0 MB" in said and os.listdir(tmp_path) == ["features.npz"]


def test_a_split_has_labels_and_the_features_of_its_index(workdir, tmp_path, paths):
    features.compute(workdir, ["dropout7"], tmp_path / "out", split="train")
    index = neighbours.index_run(workdir, index_dir=tmp_path / "index", dtype="float32")
    array = np.load(tmp_path / "out" / "dropout7.npy", mmap_mode="r")
    np.testing.assert_allclose(array, index.features, rtol=1e-4, atol=1e-6)
    images = json.loads((tmp_path / "out" / "images.json").read_text())
    assert images["names"] == index.images.names == paths
    assert images["labels"] == index.images.labels.tolist() and images["class_names"] == CLASS_NAMES
    assert [each["place"] for each in images["skipped"]] == [6]


def test_duplicates_have_equal_rows(workdir, paths, tmp_path):
    out = tmp_path / "out.npz"
    features.compute(workdir, ["fc7"], out, images=[paths[0], paths[3], paths[0]])
    first, _, third = np.load(out)["fc7"]
    np.testing.assert_allclose(first, third, rtol=1e-5, atol=1e-6)


def contents(directory):
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


@pytest.mark.parametrize("batch", [1, 2])
def test_an_interrupted_computation_resumes_to_the_same_bytes(workdir, folder, tmp_path, monkeypatch, capsys, batch):
    monkeypatch.setattr(dataset, "EVALUATION_BATCH_SIZE", 4)
    monkeypatch.setattr(feature_files, "_SECONDS", 0.0)
    request = {"layers": ["fc7", "conv5"], "images": [str(folder)]}
    features.compute(workdir, out=tmp_path / "once", **request)
    original, calls = feature_files.Writer.add, []

    def interrupted(self, *args):
        calls.append(args)
        if len(calls) > batch:
            raise KeyboardInterrupt
        original(self, *args)

    monkeypatch.setattr(feature_files.Writer, "add", interrupted)
    for out in ("twice", "packed.npz"):
        calls.clear()
        with pytest.raises(KeyboardInterrupt):
            features.compute(workdir, out=tmp_path / out, **request)
    monkeypatch.setattr(feature_files.Writer, "add", original)
    assert not (tmp_path / "twice" / "fc7.npy").exists() and not (tmp_path / "packed.npz").exists()
    capsys.readouterr()
    for out in ("twice", "packed.npz"):
        features.compute(workdir, out=tmp_path / out, **request)
        assert f"resumed after {4 * batch} of 12 images" in capsys.readouterr().out
    assert contents(tmp_path / "twice") == contents(tmp_path / "once")
    packed = np.load(tmp_path / "packed.npz")
    for name in ("fc7", "conv5"):
        np.testing.assert_array_equal(packed[name], np.load(tmp_path / "once" / f"{name}.npy"))
    # Once more does nothing.
    features.compute(workdir, out=tmp_path / "twice", **request)
    with pytest.raises(ValueError, match="to have features of the same run, .* differ in layers; use another --out"):
        features.compute(workdir, **{**request, "layers": ["fc7"]}, out=tmp_path / "twice")
    with pytest.raises(ValueError, match="differ in data, count; use another --out"):
        features.compute(workdir, **{**request, "images": [str(folder / "train" / "plum")]}, out=tmp_path / "twice")


def test_program_lists_unreadable_images_with_status_1(workdir, folder, tmp_path):
    (tmp_path / "list.txt").write_text(f"{folder / 'train/plum/02.png'}\n{tmp_path / 'none.jpg'}\n{folder / BAD}\n")
    arguments = [f"--workdir={workdir}", "--layer=fc7,conv5_a", f"--images={tmp_path / 'list.txt'}"]
    done = forks.run("features", *arguments, f"--out={tmp_path}/out/")
    assert done.returncode == 1, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line == (
        "features.py: 2 of 3 images could not be read, the first: "
        f"Expected an image in {tmp_path / 'none.jpg'}. Received: No such file or directory"
    )
    assert "skipped " in done.stdout and np.load(tmp_path / "out" / "conv5_a.npy").shape == (1, 7, 7, 32)
    done = forks.run("features", *arguments[:2], f"--images={folder / 'train/plum'}", f"--out={tmp_path}/good.npz")
    assert done.returncode == 0 and not done.stderr, done.stderr


@pytest.mark.slow
def test_program_that_is_killed_resumes(workdir, folder, tmp_path, paths):
    (tmp_path / "list.txt").write_text("\n".join(paths * 500))
    arguments = [f"--workdir={workdir}", "--layer=fc7", f"--images={tmp_path / 'list.txt'}", f"--out={tmp_path}/out"]
    child = forks.server().start("features", tmp_path / "said.txt", *arguments)
    deadline = time.monotonic() + 120
    while not (tmp_path / "out" / "progress.json").exists() and time.monotonic() < deadline and child.is_alive():
        time.sleep(0.02)
    assert child.is_alive(), child.said()
    child.kill(signal.SIGKILL)
    child.wait()
    done = json.loads((tmp_path / "out" / "progress.json").read_text())["done"]
    assert 0 < done < 5500 and not (tmp_path / "out" / "fc7.npy").exists()
    done_again = forks.run("features", *arguments)
    assert done_again.returncode == 0 and "resumed after" in done_again.stdout, done_again.stderr
    array = np.load(tmp_path / "out" / "fc7.npy", mmap_mode="r")
    assert array.shape == (5500, 512)
    np.testing.assert_allclose(array[: len(paths)], array[-len(paths) :], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        ([], 2, "Expected either --images or --split. Received: neither"),
        (["--images=IMAGES", "--split=train"], 2, "Expected either --images or --split. Received: both"),
        (
            ["--images=IMAGES", "--source=elpv"],
            2,
            "Expected --source and --data_dir only with --split. Received: --images",
        ),
        (["--images=/nowhere"], 1, "Expected a folder, an image, a list of images (*.txt) or a pattern that matches"),
        (["--images=IMAGES", "--layer=fc9"], 1, "Expected layers among conv1, relu1, pool1, conv2,"),
        (["--images=IMAGES", "--layer="], 1, "Expected at least one layer. Received: none"),
        (["--images=IMAGES", "--out=a.npy"], 1, "Expected the name of an .npz file, or a directory for .npy files"),
        (["--images=IMAGES", "--out=/nowhere/a.npz"], 1, "Expected a file in an existing directory. Received: /nowh"),
        (
            ["--images=IMAGES", f"--out={__file__}"],
            1,
            "Expected a directory, or the name of an .npz file. Received: the",
        ),
        (["--images=BAD"], 1, "Expected at least one image. Received: 1 unreadable ones; Expected an image in "),
        (["--split=test"], 1, "Expected split to be one of train. Received: test"),
        (["--images=IMAGES", "--workdir=/nowhere"], 1, "Expected a run with its config.flags in /nowhere. Received: n"),
    ],
)
def test_invalid_usage_is_one_line(workdir, folder, tmp_path, monkeypatch, capsys, arguments, status, message):
    # These would change the settings of this process.
    monkeypatch.setattr(program, "set_up_process", lambda run_config: None)
    places = {"IMAGES": str(folder / "train" / "plum"), "BAD": str(folder / BAD)}
    for name, place in places.items():
        arguments = [each.replace(name, place) for each in arguments]
    with pytest.raises(SystemExit) as caught:
        console_command.PROGRAMS["features"].main(
            ["features.py", f"--workdir={workdir}", f"--out={tmp_path / 'out.npz'}", *arguments]
        )
    assert caught.value.code == status and not (tmp_path / "out.npz").exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"features.py: {message}"), line
