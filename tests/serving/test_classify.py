"""Classification of image files, and the table of predictions."""

import json
import os

import numpy as np
import pytest
import stand_in

from alexnet_tf.serving import classify

COLORS = [(10, 20, 70), (90, 5, 5), (0, 200, 10)]


def test_files_are_classified_in_order_and_fail_independently(backend, tmp_path):
    images = [stand_in.png(*COLORS[0]), stand_in.BAD, stand_in.png(*COLORS[1]), stand_in.png(*COLORS[2])]
    paths = stand_in.write_images(tmp_path, images)
    paths[2:2] = [str(tmp_path / "none.png"), str(tmp_path)]
    predictions = list(classify.classify_files(backend, paths, batch_size=2))
    assert [prediction.path for prediction in predictions] == paths
    expected = [
        (["blue", "größtes Grün"], ""),
        ([], stand_in.ERROR),
        ([], "Cannot read the file: No such file or directory"),
        ([], "Cannot read the file: Is a directory"),
        (["red", "größtes Grün"], ""),
        (["größtes Grün", "blue"], ""),
    ]
    assert [(prediction.classes, prediction.error) for prediction in predictions] == expected
    np.testing.assert_allclose(predictions[0].scores, [0.7, 0.2], rtol=1e-6)
    assert predictions[1].as_dict() == {"path": paths[1], "error": stand_in.ERROR}
    assert json.loads(json.dumps(predictions[4].as_dict()))["classes"] == ["red", "größtes Grün"]


class Counting:
    """A backend without classes that records the sizes of the images in each request."""

    def __init__(self):
        self.sizes = []

    def predict(self, images, signature="serving_default"):
        self.sizes.append([len(image) for image in images])
        count = len(images)
        strings = np.full([count], b"", object)
        return {"classes": strings[:, None], "scores": np.zeros([count, 1], np.float32), "errors": strings}


def test_requests_respect_the_limits_on_images_and_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(classify, "MAX_REQUEST_BYTES", 10)
    paths = stand_in.write_images(tmp_path, [b"x" * size for size in (4, 6, 1, 10, 11, 3, 3, 3, 0)])
    backend = Counting()
    predictions = list(classify.classify_files(backend, paths, batch_size=3))
    assert backend.sizes == [[4, 6], [1], [10], [3, 3, 3], [0]]
    assert [bool(prediction.error) for prediction in predictions] == [False] * 4 + [True] + [False] * 4
    assert "MiB. Received: a larger one" in predictions[4].error


def test_files_are_read_as_predictions_are_consumed(tmp_path):
    paths = stand_in.write_images(tmp_path, [b"x"] * 3)
    predictions = classify.classify_files(Counting(), paths, batch_size=1)
    next(predictions)
    os.remove(paths[2])
    assert [bool(prediction.error) for prediction in predictions] == [False, True]


def test_no_request_is_sent_without_readable_files(tmp_path):
    backend = Counting()
    assert list(classify.classify_files(backend, [])) == []
    assert [prediction.path for prediction in classify.classify_files(backend, [tmp_path / "none"])] == [
        str(tmp_path / "none")
    ]
    assert not backend.sizes


def test_outputs_of_another_network_are_rejected(tmp_path):
    (path,) = stand_in.write_images(tmp_path, [b"x"])
    backend = Counting()
    backend.predict = lambda images: {"logits": np.zeros([1, 10])}
    with pytest.raises(ValueError, match=r"Expected the outputs classes, scores and errors of 1 images\. .*\[1, 10\]"):
        list(classify.classify_files(backend, [path]))
    with pytest.raises(ValueError, match="Expected batch_size to be at least 1. Received: batch_size=0"):
        list(classify.classify_files(backend, [path], batch_size=0))


def test_table_is_aligned_for_any_class_names():
    names = ["cat", "größte Wüste", "n01440764 " + "very long " * 9, "日本犬", "e\u0301", "a\nb\x1b[31m"]
    prediction = classify.Prediction("cat.jpg", names, [1.0, 0.5, 0.25, 0.00625, 0.0, 1e-9], "")
    path, *lines = classify.format_table([prediction], top=6).splitlines()
    assert path == "cat.jpg" and len(lines) == 6
    assert lines[0] == "  cat" + " " * 37 + " 100.00%  " + "█" * 20
    assert lines[1].endswith("  50.00%  " + "█" * 10)
    assert lines[2].startswith("  n01440764 very long very long very lo...  25.00%  █████")
    # Wide characters take two columns, combining accents none.
    assert lines[3] == "  日本犬" + " " * 34 + "   0.62%  ▏"
    assert lines[4] == "  e\u0301" + " " * 39 + "   0.00%"
    assert lines[5].startswith(r"  a\nb\x1b[31m ")


def test_table_shows_available_classes_and_errors():
    predictions = [
        classify.Prediction("a", ["x", "y"], [0.5, 0.25], ""),
        classify.Prediction("b", [], [], "Expected an image. Received: none"),
    ]
    lines = classify.format_table(predictions, top=1).splitlines()
    assert [line.split()[0] for line in lines] == ["a", "x", "b", "Expected"]
    assert len(classify.format_table(predictions, top=5).splitlines()) == 5
