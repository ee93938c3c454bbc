"""Fixtures: an experiment, a variant of it, their directories, and a command that stands in for training."""

import sys

import pytest
import small_experiments as small

from alexnet_tf.experiments import plan


@pytest.fixture
def flagfile(tmp_path):
    path = tmp_path / "small.flags"
    path.write_text(small.HEADER + small.FLAGS)
    return path


@pytest.fixture
def variant(tmp_path, flagfile):
    return small.write_variant(tmp_path / "variant.flags", flagfile, epochs=2, dropout=0.2)


@pytest.fixture
def directories(tmp_path):
    directories = plan.Directories(str(tmp_path / "runs"), str(tmp_path / "results"))
    plan.check_writable(directories)
    return directories


@pytest.fixture
def trainer(tmp_path):
    """The command that runs `small.TRAINER`."""
    path = tmp_path / "trainer.py"
    path.write_text(f"ROOT, LOG = {str(small.ROOT)!r}, {str(tmp_path / 'calls')!r}\n{small.TRAINER}")
    return [sys.executable, str(path)]


@pytest.fixture
def evaluator(tmp_path):
    """The command that runs `small.EVALUATOR`."""
    path = tmp_path / "evaluator.py"
    path.write_text(f"LOG = {str(tmp_path / 'calls')!r}\n{small.EVALUATOR}")
    return [sys.executable, str(path)]
