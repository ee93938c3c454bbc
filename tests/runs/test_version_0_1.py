"""Files that version 0.1 wrote still open and give the same answers: a run, an export and saved Keras models."""

import json
import pathlib
import shutil

import keras
import numpy as np
import pytest

from alexnet_tf import flagfiles
from alexnet_tf.models import alexnet  # noqa: F401 (registers the class that `keras.saving.load_model` looks up)
from alexnet_tf.models import cifar10  # noqa: F401 (likewise)
from alexnet_tf.runs import evaluate
from alexnet_tf.runs import export
from alexnet_tf.runs import train
from alexnet_tf.serving import classify
from alexnet_tf.serving import client

FILES = pathlib.Path(__file__).resolve().parents[1] / "data" / "version_0_1"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A copy of the run, beside the photographs that its configuration names by a relative path."""
    monkeypatch.chdir(FILES)
    return shutil.copytree(FILES / "run", tmp_path / "run")


def recorded(path):
    return json.loads(path.read_text())


def assert_same_errors(found, expected):
    """Compares evaluations, in which the center crop may be spelled in either way."""
    assert found.keys() == expected.keys()
    for split, section in expected.items():
        american = {name.replace("centre", "center"): value for name, value in section.items()}
        ours = {name.replace("centre", "center"): value for name, value in found[split].items()}
        assert ours.keys() == american.keys()
        for views in ("center_crop", "ten_views"):
            assert ours[views]["loss"] == pytest.approx(american[views].pop("loss"), rel=1e-5)
            assert {name: value for name, value in ours.pop(views).items() if name != "loss"} == american.pop(views)
        assert json.loads(json.dumps(ours)) == american


def test_a_run_evaluates_to_its_recorded_errors(run):
    written = evaluate.evaluate(str(run))
    expected = recorded(FILES / "run" / "train.json")
    assert written["step"] == expected["step"]
    assert_same_errors(written["evaluation"], expected["evaluation"])
    assert recorded(run / "evaluation.json") == json.loads(json.dumps(written))


def test_a_run_resumes_to_the_recorded_errors(run):
    flagfile = (run / "config.flags").read_text()
    assert "--epochs=2.0" in flagfile
    longer = run.parent / "longer.flags"
    longer.write_text(flagfile.replace("--epochs=2.0", "--epochs=3.0"))
    written = train.train(flagfiles.read_flagfile(longer), str(run))
    expected = recorded(FILES / "run3_train.json")
    assert written["step"] == expected["step"]
    assert_same_errors(written["evaluation"], expected["evaluation"])


def test_a_run_is_exported_with_its_recorded_errors(run, tmp_path):
    version = pathlib.Path(export.export_run(run, tmp_path / "served"))
    card = recorded(version / "model_card.json")
    assert card["step"] == 6
    assert card["errors"]["test"]["ten_views"]["num_examples"] == 4
    photograph = (FILES / "pictures" / "test" / "dark" / "1.jpg").read_bytes()
    new, old = (client.SavedModel(path).predict([photograph]) for path in (tmp_path / "served", FILES / "served"))
    np.testing.assert_allclose(new["probabilities"], old["probabilities"], atol=1e-5)


def test_an_export_answers():
    photograph = str(FILES / "pictures" / "test" / "dark" / "0.jpg")
    with client.SavedModel(FILES / "served") as served:
        (prediction,) = classify.classify_files(served, [photograph], 1)
    assert not prediction.error
    assert sorted(prediction.classes) == ["bright", "dark"]
    assert sum(prediction.scores) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("name", ["alexnet", "cifar10_18"])
def test_a_saved_keras_model_loads_with_its_logits(name):
    images = np.random.default_rng(0).normal(0, 50, (4, 32, 32, 3)).astype(np.float32)
    model = keras.saving.load_model(FILES / f"{name}.keras")
    expected = recorded(FILES / "logits.json")[name]
    np.testing.assert_allclose(model(images), expected, rtol=1e-4, atol=1e-4)
