"""Runs that start from another one: weights, preprocessing and messages."""

import dataclasses
import os
import shutil

import numpy as np
import pytest
import small_runs
import tensorflow as tf

from alexnet_tf import config
from alexnet_tf import flagfiles
from alexnet_tf.runs import builders
from alexnet_tf.runs import initialization
from alexnet_tf.runs import report
from alexnet_tf.runs import restore
from alexnet_tf.runs import train
from alexnet_tf.training import best_checkpoint

SIX = config.Config(recipe="original", image_size=32, crop_size=32, sixth_convolution=True, bottleneck=8, seed=1)


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """A run of a small network with six convolutional layers, a bottleneck and seven classes, and its weights."""
    workdir, run_config = tmp_path_factory.mktemp("before"), SIX.resolved()
    model = builders.build_model(run_config, 7)
    for variable in model.trainable_variables:
        variable.assign_add(0.5 * tf.ones_like(variable))
    schedule = builders.build_schedule(run_config)
    builders.build_checkpoints(run_config, model, None, schedule, "abcdefg", workdir).save(9)
    return workdir, {variable.path: variable.numpy() for variable in model.trainable_variables}


def begun(before, num_classes=5, **changes):
    """Returns the weights of a network initialized from that run, and those that it had before."""
    workdir, _ = before
    run_config = dataclasses.replace(SIX, seed=2, initialize_from=str(workdir), **changes).resolved()
    model = builders.build_model(run_config, num_classes)
    own = {variable.path: variable.numpy() for variable in model.trainable_variables}
    path = initialization.initialize(run_config, model)
    assert path == str(workdir / "checkpoints" / "ckpt-9")
    return {variable.path: variable.numpy() for variable in model.trainable_variables}, own


@pytest.mark.parametrize(
    "changes, anew",
    [
        ({"new_layers": ("fc8",)}, {"fc8"}),
        # As net #146 continues from 2011 to 2012: without the bottleneck, fc8 reads fc7.
        ({"new_layers": ("fc8",), "bottleneck": 0}, {"fc8"}),
        # As it starts in 2011: the convolutional layers are kept.
        (
            {"new_layers": ("fc6", "fc7", "bottleneck", "fc8"), "bottleneck": 12},
            {"fc6_a", "fc6_b", "fc7_a", "fc7_b", "bottleneck_a", "bottleneck_b", "fc8"},
        ),
        # As in 2009, when it starts from a network with five convolutional layers.
        ({"new_layers": ("conv6", "fc8")}, {"conv6_a", "conv6_b", "fc8"}),
    ],
)
def test_a_run_is_initialized_from_another_except_for_new_layers(before, changes, anew):
    found, own = begun(before, **changes)
    assert {path.split("/")[0] for path in found} >= anew
    for path, value in found.items():
        expected = own[path] if path.split("/")[0] in anew else before[1][path]
        np.testing.assert_array_equal(value, expected, err_msg=path)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"new_layers": ("fc9",)}, "Received: fc9; the default for alexnet is --new_layers=fc8$"),
        ({"new_layers": ()}, "fc8.* Name layers to initialize at random in new_layers"),
        (
            {"new_layers": ("fc8",), "removed_layer": "conv3"},
            "conv4.* Name layers to initialize at random in new_layers",
        ),
        ({"new_layers": ("fc8",), "towers": "one"}, "conv1.* Name layers to initialize at random in new_layers"),
    ],
)
def test_layers_that_differ_from_the_other_run_are_named(before, changes, message):
    with pytest.raises(ValueError, match=message):
        begun(before, **changes)


def test_initialization_without_a_checkpoint_is_rejected(tmp_path):
    run_config = dataclasses.replace(SIX, initialize_from=str(tmp_path)).resolved()
    with pytest.raises(FileNotFoundError, match="Expected a checkpoint in "):
        initialization.initialize(run_config, builders.build_model(run_config, 5))


def test_the_best_checkpoint_is_used_if_there_is_one(before, tmp_path):
    """A damaged one gives way to the newest."""
    workdir = tmp_path / "run"
    directory = workdir / "checkpoints"
    shutil.copytree(before[0], workdir)
    model = builders.build_model(SIX.resolved(), 7)
    schedule = builders.build_schedule(SIX.resolved())
    saved = builders.build_checkpoints(SIX.resolved(), model, None, schedule, "abcdefg", workdir)
    saved.save(12)
    monitor = best_checkpoint.Monitor("validation")
    monitor.add(12, 3.0, 0.25, 0.7)
    best_checkpoint.Keeper(str(directory), monitor).resume()
    for path in directory.glob("ckpt-12.*"):
        path.unlink()
    run_config = dataclasses.replace(SIX, seed=2, initialize_from=str(workdir), new_layers=("fc8",)).resolved()
    initialization.check(run_config, tmp_path / "new")
    own, lines = builders.build_model(run_config, 5), []
    assert initialization.initialize(run_config, own, log=lines.append) == str(directory / "best" / "ckpt-12")
    assert lines == [
        f"initialized all layers but fc8 from {directory}/best/ckpt-12 (best, epoch 3: 25.00% error on the "
        "validation set, optimistic because the epoch was selected on it)"
    ]
    np.testing.assert_array_equal(own.get_layer("conv1_a").kernel, model.get_layer("conv1_a").kernel)
    (directory / "best" / "ckpt-12.index").write_bytes(b"")
    initialization.check(run_config, tmp_path / "new")
    assert initialization.initialize(run_config, own, log=lines.append) == str(directory / "ckpt-9")
    assert lines[1].startswith("warning: ") and lines[1].endswith("; the newest checkpoint is used")
    assert lines[-1] == f"initialized all layers but fc8 from {directory}/ckpt-9 (newest)"
    np.testing.assert_array_equal(own.get_layer("conv1_a").kernel, before[1]["conv1_a/kernel"])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return small_runs.make_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def source_run(pictures, tmp_path_factory):
    """A trained run with an input scale of 0.01, whose mean image is brighter than that of its images."""
    workdir = tmp_path_factory.mktemp("source") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write", lambda workdir, *others: os.path.join(workdir, "none"))
        train.train(small_runs.make_config(pictures, epochs=1.0), str(workdir))
    stored = restore.read_statistics(workdir)
    brighter = stored._replace(mean_image=stored.mean_image + np.float32(7))
    builders.statistics.save(brighter, workdir / "statistics.npz")
    return workdir


@pytest.fixture
def without_report(monkeypatch):
    monkeypatch.setattr(report, "write", lambda workdir, *others: os.path.join(workdir, "none"))


def from_source(pictures, source_run, **changes):
    """A run that does not change the weights of the other one, but for the last layer's."""
    values = {"epochs": 1.0, "initialize_from": str(source_run), "new_layers": ("fc10",), "input_scale": None}
    return small_runs.make_config(pictures, **{**values, **changes})


def test_input_scale_is_that_of_the_other_run(without_report, pictures, source_run, tmp_path, capsys):
    away, workdir = tmp_path / "away", tmp_path / "run"
    shutil.copytree(source_run, tmp_path / "before")
    run_config = from_source(pictures, tmp_path / "before")
    train.train(run_config, str(workdir))
    assert "--input_scale=0.01\n" in (workdir / "config.flags").read_text()
    said = " ".join(capsys.readouterr().out.split())
    data_mean = restore.read_statistics(workdir).mean_image.mean()
    assert (
        f"preprocessing: input_scale=0.01, as in {tmp_path}/before; the mean image of the data is subtracted, "
        f"{data_mean:.1f} gray levels on average, not {data_mean + 7:.1f} as in {tmp_path}/before; "
        "--mean_image=initialize_from subtracts that one"
    ) in said
    # The same command resumes, and so does one that states the value, without the other run.
    (tmp_path / "before").rename(away)
    assert initialization.inherit(run_config, str(workdir)).input_scale == 0.01
    train.train(dataclasses.replace(run_config, epochs=2.0, input_scale=0.01), str(workdir))
    with pytest.raises(ValueError, match=r"input_scale=0\.01 \(not 1\.0\)"):
        train.train(dataclasses.replace(run_config, epochs=2.0, input_scale=1.0), str(workdir))


def test_a_given_input_scale_is_kept_and_the_other_one_named(without_report, pictures, source_run, tmp_path, capsys):
    train.train(from_source(pictures, source_run, input_scale=0.25), str(tmp_path / "run"))
    assert restore.read_config(tmp_path / "run").input_scale == 0.25
    assert "preprocessing: input_scale=0.25 (not 0.01); " in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_mean_image_is_that_of_the_data_or_of_the_other_run(without_report, pictures, source_run, tmp_path, capsys):
    train.train(from_source(pictures, source_run), str(tmp_path / "data"))
    capsys.readouterr()
    run_config = from_source(pictures, source_run, mean_image="initialize_from")
    train.train(run_config, str(tmp_path / "other"))
    assert f"the mean image of {source_run} is subtracted; " in " ".join(capsys.readouterr().out.split())
    own, other, source = map(restore.read_statistics, (tmp_path / "data", tmp_path / "other", source_run))
    np.testing.assert_array_equal(other.mean_image, source.mean_image)
    np.testing.assert_allclose(own.mean_image + 7, source.mean_image, atol=1e-4)
    np.testing.assert_array_equal(other.components, own.components)
    # A resumed run keeps it.
    train.train(dataclasses.replace(run_config, epochs=2.0), str(tmp_path / "other"))
    np.testing.assert_array_equal(restore.read_statistics(tmp_path / "other").mean_image, source.mean_image)


def test_mean_image_of_another_size_is_rejected(pictures, source_run, tmp_path):
    run_config = from_source(pictures, source_run, mean_image="initialize_from", image_size=40)
    with pytest.raises(ValueError) as caught:
        train.train(run_config, str(tmp_path / "run"))
    assert str(caught.value) == (
        f"Expected a mean image of 40 x 40 in {source_run}. Received: 32 x 32; pass --mean_image=data or another "
        "--image_size"
    )
    assert not (tmp_path / "run").exists()


def test_another_network_is_named_with_the_flags_to_pass(pictures, source_run, tmp_path):
    run_config = from_source(pictures, source_run, network="alexnet", new_layers=("fc8",))
    with pytest.raises(ValueError) as caught:
        train.train(run_config, str(tmp_path / "run"))
    message = str(caught.value)
    assert f"As {source_run} was trained with network=cifar10_18" in message and "\n" not in message
    assert "pass --network=cifar10_18, or name layers to initialize at random in new_layers" in message


def test_weights_that_fit_a_network_that_computes_something_else_are_a_warning(pictures, source_run, capsys):
    run_config = from_source(pictures, source_run, pooling="nonoverlapping", activation="tanh").resolved()
    lines = []
    initialization.initialize(run_config, builders.build_model(run_config, 2), log=lines.append)
    assert lines[1] == (
        f"warning: {source_run} was trained with activation=relu, pooling=overlapping, so its weights compute "
        "something else here; pass --activation=relu --pooling=overlapping to start from its network"
    )


def test_layers_that_are_new_anyway_are_no_difference():
    new = dataclasses.replace(SIX, new_layers=("conv6", "fc8"), dropout=0.25, initialization="he")
    other = dataclasses.replace(SIX, sixth_convolution=False, bottleneck=0)
    assert initialization.network_differences(new, other) == []
    assert initialization.network_differences(dataclasses.replace(new, new_layers=("fc8",)), other) == [
        "sixth_convolution"
    ]
    assert initialization.network_differences(new, dataclasses.replace(other, recipe="paper")) == ["recipe"]


@pytest.fixture
def chosen_start(pictures, tmp_path, monkeypatch):
    """A configuration that starts from whatever convolutions there are, in an empty current directory."""
    monkeypatch.chdir(tmp_path)
    return dataclasses.replace(
        config.Config(schedule="linear", epochs="auto", batch_size="auto", learning_rate="auto", new_layers=("fc8",)),
        source=f"folder:{pictures}",
        initialize_from="auto",
    )


def test_auto_starts_from_imported_convolutions_or_those_of_the_package(chosen_start, tmp_path):
    lines = []
    found = initialization.inherit(chosen_start, tmp_path / "run", lines.append)
    assert (found.initialize_from, found.recipe) == ("pretrained:tiny_imagenet_convolutions", "original")
    assert found.input_scale == 0.04 and found.auto_fields() == ["batch_size", "epochs", "learning_rate"]
    imported = config.Config(network="alexnet_owt", input_scale=0.5).resolved()
    os.makedirs("runs/imagenet_convolutions")
    (tmp_path / "runs/imagenet_convolutions/config.flags").write_text(flagfiles.to_text(imported))
    with pytest.raises(FileNotFoundError, match="checkpoint"):
        initialization.inherit(chosen_start, tmp_path / "run", lines.append)
    model = builders.build_model(config.Config(image_size=32, crop_size=32).resolved(), 2)
    saved = builders.build_checkpoints(
        imported, model, None, builders.build_schedule(imported), "ab", "runs/imagenet_convolutions"
    )
    saved.save(1)
    found = initialization.inherit(chosen_start, tmp_path / "run", lines.append)
    assert (found.initialize_from, found.network) == ("runs/imagenet_convolutions", "alexnet_owt")
    assert (found.recipe, found.input_scale) == ("paper", 0.5)
    assert lines[0] == (
        "initialize_from=auto: pretrained:tiny_imagenet_convolutions with network=alexnet, as there is no run in "
        "runs/imagenet_convolutions"
    )
    assert lines[-1] == "initialize_from=auto: runs/imagenet_convolutions with network=alexnet_owt, as it is there"


def test_auto_does_not_replace_a_network_that_was_given(chosen_start, tmp_path):
    for changes, received in (
        ({"network": "vgg_a"}, "network=vgg_a"),
        ({"towers": "one", "recipe": "caffe", "crop_size": 227}, "recipe=caffe, towers=one, crop_size=227"),
    ):
        with pytest.raises(ValueError) as caught:
            initialization.inherit(dataclasses.replace(chosen_start, **changes), tmp_path / "run")
        assert str(caught.value) == (
            "Expected the network of pretrained:tiny_imagenet_convolutions, which initialize_from=auto takes. "
            f"Received: {received}; name a run with this network in --initialize_from, or pass --initialize_from= to "
            "start from random weights"
        )


def test_a_run_that_has_started_keeps_what_it_chose(chosen_start, tmp_path):
    values = {"batch_size": 16, "epochs": 7.0, "learning_rate": 0.25, "split_rule": "hash"}
    recorded = dataclasses.replace(initialization.inherit(chosen_start, tmp_path / "run"), **values).resolved()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.flags").write_text(flagfiles.to_text(recorded))
    # Neither convolutions that were imported since nor another size of the data set change it.
    os.makedirs("runs/imagenet_convolutions")
    (tmp_path / "runs/imagenet_convolutions/config.flags").write_text(
        flagfiles.to_text(config.Config(network="alexnet_owt").resolved())
    )
    lines = []
    found = initialization.inherit(chosen_start, tmp_path / "run", lines.append)
    assert found.resolved() == recorded and lines == []
    more = initialization.inherit(dataclasses.replace(chosen_start, epochs=9.0), tmp_path / "run")
    assert more.resolved() == dataclasses.replace(recorded, epochs=9.0)
    other = initialization.inherit(dataclasses.replace(chosen_start, learning_rate=0.5), tmp_path / "run")
    assert other.resolved().differences(recorded) == ["learning_rate"]
