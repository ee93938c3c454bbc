"""Predictions as CSV files."""

import csv
import os
import threading

import numpy as np
import pytest
import stand_in

from alexnet_tf.evaluation import errors
from alexnet_tf.runs import dataset
from alexnet_tf.runs import predictions
from alexnet_tf.runs import split_results


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("headline, best", [("ten views", ["c", "a", "b"]), ("center crop", ["a", "b", "c"])])
def test_evaluated_images_have_their_name_true_class_and_most_probable_classes(tmp_path, monkeypatch, headline, best):
    names = ["x,1.jpg", 'y "2".jpg', os.fsdecode(b"caf\xe9.jpg")]
    monkeypatch.setattr(dataset, "example_names", lambda data, split: names.__getitem__)
    monkeypatch.setattr(errors, "_ELEMENTS", 6)
    labels = np.array([2, 0, 1])
    # Of equally probable classes the first ranks highest.
    probabilities = {
        "center crop": np.array([[0.4, 0.4, 0.2]] * 3, np.float32),
        "ten views": np.array([[0.3, 0.1, 0.6]] * 3, np.float32),
    }
    result = split_results.SplitResult("test", labels, probabilities, {}, headline)
    data = dataset.Data(dataset.sources.Source("test", ("a", "b", "c"), {}), {}, None, {})
    predictions.write_evaluated(tmp_path / "top.csv", result, data, top=2)
    predictions.write_evaluated(tmp_path / "all.csv", result, data, top=9)
    header, *rows = read(tmp_path / "all.csv")
    assert header == ["file", "true_class", *(f"{name}_{rank}" for rank in "123" for name in ("class", "probability"))]
    assert [row[0] for row in rows] == ["x,1.jpg", 'y "2".jpg', "caf\\xe9.jpg"]
    assert [row[1] for row in rows] == ["c", "a", "b"]
    for row in rows:
        assert row[2::2] == best
        assert np.float32(row[3]) == probabilities[headline].max()
    assert [row[:6] for row in rows] == read(tmp_path / "top.csv")[1:]


class Backend:
    """A network whose class is the first letter of an image's content; "?" cannot be decoded."""

    def __init__(self):
        self.sizes, self.running, self.most, self._lock = [], 0, 0, threading.Lock()

    def predict(self, images, signature="serving_default"):
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
            self.sizes.append(len(images))
        is_bad = np.array([image == b"?" for image in images])
        classes = np.array([[b"" if bad else image[:1], b"other"] for image, bad in zip(images, is_bad)], object)
        scores = np.where(is_bad[:, None], 0, np.array([[0.75, 0.25]], np.float32))
        with self._lock:
            self.running -= 1
        return {"classes": classes, "scores": scores, "errors": np.where(is_bad, stand_in.ERROR.encode(), b"")}


def test_classified_images_are_in_order_with_errors(tmp_path, capsys):
    contents = [b"?", *(b"%d" % (number % 10) for number in range(1, 30)), b"?"]
    images = stand_in.write_images(tmp_path, contents)
    images.insert(5, str(tmp_path / "none.jpg"))
    backend = Backend()
    failed = predictions.write_classified(tmp_path / "p.csv", backend, images, batch_size=4, top=5)
    header, *rows = read(tmp_path / "p.csv")
    assert header == ["file", "class_1", "probability_1", "class_2", "probability_2", "error"]
    assert [row[0] for row in rows] == images
    assert sorted(backend.sizes) == [3] + [4] * 7 and backend.most <= 2
    for row, content in zip(rows, contents[:5] + [b"none"] + contents[5:], strict=True):
        if content == b"none":
            assert row[1:] == ["", "", "", "", "Cannot read the file: No such file or directory"]
        elif content == b"?":
            assert row[1:] == ["", "", "", "", stand_in.ERROR]
        else:
            assert row[1:] == [content.decode(), "0.75", "other", "0.25", ""]
    assert failed == (3, f"{images[0]}: {stand_in.ERROR}")
    printed = capsys.readouterr().out
    assert f"warning: {images[5]}: Cannot read the file" in printed
    assert f"predictions {tmp_path / 'p.csv'}: 29 of 32 images classified" in printed


def test_many_unreadable_images_are_counted(tmp_path, capsys):
    images = [str(tmp_path / f"{number}.jpg") for number in range(13)]
    assert predictions.write_classified(tmp_path / "p.csv", Backend(), images, top=1).count == 13
    assert [len(row) for row in read(tmp_path / "p.csv")] == [4] * 14
    printed = capsys.readouterr().out
    assert printed.count("No such file") == 10 and "warning: 3 more errors are in the column error of " in printed


def test_failing_network_leaves_no_file(tmp_path):
    backend = Backend()
    backend.predict = lambda images: (_ for _ in ()).throw(OSError("gone"))
    with pytest.raises(OSError, match="gone"):
        predictions.write_classified(
            tmp_path / "p.csv", backend, stand_in.write_images(tmp_path, [b"x"] * 9), batch_size=1
        )
    assert not list(tmp_path.glob("*.csv*"))
