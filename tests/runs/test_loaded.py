"""`alexnet_tf.load`: the numbers of an evaluation, of an export and of hand-built models, from images in every form."""

import dataclasses
import json
import os
import pathlib
import shutil

import keras
import numpy as np
import pictures
import PIL.Image
import pytest
import tensorflow as tf
import untrained_runs

import alexnet_tf
from alexnet_tf import flagfiles
from alexnet_tf.data import augmentation
from alexnet_tf.data import photograph
from alexnet_tf.data import statistics
from alexnet_tf.evaluation import activations
from alexnet_tf.runs import builders
from alexnet_tf.runs import evaluate
from alexnet_tf.runs import export
from alexnet_tf.runs import loaded
from alexnet_tf.runs import neighbours
from alexnet_tf.runs import restore
from alexnet_tf.runs import split_results
from alexnet_tf.training import best_checkpoint
from alexnet_tf.training import checkpoints

CLASS_NAMES = ["apple", "pear", "plum"]
# The paper's network for small images.
TOWERS = dataclasses.replace(untrained_runs.CONFIG, network="alexnet", image_size=36, crop_size=32)
ALL_TRAIN = {"validation_fraction": 0.0, "schedule": "linear"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with six training and six test images of three classes, as PNG and JPEG."""
    root = tmp_path_factory.mktemp("photographs")
    for split in ("train", "test"):
        for number in range(6):
            path = root / split / CLASS_NAMES[number % 3] / f"{number}.{'png' if number % 2 else 'jpg'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = PIL.Image.fromarray(pictures.noise(5, 6, seed=number + 10 * (split == "test")))
            picture.resize((50, 44 + number)).save(path)
    return root


@pytest.fixture(scope="module")
def workdir(folder, tmp_path_factory):
    config = dataclasses.replace(TOWERS, source=f"folder:{folder}", **ALL_TRAIN)
    return untrained_runs.make_run(tmp_path_factory.mktemp("runs") / "towers", config, CLASS_NAMES)


@pytest.fixture(scope="module")
def run(workdir):
    return alexnet_tf.load(workdir)


@pytest.fixture(scope="module")
def served(workdir, tmp_path_factory):
    """The directory of an export of the run, with one version."""
    directory = tmp_path_factory.mktemp("served")
    export.export_run(workdir, directory)
    return directory


@pytest.fixture(scope="module")
def paths(folder):
    return sorted((folder / "test").glob("*/*"))


def squares(paths, size=36):
    return np.stack([photograph.decode_to_square(tf.io.read_file(str(path)), size).numpy() for path in paths])


def probabilities(answers):
    """Returns what `classify` answered as an array ``[images, classes]``."""
    return np.array([[dict(answer)[name] for name in CLASS_NAMES] for answer in answers])


def test_a_run_is_loaded_with_its_network_classes_and_configuration(run, workdir):
    assert isinstance(run, loaded.LoadedRun) and isinstance(run.model, keras.Model)
    assert (run.class_names, run.workdir, run.step) == (CLASS_NAMES, workdir, 7)
    assert run.class_words == {}
    assert run.config == restore.read_config(workdir) and repr(run) == f"<alexnet of {workdir}, step 7, 3 classes>"
    # It computes without random numbers.
    images = np.zeros([2, 32, 32, 3], np.float32)
    np.testing.assert_array_equal(run.model(images), run.model(images))


@pytest.mark.parametrize("views, place", [("center", "center crop"), ("ten", "ten views")])
def test_predictions_equal_those_of_an_evaluation(run, workdir, paths, views, place, monkeypatch):
    collected = []
    original = split_results.evaluate_splits
    monkeypatch.setattr(split_results, "evaluate_splits", lambda *args: collected.extend(original(*args)) or collected)
    evaluate.evaluate(workdir, "test")
    expected = collected[0].probabilities[place]
    answers = run.classify(paths, views=views)
    assert expected.std() > 0.01
    np.testing.assert_allclose(probabilities(answers), expected, rtol=1e-5, atol=1e-6)
    for answer, row in zip(answers, expected):
        assert [each.class_name for each in answer] == [CLASS_NAMES[place] for place in np.argsort(-row)]


def test_predictions_equal_those_of_an_export(run, served, paths):
    signature = tf.saved_model.load(served / "1").signatures["serving_default"]
    expected = signature(image_bytes=tf.constant([path.read_bytes() for path in paths]))["probabilities"]
    np.testing.assert_allclose(probabilities(run.classify(paths, views="center")), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow  # Those of an evaluation are equal to both.
def test_predictions_of_ten_views_equal_those_of_an_export(run, workdir, paths, tmp_path):
    version = export.export_run(workdir, tmp_path, views="ten")
    signature = tf.saved_model.load(version).signatures["serving_default"]
    expected = signature(image_bytes=tf.constant([path.read_bytes() for path in paths]))["probabilities"]
    np.testing.assert_allclose(probabilities(run.classify(paths, views="ten")), expected, rtol=1e-5, atol=1e-6)


def test_features_equal_those_of_the_index(run, workdir, folder):
    index = neighbours.index_run(workdir, "test", dtype="float32")
    found = run.features(index.images.names, layer="dropout7")
    assert found.dtype == np.float32 and found.std() > 0.001
    np.testing.assert_allclose(found, index.features, rtol=1e-4, atol=1e-6)
    # The paper halves the outputs of layer 7 instead of removing half of them.
    np.testing.assert_allclose(run.features(index.images.names), 2 * found, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "layer, outputs",
    [
        ("fc7", ["relu7_a", "relu7_b"]),
        ("relu7", ["relu7_a", "relu7_b"]),
        ("conv5", ["relu5_a", "relu5_b"]),
        ("conv5_b", ["relu5_b"]),
        ("pool5", ["pool5_a", "pool5_b"]),
        ("norm1", ["norm1_a", "norm1_b"]),
        ("fc8", ["logits"]),
        ("logits", ["logits"]),
    ],
)
def test_features_equal_those_of_a_hand_built_model(run, paths, layer, outputs):
    model = keras.Model(run.model.inputs, [run.model.get_layer(name).output for name in outputs])
    views = augmentation.central_view(
        squares(paths), restore.read_statistics(run.workdir).mean_image, size=32, scale=run.config.input_scale
    )
    expected = np.concatenate([np.asarray(each) for each in tf.nest.flatten(model(views, training=False))], axis=-1)
    found = run.features(paths, layer=layer)
    assert found.shape == expected.shape and found.std() > 0
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_an_activation_function_that_does_not_follow_directly_is_not_part_of_a_layer(tmp_path, paths):
    config = dataclasses.replace(TOWERS, recipe="original").resolved()
    original = alexnet_tf.load(untrained_runs.make_run(tmp_path / "run", config, CLASS_NAMES))
    # Layer 5's ReLU follows pooling in this recipe.
    assert original.features(paths, "conv5").min() < 0
    np.testing.assert_array_equal(original.features(paths, "pool5"), original.features(paths, "relu5"))


def test_layers_of_a_network_with_one_tower(tmp_path, paths):
    small = alexnet_tf.load(untrained_runs.make_run(tmp_path / "run", untrained_runs.SMALL))
    assert small.layers[:4] == ["conv1", "relu1", "pool1", "norm1"]
    features = {name: small.features(paths, name) for name in small.layers}
    assert {name: each.shape[1:] for name, each in features.items() if name in ("conv1", "fc10")} == {
        "conv1": (32, 32, 32),
        "fc10": (2,),
    }
    with pytest.raises(ValueError, match="^Expected layers among conv1, relu1, .*, logits. Received: 'fc7'$"):
        small.features(paths)


def test_images_in_every_form_give_the_same_answer(run, paths):
    path = next(path for path in paths if path.suffix == ".png")
    picture = PIL.Image.open(path)
    pixels = np.asarray(picture)
    expected = run.features([path])
    forms = (path, str(path), os.fsencode(path).decode(), [str(path)], picture, [picture], pixels, pixels[None])
    for images in (*forms, [pixels], (each for each in [path]), tf.constant(pixels), squares([path])):
        np.testing.assert_array_equal(run.features(images), expected)
    mixed = run.features([path, pixels, picture, path])
    assert mixed.shape[0] == 4
    np.testing.assert_allclose(mixed, np.repeat(expected, 4, axis=0), rtol=1e-5, atol=1e-6)
    # A Pillow image is turned upright as a file is; a palette is converted.
    turned = PIL.Image.fromarray(np.rot90(pixels, 1))
    turned.getexif()[0x0112] = 6
    np.testing.assert_array_equal(run.features(turned), expected)
    palette = picture.quantize(8)
    np.testing.assert_array_equal(run.features(palette), run.features(np.asarray(palette.convert("RGB"))))


def test_more_images_than_a_batch_are_in_order(run, monkeypatch, paths):
    expected = run.features(paths)
    monkeypatch.setattr(loaded.dataset, "EVALUATION_BATCH_SIZE", 4)
    np.testing.assert_allclose(run.features(paths), expected, rtol=1e-5, atol=1e-6)
    assert len(run.classify(paths, top=1)) == 6 and len(run.classify(paths, top=2)[5]) == 2


@pytest.mark.parametrize(
    "images, message",
    [
        ([], "^Expected at least one image. Received: none$"),
        (np.zeros([0, 9, 9, 3], np.uint8), "^Expected at least one image. Received: none$"),
        (np.zeros([9, 9, 3], np.float32), "^Expected image 0 to be paths, .* Received: float32 .9, 9, 3.$"),
        (np.zeros([9, 9], np.uint8), r"^Expected images to be .* Received: uint8 \[9, 9\]$"),
        (np.zeros([3, 9, 9], np.uint8), r"^Expected image 0 to be .* Received: uint8 \[3, 9, 9\]$"),
        (np.zeros([9, 0, 3], np.uint8), r"^Expected image 0 to be .* Received: uint8 \[9, 0, 3\]$"),
        (PIL.Image.new("F", (9, 9)), "^Expected images to be an image of 8 bits. Received: a Pillow image of mode F$"),
        (b"image", "^Expected images to be paths, .* Received: bytes$"),
        (None, "^Expected images to be paths, .* Received: NoneType$"),
        ([7], "^Expected image 0 to be paths, .* Received: int$"),
        ("/nowhere.png", "^Expected an image in /nowhere.png. Received: No such file or directory$"),
        ("/dev", "^Expected an image in /dev. Received: a folder or a special file$"),
        ("/dev/zero", "^Expected an image in /dev/zero. Received: a folder or a special file$"),
        ("a\0b", "^Expected an image in .*null byte"),
        (__file__, "^Expected an image in .*test_loaded.py. Received: Expected a JPEG, PNG, GIF, BMP or WebP"),
    ],
)
def test_invalid_images_are_errors(run, images, message):
    with pytest.raises(ValueError, match=message) as caught:
        run.features(images)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=message):
        run.classify(images)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"top": 0}, "^Expected top to be an int of at least 1. Received: 0$"),
        ({"top": True}, "^Expected top to be an int of at least 1. Received: True$"),
        ({"views": "nine"}, "^Expected views to be one of center, ten. Received: 'nine'$"),
    ],
)
def test_invalid_options_are_errors(run, paths, options, message):
    with pytest.raises(ValueError, match=message):
        run.classify(paths, **options)


def test_a_layer_that_is_not_a_name_is_an_error(run, paths):
    with pytest.raises(ValueError, match="^Expected layer to be a name among conv1, .*. Received: .'fc7'.$"):
        run.features(paths, ["fc7"])


def test_an_export_loads_its_run(workdir, served, tmp_path):
    version = shutil.copytree(served, tmp_path / "served") / "1"
    for directory in (tmp_path / "served", version):
        assert alexnet_tf.load(directory).workdir == str(workdir)
    card = pathlib.Path(version, "model_card.json")
    card.write_text(json.dumps({**json.loads(card.read_text()), "step": 5}))
    with pytest.warns(UserWarning, match="was exported at step 5; its run, .*, is loaded at step 7"):
        alexnet_tf.load(version)
    card.write_text(json.dumps({**json.loads(card.read_text()), "run": "/nowhere"}))
    with pytest.raises(FileNotFoundError, match="^Expected the run of the export .* in /nowhere. Received: none; give"):
        alexnet_tf.load(version)
    card.write_text("{")
    with pytest.raises(ValueError, match="^Expected the model card of an export in "):
        alexnet_tf.load(version)


def test_a_directory_without_a_run_is_an_error(tmp_path):
    for directory in (tmp_path, tmp_path / "none", __file__):
        with pytest.raises(FileNotFoundError, match="^Expected a run with its config.flags in .* Received: none$"):
            alexnet_tf.load(directory)


def test_a_damaged_checkpoint_gives_way_to_the_one_before_with_a_warning(workdir, tmp_path, paths, run):
    copy = shutil.copytree(workdir, tmp_path / "run")
    for path in (copy / "checkpoints").glob("ckpt-7.*"):
        newer = path.with_name(path.name.replace("-7", "-9"))
        newer.write_bytes(path.read_bytes() if path.suffix == ".index" else bytes(path.stat().st_size))
    with pytest.warns(UserWarning, match="^Expected a checkpoint of a run. Received: .*ckpt-9 "):
        older = alexnet_tf.load(copy)
    assert older.step == 7 and older.checkpoint.endswith("ckpt-7")
    np.testing.assert_array_equal(older.features(paths[0]), run.features(paths[0]))


# Weights of some layers only

MEAN_IMAGE = np.full([36, 36, 3], 120, np.float32)
CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4", "conv5")


def save_part(workdir, config, class_names, layers, step=3):
    """Writes a run whose checkpoint has the weights of some layers only."""
    pathlib.Path(workdir).mkdir()
    pathlib.Path(workdir, "config.flags").write_text(flagfiles.to_text(config))
    image_statistics = builders.blank_statistics(config)._replace(mean_image=MEAN_IMAGE, num_examples=9)
    statistics.save(image_statistics, os.path.join(workdir, "statistics.npz"))
    model = builders.build_model(config, max(2, len(class_names)))
    kept = {each.path: each.value for each in model.variables if each.path.split("/")[0].rpartition("_")[0] in layers}
    metadata = {"network": config.network, "recipe": config.recipe, "classes": class_names}
    directory = os.path.join(workdir, "checkpoints")
    checkpoints.Checkpoints(directory, kept, builders.build_schedule(config), metadata).save(step)


@pytest.fixture(scope="module")
def convolutions(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "convolutions"
    save_part(workdir, TOWERS, [], CONVOLUTIONS)
    return alexnet_tf.load(workdir)


def test_a_run_with_convolutions_alone_has_their_features(convolutions, paths):
    network = builders.build_model(TOWERS, 2)
    views = augmentation.central_view(squares(paths), MEAN_IMAGE, size=32, scale=0.02)
    for layer in ("conv1", "conv5", "pool5"):
        # Untrained networks of the same seed have the same weights.
        expected = activations.part(network, [layer])(views, training=False)
        np.testing.assert_allclose(convolutions.features(paths, layer), expected, rtol=1e-4, atol=1e-6)
    assert (convolutions.step, convolutions.class_names, convolutions.layers[-1]) == (3, [], "flatten5")
    assert not [layer.name for layer in convolutions.model.layers if layer.name.startswith(("fc", "relu6", "logits"))]


def test_a_run_with_convolutions_alone_has_no_classes_and_no_later_features(convolutions, paths):
    with pytest.raises(ValueError, match="^Expected a run with a classifier. Received: .* up to flatten5 only; comp"):
        convolutions.classify(paths)
    with pytest.raises(
        ValueError,
        match="^Expected layers with weights in .*ckpt-3: conv1, .*, pool5, flatten5. "
        "Received: fc7, which needs those of fc6, fc7$",
    ):
        convolutions.features(paths, "fc7")
    with pytest.raises(ValueError, match="^Expected layers among conv1, .*, logits. Received: 'fc9'$"):
        convolutions.features(paths, "fc9")


def test_of_convolutions_alone_the_best_checkpoint_is_loaded_too(convolutions, tmp_path):
    workdir = shutil.copytree(convolutions.workdir, tmp_path / "run")
    monitor = best_checkpoint.Monitor("validation")
    monitor.add(3, 1.0, 0.5, 0.7)
    best_checkpoint.Keeper(str(workdir / "checkpoints"), monitor).resume()
    best = workdir / "checkpoints" / "best" / "ckpt-3"
    assert alexnet_tf.load(workdir).checkpoint == str(best)
    assert alexnet_tf.load(workdir, checkpoint="newest").checkpoint == str(workdir / "checkpoints" / "ckpt-3")
    best.with_suffix(".index").unlink()
    best.with_suffix(".index").write_bytes(b"")
    with pytest.raises(ValueError, match="^Expected a checkpoint .*; use --checkpoint=newest$"):
        alexnet_tf.load(workdir)
    # There is no other to name.
    for path in (workdir / "checkpoints").glob("ckpt-3.*"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="^Expected a checkpoint ") as caught:
        alexnet_tf.load(workdir, checkpoint="newest")
    assert "--checkpoint" not in str(caught.value)


@pytest.mark.parametrize(
    "layers, changes, message",
    [
        ((), {}, "^Expected weights of alexnet in .*ckpt-3. Received: none$"),
        (CONVOLUTIONS, {"recipe": "original"}, "^Expected .*ckpt-3 to have recipe=original. Received: recipe=paper$"),
        (CONVOLUTIONS, {"towers": "one"}, "^Expected weights of alexnet in .*ckpt-3. Received: none$"),
        (CONVOLUTIONS, {"communication": "fc8"}, "^Expected .*ckpt-3 to contain conv2_a/kernel of shape "),
    ],
)
def test_weights_of_another_network_are_refused(layers, changes, message, tmp_path):
    save_part(tmp_path / "run", TOWERS, [], layers)
    config = dataclasses.replace(TOWERS, **changes).resolved()
    (tmp_path / "run" / "config.flags").write_text(flagfiles.to_text(config))
    with pytest.raises(ValueError, match=message):
        alexnet_tf.load(tmp_path / "run")
