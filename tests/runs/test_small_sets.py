"""With a few images, or one of each class, every program says what it cannot do and does the rest."""

import contextlib
import dataclasses
import io
import json
import pathlib

import pytest
import small_runs

from alexnet_tf.data import prepare
from alexnet_tf.runs import backend
from alexnet_tf.runs import dataset
from alexnet_tf.runs import evaluate
from alexnet_tf.runs import train
from alexnet_tf.runs import weights
from alexnet_tf.serving import classify
from alexnet_tf.training import diagnostics
from alexnet_tf.utils import output

NOTHING_HELD_OUT = f"warning: {diagnostics.nothing_held_out()}"


def make(root, per_class, classes=("bright", "dark")):
    """Writes images of each class to a folder without splits; returns the folder."""
    folder = small_runs.make_pictures(root / "made", per_class) / "train"
    for extra in {"bright", "dark"} - set(classes):
        for path in (folder / extra).iterdir():
            path.unlink()
        (folder / extra).rmdir()
    return folder


def config_of(folder, **changes):
    """The schedule and the validation fraction are the defaults."""
    values = {"validation_fraction": 0.1, "schedule": "plateau", "epochs": 2.0, "stop_after": 1}
    return small_runs.make_config(folder, **values | changes)


@pytest.fixture(scope="module")
def one_each(tmp_path_factory):
    """A run on one image of each class, its folder and what was printed."""
    root = tmp_path_factory.mktemp("one_each")
    folder, printed = make(root, 1), io.StringIO()
    with contextlib.redirect_stdout(printed):
        train.train(config_of(folder), str(root / "run"))
    return root / "run", folder, printed.getvalue().splitlines()


def test_one_image_of_each_class_is_trained_on_with_warnings(one_each):
    workdir, _, lines = one_each
    for line in (
        "warning: no image is held out, as 2 images of 2 classes are too few",
        NOTHING_HELD_OUT,
        "warning: stop_after has no effect without a validation set",
        "batches have 2 images instead of 8, as there are only 2 training images: one step per epoch",
    ):
        assert lines.count(line) == 1
    written = json.loads((workdir / "train.json").read_text())
    # Training went on to the end, and no epoch was selected by the training error.
    assert written["step"] == 2 and written["selected"] == "newest" and not (workdir / "checkpoints" / "best").exists()
    assert list(written["evaluation"]) == ["train"]
    assert diagnostics.nothing_held_out() in (workdir / "report.md").read_text()


def test_a_run_without_held_out_images_is_evaluated_and_exported(one_each, tmp_path, capsys):
    workdir, folder, _ = one_each
    written = evaluate.evaluate(workdir)
    assert written["evaluation"]["train"]["center_crop"]["num_examples"] == 2
    assert NOTHING_HELD_OUT in capsys.readouterr().out
    with pytest.raises(ValueError, match="Expected a validation or test set, as a temperature .* Received: none in"):
        evaluate.evaluate(workdir, options=evaluate.Options(fit_temperature=True))
    path = weights.export_weights(workdir, tmp_path / "small.npz")
    assert pathlib.Path(path).exists()
    with backend.Run(workdir) as ours:
        (found,) = classify.classify_files(ours, [str(folder / "dark" / "0.png")])
    assert sorted(found.classes) == ["bright", "dark"] and not found.error
    assert ours.checkpoint == f"{workdir}/checkpoints/ckpt-2 (newest)"


def test_one_of_five_images_of_each_class_is_held_out(tmp_path, capsys):
    lines, run_config = [], config_of(make(tmp_path, 5))
    source, _ = dataset.open_data(run_config, lines.append, workdir=tmp_path / "run")
    assert {split: part.labels.tolist() for split, part in source.splits.items()} == {
        "train": [0] * 4 + [1] * 4,
        "validation": [0, 1],
    }
    assert lines == []
    assert diagnostics.few_held_out("validation", 2) == (
        "the validation set has 2 images: each counts for 50 percentage points of its error"
    )
    assert (
        diagnostics.few_held_out("test", 1)
        == "the test set has 1 image: each counts for 100 percentage points of its error"
    )
    assert diagnostics.few_held_out("train", 2) is diagnostics.few_held_out("validation", 20) is None


@pytest.mark.parametrize("classes", [("bright", "dark"), ("dark",)])
def test_sets_that_are_too_small_to_hold_out_or_to_train_are_prepared(tmp_path, capsys, classes):
    folder, data_dir = make(tmp_path, 1, classes), str(tmp_path / "prepared")
    dataset.prepare_data_dir(config_of(folder, data_dir=data_dir), prepare.Options(), output.Console())
    said = capsys.readouterr().out
    assert f"warning: no image is held out, as {len(classes)} images of {len(classes)} classes are too few\n" in said
    assert NOTHING_HELD_OUT not in said
    source, _ = dataset.open_data(config_of("", source="", data_dir=data_dir))
    assert list(source.splits) == ["train"] and source.class_names == classes
    if len(classes) == 1:
        for changes in ({"source": "", "data_dir": data_dir}, {}):
            with pytest.raises(
                ValueError, match="Expected .* to have at least two classes to train on. Received: dark"
            ):
                train.train(config_of(folder, **changes), str(tmp_path / "run"))
        assert not (tmp_path / "run").exists()


def test_nothing_is_held_out_on_request_only_if_there_are_too_few_images(tmp_path):
    run_config = config_of(make(tmp_path, 2), validation_fraction=0.0, schedule="linear", stop_after=0)
    source, _ = dataset.open_data(run_config)
    with pytest.raises(ValueError, match="Expected validation_fraction above 0, as .* Received: 0"):
        dataset.check_for_training(source, run_config)
    few = dataclasses.replace(run_config, source=f"folder:{make(tmp_path / 'few', 1)}")
    dataset.check_for_training(dataset.open_data(few)[0], few)
