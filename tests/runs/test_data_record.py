"""What happens when a data set changes between start, resume, evaluation and report of a run."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import rich.console
import small_runs

from alexnet_tf.data import prepare
from alexnet_tf.data import sources
from alexnet_tf.runs import data_record
from alexnet_tf.runs import dataset
from alexnet_tf.runs import evaluate
from alexnet_tf.runs import neighbours
from alexnet_tf.runs import report
from alexnet_tf.runs import restore
from alexnet_tf.runs import train


@pytest.fixture
def folder(tmp_path):
    """Forty files of each of two classes; they are not read, and their sizes differ."""
    for label, name in enumerate("ab"):
        (tmp_path / "photographs" / "train" / name).mkdir(parents=True)
        for number in range(40):
            path = tmp_path / "photographs" / "train" / name / f"{number:02}.jpg"
            path.write_bytes(bytes(100 * label + number))
    return tmp_path / "photographs"


@pytest.fixture
def workdir(folder, tmp_path):
    """A run's directory with its record."""
    directory = tmp_path / "run"
    directory.mkdir()
    data_record.write(directory, open_data(folder))
    return directory


def open_data(folder, lines=None, workdir="", resuming=False, **changes):
    run_config = small_runs.make_config(folder, **{"validation_fraction": 0.25, **changes})
    log = lambda line: None if lines is None else lines.append(line)
    return dataset.open_data(run_config, log, workdir=workdir, resuming=resuming)[0]


def names(source, split):
    return [name.decode() for name in source.splits[split].names(source.root).tolist()]


def test_a_record_is_read_as_it_was_written(folder, workdir):
    record, source = data_record.read(workdir), open_data(folder)
    assert record.source == f"folder:{folder}" and record.class_names == ("a", "b")
    assert {split: len(part.names) for split, part in record.splits.items()} == {"train": 60, "validation": 20}
    assert [name.decode() for name in record.splits["validation"].names] == names(source, "validation")
    assert record.splits["train"].sizes.sum() == sum((folder / name).stat().st_size for name in names(source, "train"))
    before = (workdir / data_record.FILE).read_bytes()
    (folder / "train" / "a" / "new.jpg").write_bytes(b"")
    data_record.write(workdir, open_data(folder))
    assert (workdir / data_record.FILE).read_bytes() == before


def test_the_words_of_classes_are_recorded(folder, tmp_path):
    (tmp_path / "other").mkdir()
    metadata = ({"wnid": "a", "words": "ant, pismire"}, {"wnid": "b", "words": "bee"})
    data_record.write(tmp_path / "other", open_data(folder)._replace(class_metadata=metadata))
    words = {"a": "ant, pismire", "b": "bee"}
    assert data_record.read(tmp_path / "other").class_words == restore.read_class_words(tmp_path / "other") == words
    # A run that has none, and one of version 0.1, which has no record.
    data_record.write(tmp_path, open_data(folder))
    assert "class_words" not in json.loads((tmp_path / data_record.FILE).read_text())
    assert restore.read_class_words(tmp_path) == restore.read_class_words(folder) == {}
    (tmp_path / "other" / data_record.FILE).write_text('{"class_words": {"a": 1}}')
    with pytest.raises(ValueError, match="Expected the images of the run"):
        restore.read_class_words(tmp_path / "other")


@pytest.mark.parametrize("resuming", [True, False])
def test_an_unchanged_data_set_needs_no_line(folder, workdir, resuming):
    lines = []
    source = open_data(folder, lines, workdir, resuming)
    assert lines == []
    for split in ("train", "validation"):
        assert names(source, split) == names(open_data(folder), split)


@pytest.mark.parametrize("resuming", [True, False])
@pytest.mark.parametrize("rule", ["hash", "shuffle"])
def test_added_images_are_left_out_and_move_no_other(folder, tmp_path, resuming, rule):
    before = open_data(folder, split_rule=rule)
    data_record.write(tmp_path, before)
    for number in range(5):
        (folder / "train" / "a" / f"{number:02}x.jpg").write_bytes(b"x")
    lines = []
    source = open_data(folder, lines, tmp_path, resuming, split_rule=rule)
    assert lines == [
        f"warning: images that were added to folder:{folder} after the run was started are left out: 5 train images"
    ]
    for split in ("train", "validation"):
        assert names(source, split) == names(before, split)
        np.testing.assert_array_equal(source.splits[split].labels, before.splits[split].labels)


def remove(path):
    path.unlink()


def rename(path):
    path.rename(path.with_name("renamed.jpg"))


def replace(path):
    path.write_bytes(bytes(1000))


@pytest.mark.parametrize(
    "change, text", [(remove, "1 is missing"), (rename, "1 is missing"), (replace, "1 has changed")]
)
def test_missing_and_changed_images_end_resuming_and_are_left_out_of_evaluation(folder, workdir, change, text):
    before = open_data(folder)
    first = names(before, "validation")[0]
    change(folder / first)
    with pytest.raises(ValueError) as caught:
        open_data(folder, None, workdir, resuming=True)
    assert f"Received: of validation, {text} (the first {first}); restore them, or" in str(caught.value)
    lines = []
    source = open_data(folder, lines, workdir)
    assert (
        lines[0] == f"warning: of the 20 validation images of {workdir}, {text} (the first {first}); these are left out"
    )
    assert len(lines) == (2 if change == rename else 1)
    assert names(source, "validation") == names(before, "validation")[1:]
    assert names(source, "train") == names(before, "train")


def test_a_data_set_that_moved_is_the_same(folder, workdir, tmp_path):
    before = names(open_data(folder), "validation")
    moved = folder.rename(tmp_path / "elsewhere")
    lines = []
    assert names(open_data(moved, lines, workdir, resuming=True), "validation") == before
    assert lines == []


@pytest.mark.parametrize("resuming", [True, False])
def test_accents_that_another_system_writes_in_another_way_need_no_line(folder, tmp_path, resuming):
    """A copy on another system has the same letters, as one character or as two."""
    composed = (folder / "train" / "a").rename(folder / "train" / "caf\u00e9")
    (tmp_path / "run").mkdir()
    data_record.write(tmp_path / "run", open_data(folder))
    before = names(open_data(folder), "validation")
    composed.rename(folder / "train" / "cafe\u0301")
    lines = []
    assert names(open_data(folder, lines, tmp_path / "run", resuming), "validation") == before
    assert lines == []


def test_another_data_set_may_be_evaluated_but_not_trained_on(folder, workdir, tmp_path):
    for name in ("train/a/x.jpg", "train/b/y.jpg", "test/a/z.jpg"):
        (tmp_path / "other" / name).parent.mkdir(parents=True)
        (tmp_path / "other" / name).write_bytes(b"x")
    lines = []
    source = open_data(tmp_path / "other", lines, workdir)
    assert names(source, "test") == ["test/a/z.jpg"] and "validation" not in source.splits
    assert any(line.endswith("it is evaluated as another data set") for line in lines)
    with pytest.raises(ValueError, match="Received: of train, 60 are missing"):
        open_data(tmp_path / "other", None, workdir, resuming=True)
    # Without splits, all of its images are evaluated.
    lines.clear()
    source = open_data(tmp_path / "other" / "train", lines, workdir)
    assert names(source, "test") == ["a/x.jpg", "b/y.jpg"] and len(lines) == 1


def test_a_test_set_that_was_added_can_be_evaluated(folder, workdir):
    for name in ("a", "b"):
        (folder / "test" / name).mkdir(parents=True)
        (folder / "test" / name / "new.jpg").write_bytes(b"new")
    lines = []
    source = open_data(folder, lines, workdir)
    assert names(source, "test") == ["test/a/new.jpg", "test/b/new.jpg"]
    assert lines == [f"the test set was added to folder:{folder} after the run was started"]
    # Unless its images may have been trained on.
    path = folder / names(source, "train")[0]
    path.rename(folder / "test" / "a" / path.name)
    lines = []
    assert "test" not in open_data(folder, lines, workdir).splits
    assert lines[-1].endswith("are left out: 3 test images")


def test_an_added_class_names_the_way_out(folder, workdir):
    (folder / "train" / "c").mkdir()
    (folder / "train" / "c" / "1.jpg").write_bytes(b"")
    with pytest.raises(ValueError) as caught:
        open_data(folder, None, workdir, resuming=True)
    assert "Received: 3 classes, c in addition; to train with other classes" in str(caught.value)
    assert f"--initialize_from={workdir}" in str(caught.value)


@pytest.mark.parametrize("damage", ["json", "text", "arrays", "bytes", "none"])
def test_a_damaged_record_ends_in_one_line(folder, workdir, damage):
    path = workdir / data_record.ARRAYS
    if damage == "json":
        (workdir / data_record.FILE).write_text("[]")
    elif damage == "text":
        described = workdir / data_record.FILE
        described.write_text(described.read_text().replace("folder:", "golder:"))
    elif damage == "arrays":
        path.unlink()
    elif damage == "bytes":
        path.write_bytes(path.read_bytes()[:100])
    else:
        arrays = dict(np.load(path))
        arrays["train.labels"][3] = 1 - arrays["train.labels"][3]
        np.savez(path, **arrays)
    with pytest.raises((ValueError, OSError)) as caught:
        open_data(folder, None, workdir)
    assert str(workdir) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_prepared_data_set_that_was_made_anew_is_refused(tmp_path):
    pictures = small_runs.make_pictures(str(tmp_path / "photographs"))
    shutil.rmtree(tmp_path / "photographs" / "test")
    prepared = {"source": "", "data_dir": str(tmp_path / "prepared"), "image_size": 256}

    def make(storage="jpeg", **changes):
        shutil.rmtree(tmp_path / "prepared", ignore_errors=True)
        source = open_data(pictures, **changes)
        prepare.prepare(source, tmp_path / "prepared", prepare.Options(storage))

    make()
    (tmp_path / "run").mkdir()
    data_record.write(tmp_path / "run", open_data(pictures, **prepared))
    lines = []
    make()
    for resuming in (True, False):
        open_data(pictures, lines, tmp_path / "run", resuming, **prepared)
    assert lines == []
    make("raw")
    source = open_data(pictures, lines, tmp_path / "run", **prepared)
    assert source.splits["validation"].records is not None and source.splits["validation"].is_raw
    assert len(lines) == 1 and "was prepared again, or with other options, since" in lines[0]
    with pytest.raises(ValueError, match="Expected the prepared data set that .*; use the original --data_dir, or"):
        open_data(pictures, None, tmp_path / "run", True, **prepared)
    make(validation_fraction=0.5)
    # The photographs themselves are still the same.
    assert len(open_data(pictures, None, tmp_path / "run").splits["validation"].labels) == 6
    small_runs.write_picture(tmp_path / "photographs" / "train" / "dark" / "new.png", np.random.default_rng(5))
    make()
    for resuming in (True, False):
        with pytest.raises(ValueError, match="with different content or options; use the original --data_dir"):
            open_data(pictures, None, tmp_path / "run", resuming, **prepared)


def test_another_version_of_a_tfds_data_set_is_refused(tmp_path):
    source = sources.synthetic(2, (8, 4))._replace(version="tfds noise/1.0.0")
    data_record.write(tmp_path, source)
    record = data_record.read(tmp_path)
    keep = lambda version: data_record.keep_to(
        record, source._replace(version=version), "run", resuming=False, log=lambda line: None
    )
    assert keep("tfds noise/1.0.0").splits.keys() == source.splits.keys()
    with pytest.raises(ValueError, match="Expected noise/1.0.0, which run was trained on. Received: noise/1.1.0; name"):
        keep("tfds noise/1.1.0")


def train_without_report(run_config, workdir):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write", lambda workdir, *others: f"{workdir}/none")
        return train.train(run_config, workdir)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trained run of one epoch, and its folder."""
    root = tmp_path_factory.mktemp("trained")
    folder = small_runs.make_pictures(str(root / "photographs"))
    shutil.rmtree(root / "photographs" / "test")
    train_without_report(small_runs.make_config(folder, validation_fraction=0.25, epochs=1.0), str(root / "run"))
    return root


def test_every_program_keeps_to_the_images_of_the_run(trained, tmp_path, capsys):
    root = shutil.copytree(trained, tmp_path / "copy")
    folder, workdir = root / "photographs", str(root / "run")
    assert restore.read_config(workdir).split_rule == "hash"
    held_out = [name.decode() for name in data_record.read(workdir).splits["validation"].names]
    generator = np.random.default_rng(3)
    for number in range(6):
        small_runs.write_picture(folder / "train" / "dark" / f"new{number}.png", generator)
    here = f"folder:{folder}"
    line = f"warning: images that were added to {here} after the run was started are left out: 6 train images"
    for make in (
        lambda: evaluate.evaluate(workdir, source=here),
        lambda: report.make(workdir, source=here),
        lambda: neighbours.index_run(workdir, "validation", source=here),
        lambda: train_without_report(small_runs.make_config(folder, validation_fraction=0.25, epochs=2.0), workdir),
    ):
        capsys.readouterr()
        made = make()
        printed = capsys.readouterr().out
        assert line in printed.splitlines()
        assert "validation: 6 images of 2 classes" in printed
    assert made["evaluation"]["validation"]["center_crop"]["num_examples"] == 6
    assert sorted(name.decode() for name in data_record.read(workdir).splits["validation"].names) == sorted(held_out)


def test_a_run_of_version_0_1_keeps_its_draw_and_gets_a_record(trained, tmp_path):
    folder = shutil.copytree(trained / "photographs", tmp_path / "photographs")
    old = small_runs.make_config(folder, validation_fraction=0.25, epochs=1.0, split_rule="shuffle")
    workdir = tmp_path / "run"
    train_without_report(old, str(workdir))
    for name in (data_record.FILE, data_record.ARRAYS):
        (workdir / name).unlink()
    lines = (workdir / "config.flags").read_text().splitlines()
    (workdir / "config.flags").write_text("\n".join(line for line in lines if "split_rule" not in line))
    assert restore.read_config(workdir).split_rule == "shuffle"
    # The same command resumes it.
    new = dataclasses.replace(old, split_rule="auto", epochs=2.0)
    train_without_report(new, str(workdir))
    drawn, _ = sources.stratified_split(sources.folder(folder).splits["train"], 0.25, 0)
    assert [name.decode() for name in data_record.read(workdir).splits["train"].names] == [
        name.decode() for name in drawn.names(str(folder)).tolist()
    ]
    assert "--split_rule=shuffle" in (workdir / "config.flags").read_text()
    assert json.loads((workdir / data_record.FILE).read_text())["splits"]["validation"]["examples"] == 6


def prepare_data_dir(folder, data_dir, **changes):
    run_config = small_runs.make_config(folder, validation_fraction=0.25, data_dir=str(data_dir), **changes)
    console = rich.console.Console(quiet=True)
    return dataset.prepare_data_dir(run_config, prepare.Options(), console)


def test_a_prepared_data_set_keeps_its_split_rule(tmp_path):
    folder = small_runs.make_pictures(str(tmp_path / "photographs"))
    old = prepare_data_dir(folder, tmp_path / "old", split_rule="shuffle")
    assert "split_rule" not in old["request"]["settings"]
    assert prepare_data_dir(folder, tmp_path / "old") == old
    new = prepare_data_dir(folder, tmp_path / "new")
    assert new["request"]["settings"]["split_rule"] == "hash"
    with pytest.raises(ValueError, match="was started with different values: settings="):
        prepare_data_dir(folder, tmp_path / "new", split_rule="shuffle")


def test_photographs_that_changed_since_they_were_prepared_are_refused(tmp_path):
    folder = small_runs.make_pictures(str(tmp_path / "photographs"))
    prepare_data_dir(folder, tmp_path / "prepared")
    path = tmp_path / "photographs" / "train" / "dark" / "3.png"
    path.rename(path.with_name("renamed.png"))
    with pytest.raises(ValueError, match="Received: other names or file sizes; restore the photographs, or use a new"):
        prepare_data_dir(folder, tmp_path / "prepared")
    path.with_name("renamed.png").rename(path)
    manifest = json.loads((tmp_path / "prepared" / "manifest.json").read_text())
    # Version 0.1 did not record them.
    del manifest["request"]["content"]
    (tmp_path / "prepared" / "manifest.json").write_text(json.dumps(manifest))
    assert prepare_data_dir(folder, tmp_path / "prepared") == manifest
