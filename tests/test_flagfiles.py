"""Every flagfile of flags/: its head says what it changes, and it changes nothing else."""

import pathlib
import re

import numpy as np
import pytest

from alexnet_tf import flagfiles
from alexnet_tf.experiments import headers
from alexnet_tf.experiments import plan
from alexnet_tf.experiments import runner
from alexnet_tf.experiments import tables
from alexnet_tf.runs import builders

ROOT = pathlib.Path(__file__).parent.parent
PATHS = sorted((ROOT / "flags").glob("*.flags"))
NAMES = [path.stem for path in PATHS]
# What the paper and its authors' code did, by the names of their flagfiles.
EXPERIMENTS = """
    alexnet original original_2010 one_device_half no_normalization layer1_normalization_only nonoverlapping_pooling
    no_communication six_conv six_conv_2009 six_conv_2011 tanh no_color_pca no_crops no_dropout no_weight_decay
    without_conv3 without_conv4 without_conv5 one_tower batch_normalization group_normalization layer_normalization
    plateau as_run doubly_exponential cifar10_26 cifar10_19 cifar10_18 figure1_relu figure1_tanh
""".split()


@pytest.fixture(autouse=True)
def at_the_top(monkeypatch):
    """Flagfiles name others from the top of the repository."""
    monkeypatch.chdir(ROOT)


def test_every_experiment_has_its_flagfile():
    assert set(EXPERIMENTS) <= set(NAMES)


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_head_names_exactly_what_differs_from_the_base(path):
    header = headers.read_header(path)
    assert sorted(headers.base_difference(path)) == sorted(header.changes)
    # An experiment without a base changes nothing of another's.
    assert bool(header.base) == bool(header.changes)


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_command_runs_the_file_itself(path):
    command = headers.read_header(path).command
    assert command.startswith(f"python tools/train.py --flagfile=flags/{path.stem}.flags")
    assert "--workdir=" in command


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_only_what_is_another_file_s_is_left_out(path):
    """A flag that repeats what the file below it already says would hide what the experiment is."""
    lines = [line for line in path.read_text().splitlines() if line.startswith("--")]
    below = [line for line in lines if line.startswith("--flagfile=")]
    assert len(below) <= 1 and lines[: len(below)] == below
    if not below:
        return
    base = flagfiles.read_flagfile(below[0].removeprefix("--flagfile=")).resolved()
    own = flagfiles.read_flagfile(path).resolved()
    # What a recipe decides may have to be repeated where the recipe changes.
    for line in lines[1:]:
        name = re.match(r"--(\w+)", line)[1]
        assert getattr(own, name) != getattr(base, name), line


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_head_says_what_to_expect_or_why_nothing_can_be(path):
    header = headers.read_header(path)
    assert len(header.expected) == len(header.band)
    assert header.expected or re.fullmatch(r"none \(.{10,}\)", header.expectation), header.expectation


def rates(name, epochs):
    """Rates of weights and biases, and of conv1's, after so many epochs of an experiment."""
    config = flagfiles.read_flagfile(f"flags/{name}.flags").resolved()
    schedule = builders.build_schedule(config)
    return [builders.learning_rates(config, schedule, epoch)[:4] for epoch in epochs]


def test_discrete_exponential_schedules_are_those_that_were_run():
    """Four rates of the weights in equal parts of 90 epochs, two of the biases."""
    for name, span, frozen in (("doubly_exponential", 250, 74), ("layer1_normalization_only", 1000, 73)):
        found = rates(name, [0, 22.4, 22.6, 44.9, 45.1, 67.4, 67.6, frozen - 0.1, frozen, 90])
        weights = [0.01 * span ** (-drops / 3) for drops in (0, 0, 1, 1, 2, 2, 3, 3, 3, 3)]
        biases = [0.02] * 4 + [0.002] * 6
        conv1 = [*zip(weights, biases)][:-2] + [(0.0, 0.0)] * 2
        np.testing.assert_allclose(found, np.column_stack([weights, biases, conv1]), err_msg=name)


def test_rates_as_run_are_the_original_s():
    epochs = [0, 24.9, 25, 51, 66.9, 67, 71.9, 72, 79, 91]
    assert rates("as_run", epochs) == rates("original", epochs)
    weights = [0.01, 0.01, 0.001, 0.0001, 0.0001, 0.0001, 0.0001, 0.0001, 0.00001, 0.00001]
    conv1 = [0.01, 0.01, 0.001, 0.0001, 0.0001, 0.00001, 0.00001, 0, 0, 0]
    biases = [0.02] * 10
    conv1_biases = [0.02] * 7 + [0] * 3
    np.testing.assert_allclose(rates("original", epochs), np.column_stack([weights, biases, conv1, conv1_biases]))


def test_pre_training_is_that_of_net_146():
    """The rates of what was there already and of new layers, and where they change."""
    changes = {
        "six_conv_2009": ((0.001, 0.01), 2.16, 0.001, 6.65),
        "six_conv_2011": ((0.001, 0.01), 6, 0.001, 8.11),
        "six_conv": ((0.001, 0.01), 9, 0.001, 54),
    }
    for name, (first, epoch, then, epochs) in changes.items():
        config = flagfiles.read_flagfile(f"flags/{name}.flags").resolved()
        assert config.epochs == epochs
        schedule = builders.build_schedule(config)
        for progress, expected in ((0, first), (epoch - 0.01, first), (epoch, (then, then))):
            every = builders.learning_rates(config, schedule, progress)
            np.testing.assert_allclose([every[0], every[4]], expected, err_msg=name)
            np.testing.assert_allclose([every[1], every[5]], 0.02, err_msg=name)


def test_schedules_are_those_that_were_run():
    """Epochs of each change as the comments of the authors' parameter files state them."""
    expected = {
        "original": ((25, 51, 79), 67, 67, 72, 91),
        "original_2010": ((23, 51, 78), 68, 68, 72, 93),
        "one_device_half": ((20, 48), 66, 66, 72, 96),
        "no_normalization": ((22, 44, 86), 69, 69, 73, 97),
        "nonoverlapping_pooling": ((23, 51, 79), 0, 0, 79, 90),
        "no_communication": ((25, 49, 79), 66, 66, 72, 92),
    }
    for name, values in expected.items():
        config = flagfiles.read_flagfile(f"flags/{name}.flags")
        assert config.schedule == "epochs"
        found = (
            config.drop_epochs,
            config.color_noise_epochs,
            config.conv1_slow_epoch,
            config.conv1_frozen_epoch,
            config.epochs,
        )
        assert found == values, name


def test_the_results_page_has_the_rows_that_the_tool_makes():
    """From what is kept of each run: whoever adds one, or changes a head, makes the page anew."""
    of_others = {"quickstart", "cifar10"}
    runs = plan.plan([path.relative_to(ROOT) for path in PATHS if path.stem not in of_others], range(3))
    directories = plan.Directories("no_runs", "results")
    text = tables.table([runner.run_status(run, directories) for run in runs], directories)
    page = (ROOT / "RESULTS.md").read_text(encoding="utf-8").splitlines()
    for line in text.splitlines():
        if line.startswith(("| ", "- ")):
            assert line in page
