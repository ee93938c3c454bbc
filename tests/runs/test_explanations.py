"""Explanations of a run's predictions, and the files that tools/explain.py writes."""

import dataclasses

import forks
import numpy as np
import pictures
import PIL.Image
import pytest
import untrained_runs

import alexnet_tf
from alexnet_tf.data import augmentation
from alexnet_tf.evaluation import saliency
from alexnet_tf.reporting import overlays
from alexnet_tf.runs import builders
from alexnet_tf.runs import explanations
from alexnet_tf.runs import inputs
from alexnet_tf.runs import restore

CLASS_NAMES = ["apple", "pear", "2"]
TOWERS = dataclasses.replace(
    untrained_runs.CONFIG, network="alexnet", image_size=36, crop_size=32, normalization="none"
)


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return {
        "two towers": untrained_runs.make_run(root / "towers", TOWERS, CLASS_NAMES),
        "one tower": untrained_runs.make_run(root / "one", untrained_runs.SMALL),
    }


@pytest.fixture(scope="module")
def run(workdirs):
    return alexnet_tf.load(workdirs["two towers"])


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for number in range(3):
        picture = PIL.Image.fromarray(pictures.noise(5, 6, seed=number)).resize((50, 44))
        picture.save(root / f"{number}.png")
    return sorted(root.iterdir())


def test_an_explanation_is_of_the_center_crop_that_is_classified(run, paths):
    found = run.explain(paths)
    answers = run.classify(paths, top=1)
    assert [each.class_name for each in found] == [answer[0].class_name for answer in answers]
    np.testing.assert_allclose([each.probability for each in found], [row[0].probability for row in answers], rtol=1e-5)
    restored = restore.open_run(run.workdir)
    pixels = np.stack([inputs.read_file(path, 36) for path in paths])
    view = builders.central_view(run.config, restored.image_statistics)(pixels)
    for method, options in (("grad_cam", {}), ("occlusion", {"positions": 5})):
        found = run.explain(paths, method=method, class_name="pear", **options)
        if method == "grad_cam":
            function = saliency.grad_cam(run.model, "conv5")
        else:
            function = saliency.occlusion(run.model, patch_size=8, positions=5)
        expected = function(view, np.array([1, 1, 1], np.int64)).grids
        assert expected.std() > 0
        np.testing.assert_allclose([each.grid for each in found], expected, rtol=1e-4, atol=1e-6)
        assert all(isinstance(array, np.ndarray) for each in found for array in each[2:])
        np.testing.assert_array_equal([each.pixels for each in found], augmentation.central_crop(pixels, 32))
        np.testing.assert_allclose([each.values for each in found], saliency.scale(expected, 32), rtol=1e-4, atol=1e-6)


def test_classes_are_found_by_name_words_or_number():
    find = lambda requested: explanations.class_index(["n01", "n02", "0"], {"n01": "tench", "n02": "shark"}, requested)
    assert [find(each) for each in ("n02", "tench", "0", "1")] == [1, 0, 2, 1]
    with pytest.raises(ValueError, match="^Expected the name of a class, or its number from 0 to 2: n01, n02, 0. Rec"):
        find("3")
    with pytest.raises(ValueError, match=": 0, 1, .*, 11 and 1 more. Received: 'cat'$"):
        explanations.class_index([str(number) for number in range(13)], {}, "cat")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"method": "lime"}, "^Expected method to be one of grad_cam, occlusion. Received: 'lime'$"),
        ({"layer": "fc6"}, "^Expected a layer with positions, such as conv5. Received: 'fc6'$"),
        (
            {"class_name": "plum"},
            "^Expected the name of a class, or its number from 0 to 2: apple, pear, 2. Received: 'p",
        ),
        ({"method": "occlusion", "patch_size": 40}, "^Expected patch_size to be 1 to 32, the side of the images. Rec"),
    ],
)
def test_invalid_options_are_errors(run, paths, options, message):
    with pytest.raises(ValueError, match=message):
        run.explain(paths, **options)


def test_brightest_color_is_at_the_largest_value():
    image, values = np.full([4, 4, 3], 128, np.uint8), np.zeros([4, 4], np.float32)
    values[1, 2], values[3, 3] = 2.0, -5.0
    drawn = overlays.overlay(image, values).astype(int).sum(axis=2)
    assert np.unravel_index(drawn.argmax(), drawn.shape) == (1, 2) and len(np.unique(drawn)) == 2
    assert overlays.overlay(image, np.zeros([4, 4])).std(axis=(0, 1)).max() == 0
    both = overlays.side_by_side(image, values)
    assert both.shape == (224, 456, 3)
    np.testing.assert_array_equal(both[::56, :224:56], image)
    assert (both[:, 224:232] == 255).all()


@pytest.mark.parametrize("network", ["two towers", pytest.param("one tower", marks=pytest.mark.slow)])
def test_program_writes_images_and_values_and_lists_unreadable_images(workdirs, paths, tmp_path, network):
    other = tmp_path / "others"
    other.mkdir()
    (other / "0.png").write_bytes(paths[0].read_bytes())
    (other / "bad.jpg").write_bytes(b"not an image")
    arguments = [f"--workdir={workdirs[network]}", f"--out={tmp_path / 'maps'}", "--values", "--class=1"]
    done = forks.run("explain", *arguments, "--layer=conv2", str(paths[0].parent), str(other))
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    assert f"1 of 5 images could not be read, the first: Expected an image in {other / 'bad.jpg'}" in done.stderr
    names = ["0", "1", "2", "0-2"]
    assert sorted(each.name for each in (tmp_path / "maps").iterdir()) == sorted(
        f"{name}.grad_cam.{kind}" for name in names for kind in ("npz", "png")
    )
    class_name = {"two towers": "pear", "one tower": "sound"}[network]
    first, *lines = done.stdout.splitlines()
    assert first.startswith(f"checkpoint {workdirs[network]}/checkpoints/ckpt-") and first.endswith(" (newest)")
    assert [line.split(":")[0] for line in lines[:4]] == [*map(str, paths), str(other / "0.png")]
    assert all(f": {class_name} " in line for line in lines[:4])
    explained = alexnet_tf.load(workdirs[network]).explain(paths[:1], class_name=class_name, layer="conv2")[0]
    with np.load(tmp_path / "maps" / "0-2.grad_cam.npz") as stored:
        assert stored["class_name"] == class_name and stored["method"] == "grad_cam"
        np.testing.assert_allclose(stored["values"], explained.values, rtol=1e-3, atol=1e-5)
        assert stored["grid"].shape == explained.grid.shape
    with PIL.Image.open(tmp_path / "maps" / "0-2.grad_cam.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture)[:224:7, :224:7], explained.pixels)


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (["a.png"], 2, "Expected --workdir. Received: none"),
        (["--workdir=/nowhere"], 2, "Expected at least one IMAGE. Received: none"),
        (["--workdir=/nowhere", "--method=lime", "a.png"], 2, "method"),
        (["--workdir=/nowhere", "a.png"], 1, "Expected a run with its config.flags in /nowhere. Received: none"),
        (["--workdir=RUN", "--layer=fc7", "a.png"], 1, "Expected a layer with positions, such as conv5. Received: 'fc"),
    ],
)
def test_invalid_input_is_reported_in_one_line(workdirs, arguments, status, message):
    done = forks.run("explain", *(each.replace("RUN", workdirs["two towers"]) for each in arguments))
    assert done.returncode == status and message in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
