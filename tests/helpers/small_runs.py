"""Runs that take seconds: a small network on a few synthetic images."""

import json
import os
import pathlib
import shutil

import numpy as np
import PIL.Image
import tensorflow as tf

from alexnet_tf import config
from alexnet_tf import flagfiles


def write_picture(path, generator, darker=1):
    """Writes a 32 x 32 image of noise."""
    PIL.Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8) // darker).save(path)


def make_pictures(root, per_class=12):
    """Writes 32 x 32 training images of two classes, and five test images of each; returns the folder."""
    generator = np.random.default_rng(1)
    for split, count in (("train", per_class), ("test", 5)):
        for label, name in enumerate(("bright", "dark")):
            directory = os.path.join(root, split, name)
            os.makedirs(directory)
            for number in range(count):
                write_picture(os.path.join(directory, f"{number}.png"), generator, 1 + 2 * label)
    return root


def make_config(folder, **changes):
    """Returns a configuration of three steps per epoch with the images of `make_pictures`."""
    values = {
        "source": f"folder:{folder}",
        "network": "cifar10_18",
        "recipe": "original",
        "image_size": 32,
        "crop_size": 32,
        # Compiling response normalization would take a third of the time of a run.
        "normalization": "none",
        "crops": "center",
        "flips": "none",
        "color_noise": 0.0,
        "validation_fraction": 0.0,
        "batch_size": 8,
        "epochs": 4.0,
        "initialization": "he",
        "input_scale": 0.01,
        "learning_rate": 0.0001,
        "schedule": "epochs",
        "drop_epochs": (3.0,),
        "report_steps": 1,
    }
    return config.Config(**values | changes)


def flags(run_config):
    """Returns the arguments of tools/train.py for a configuration."""
    return [line for line in flagfiles.to_text(run_config).splitlines() if line.startswith("--")]


def stored(workdir, step):
    """Returns everything in a checkpoint by name, except the save counter."""
    reader = tf.train.load_checkpoint(os.path.join(workdir, "checkpoints", f"ckpt-{step}"))
    names = [name for name in reader.get_variable_to_shape_map() if not name.startswith("save_counter")]
    return {name: reader.get_tensor(name) for name in names}


def assert_same_bits(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def killed_copy(workdir, copy, step):
    """Copies a run as if it had been killed after a step; returns the copy. Earlier checkpoints must have been kept."""
    copy = pathlib.Path(shutil.copytree(workdir, copy))
    directory, step_of = copy / "checkpoints", lambda path: int(path.stem.removeprefix("ckpt-"))
    for path in directory.glob("ckpt-*"):
        if step_of(path) > step:
            path.unlink()
    kept = [str(directory / path.stem) for path in sorted(directory.glob("ckpt-*.index"), key=step_of)]
    tf.compat.v1.train.update_checkpoint_state(str(directory), kept[-1], kept)
    for name in ("train.json", "report.md", "report.html"):
        (copy / name).unlink(missing_ok=True)
    return copy


def lines(workdir, kind):
    """Returns the complete records of a kind in a run's metrics; the run may be running or killed."""
    path = os.path.join(workdir, "metrics.jsonl")
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        whole = [line for line in file if line.endswith("\n")]
    return [record for record in map(json.loads, whole) if record["kind"] == kind]
