"""The flagfile for pictures of one's own, on a few small ones."""

import dataclasses
import os
import pathlib

import pytest
import small_runs
import untrained_runs

from alexnet_tf import config
from alexnet_tf import flagfiles
from alexnet_tf.commands import program
from alexnet_tf.commands import train as train_command
from alexnet_tf.runs import auto_recipe
from alexnet_tf.runs import initialization
from alexnet_tf.runs import report
from alexnet_tf.runs import restore
from alexnet_tf.runs import train
from alexnet_tf.utils import machine

FLAGS = pathlib.Path(__file__).parents[2] / "flags"


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A folder of pictures, next to a run of small convolutions where the flagfile looks for imported ones."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "write", lambda workdir, *others: os.path.join(workdir, "none"))
    # Compiling response normalization would take most of the time.
    small = dataclasses.replace(untrained_runs.SMALL, normalization="none", image_size=32)
    untrained_runs.make_run(config.IMPORTED_CONVOLUTIONS, small, ["one", "two"])
    return small_runs.make_pictures(tmp_path / "photographs")


def test_the_flagfile_learns_and_records_what_it_chose(pictures, monkeypatch, capsys):
    monkeypatch.setattr(auto_recipe, "_TRAINED", auto_recipe._TRAINED._replace(max_epochs=8))
    monkeypatch.setattr(machine, "processor_features", lambda: frozenset({"avx2"}))
    own_pictures = flagfiles.read_flagfile(FLAGS / "own_pictures.flags")
    small = {"source": f"folder:{pictures}", "image_size": 32, "crop_size": 32}
    # The small network has three convolutions.
    run_config = dataclasses.replace(own_pictures, **small, new_layers=("fc10",), freeze=("conv1",))
    found = train.train(run_config, "runs/mine")["evaluation"]["test"]
    # Always the same class: 50%.
    assert found["center_crop"]["top1_error"] <= 0.2
    recorded = restore.read_config("runs/mine")
    assert recorded.auto_fields() == []
    assert (recorded.initialize_from, recorded.network) == (config.IMPORTED_CONVOLUTIONS, "cifar10_18")
    assert recorded.normalization == "none" and recorded.freeze == ("conv1",)
    assert (recorded.batch_size, recorded.epochs, recorded.learning_rate) == (16, 8, 0.005)
    assert recorded.precision == "float32"
    said = " ".join(capsys.readouterr().out.split())
    assert "precision=auto: float32, as no instructions for bfloat16 were found on this machine" in said
    assert "initialize_from=auto: runs/imagenet_convolutions with network=cifar10_18, as it is there" in said
    assert (
        "auto: batch_size=16; epochs=8 (at most 8 passes); learning_rate=0.005; for 22 training images and the "
        "weights of runs/imagenet_convolutions"
    ) in said


def test_from_scratch_nothing_is_initialized_or_frozen():
    run_config = flagfiles.read_flagfile(FLAGS / "own_pictures_from_scratch.flags")
    assert (run_config.initialize_from, run_config.freeze, run_config.initialization) == ("", (), "he")
    assert run_config.auto_fields() == ["batch_size", "epochs", "learning_rate"]


def test_the_published_options_are_what_the_flagfile_chooses_for_3068_images(pictures):
    published = flagfiles.read_flagfile(FLAGS / "own_pictures_pretrained.flags")
    imported = dataclasses.replace(published, initialize_from="", input_scale=0.017).resolved()
    pathlib.Path(config.IMPORTED_CONVOLUTIONS, "config.flags").write_text(flagfiles.to_text(imported))
    expected = initialization.inherit(published, "runs/mine")
    chosen = initialization.inherit(flagfiles.read_flagfile(FLAGS / "own_pictures.flags"), "runs/mine")
    found, _ = auto_recipe.resolve(chosen, 3_068)
    assert found.resolved() == expected.resolved()


def test_threads_are_those_of_the_network_that_is_taken(pictures, monkeypatch):
    """One core per tower would leave one of two cores idle with a network of one tower."""
    found = []
    monkeypatch.setattr(program, "set_up_process", lambda run_config: found.append(run_config.network))
    monkeypatch.setattr(train_command, "_train", lambda run_config, stop: found.append(run_config.initialize_from))
    arguments = ["train.py", f"--flagfile={FLAGS / 'own_pictures.flags'}", "--workdir=runs/mine"]
    train_command.main(arguments)
    os.rename(config.IMPORTED_CONVOLUTIONS, "runs/mine")
    train_command.main(arguments)
    os.rename("runs/mine", "runs/other")
    train_command.main(arguments)
    assert found == ["cifar10_18", "auto", "cifar10_18", "auto", "alexnet", "auto"]
