"""What the demo page shows of a run or an export, and the program that serves it."""

import base64
import dataclasses
import http.client
import io
import json
import os
import pathlib
import re
import shutil
import signal
import time

import forks
import numpy as np
import pictures
import PIL.Image
import pytest
import stand_in
import untrained_runs

import alexnet_tf
from alexnet_tf.commands import demo as command
from alexnet_tf.commands import program
from alexnet_tf.reporting import overlays
from alexnet_tf.runs import demo
from alexnet_tf.runs import neighbours

CLASS_NAMES = ["apple", "pear", "plum"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    for split in ("train", "test"):
        for number in range(6):
            path = root / split / CLASS_NAMES[number % 3] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(pictures.noise(5, 6, seed=number)).resize((50, 44)).save(path)
    return root


@pytest.fixture(scope="module")
def workdir(folder, tmp_path_factory):
    changes = {"source": f"folder:{folder}", "validation_fraction": 0.0, "schedule": "linear", "normalization": "none"}
    config = dataclasses.replace(untrained_runs.SMALL, **changes)
    workdir = untrained_runs.make_run(tmp_path_factory.mktemp("runs") / "<run>", config, CLASS_NAMES)
    neighbours.index_run(workdir)
    return workdir


def pixels(address):
    kind, _, data = address.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(data))))


def test_a_run_answers_with_classes_maps_and_nearest_training_images(workdir, folder):
    lines = []
    served = demo.of_run(workdir, top=2, neighbors=4, log=lines.append)
    assert lines == []
    assert served.about == {
        "description": "Classifies pictures with the run <run>: cifar10_18, 3 classes. Its checkpoint is the newest."
    }
    path = folder / "train" / "pear" / "1.png"
    answer = json.loads(json.dumps(served.answer(path.read_bytes()), allow_nan=False))
    run = alexnet_tf.load(workdir)
    expected = run.classify(path, top=2)[0]
    assert [each["name"] for each in answer["classes"]] == [each.class_name for each in expected]
    np.testing.assert_allclose(
        [each["probability"] for each in answer["classes"]], [each.probability for each in expected], rtol=1e-5
    )
    for each in answer["classes"]:
        explained = run.explain(path, class_name=each["name"])[0]
        drawn = overlays.overlay(explained.pixels, explained.values).astype(int)
        assert np.abs(pixels(each["map"]) - drawn).max() <= 1
        assert each["speaks"] == explained.grid.any()
    np.testing.assert_array_equal(pixels(answer["crop"]), explained.pixels)
    nearest = answer["neighbors"]
    assert len(nearest) == 4 and (nearest[0]["name"], nearest[0]["class_name"]) == ("pear/1.png", "pear")
    assert nearest[0]["distance"] < 0.01 and sorted(each["distance"] for each in nearest) == [
        each["distance"] for each in nearest
    ]
    with PIL.Image.open(path) as picture:
        own = np.asarray(picture.convert("RGB")).astype(int)
    assert pixels(nearest[0]["image"]).shape == (36, 36, 3) and abs(pixels(nearest[0]["image"]).mean() - own.mean()) < 5


def test_a_trained_network_of_the_package_has_its_own_name():
    assert demo.run_name("pretrained:tiny_imagenet_small", "/cache/tiny_imagenet_small-0123") == (
        "pretrained:tiny_imagenet_small"
    )
    assert demo.run_name("runs/mine/", "runs/mine/") == "the run mine"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        b"\xff\xd8\xff\xe0",
        b"GIF89a" + bytes(20),
        b"\x89PNG\r\n\x1a\n" + bytes(40),
        b"<svg onload=alert(1)>",
    ],
)
def test_what_is_not_a_picture_is_an_error_in_one_line(workdir, content):
    served = demo.of_run(workdir, neighbors=0)
    with pytest.raises(ValueError) as caught:
        served.answer(content)
    assert str(caught.value) and "\n" not in str(caught.value)


def test_a_picture_that_declares_too_many_pixels_is_not_decoded(workdir):
    bomb = bytearray(pictures.encode(pictures.noise(8, 8), "PNG"))
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    with pytest.raises(ValueError, match="^Expected at most 100000000 pixels|^Expected .* pixels. Received: "):
        demo.of_run(workdir, neighbors=0).answer(bytes(bomb))


def test_indexes_and_data_that_cannot_be_used_are_named(workdir, folder, tmp_path):
    def lines(workdir):
        found = []
        served = demo.of_run(workdir, log=found.append)
        nearest = served.answer((folder / "test" / "plum" / "2.png").read_bytes())["neighbors"]
        return found, nearest

    copy = tmp_path / "run"
    shutil.copytree(workdir, copy, ignore=shutil.ignore_patterns("neighbours"))
    (line,), nearest = lines(copy)
    assert line.startswith(f"no nearest training images: no index in {copy}/neighbours/train; build one with ")
    assert nearest == []
    shutil.copytree(os.path.join(workdir, "neighbours"), copy / "neighbours")
    flags = (copy / "config.flags").read_text()
    (copy / "config.flags").write_text(flags.replace(f"--source=folder:{folder}", "--source=folder:/nowhere"))
    (line,), nearest = lines(copy)
    assert line.startswith("nearest training images are named, not shown: ") and "/nowhere" in line
    assert len(nearest) == 6 and {each["image"] for each in nearest} == {""}
    (copy / "neighbours" / "train" / "features.npy").write_bytes(b"damaged")
    (line,), nearest = lines(copy)
    assert line.startswith("no nearest training images: ") and "features.npy" in line and nearest == []
    other = dataclasses.replace(untrained_runs.SMALL, source=f"folder:{folder}", normalization="none", seed=9)
    other = untrained_runs.make_run(tmp_path / "other", other, CLASS_NAMES)
    shutil.copytree(os.path.join(workdir, "neighbours"), os.path.join(other, "neighbours"))
    (line,), nearest = lines(other)
    assert "is for another checkpoint; rebuild it with" in line and nearest == []


@pytest.fixture(scope="module")
def export_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("export") / "colors"
    stand_in.save(directory)
    return directory


def test_an_export_answers_with_its_classes(export_dir):
    served = demo.of_export(export_dir, top=1)
    assert served.about == {"description": "Classifies pictures with the export colors."}
    answer = served.answer(stand_in.png(10, 20, 70))
    assert [each["name"] for each in answer["classes"]] == ["blue"] and list(answer) == ["classes"]
    assert answer["classes"][0]["probability"] == pytest.approx(0.7)
    with pytest.raises(ValueError, match=f"^{stand_in.ERROR}$"):
        served.answer(stand_in.BAD)


def started(tmp_path, *arguments):
    """Starts the program; returns its process and the address that it prints."""
    child = forks.server().start("demo", tmp_path / "output", *arguments, errors=tmp_path / "errors")
    deadline = time.monotonic() + 120
    while not (match := re.search(r"open http://([^/]+)/ in", child.said())):
        assert child.is_alive() and time.monotonic() < deadline, pathlib.Path(tmp_path / "errors").read_text()
        time.sleep(0.02)
    return child, match[1]


def test_the_program_serves_the_page_until_it_is_stopped(export_dir, tmp_path):
    child, host = started(tmp_path, f"--saved_model={export_dir}", "--port=0", "--top=1")
    try:
        assert host.startswith("127.0.0.1:")
        connection = http.client.HTTPConnection(host, timeout=60)
        headers = {"Content-Type": "application/octet-stream", "Origin": f"http://{host}"}
        connection.request("POST", "/answer", stand_in.png(10, 20, 70), headers)
        answer = json.loads(connection.getresponse().read())
        assert [each["name"] for each in answer["classes"]] == ["blue"]
        connection.close()
    finally:
        child.kill(signal.SIGTERM)
    assert child.wait(60) == 0 and (tmp_path / "errors").read_text() == ""


def test_an_address_that_others_can_reach_is_warned_about(export_dir, tmp_path):
    child, _ = started(tmp_path, f"--saved_model={export_dir}", "--host=0.0.0.0", "--port=0", "--k=3")
    child.kill(signal.SIGINT)
    assert child.wait(60) == 0
    assert (tmp_path / "errors").read_text().splitlines() == [
        "warning: no effect without --workdir: --k",
        "warning: everyone who can reach 0.0.0.0 can use this page, without a password or encryption; leave --host out "
        "to serve this machine only",
    ]


def test_options_of_a_run_are_passed_on(monkeypatch, capsys):
    def reached(*arguments, log, **options):
        raise ValueError(f"{arguments} {options}")

    monkeypatch.setattr(program, "set_up_process", lambda run_config: None)
    monkeypatch.setattr(demo, "of_run", reached)
    with pytest.raises(SystemExit):
        command.main(["demo", "--workdir=a", "--k=2", "--top=3", "--checkpoint=newest"])
    assert capsys.readouterr().err == "demo: ('a',) {'top': 3, 'neighbors': 2, 'checkpoint': 'newest'}\n"


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        ([], 2, "Expected either --saved_model or --workdir. Received: neither"),
        (["--saved_model=a", "--workdir=b"], 2, "Expected either --saved_model or --workdir. Received: both"),
        (["--workdir=/nowhere"], 1, "Expected a run with its config.flags in /nowhere. Received: none"),
        (["--saved_model=/nowhere"], 1, "Expected an export (DIR/1/saved_model.pb) in /nowhere. Received: no such dir"),
        (["--workdir=a", "--port=70000"], 2, "port"),
        (["--workdir=a", "cat.jpg"], 2, "Expected flags only. Received: cat.jpg"),
    ],
)
def test_invalid_usage_is_reported_in_one_line(arguments, status, message):
    done = forks.run("demo", *arguments)
    assert done.returncode == status and message in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
