"""What is printed while a data set is read, and the order in which its preparation begins."""

import contextlib
import io
import types

import pytest
import rich.console
import small_runs

from alexnet_tf.data import loading
from alexnet_tf.data import prepare
from alexnet_tf.runs import dataset


@pytest.fixture
def pictures(tmp_path):
    return small_runs.make_pictures(tmp_path / "pictures", per_class=3)


@pytest.fixture
def console():
    return rich.console.Console(file=io.StringIO(), soft_wrap=True)


def test_tfds_is_imported_before_the_progress_bar_starts_its_thread(pictures, console, tmp_path, monkeypatch):
    calls = []
    bar = types.SimpleNamespace(add_task=lambda *arguments, **options: 0)
    monkeypatch.setattr(prepare, "import_tfds", lambda: calls.append("import"))
    monkeypatch.setattr(dataset, "progress_bar", lambda console: calls.append("bar") or contextlib.nullcontext(bar))
    monkeypatch.setattr(prepare, "prepare", lambda *arguments, **options: {"splits": {}})
    run_config = small_runs.make_config(pictures, data_dir=str(tmp_path / "made"))
    dataset.prepare_data_dir(run_config, prepare.Options(), console)
    assert calls == ["import", "bar"]


def test_slow_photographs_are_named_in_training_and_preparation(pictures, console, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "SLOW_SECONDS", -1.0)
    run_config = small_runs.make_config(pictures)
    source, _ = dataset.open_data(run_config)
    dataset.load_data(run_config, source, ["train"], None, console)
    dataset.prepare_data_dir(
        small_runs.make_config(pictures, data_dir=str(tmp_path / "made")), prepare.Options(), console
    )
    lines = console.file.getvalue().splitlines()
    slow = [line for line in lines if line.startswith("warning: ") and line.endswith(" s to read")]
    # Six training images are read twice, and ten test images once.
    assert len(slow) == 22
    assert sum(str(pictures / "train") in line for line in slow) == 12
