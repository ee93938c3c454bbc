"""Exports as ONNX and LiteRT files return what the evaluated network returns for pixels."""

import dataclasses
import json
import pathlib

import numpy as np
import onnx
import pytest
import serving_models as small
import tensorflow as tf
import untrained_runs

from alexnet_tf.data import augmentation
from alexnet_tf.evaluation import calibration
from alexnet_tf.export import litert
from alexnet_tf.export import onnx_network
from alexnet_tf.runs import export
from alexnet_tf.runs import restore

pytest.importorskip("onnxruntime")

CLASS_NAMES = untrained_runs.CLASS_NAMES
# Both response normalizations, two towers and dropout; trained in bfloat16 with the center of the mean image.
CONFIG = dataclasses.replace(
    untrained_runs.CONFIG,
    image_size=37,
    crop_size=32,
    recipe="original",
    precision="bfloat16",
    mean_crop="center",
)
RUN = {"onnx": lambda contents, images: onnx_network.run(contents, images), "litert": litert.run}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return untrained_runs.make_run(tmp_path_factory.mktemp("runs") / "small", CONFIG)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """A directory with both files."""
    directory = tmp_path_factory.mktemp("exported")
    for format in export.FILE_FORMATS:
        export.export_file(run, directory, format=format)
    return directory


@pytest.fixture(scope="module")
def pictures(run):
    """Nine images, and the network's probabilities in float32."""
    images = np.stack([small.pixels(37, 37, seed) for seed in range(9)])
    model, _, _ = restore.restore_network(dataclasses.replace(CONFIG, precision="float32"), CLASS_NAMES, run)
    mean_image = restore.read_statistics(run).mean_image
    view = augmentation.central_view(tf.constant(images), mean_image, size=32, scale=CONFIG.input_scale)
    return images, tf.nn.softmax(model(view)).numpy()


@pytest.mark.parametrize("format, name", [("onnx", "alexnet.onnx"), ("litert", "alexnet.tflite")])
@pytest.mark.parametrize("count", [1, 9])
def test_probabilities_equal_the_network(exported, pictures, format, name, count):
    images, expected = pictures
    assert expected[:, 0].std() > 0.01
    outputs = RUN[format]((exported / name).read_bytes(), images[:count])
    assert outputs.keys() == {"logits", "probabilities"}
    np.testing.assert_allclose(outputs["probabilities"], expected[:count], atol=1e-5)


def test_onnx_metadata_have_class_names_and_the_card(exported):
    model = onnx.load(exported / "alexnet.onnx")
    metadata = {each.key: each.value for each in model.metadata_props}
    assert json.loads(metadata["class_names"]) == CLASS_NAMES
    assert json.loads(metadata["preprocessing"])["crop_size"] == 32
    assert metadata["recipe"] == "original" and json.loads(metadata["step"]) == 7


def test_files_next_to_litert_have_class_names_and_the_card(exported):
    assert (exported / "labels.txt").read_text().splitlines() == CLASS_NAMES
    card = json.loads((exported / "alexnet.json").read_text())
    assert card["class_names"] == CLASS_NAMES and card["precision"] == "float32"
    assert sorted(path.name for path in exported.iterdir()) == [
        "alexnet.json",
        "alexnet.onnx",
        "alexnet.tflite",
        "labels.txt",
    ]


@pytest.mark.parametrize("format", export.FILE_FORMATS)
def test_float16_halves_the_file_and_a_temperature_divides_the_logits(run, exported, pictures, tmp_path, format, capfd):
    options = {"name": "narrow", "precision": "float16", "temperature": 2.0}
    path = pathlib.Path(export.export_file(run, tmp_path, format=format, **options))
    captured = capfd.readouterr()
    (line,) = captured.out.splitlines()
    assert line.startswith(f"export {path}: ") and line.endswith("; run it with images: uint8 [n, 37, 37, 3]")
    assert "logits for 8 random images differ from the network's by at most " in line
    assert "temperature 2, as given" in line
    assert not captured.err
    suffix = export.FILE_FORMATS[format]
    assert path.stat().st_size < 0.55 * (exported / f"alexnet{suffix}").stat().st_size
    images, probabilities = pictures
    expected = calibration.apply_temperature(probabilities, 2.0)
    assert np.abs(expected - probabilities).max() > 0.02
    np.testing.assert_allclose(RUN[format](path.read_bytes(), images)["probabilities"], expected, atol=5e-3)
    if format == "litert":
        card = json.loads((tmp_path / "narrow.json").read_text())
        assert card["temperature"]["value"] == 2.0 and card["temperature"]["source"] == "given"


@pytest.mark.parametrize("format", export.FILE_FORMATS)
def test_a_file_that_computes_something_else_is_not_written(run, tmp_path, monkeypatch, format):
    for module in (onnx_network, litert):
        monkeypatch.setattr(module, "run", lambda model, images: {"logits": np.full([len(images), 2], np.nan)})
    monkeypatch.setattr(litert, "convert", lambda *arguments, **options: b"model")
    with pytest.raises(ValueError, match="'s logits to differ from the network's by at most 0.0001 of .* nan; nothing"):
        export.export_file(run, tmp_path / "out", format=format)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"format": "pb"}, "^Expected format to be one of onnx, litert. Received: pb$"),
        ({"precision": "bfloat16"}, "^Expected precision to be one of float32, float16 for onnx. Received: bfloat16$"),
        ({"temperature": -1.0}, "^Expected temperature to be a positive number. Received: temperature=-1$"),
        ({"temperature": "fitted"}, "^Expected a temperature that was fitted for step 7 in .* --fit_temperature$"),
        ({"name": "../a"}, "^Expected name to consist of letters, "),
    ],
)
def test_invalid_arguments_are_rejected(run, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        export.export_file(run, tmp_path / "out", **{"format": "onnx", **options})
    assert not (tmp_path / "out").exists()


def test_a_file_at_export_dir_is_rejected(run, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(OSError, match="^Expected export_dir to be a directory. Received: the file "):
        export.export_file(run, tmp_path / "out", format="onnx")
