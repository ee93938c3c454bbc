"""The package as ``pip install .`` leaves it, without the repository, in an empty directory."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pictures
import PIL.Image
import pytest

import alexnet_tf

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The directory of an installed wheel, which is built without network."""
    scratch = tmp_path_factory.mktemp("installed")
    source = scratch / "source"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("alexnet_tf", "flags"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index"]
    environment = {**os.environ, "PYTHONPATH": ""}
    subprocess.run(
        [*pip, "wheel", *offline, "--no-build-isolation", "-w", str(scratch), str(source)], check=True, env=environment
    )
    (wheel,) = scratch.glob("*.whl")
    subprocess.run([*pip, "install", *offline, "--target", str(scratch / "site"), str(wheel)], check=True)
    # So that the tests cannot find it.
    shutil.rmtree(source)
    return scratch / "site"


def run(installed, directory, *arguments, program=None, **environment):
    """Runs the console command, or another program of Python's, in a directory."""
    return subprocess.run(
        [sys.executable, *(program or [str(installed / "bin" / "alexnet-tf")]), *arguments],
        capture_output=True,
        text=True,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(installed), **environment},
        timeout=300,
    )


def test_console_command_and_module_print_the_same_help(installed, tmp_path):
    done = run(installed, tmp_path, "--help")
    assert done.returncode == 0 and "\n  train  " in done.stdout, done.stderr
    assert run(installed, tmp_path, "--help", program=["-m", "alexnet_tf.commands"]).stdout == done.stdout


def test_metadata_and_flagfiles_are_installed(installed):
    (metadata,) = installed.glob("alexnet_tf-*.dist-info/METADATA")
    assert f"\nVersion: {alexnet_tf.__version__}\n" in metadata.read_text()
    assert sorted(path.name for path in (installed / "alexnet_tf" / "_flags").iterdir()) == sorted(
        path.name for path in (ROOT / "flags").glob("*.flags")
    )
    assert {path.name for path in (installed / "alexnet_tf" / "serving" / "page").iterdir()} == {
        "index.html",
        "page.css",
        "page.js",
    }


def test_flagfiles_are_found_by_name(installed, tmp_path):
    done = run(installed, tmp_path, "train", "--flagfile=quickstart", "--help")
    assert done.returncode == 0 and "--learning_rate" in done.stdout, done.stderr
    done = run(installed, tmp_path, "train", "--flagfile=quickstart")
    assert (done.returncode, done.stderr) == (2, "alexnet-tf train: Expected --workdir. Received: none\n")
    done = run(installed, tmp_path, "train", "--flagfile=nothere")
    place = installed / "alexnet_tf" / "_flags" / "nothere.flags"
    message = f"alexnet-tf train: Expected a flagfile. Received: nothere; searched nothere, {place}\n"
    assert (done.returncode, done.stderr) == (2, message)


def test_trained_networks_are_in_the_package(installed):
    found, ours = (
        {path.name: path.stat().st_size for path in (root / "alexnet_tf" / "weights").glob("*.safetensors")}
        for root in (installed, ROOT)
    )
    assert found == ours and "tiny_imagenet_small.safetensors" in found
    assert sum(found.values()) < 12e6


@pytest.mark.slow
def test_an_installed_network_names_what_is_in_a_photograph(installed, tmp_path):
    photograph = tmp_path / "photograph.png"
    PIL.Image.fromarray(pictures.noise(50, 60)).save(photograph)
    arguments = ["predict", "--model=pretrained:tiny_imagenet_small", "--json", str(photograph)]
    done = run(installed, tmp_path, *arguments, XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert done.returncode == 0 and not done.stderr, done.stderr
    (answer,) = json.loads(done.stdout)
    assert len(answer["classes"]) == 5 and all(re.fullmatch(r".+ \(n\d{8}\)", name) for name in answer["classes"])


def test_training_in_an_empty_directory(installed, tmp_path):
    small = ["--source=synthetic", "--image_size=8", "--crop_size=8", "--batch_size=4", "--epochs=0.01"]
    small += ["--normalization=none", "--summary_epochs=0"]
    done = run(installed, tmp_path, "train", "--flagfile=figure1_relu", "--workdir=run", *small)
    assert done.returncode == 0 and not done.stderr, done.stderr
    # The flagfile includes another, by name.
    text = (tmp_path / "run" / "config.flags").read_text()
    assert "--network=cifar10_19\n" in text and "--recipe=original\n" in text
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
