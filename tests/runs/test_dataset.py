"""What is printed while a data set is read, and the order in which its preparation begins."""

import contextlib
import io
import shutil
import types

import pytest
import rich.console
import small_runs

from alexnet_tf.data import loading
from alexnet_tf.data import prepare
from alexnet_tf.runs import data_record
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


def test_photographs_of_two_splits_are_named_by_every_program_that_opens_them(pictures, console, tmp_path):
    shutil.copy(pictures / "train" / "bright" / "0.png", pictures / "test" / "dark" / "copy.png")
    run_config = small_runs.make_config(pictures)
    source, _ = dataset.open_data(run_config)
    data = dataset.with_duplicates(dataset.Data(source, {}, None, {}), console)
    expected = (
        "1 of the 11 test images is also in the training set, with the same bytes and 1 of them with another label, "
        "which makes the test error optimistic: test/dark/copy.png is train/bright/0.png"
    )
    assert console.file.getvalue() == f"warning: {expected}\n"
    (tmp_path / "run").mkdir()
    data_record.write(tmp_path / "run", data.source)
    data_dir = tmp_path / "made"
    dataset.prepare_data_dir(small_runs.make_config(pictures, data_dir=str(data_dir)), prepare.Options(), console)
    assert f"warning: {expected}\n" in console.file.getvalue().partition("\n")[2]
    opened = small_runs.make_config(pictures, source="", data_dir=str(data_dir))
    for again, options in ((run_config, {"workdir": tmp_path / "run"}), (opened, {})):
        lines = []
        source, _ = dataset.open_data(again, lines.append, **options)
        assert lines == [f"warning: {expected}"] and source.duplicates == (expected,)


def test_nested_folders_without_class_folders_have_no_effect(pictures):
    lines = []
    dataset.open_data(small_runs.make_config(pictures, source="synthetic", nested_folders=True), lines.append)
    assert lines == ["warning: nested_folders has no effect on synthetic"]
    (pictures / "train" / "dark" / "more").mkdir()
    shutil.copy(pictures / "train" / "dark" / "0.png", pictures / "train" / "dark" / "more" / "0.png")
    source, _ = dataset.open_data(small_runs.make_config(pictures, nested_folders=True))
    assert len(source.splits["train"].labels) == 7


def test_a_run_keeps_to_its_training_images_without_a_warning_about_the_others(pictures, tmp_path):
    run_config = small_runs.make_config(pictures, training_images=4)
    source, _ = dataset.open_data(run_config)
    chosen = sorted(source.splits["train"].names(source.root).tolist())
    assert len(chosen) == 4 and len(source.splits["test"].labels) == 10
    (tmp_path / "run").mkdir()
    data_record.write(tmp_path / "run", source)
    shutil.copy(pictures / "train" / "dark" / "0.png", pictures / "train" / "dark" / "a.png")
    shutil.copy(pictures / "train" / "dark" / "1.png", pictures / "test" / "dark" / "b.png")
    for resuming in (False, True):
        lines = []
        again, _ = dataset.open_data(run_config, lines.append, workdir=tmp_path / "run", resuming=resuming)
        assert sorted(again.splits["train"].names(again.root).tolist()) == chosen
        assert [line.rpartition(": ")[2] for line in lines] == ["1 test image"]


def test_training_images_are_chosen_of_those_that_are_not_held_out(pictures):
    options = {"source": f"folder:{pictures / 'train'}", "validation_fraction": 0.4}
    whole, _ = dataset.open_data(small_runs.make_config(pictures, **options))
    some, _ = dataset.open_data(small_runs.make_config(pictures, **options, training_images=2))
    assert len(whole.splits["train"].labels) == 4 and len(some.splits["train"].labels) == 2
    held_out = [each.splits["validation"].names().tolist() for each in (whole, some)]
    assert held_out[0] == held_out[1] and not set(some.splits["train"].names()) & set(held_out[0])
