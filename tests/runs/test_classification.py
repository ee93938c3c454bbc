"""Figures class by class, thresholds and temperatures of a split, and their sections of a report."""

import csv
import io
import json

import numpy as np
import pytest

from alexnet_tf.evaluation import calibration
from alexnet_tf.evaluation import errors
from alexnet_tf.evaluation import roc
from alexnet_tf.reporting import pages
from alexnet_tf.runs import class_report
from alexnet_tf.runs import classification
from alexnet_tf.runs import fitted_temperature
from alexnet_tf.runs import split_results
from alexnet_tf.utils import output

PAIR = ["defective, 'a'\n", "sound"]


def make_result(split="validation", num_classes=2, count=120, seed=0):
    """Returns a result of random probabilities, overconfident and better than a guess."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, num_classes, count)
    probabilities = {}
    for views in split_results.VIEWS:
        logits = generator.normal(0, 4, [count, num_classes])
        logits[np.arange(count), labels] += 4
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities[views] = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    results = {views: errors.from_probabilities(each, labels) for views, each in probabilities.items()}
    return split_results.SplitResult(split, labels, probabilities, results, "ten views")


def test_figures_equal_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    result = make_result()
    section = classification.to_json(result, PAIR)
    assert json.loads(json.dumps(section)) == section
    for views, probabilities in result.probabilities.items():
        found, predicted = section[split_results.json_key(views)], probabilities.argmax(axis=1)
        expected = metrics.precision_recall_fscore_support(result.labels, predicted)
        for own, each in zip((*(found[name] for name in ("precision", "recall", "f1")), section["support"]), expected):
            np.testing.assert_allclose(own, each, rtol=1e-14)
        assert found["confusion_matrix"] == metrics.confusion_matrix(result.labels, predicted).tolist()
        assert found["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(result.labels, predicted))
        assert found["macro_f1"] == pytest.approx(metrics.f1_score(result.labels, predicted, average="macro"))
        assert found["area_under_roc"] == pytest.approx(metrics.roc_auc_score(result.labels, probabilities[:, 1]))
        assert not {"operating_point", "calibrated"} & found.keys()


def test_choice_is_applied_to_another_split(capsys):
    chosen_on, result = make_result(), make_result("test", seed=1)
    choice = classification.choose(chosen_on, fit_temperature=True, sensitivity=0.9, positive=0)
    section = classification.to_json(result, PAIR, choice)
    for views, own in chosen_on.probabilities.items():
        found, probabilities = section[split_results.json_key(views)], result.probabilities[views]
        temperature = calibration.fit_temperature(own, chosen_on.labels)
        corrected = calibration.apply_temperature(probabilities, temperature)
        assert found["calibrated"]["temperature"] == temperature
        assert found["calibrated"]["loss"] == errors.from_probabilities(corrected, result.labels).loss
        error = calibration.reliability(corrected, result.labels).expected_calibration_error
        assert found["calibrated"]["expected_calibration_error"] == error < found["expected_calibration_error"]
        threshold = roc.threshold_for(0.9, own[:, 0], chosen_on.labels == 0)
        point = roc.operating_point(threshold, probabilities[:, 0], result.labels == 0)
        assert found["operating_point"] == {
            **{"positive_class": PAIR[0], "chosen_on": "validation", "requested_sensitivity": 0.9},
            **point._asdict(),
        }
        # A temperature keeps the order of the images, so it moves the threshold only.
        calibrated = found["calibrated"]["operating_point"]
        assert calibrated["threshold"] != threshold
        assert (calibrated["sensitivity"], calibrated["specificity"]) == (point.sensitivity, point.specificity)
    classification.print_figures(result, section, PAIR, choice, output.Console())
    printed = capsys.readouterr().out
    assert "temperature, ten views: " in printed and "fitted on 120 validation images; calibration error " in printed
    assert "threshold, center crop, calibrated: defective, 'a'\\n if its probability is at least " in printed
    assert "optimistic" not in printed


def test_positive_class_is_one_of_two():
    assert classification.positive_index(PAIR, "sound") == 1
    with pytest.raises(ValueError, match="^Expected two classes to choose a threshold for a sensitivity. Received: 3$"):
        classification.positive_index(["a", "b", "c"], "a")
    with pytest.raises(ValueError, match="^Expected positive_class to be 'a' or 'b'. Received: none$"):
        classification.positive_index(["a", "b"], "")


def test_tables_have_every_class(tmp_path):
    result = make_result(num_classes=3, count=9)
    names = ["a,b", 'c "d"', "e\nf"]
    classification.write_classes_csv(tmp_path / "classes.csv", result, names)
    classification.write_confusion_csv(tmp_path / "confusion.csv", result, names)
    classes, confusion = (
        list(csv.reader(io.StringIO((tmp_path / name).read_text(), newline="")))
        for name in ("classes.csv", "confusion.csv")
    )
    section = classification.to_json(result, names)
    assert classes[0] == ["class", "precision", "recall", "f1", "support"]
    assert [row[0] for row in classes[1:]] == names
    assert [float(row[2]) for row in classes[1:]] == section["ten_views"]["recall"]
    assert confusion[0] == ["true class", *names]
    assert [list(map(int, row[1:])) for row in confusion[1:]] == section["ten_views"]["confusion_matrix"]


@pytest.mark.parametrize("num_classes, listed", [(20, 20), (200, 10)])
def test_many_classes_stay_readable(tmp_path, capsys, num_classes, listed):
    result = make_result(num_classes=num_classes, count=400)
    names = [f"class {number}" for number in range(num_classes)]
    (tmp_path / "figures").mkdir()
    blocks = list(class_report.sections(tmp_path, [result], names, 7))
    (table,) = [block for block in blocks if isinstance(block, pages.Table)]
    assert len(table.rows) == listed
    text = " ".join(block.text for block in blocks if isinstance(block, pages.Paragraph))
    assert ("lowest F1 are shown" in text) == (num_classes > 20)
    choice = classification.choose(result)
    classification.print_figures(result, classification.to_json(result, names), names, choice, output.Console())
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("    class ") for line in lines) == listed


def test_report_has_thresholds_and_the_fitted_temperature(tmp_path):
    results = [make_result(), make_result("test", seed=1)]
    (tmp_path / "figures").mkdir()
    fitted_temperature.write(tmp_path, classification.choose(results[0], fit_temperature=True), 7)
    blocks = list(class_report.sections(tmp_path, results, PAIR, 7))
    _, thresholds = [block for block in blocks if isinstance(block, pages.Table)]
    assert len(thresholds.rows) == 6
    text = " ".join(block.text for block in blocks if isinstance(block, pages.Paragraph))
    assert "Thresholds are chosen on the validation set; the figures are of the test set." in text
    assert "fitted on 120 validation images, it is " in text
    other_step = list(class_report.sections(tmp_path, results, PAIR, 8))
    assert "fitted on" not in " ".join(block.text for block in other_step if isinstance(block, pages.Paragraph))


def test_temperature_at_a_limit_is_reported(capsys):
    result = make_result()
    labels = result.probabilities["ten views"].argmax(axis=1)
    result = result._replace(labels=labels)
    choice = classification.choose(result, fit_temperature=True)
    classification.print_figures(result, classification.to_json(result, PAIR, choice), PAIR, choice, output.Console())
    printed = capsys.readouterr().out
    assert "temperature, ten views: 0.05, " in printed
    assert "at the limit of the search, so these images do not determine it" in printed
    assert "chosen on the validation images themselves, so these figures are optimistic" in printed
