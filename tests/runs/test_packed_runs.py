"""A run packed into one file is the same run after unpacking, up to float16, and damaged files are one line."""

import dataclasses
import pathlib
import shutil

import mutations
import numpy as np
import pictures
import PIL.Image
import pytest
import untrained_runs

import alexnet_tf
from alexnet_tf.runs import backend
from alexnet_tf.runs import builders
from alexnet_tf.runs import import_weights
from alexnet_tf.runs import initialization
from alexnet_tf.runs import packed_runs
from alexnet_tf.runs import pretrained
from alexnet_tf.runs import restore
from alexnet_tf.serving import classify
from alexnet_tf.weights import packed

WEIGHTS_PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "weights.md"
CLASS_NAMES = ["n01443537", "n02123394", "plum"]
CONFIG = dataclasses.replace(
    untrained_runs.CONFIG, network="alexnet", image_size=36, crop_size=32, source="folder:/nowhere", input_scale=0.25
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return untrained_runs.make_run(tmp_path_factory.mktemp("runs") / "towers", CONFIG, CLASS_NAMES)


@pytest.fixture(scope="module")
def file(workdir, tmp_path_factory):
    return packed_runs.pack(workdir, tmp_path_factory.mktemp("files") / "towers.safetensors", dtype="float32")


@pytest.fixture
def photograph(tmp_path):
    path = tmp_path / "photograph.png"
    PIL.Image.fromarray(pictures.noise(50, 60)).save(path)
    return path


def test_an_unpacked_run_predicts_what_the_run_predicts(workdir, file, photograph, tmp_path):
    import_weights.import_weights(file, tmp_path / "unpacked")
    run, unpacked = alexnet_tf.load(workdir), alexnet_tf.load(tmp_path / "unpacked")
    assert unpacked.class_names == CLASS_NAMES and unpacked.step == run.step
    (expected,), (answer,) = run.classify(photograph, views="ten"), unpacked.classify(photograph, views="ten")
    assert [name for name, _ in answer] == [name for name, _ in expected]
    assert [p for _, p in answer] == [p for _, p in expected]
    for variable, other in zip(run.model.weights, unpacked.model.weights, strict=True):
        np.testing.assert_array_equal(variable.numpy(), other.numpy())
    ours, theirs = (restore.read_statistics(each) for each in (workdir, tmp_path / "unpacked"))
    for name in ("mean_image", "directions", "standard_deviations", "num_examples"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_the_file_names_no_place_of_the_machine(workdir, file):
    assert (
        b"nowhere" not in pathlib.Path(file).read_bytes()
        and str(workdir).encode() not in pathlib.Path(file).read_bytes()
    )
    assert packed.read(file).configuration["input_scale"] == "0.25"


def test_float16_halves_the_weights_and_rounds_each_once(workdir, file, tmp_path):
    small = packed_runs.pack(workdir, tmp_path / "small.safetensors")
    full, half = packed.read(file), packed.read(small)
    assert pathlib.Path(small).stat().st_size < 0.6 * pathlib.Path(file).stat().st_size
    for path, value in full.weights.items():
        np.testing.assert_array_equal(half.weights[path], value.astype(np.float16).astype(np.float32))
    np.testing.assert_allclose(half.statistics["mean_image"], full.statistics["mean_image"], rtol=2**-11)


def test_weights_beyond_float16_are_refused(file, tmp_path):
    run = packed.read(file)
    run.weights["fc8/bias"][1] = 70000
    with pytest.raises(
        ValueError, match="Expected weights that are finite in float16. Received: NaN or infinity in fc8/bias"
    ):
        packed.write(tmp_path / "large.safetensors", run)
    packed.write(tmp_path / "large.safetensors", run, "float32")


def test_convolutions_alone_initialize_another_run(workdir, tmp_path):
    layers = ["conv1", "conv2", "conv3", "conv4", "conv5"]
    small = packed_runs.pack(workdir, tmp_path / "convolutions.safetensors", layers=layers, dtype="float32")
    import_weights.import_weights(small, tmp_path / "start")
    run = alexnet_tf.load(tmp_path / "start")
    assert run.class_names == [] and run.layers[-1] == "flatten5"
    mean_image = restore.read_statistics(tmp_path / "start").mean_image
    expected = restore.read_statistics(workdir).mean_color
    np.testing.assert_array_equal(mean_image, np.broadcast_to(expected, mean_image.shape))
    new = dataclasses.replace(CONFIG, initialize_from=str(tmp_path / "start"), new_layers=("fc6", "fc7", "fc8"))
    model = builders.build_model(new, 2, devices=None)
    initialization.initialize(new, model)
    expected = alexnet_tf.load(workdir).model
    for name in ("conv1_a", "conv5_b"):
        np.testing.assert_array_equal(model.get_layer(name).kernel.numpy(), expected.get_layer(name).kernel.numpy())


def test_every_damaged_file_is_refused_with_one_line(file, tmp_path):
    path = tmp_path / "damaged.safetensors"
    content = pathlib.Path(file).read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")
    # Half of the damage is in the header.
    versions = mutations.of_bytes(content, 100)
    versions += [each + content[length:] for each in mutations.of_bytes(content[:length], 100)]
    for version in versions:
        path.write_bytes(version)
        with pytest.raises(ValueError) as failed:
            packed.read(path)
        assert "\n" not in str(failed.value) and path.name in str(failed.value)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"configuration": {"network": "other"}}, "network"),
        ({"configuration": {"flagfile": "/etc/passwd"}}, "Received: 'flagfile'"),
        ({"configuration": {"network": "alexnet"}}, "Received: statistics of shapes"),
        ({"classes": ["a", "a", "b"]}, "two classes of the same name"),
        ({"classes": ["a", "b"]}, "fc8"),
        ({"classes": ["a", "\x1b[2J", "b"]}, "class"),
        ({"weights": {}}, "Received: no "),
        ({"step": -1}, "step"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(change, message, file, tmp_path):
    path, workdir = tmp_path / "changed.safetensors", tmp_path / "run"
    packed.write(path, packed.read(file)._replace(**change), "float32")
    with pytest.raises(ValueError, match=message):
        import_weights.import_weights(path, workdir)
    assert not workdir.exists()


def test_options_of_other_formats_are_refused(file, tmp_path):
    with pytest.raises(ValueError, match="Expected no other options for .* Received: --channels$"):
        import_weights.import_weights(file, tmp_path / "run", import_weights.Options(channels="RGB"))


@pytest.mark.parametrize("name", ["tiny_imagenet_small", "tiny_imagenet_convolutions"])
def test_networks_of_the_package_are_intact_and_documented(name):
    assert name in pretrained.names()
    run = packed.read(pathlib.Path(packed.__file__).with_name(f"{name}.safetensors"))
    (card,) = [line for line in WEIGHTS_PAGE.read_text().splitlines() if line.startswith(f"| `pretrained:{name}`")]
    errors = run.card["errors"]["validation"]["ten_views"]
    # The page has the error after rounding to float16 as well.
    assert f"{100 * errors['top1_error']:.2f} / {100 * errors['top5_error']:.2f}%" in card
    assert len(run.classes) == (200 if name == "tiny_imagenet_small" else 0)
    # Of 200 classes, chance is wrong about 99.5%.
    assert errors["top1_error"] < 0.75


@pytest.fixture
def names(file, tmp_path, monkeypatch):
    """A package whose only trained network is `file`, and an empty cache directory."""
    (tmp_path / "package").mkdir()
    shutil.copy(file, tmp_path / "package" / "towers.safetensors")
    monkeypatch.setattr(pretrained, "_DIRECTORY", tmp_path / "package")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_name_is_unpacked_once(names, workdir, photograph, tmp_path):
    run = alexnet_tf.load("pretrained:towers")
    assert run.classify(photograph) == alexnet_tf.load(workdir).classify(photograph)
    (directory,) = (tmp_path / "cache" / "alexnet_tf").iterdir()
    assert run.workdir == str(directory) == pretrained.find("pretrained:towers")
    before = (directory / "config.flags").stat().st_mtime_ns
    pretrained.find("pretrained:towers")
    assert (directory / "config.flags").stat().st_mtime_ns == before
    assert pretrained.find("runs/mine") == "runs/mine"


def test_an_unknown_name_lists_the_names(names):
    with pytest.raises(FileNotFoundError, match="with one of towers. Received: pretrained:alexnet"):
        alexnet_tf.load("pretrained:alexnet")


def test_a_cache_that_cannot_be_written_is_one_line(names, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(OSError, match="Cannot unpack towers to .*; name another directory in XDG_CACHE_HOME"):
        pretrained.find("pretrained:towers")


def test_a_name_initializes_another_run(names, workdir):
    run_config = dataclasses.replace(CONFIG, initialize_from="pretrained:towers", new_layers=("fc8",))
    initialization.check(run_config, "runs/new")
    model, lines = builders.build_model(run_config, 2, devices=None), []
    initialization.initialize(run_config, model, log=lines.append)
    expected = alexnet_tf.load(workdir).model.get_layer("fc7_a").kernel
    np.testing.assert_array_equal(model.get_layer("fc7_a").kernel.numpy(), expected.numpy())


def test_a_backend_names_classes_with_their_words(names, workdir, photograph, monkeypatch):
    words = {"n01443537": "goldfish, Carassius auratus"}
    monkeypatch.setattr(backend.restore, "read_class_words", lambda directory: words)
    with backend.Run("pretrained:towers") as ours:
        (found, failed) = classify.classify_files(ours, [photograph, __file__])
    assert sorted(found.classes) == ["goldfish (n01443537)", "n02123394", "plum"]
    assert failed.error and not failed.classes
    (predictions,) = alexnet_tf.load(workdir).classify(photograph)
    shown = [name if name not in words else "goldfish (n01443537)" for name, _ in predictions]
    assert found.classes == shown
    np.testing.assert_allclose(found.scores, [each.probability for each in predictions], atol=1e-6)


def test_a_backend_needs_a_classifier(workdir, tmp_path):
    small = packed_runs.pack(workdir, tmp_path / "convolutions.safetensors", layers=["conv1"])
    import_weights.import_weights(small, tmp_path / "start")
    with pytest.raises(ValueError, match="Expected a run with a classifier in"):
        backend.Run(tmp_path / "start")
