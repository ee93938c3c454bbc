"""Analyses from a folder of images and from runs, to figures and JSON."""

import dataclasses
import json

import numpy as np
import pytest
import small_runs
import untrained_runs

from alexnet_tf.commands import __main__ as console_command
from alexnet_tf.commands import program
from alexnet_tf.runs import analysis


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_runs.make_pictures(tmp_path_factory.mktemp("pictures"), per_class=4)


@pytest.fixture(scope="module")
def run_config(folder):
    changes = {"image_size": 24, "crop_size": 16, "normalization": "response", "validation_fraction": 0.25}
    return small_runs.make_config(folder, **changes)


def test_gradients_of_networks_and_activations(run_config, tmp_path, capsys):
    run_config = dataclasses.replace(run_config, network="cifar10_26")
    result = analysis.gradients(
        run_config,
        others=("cifar10_mlp",),
        activations=("sigmoid",),
        images=4,
        seeds=(0, 5),
        figure_path=tmp_path / "gradients.png",
        json_path=tmp_path / "gradients.json",
    )
    assert result == json.loads((tmp_path / "gradients.json").read_text())
    assert (tmp_path / "gradients.png").stat().st_size > 1000
    assert list(result["norms"]) == ["sigmoid"] and result["images"] == 4
    for by_network in result["norms"].values():
        assert by_network["cifar10_26"]["layers"] == ["conv1", "conv2", "conv3", "fc64", "fc10"]
        assert by_network["cifar10_mlp"]["layers"] == ["fc1", "fc2"]
        for each in by_network.values():
            assert each["seeds"] == [0, 5] and np.shape(each["norms"]) == (2, len(each["layers"]))
            first, second = each["norms"]
            assert all(np.isfinite(first)) and min(first) > 0 and first != second
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines if " ratio " in line] == [
        ["sigmoid", network] for network in ("cifar10_26", "cifar10_mlp")
    ]


def test_networks_without_a_choice_of_functions_are_refused(run_config):
    with pytest.raises(ValueError, match="^Expected networks among alexnet, .*, vgg_e. Received: resnet_18$"):
        analysis.gradients(run_config, others=("resnet_18",))


def test_translations_of_two_runs(run_config, folder, tmp_path, capsys):
    workdirs = []
    for pooling in ("overlapping", "nonoverlapping"):
        changed = dataclasses.replace(run_config, network="cifar10_26", pooling=pooling).resolved()
        workdirs.append(untrained_runs.make_run(tmp_path / pooling, changed, ["bright", "dark"]))
    paths = {"figure_path": tmp_path / "figure.png", "json_path": tmp_path / "result.json"}
    result = analysis.translations(workdirs, images=6, largest_shift=3, **paths)
    assert result == json.loads((tmp_path / "result.json").read_text())
    assert (tmp_path / "figure.png").stat().st_size > 1000
    assert result["shifts"] == [1, 2, 3] and list(result["runs"]) == ["overlapping", "nonoverlapping"]
    for each in result["runs"].values():
        assert each["layers"] == ["pool1", "pool2", "pool3", "fc64", "fc10"]
        assert (each["split"], each["images"]) == ("test", 6)
        assert np.shape(each["distances"]) == (3, 5) and np.min(each["distances"]) > 0
        assert (
            np.shape(each["same_class"]) == (3,) and 0 <= np.min(each["same_class"]) <= np.max(each["same_class"]) <= 1
        )
    first, second = (each["distances"] for each in result["runs"].values())
    assert first != second
    # The same weights with the other windows.
    both = analysis.translations(workdirs[:1], images=6, largest_shift=3, poolings=["overlapping", "nonoverlapping"])
    assert list(both["runs"]) == ["overlapping, overlapping", "overlapping, nonoverlapping"]
    own, other = (each["distances"] for each in both["runs"].values())
    assert own == first and other == second
    assert "overlapping: distance to the shifted image" in capsys.readouterr().out
    with pytest.raises(ValueError, match="^Expected split to be one of train, test, validation. Received: other$"):
        analysis.translations(workdirs, split="other")


@pytest.mark.parametrize(
    "arguments, status, lines",
    [
        ([], 2, ["analyze: Expected --analysis. Received: none"]),
        (["--analysis=translation"], 2, ["analyze: Expected --workdir. Received: none"]),
        (
            ["--analysis=translation", "--workdir=/nowhere", "--compare=vgg_a"],
            1,
            [
                "warning: no effect with --analysis=translation: --compare",
                "analyze: Expected a run with its config.flags in /nowhere. Received: none",
            ],
        ),
        (
            ["--analysis=gradients", "--network=vgg_a", "--compare=lenet", "--split=test"],
            1,
            [
                "warning: no effect with --analysis=gradients: --split",
                "analyze: Expected networks among alexnet, ",
            ],
        ),
    ],
)
def test_command_lines_that_cannot_work(arguments, status, lines, monkeypatch, capsys):
    # These would change the settings of this process.
    monkeypatch.setattr(program, "set_up_process", lambda run_config: None)
    with pytest.raises(SystemExit) as caught:
        console_command.PROGRAMS["analyze"].main(["analyze", *arguments])
    received = capsys.readouterr().err.splitlines()
    assert caught.value.code == status and len(received) == len(lines)
    assert all(line.startswith(expected) for line, expected in zip(received, lines))
