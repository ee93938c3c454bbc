"""Weights of classes: from counts or a file, normalized, and kept by a run."""

import numpy as np
import pytest

from alexnet_tf import config
from alexnet_tf.runs import class_weights

NAMES = ["cat", "dog", "eel"]
# Six cats and two dogs; nobody has an eel.
LABELS = np.array([0, 0, 1, 0, 0, 1, 0, 0])


def resolve(tmp_path, given, labels=LABELS, **changes):
    run_config = config.Config(class_weights=str(given), **changes)
    return class_weights.resolve(run_config, NAMES, labels, str(tmp_path / "run"))


def weight_file(tmp_path, text, name="weights.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_without_weights_there_are_none(tmp_path):
    assert resolve(tmp_path, "none") is None


def test_balanced_weights_give_each_class_the_same_total_and_images_a_mean_of_one(tmp_path):
    factors = resolve(tmp_path, "balanced").factors(NAMES)
    np.testing.assert_allclose(factors[:2], [8 / (2 * 6), 8 / (2 * 2)], rtol=1e-6)
    assert factors[LABELS].mean() == pytest.approx(1) and factors.dtype == np.float32
    assert np.isfinite(factors).all()


@pytest.mark.parametrize(
    "name, text",
    [
        ("weights.csv", "class,weight\ndog,5\ncat,1\n\neel,2.5\n"),
        ("weights.csv", "\ufeffcat, 1\r\ndog, 5\r\neel, 2.5"),
        ("weights.json", '{"cat": 1, "dog": 5, "eel": 2.5}'),
    ],
)
def test_weights_of_a_file_are_scaled_to_a_mean_of_one_over_the_images_drawn(tmp_path, name, text):
    path = weight_file(tmp_path, text, name)
    np.testing.assert_allclose(resolve(tmp_path, path).factors(NAMES), [0.5, 2.5, 1.25], rtol=1e-6)
    balanced = resolve(tmp_path, path, sampling="balanced").factors(NAMES)
    np.testing.assert_allclose(balanced, np.array([1, 5, 2.5]) / 3, rtol=1e-6)


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("w.csv", "cat,1\ndog,2", "a weight for each of the 3 classes. Received: none for 'eel'"),
        ("w.csv", "cat,1\ndog,2\neel,1\nemu,1", "Received: one for 'emu', which is not a class"),
        ("w.csv", "cat,1\ndog,many\neel,1", "Received: .*'dog,many' on line 2"),
        ("w.csv", "cat,1\ncat,2\ndog,1\neel,1", "two lines for 'cat'"),
        ("w.csv", "cat,0\ndog,1\neel,1", "not a number above 0"),
        ("w.csv", "cat,nan\ndog,1\neel,1", "not a number above 0"),
        ("w.json", '{"cat": 1, "dog": "2", "eel": 1}', "not a number"),
        ("w.json", "[1, 2, 3]", "not an object"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        resolve(tmp_path, weight_file(tmp_path, text, name))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="class_weights to be none, balanced or a file. Received: .*balancd"):
        resolve(tmp_path, "balancd")


def test_a_run_keeps_to_its_weights(tmp_path):
    path, run = weight_file(tmp_path, "cat,1\ndog,5\neel,2.5"), tmp_path / "run"
    run.mkdir()
    kept = resolve(tmp_path, path)
    class_weights.write(str(run), kept)
    # Whatever the images are that it resumes with.
    assert resolve(tmp_path, path, LABELS[:3]) == kept
    path.write_text("cat,1\ndog,4\neel,2.5")
    with pytest.raises(
        ValueError, match="weights in .*weights.csv that .*run was trained with. Received: different weights"
    ):
        resolve(tmp_path, path)
    path.unlink()
    assert resolve(tmp_path, path) == kept
    record = run / class_weights.RECORD
    record.write_text(record.read_text().replace("2.5", "9.5"))
    with pytest.raises(ValueError, match="contents that differ from those that were written"):
        resolve(tmp_path, path)


def test_a_run_says_how_it_treats_classes(tmp_path):
    found, run_config = resolve(tmp_path, "balanced"), config.Config(class_weights="balanced")
    assert class_weights.describe(None, config.Config(), LABELS, 8) == []
    assert class_weights.describe(found, run_config, LABELS, 8) == [
        "class weights in the loss: 0.667 (cat) to 4 (eel); errors and printed losses are unweighted"
    ]
    assert class_weights.describe(None, config.Config(sampling="balanced"), LABELS, 8) == [
        "an epoch draws 8 images, 4 or one more of each class: 2 times the smallest class, 0.667 times the largest"
    ]
