"""SIFT, Fisher vectors and a linear classifier, from a folder of images to the errors."""

import json
import sys

import numpy as np
import PIL.Image
import pytest

from alexnet_tf import config
from alexnet_tf.commands import baseline as command
from alexnet_tf.evaluation import fisher_vectors
from alexnet_tf.runs import baseline

CLASSES = ("columns", "rows", "squares")


def texture(kind, seed, side=96):
    """An image whose edges are vertical, horizontal or both, of random phase, period and colors."""
    generator = np.random.default_rng(seed)
    period, phase = generator.integers(8, 16), generator.integers(0, 16)
    stripes = ((np.arange(side) + phase) // (period // 2)) % 2
    columns = np.tile(stripes, [side, 1])
    pattern = {"columns": columns, "rows": columns.T, "squares": columns ^ columns.T}[kind]
    colors = generator.integers(0, 256, [2, 3])
    return (colors[pattern] + generator.integers(0, 8, [side, side, 3])).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("textures")
    for split, count in (("train", 6), ("test", 4)):
        for number in range(count):
            for place, kind in enumerate(CLASSES):
                path = root / split / kind / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                seed = 100 * place + number + 50 * (split == "test")
                PIL.Image.fromarray(texture(kind, seed)).save(path)
    return root


@pytest.fixture(scope="module")
def run_config(folder):
    return config.Config(source=f"folder:{folder}", image_size=96, crop_size=32, network="cifar10_18").resolved()


@pytest.fixture(scope="module")
def result(run_config, folder):
    return baseline.run(run_config, modes=4, json_path=folder / "baseline.json")


def test_textures_are_told_apart_by_their_edges(result, folder):
    assert result["errors"]["train"] == {"num_examples": 15, "top1_error": 0.0, "top5_error": None}
    assert result["errors"]["test"]["top1_error"] <= 1 / 4
    assert result["majority_error"] == pytest.approx(2 / 3) and result["split"] == "test"
    assert json.loads((folder / "baseline.json").read_text()) == json.loads(json.dumps(result))


def test_the_same_seed_gives_the_same_errors(result, run_config, capsys):
    again = baseline.run(run_config, modes=4)
    assert again["errors"] == result["errors"]
    assert f"test        12 images: error {result['errors']['test']['top1_error']:.2%}" in capsys.readouterr().out


def test_wrong_splits_are_one_line(run_config):
    for split in ("train", "other"):
        with pytest.raises(ValueError, match=f"Expected split to be one of test, validation. Received: {split}"):
            baseline.run(run_config, split=split)


def test_descriptors_are_upright_and_of_norm_one():
    columns, rows = (fisher_vectors.dense_sift(texture(kind, 1)) for kind in ("columns", "rows"))
    np.testing.assert_allclose(np.linalg.norm(columns, axis=1), 1, atol=1e-5)
    # Energy by direction: 8 bins of each of 4 x 4 cells. Edges of columns are at 0 and 180 degrees.
    energy = [(each**2).reshape(-1, 16, 8).sum(axis=(0, 1)) for each in (columns, rows)]
    assert energy[0][[0, 4]].sum() > 0.8 * energy[0].sum() and energy[1][[2, 6]].sum() > 0.8 * energy[1].sum()
    assert not fisher_vectors.dense_sift(np.full([96, 96, 3], 9, np.uint8)).any()


def test_descriptors_do_not_depend_on_which_are_computed():
    image = texture("squares", 3)
    every = fisher_vectors.dense_sift(image)
    chosen = [0, 7, len(every) - 1]
    np.testing.assert_array_equal(fisher_vectors.dense_sift(image, chosen), every[chosen])


def test_fisher_vectors_are_normalized_gradients_of_the_mixture():
    images = [texture(kind, seed) for seed in range(2) for kind in CLASSES]
    encoder = fisher_vectors.fit_encoder(images, len(images), modes=1)
    reduced = encoder.components.transform(fisher_vectors.dense_sift(images[0]))
    # With one mode, the gradients are those of a normal distribution.
    centered = (reduced - encoder.mixture.means_[0]) / np.sqrt(encoder.mixture.covariances_[0])
    gradients = np.concatenate([[0], centered.mean(axis=0), (centered**2 - 1).mean(axis=0) / np.sqrt(2)])
    expected = np.sign(gradients) * np.sqrt(np.abs(gradients))
    expected /= np.linalg.norm(expected)
    found = encoder.encode(images[0])
    assert found.shape == (encoder.size,) and np.linalg.norm(found) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-4)


def test_scores_of_absent_classes_are_the_lowest():
    vectors = np.eye(4, dtype=np.float32)
    trained = fisher_vectors.classifier(vectors, np.array([1, 1, 3, 3]))
    scores = fisher_vectors.scores(trained, vectors, 5)
    assert scores.shape == (4, 5) and np.isneginf(scores[:, [0, 2, 4]]).all()
    assert scores.argmax(axis=1).tolist() == [1, 1, 3, 3]


def test_missing_packages_are_named(monkeypatch):
    # As in a process that has imported neither.
    for package, name in (("alexnet_tf.runs", "baseline"), ("alexnet_tf.evaluation", "fisher_vectors")):
        monkeypatch.delattr(sys.modules[package], name)
        monkeypatch.delitem(sys.modules, f"{package}.{name}")
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -e '.\[baseline\]'. Received: no cv2"):
        command._run(config.Config())
