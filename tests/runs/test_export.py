"""Exports of runs: served predictions equal evaluated ones, and invalid runs are rejected in one line."""

import dataclasses
import io
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
import rich.console
import serving_models as small
import tensorflow as tf
import untrained_runs
from PIL import Image

from alexnet_tf.data import augmentation
from alexnet_tf.data import pipeline
from alexnet_tf.data import statistics
from alexnet_tf.evaluation import errors
from alexnet_tf.export import litert
from alexnet_tf.export import saved_model
from alexnet_tf.runs import classification
from alexnet_tf.runs import dataset
from alexnet_tf.runs import export
from alexnet_tf.runs import fitted_temperature
from alexnet_tf.runs import restore
from alexnet_tf.utils import standard_error

CLASS_NAMES, SMALL = untrained_runs.CLASS_NAMES, untrained_runs.SMALL
# The paper's network for small images.
CONFIG = dataclasses.replace(untrained_runs.CONFIG, image_size=36, crop_size=32)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the paper's network, with dropout and response normalization, on two classes."""
    return untrained_runs.make_run(tmp_path_factory.mktemp("runs") / "towers", CONFIG)


@pytest.fixture(scope="module")
def version(run, tmp_path_factory):
    return export.export_run(run, tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    return untrained_runs.make_run(tmp_path_factory.mktemp("runs") / "small", SMALL)


@pytest.fixture(scope="module")
def small_version(small_run, tmp_path_factory):
    return export.export_run(small_run, tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder of 30 photographs of the quickstart, alternately PNG and JPEG."""
    elpv_dataset = pytest.importorskip("elpv_dataset")
    source = sorted((pathlib.Path(elpv_dataset.__file__).parent / "data" / "images").glob("*.png"))[:30]
    folder = tmp_path_factory.mktemp("photographs")
    for split in ("train", "test"):
        for place, path in enumerate(source if split == "test" else source[:10]):
            to = folder / split / CLASS_NAMES[place % 2]
            to.mkdir(parents=True, exist_ok=True)
            if place % 2:
                (to / path.name).write_bytes(path.read_bytes())
            else:
                Image.open(path).convert("RGB").save(to / f"{path.stem}.jpg", quality=92)
    return folder


def evaluated(config, run, folder, cut):
    """Returns the evaluated probabilities of the test set, ``[views, images, classes]``, and the bytes of its files."""
    config = dataclasses.replace(config, source=f"folder:{folder}")
    source, _ = dataset.open_data(config)
    image_statistics = statistics.load(os.path.join(run, "statistics.npz"))
    console = rich.console.Console(file=io.StringIO())
    data = dataset.load_data(config, source, ["test"], image_statistics, console)
    model, _, _ = restore.restore_network(config, CLASS_NAMES, run)
    function = errors.probability_function(model, lambda images: cut(images, image_statistics.mean_image))
    batches = pipeline.evaluation_batches(data.examples["test"], batch_size=20)
    answers = np.concatenate([function(images).numpy() for images, _ in batches], axis=1)
    part = source.splits["test"]
    names = [part.name_of(index) for index in range(len(part.labels))]
    return answers, [(pathlib.Path(folder) / name).read_bytes() for name in names]


def ask(function, contents, batch_size=20):
    parts = [contents[first : first + batch_size] for first in range(0, len(contents), batch_size)]
    answers = [function(image_bytes=tf.constant(part)) for part in parts]
    assert not any(said for answer in answers for said in small.strings(answer["errors"]))
    return np.concatenate([answer["probabilities"].numpy() for answer in answers])


def test_served_predictions_equal_evaluated_ones(run, version, photographs):
    cut = lambda images, mean: [augmentation.central_view(images, mean, size=32, scale=CONFIG.input_scale)]
    (expected,), contents = evaluated(CONFIG, run, photographs, cut)
    assert len(contents) == 30
    # Otherwise constant predictions would pass.
    assert expected[:, 0].std() > 0.01
    served = tf.saved_model.load(version).signatures["serving_default"]
    np.testing.assert_allclose(ask(served, contents), expected, atol=1e-5)


def test_served_ten_views_equal_evaluated_ones(small_run, photographs, tmp_path):
    cut = lambda images, mean: augmentation.ten_views(
        images, mean, mean_crop="aligned", size=32, scale=SMALL.input_scale
    )
    views, contents = evaluated(SMALL, small_run, photographs, cut)
    path = export.export_run(small_run, tmp_path, views="ten")
    served = tf.saved_model.load(path).signatures["serving_default"]
    np.testing.assert_allclose(ask(served, contents), views.mean(axis=0), atol=1e-5)


def test_every_weight_is_written_once(run, version):
    model, _, _ = restore.restore_network(CONFIG, CLASS_NAMES, run)
    weights = sum(variable.value.numpy().nbytes for variable in model.trainable_variables)
    written = sum(file.stat().st_size for file in pathlib.Path(version, "variables").iterdir())
    assert weights <= written < 1.01 * weights


def test_export_of_the_paper_network_is_device_independent(version):
    assert small.requirements(small.read_saved_model(version)) == []
    signature = small.read_saved_model(version).signature_def["features"]
    assert [dim.size for dim in signature.outputs["features"].tensor_shape.dim] == [-1, 512]


def test_export_of_a_run_on_two_devices_is_device_independent(tmp_path):
    config = dataclasses.replace(
        CONFIG, devices=("/CPU:0", "/CPU:1"), image_size=40, crop_size=32, recipe="original", precision="bfloat16"
    )
    path = export.export_run(untrained_runs.make_run(tmp_path / "run", config), tmp_path / "served")
    assert small.requirements(small.read_saved_model(path)) == []


def test_bfloat16_halves_the_weights_and_preserves_predictions(small_run, small_version, tmp_path):
    narrow = export.export_run(small_run, tmp_path / "narrow", precision="bfloat16")
    size = lambda path: sum(file.stat().st_size for file in pathlib.Path(path, "variables").iterdir())
    assert size(narrow) < 0.6 * size(small_version)
    pictures = tf.constant(np.stack([small.pixels(36, 36, seed) for seed in range(8)]))
    first, second = (
        tf.saved_model.load(path).signatures["images"](images=pictures)["probabilities"].numpy()
        for path in (small_version, narrow)
    )
    assert second.dtype == np.float32
    np.testing.assert_allclose(second, first, atol=0.02)
    assert np.abs(second - first).max() > 0


@pytest.mark.slow
def test_litert_opens_a_bfloat16_export(small_run, tmp_path):
    path = export.export_run(small_run, tmp_path, precision="bfloat16")
    pictures = np.stack([small.pixels(36, 36, seed) for seed in range(2)]).astype(np.float32)
    expected = tf.saved_model.load(path).signatures["probabilities"](images=tf.constant(pictures))["probabilities"]
    with standard_error.suppressed():
        model = tf.lite.TFLiteConverter.from_saved_model(path, signature_keys=["probabilities"]).convert()
    np.testing.assert_allclose(litert.run(model, pictures, "probabilities")["probabilities"], expected, atol=1e-5)


def test_served_bfloat16_predictions_equal_evaluated_ones(tmp_path):
    config = dataclasses.replace(SMALL, precision="bfloat16")
    run = untrained_runs.make_run(tmp_path / "run", config)
    model, _, _ = restore.restore_network(config, CLASS_NAMES, run)
    pictures = tf.constant(np.stack([small.pixels(36, 36, seed) for seed in range(8)]))
    mean_image = statistics.load(os.path.join(run, "statistics.npz")).mean_image
    expected = tf.nn.softmax(model(augmentation.central_view(pictures, mean_image, size=32, scale=SMALL.input_scale)))
    served = tf.saved_model.load(export.export_run(run, tmp_path / "served")).signatures["images"]
    # Sums of bfloat16 may be computed in a different order.
    np.testing.assert_allclose(served(images=pictures)["probabilities"], expected, atol=0.01)


def test_the_newest_checkpoint_is_exported_with_its_errors_on_the_model_card(tmp_path, capsys):
    run = untrained_runs.make_run(tmp_path / "run", SMALL, step=7)
    untrained_runs.make_run(tmp_path / "run", dataclasses.replace(SMALL, seed=9), step=12)
    found = {"top1_error": 0.25, "top5_error": None}
    record = {"evaluation": {"test": {"centre_crop": found, "confusions": [["a", "b", 1, 0.5]]}}}
    (tmp_path / "run" / "train.json").write_text(json.dumps({"step": 12, **record}))
    (tmp_path / "run" / "evaluation.json").write_text(json.dumps({"step": 7, "evaluation": {}}))
    version = pathlib.Path(export.export_run(run, tmp_path / "out"))
    card = json.loads((version / "model_card.json").read_text())
    assert card["step"] == 12
    said = capsys.readouterr().out
    assert f"export {tmp_path}/out/1" in said and "step 12, float32" in said
    assert card["checkpoint"] == "ckpt-12"
    assert card["errors"] == {"test": {"centre_crop": found}}
    assert "top1 error: 0.25" in (version / "model_card.md").read_text()
    assert "None" not in (version / "model_card.md").read_text()
    assert card["data"] == {"source": "elpv", "training_images": 123}
    assert "--network=cifar10_18" in card["configuration"]


def test_errors_of_a_run_are_those_of_all_evaluated_splits(tmp_path):
    section = lambda error: {"center_crop": {"top1_error": error}}
    errors = {"validation": section(0.5), "test": section(0.25)}
    (tmp_path / "train.json").write_text(json.dumps({"step": 12, "evaluation": errors}))
    # An evaluation of the training images does not hide the errors of the others; a later one of a split replaces them.
    for again, expected in (
        ({"train": section(0.1)}, {**errors, "train": section(0.1)}),
        ({"test": section(0.75)},) * 2,
    ):
        (tmp_path / "evaluation.json").write_text(json.dumps({"step": 12, "evaluation": again}))
        assert export.read_errors(tmp_path, 12) == {**errors, **expected}
    assert export.read_errors(tmp_path, 11) == {}


def test_fitted_temperature_is_that_of_the_views_and_the_checkpoint(small_run, tmp_path, monkeypatch, capsys):
    exported = []

    def export_version(model, preprocessing, class_names, card, export_dir, options, float32_network):
        exported.append((options.temperature, card["temperature"]["source"]))
        return str(tmp_path)

    monkeypatch.setattr(saved_model, "export", export_version)
    run = shutil.copytree(small_run, tmp_path / "run")
    temperatures = {"center crop": 1.5, "ten views": 1.25}
    choice = classification.Choice("validation", 90, temperatures)
    fitted_temperature.write(run, choice, 7)
    for views in ("center", "ten"):
        export.export_run(run, tmp_path / "out", temperature="fitted", views=views)
    assert exported == [
        (1.5, "fitted on 90 validation images, center crop"),
        (1.25, "fitted on 90 validation images, ten views"),
    ]
    assert "temperature 1.5, fitted on 90 validation images, center crop" in capsys.readouterr().out
    fitted_temperature.write(run, choice, 6)
    with pytest.raises(
        ValueError, match="^Expected a temperature that was fitted for step 7 in .*. Received: none; run "
    ):
        export.export_run(run, tmp_path / "out", temperature="fitted")
    (run / "temperature.json").write_text('{"step": 7}')
    with pytest.raises(ValueError, match="temperature.json"):
        export.export_run(run, tmp_path / "out", temperature="fitted")


def spoil(run, name, content=None):
    path = pathlib.Path(run) / name
    if path.is_dir():
        shutil.rmtree(path)
    elif content is None:
        path.unlink()
    else:
        path.write_bytes(content)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("config.flags", None, "Expected a run with its config.flags in "),
        ("config.flags", b"--no_such_flag=1", "no_such_flag"),
        ("statistics.npz", None, "statistics.npz"),
        ("statistics.npz", b"x", "Expected statistics of a training set in "),
        ("checkpoints", None, "Expected a checkpoint in "),
        ("checkpoints/ckpt-7.index", b"x", "Expected a checkpoint of a run. Received: "),
        ("train.json", b"{", "Expected the errors of a run in "),
    ],
)
def test_an_incomplete_run_is_rejected(small_run, tmp_path, name, content, message):
    run = shutil.copytree(small_run, tmp_path / "run")
    spoil(run, name, content)
    with pytest.raises((ValueError, OSError)) as caught:
        export.export_run(run, tmp_path / "out")
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_unknown_precision_is_rejected(small_run, tmp_path):
    with pytest.raises(ValueError, match="^Expected precision to be one of float32, bfloat16. Received: int8$"):
        export.export_run(small_run, tmp_path / "out", precision="int8")


def test_a_file_at_export_dir_is_rejected(small_run, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(OSError, match="^Expected export_dir to be a directory. Received: the file "):
        export.export_run(small_run, tmp_path / "out")
