"""Every flagfile of flags/: its head says what it changes, and it changes nothing else."""

import pathlib
import re

import pytest

from alexnet_tf import config as configuration
from alexnet_tf.suite import headers

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
    base = configuration.read_flagfile(below[0].removeprefix("--flagfile=")).resolved()
    own = configuration.read_flagfile(path).resolved()
    # What a recipe decides may have to be repeated where the recipe changes.
    for line in lines[1:]:
        name = re.match(r"--(\w+)", line)[1]
        assert getattr(own, name) != getattr(base, name), line


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
        config = configuration.read_flagfile(f"flags/{name}.flags")
        assert config.schedule == "epochs"
        found = (
            config.drop_epochs,
            config.color_noise_epochs,
            config.conv1_slow_epoch,
            config.conv1_frozen_epoch,
            config.epochs,
        )
        assert found == values, name
