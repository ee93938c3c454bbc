"""Runs of a residual network with padding, batch normalization, warm-up and averaged weights, and of GoogLeNet."""

import dataclasses
import json

import numpy as np
import pytest
import small_runs

from alexnet_tf import config
from alexnet_tf.models import registry
from alexnet_tf.runs import builders
from alexnet_tf.runs import evaluate
from alexnet_tf.runs import export
from alexnet_tf.runs import initialization
from alexnet_tf.runs import packed_runs
from alexnet_tf.runs import report
from alexnet_tf.runs import restore
from alexnet_tf.runs import train


def key(path):
    """The key of a variable in a checkpoint."""
    return f"variables/{path.replace('/', '.S')}/.ATTRIBUTES/VARIABLE_VALUE"


def small_config(folder, **changes):
    """A configuration of three steps per epoch."""
    values = {
        "source": f"folder:{folder}",
        "network": "cifar10_resnet_20",
        "image_size": 32,
        "crop_size": 32,
        "pad": 4,
        "color_noise": 0.0,
        "validation_fraction": 0.0,
        "batch_size": 8,
        "epochs": 4.0,
        "learning_rate": 0.02,
        "schedule": "steps",
        "drop_steps": (8,),
        "warmup_epochs": 1.0,
        "averaging": "polyak",
        "averaging_steps": 5,
        "report_steps": 1,
        "summary_epochs": 0.0,
        "checkpoint_steps": 3,
        "keep_checkpoints": 4,
    }
    return config.Config(**values | changes)


@pytest.fixture(scope="module")
def patched():
    """Leaves out reports, which take half of the time of these runs, and all but eight of the layers."""
    row = registry.find("cifar10_resnet_20")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write", lambda workdir, *others: f"{workdir}/none")
        patch.setitem(registry.NETWORKS, row.name, row._replace(arguments={**row.arguments, "depth": 8}))
        yield


@pytest.fixture(scope="module")
def finished(patched, tmp_path_factory):
    """A finished run, and its configuration."""
    folder = small_runs.make_pictures(str(tmp_path_factory.mktemp("pictures")))
    workdir, run_config = tmp_path_factory.mktemp("run"), small_config(folder)
    train.train(run_config, str(workdir))
    return workdir, run_config


def test_resumed_run_equals_an_uninterrupted_one(finished, tmp_path):
    workdir, run_config = finished
    resumed = small_runs.killed_copy(workdir, tmp_path / "run", step=6)
    train.train(run_config, str(resumed))
    small_runs.assert_same_bits(small_runs.stored(resumed, 12), small_runs.stored(workdir, 12))
    first, second = (json.loads((each / "train.json").read_text()) for each in (workdir, resumed))
    assert first["evaluation"] == second["evaluation"]


def test_learning_rates_rise_and_drop_at_the_requested_steps(finished):
    workdir, _ = finished
    rates = {record["step"]: record["learning_rate"] for record in small_runs.lines(workdir, "train")}
    rise = {1: 0.1, 2: 0.4, 3: 0.7, **dict.fromkeys(range(4, 9), 1.0), **dict.fromkeys(range(9, 13), 0.1)}
    assert rates == pytest.approx({step: 0.02 * factor for step, factor in rise.items()})


def test_trained_network_has_the_averages_and_the_moving_statistics(finished):
    workdir, run_config = finished
    stored = small_runs.stored(workdir, 12)
    run = restore.open_run(str(workdir))
    names = [variable.path for variable in run.model.trainable_variables]
    for variable in run.model.variables:
        path = f"{variable.path}/average" if variable.path in names else variable.path
        np.testing.assert_array_equal(variable, stored[key(path)], err_msg=path)
    moved = [np.abs(stored[key(f"{name}/average")] - stored[key(name)]).max() for name in names]
    assert min(moved) > 0
    assert np.abs(run.model.get_layer("norm1").moving_mean).max() > 1e-3
    # The statistics of the weights in training and of their average are the same variables.
    assert not [name for name in stored if "moving" in name and "average" in name]


def test_evaluation_equals_that_at_the_end_of_training(finished):
    workdir, _ = finished
    written = json.loads((workdir / "train.json").read_text())["evaluation"]
    assert evaluate.evaluate(str(workdir), "test")["evaluation"] == written
    assert set(written["test"]) >= {"center_crop", "ten_views"}


def test_onnx_export_has_the_averages(finished, tmp_path):
    workdir, _ = finished
    onnx = pytest.importorskip("onnx")
    # Raises if its logits differ from the network's.
    path = export.export_file(str(workdir), str(tmp_path), format="onnx")
    arrays = {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer}
    average = small_runs.stored(workdir, 12)[key("fc/kernel/average")]
    np.testing.assert_array_equal(arrays["fc/kernel"], average)


def test_packed_run_has_the_averages_as_its_weights(finished, tmp_path):
    workdir, _ = finished
    file = packed_runs.pack(str(workdir), tmp_path / "run.safetensors", dtype="float32")
    (tmp_path / "unpacked").mkdir()
    packed_runs.unpack(file, tmp_path / "unpacked")
    expected, run = restore.open_run(str(workdir)), restore.open_available(str(tmp_path / "unpacked"))
    assert (run.config.averaging, run.missing_layers) == ("none", ())
    for variable, value in zip(run.model.variables, expected.model.variables, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_run_starts_from_the_averages_of_another(finished):
    workdir, run_config = finished
    stored = small_runs.stored(workdir, 12)
    other = dataclasses.replace(run_config, initialize_from=str(workdir), new_layers=("fc",), seed=5).resolved()
    model = builders.build_model(other, 3)
    initialization.initialize(other, model)
    np.testing.assert_array_equal(model.get_layer("conv1").kernel, stored[key("conv1/kernel/average")])
    np.testing.assert_array_equal(model.get_layer("norm1").moving_mean, stored[key("norm1/moving_mean")])


@pytest.mark.slow
def test_saved_model_and_litert_export(finished, tmp_path):
    """Both raise if their outputs differ from the network's."""
    workdir, _ = finished
    assert export.export_run(str(workdir), str(tmp_path / "served"), views="ten")
    assert export.export_file(str(workdir), str(tmp_path), format="litert")


@pytest.mark.slow
def test_googlenet_resumes_with_its_heads_and_is_used_without(patched, tmp_path):
    folder = small_runs.make_pictures(str(tmp_path / "pictures"))
    run_config = small_config(folder, network="googlenet", width=0.125, epochs=2.0, averaging="none")
    run_config = dataclasses.replace(run_config, pad=0, crops="area")
    train.train(run_config, str(tmp_path / "whole"))
    train.train(dataclasses.replace(run_config, epochs=1.0), str(tmp_path / "parts"))
    train.train(run_config, str(tmp_path / "parts"))
    stored = small_runs.stored(tmp_path / "whole", 6)
    small_runs.assert_same_bits(small_runs.stored(tmp_path / "parts", 6), stored)
    heads = {name for name in stored if "auxiliary" in name and name.endswith("kernel/.ATTRIBUTES/VARIABLE_VALUE")}
    assert len(heads) == 6
    run = restore.open_run(str(tmp_path / "whole"))
    assert not [variable.path for variable in run.model.variables if "auxiliary" in variable.path]
    written = json.loads((tmp_path / "whole" / "train.json").read_text())["evaluation"]
    assert evaluate.evaluate(str(tmp_path / "whole"), "test")["evaluation"] == written
