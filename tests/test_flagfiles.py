"""Every flagfile in flags/ changes exactly what its header says."""

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
# The experiments of the paper and of its authors' code, by the names of their flagfiles.
EXPERIMENTS = """
    alexnet original original_2010 one_device_half no_normalization layer1_normalization_only nonoverlapping_pooling
    no_communication six_conv six_conv_2009 six_conv_2011 tanh no_color_pca no_crops no_dropout no_weight_decay
    without_conv3 without_conv4 without_conv5 one_tower batch_normalization group_normalization layer_normalization
    plateau as_run doubly_exponential cifar10_26 cifar10_19 cifar10_18 figure1_relu figure1_tanh
""".split()


@pytest.fixture(autouse=True)
def in_repository_root(monkeypatch):
    """Flagfiles name others relative to the root of the repository."""
    monkeypatch.chdir(ROOT)


def test_every_experiment_has_a_flagfile():
    assert set(EXPERIMENTS) <= set(NAMES)


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_header_names_exactly_what_differs_from_the_base(path):
    header = headers.read_header(path)
    assert sorted(headers.base_difference(path)) == sorted(header.changes)
    # An experiment names changes if and only if it has a base.
    assert bool(header.base) == bool(header.changes)


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_command_in_header_runs_the_flagfile(path):
    command = headers.read_header(path).command
    assert command.startswith(f"python tools/train.py --flagfile=flags/{path.stem}.flags")
    assert "--workdir=" in command


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_flagfile_does_not_repeat_flags_of_the_one_it_includes(path):
    """A repeated flag would obscure what the experiment changes."""
    lines = [line for line in path.read_text().splitlines() if line.startswith("--")]
    below = [line for line in lines if line.startswith("--flagfile=")]
    assert len(below) <= 1 and lines[: len(below)] == below
    if not below:
        return
    base = flagfiles.read_flagfile(flagfiles.find_flagfile(below[0].removeprefix("--flagfile="), path)).resolved()
    own = flagfiles.read_flagfile(path).resolved()
    for line in lines[1:]:
        name = re.match(r"--(\w+)", line)[1]
        assert getattr(own, name) != getattr(base, name), line


def test_published_errors_are_those_of_the_newest_checkpoint():
    published = {path.stem.rpartition("-")[0] for path in (ROOT / "results").glob("*-*.json")}
    assert len(published) > 10
    for name in published:
        assert flagfiles.read_flagfile(f"flags/{name}.flags").checkpoint == "newest", name


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_header_has_expected_errors_or_the_reason_for_none(path):
    header = headers.read_header(path)
    assert len(header.expected) == len(header.band)
    assert header.expected or re.fullmatch(r"none \(.{10,}\)", header.expectation), header.expectation


def rates(name, epochs):
    """Returns the learning rates of weights and biases, and of conv1's, at each of `epochs`."""
    config = flagfiles.read_flagfile(f"flags/{name}.flags").resolved()
    schedule = builders.build_schedule(config)
    return [builders.learning_rates(config, schedule, epoch)[:4] for epoch in epochs]


def test_discrete_exponential_schedules_match_the_authors():
    """Over 90 epochs the weights have four rates for a quarter each, the biases two for a half each."""
    for name, span, frozen in (("doubly_exponential", 250, 74), ("layer1_normalization_only", 1000, 73)):
        found = rates(name, [0, 22.4, 22.6, 44.9, 45.1, 67.4, 67.6, frozen - 0.1, frozen, 90])
        weights = [0.01 * span ** (-drops / 3) for drops in (0, 0, 1, 1, 2, 2, 3, 3, 3, 3)]
        biases = [0.02] * 4 + [0.002] * 6
        conv1 = [*zip(weights, biases)][:-2] + [(0.0, 0.0)] * 2
        np.testing.assert_allclose(found, np.column_stack([weights, biases, conv1]), err_msg=name)


def test_rates_of_as_run_match_original():
    epochs = [0, 24.9, 25, 51, 66.9, 67, 71.9, 72, 79, 91]
    assert rates("as_run", epochs) == rates("original", epochs)
    weights = [0.01, 0.01, 0.001, 0.0001, 0.0001, 0.0001, 0.0001, 0.0001, 0.00001, 0.00001]
    conv1 = [0.01, 0.01, 0.001, 0.0001, 0.0001, 0.00001, 0.00001, 0, 0, 0]
    biases = [0.02] * 10
    conv1_biases = [0.02] * 7 + [0] * 3
    np.testing.assert_allclose(rates("original", epochs), np.column_stack([weights, biases, conv1, conv1_biases]))


def test_pretraining_matches_net_146():
    """The rates of initialized and of new layers, and when they change."""
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


def test_schedules_match_the_authors():
    """The epochs are those in the comments of the authors' parameter files."""
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


def test_results_page_has_the_rows_that_the_tool_prints():
    """RESULTS.md must be updated when a result is added or a header changes."""
    own = {"own_pictures", "own_pictures_pretrained", "own_pictures_from_scratch"}
    not_in_the_paper = {"quickstart", "quickstart_pretrained", "cifar10", *own}
    runs = plan.plan([path.relative_to(ROOT) for path in PATHS if path.stem not in not_in_the_paper], range(3))
    directories = plan.Directories("no_runs", "results")
    text = tables.table([runner.run_status(run, directories) for run in runs], directories)
    page = (ROOT / "RESULTS.md").read_text(encoding="utf-8").splitlines()
    for line in text.splitlines():
        if line.startswith(("| ", "- ")):
            assert line in page
