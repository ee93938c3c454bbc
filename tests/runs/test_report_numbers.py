"""Every number of a report about predictions, and of the tables in the terminal, equals scikit-learn's."""

import re
import types

import numpy as np
import pytest
import scipy.special

from alexnet_tf import config
from alexnet_tf.evaluation import errors
from alexnet_tf.reporting import figures
from alexnet_tf.reporting import pages
from alexnet_tf.reporting import pictures
from alexnet_tf.runs import class_report
from alexnet_tf.runs import classification
from alexnet_tf.runs import fitted_temperature
from alexnet_tf.runs import report
from alexnet_tf.runs import split_results
from alexnet_tf.utils import output

metrics = pytest.importorskip("sklearn.metrics")
sklearn_calibration = pytest.importorskip("sklearn.calibration")
dummy = pytest.importorskip("sklearn.dummy")

# With 12 classes one has no images, and another one neither images nor predictions. Of 30, the lowest are listed.
CLASS_COUNTS = (2, 12, 30)
STEP, BINS = 7, 15


def make_result(split, num_classes, seed, count=240):
    """Returns a result of random probabilities that are better than a guess and overconfident."""
    generator = np.random.default_rng(seed)
    labels = generator.choice(num_classes, count, p=(shares := np.arange(1, num_classes + 1)) / shares.sum())
    if num_classes == 12:
        labels[labels >= 10] = 0
    probabilities = {}
    for views in split_results.VIEWS:
        logits = generator.normal(0, 3, [count, num_classes])
        logits[np.arange(count), labels] += 3
        if num_classes == 12:
            logits[:, 11] = -30
        probabilities[views] = scipy.special.softmax(logits, axis=1).astype(np.float32)
    results = {views: errors.from_probabilities(each, labels) for views, each in probabilities.items()}
    return split_results.SplitResult(split, labels, probabilities, results, "ten views")


def names_of(num_classes):
    return [f"class {number}" for number in range(num_classes)]


@pytest.fixture(scope="module", params=CLASS_COUNTS)
def results(request):
    return [make_result("validation", request.param, 0), make_result("test", request.param, 1)]


@pytest.fixture
def drawn(monkeypatch):
    """What the figures are drawn from, by the names of their functions."""
    found = {}

    def draw_nothing(workdir, name, draw, caption):
        draw()
        return []

    for name in ("confusion_matrix", "reliability"):
        monkeypatch.setattr(figures, name, lambda *arguments, name=name: found.update({name: arguments[0]}))
    monkeypatch.setattr(pictures, "blocks", draw_nothing)
    return found


def percent(value):
    return "-" if np.isnan(value) else f"{100 * value:.2f}%"


def headline(result):
    """Returns the probabilities and the predicted classes by the view set of most sections."""
    probabilities = result.probabilities[result.headline]
    return probabilities, probabilities.argmax(axis=1)


def majority_accuracy(result):
    images = np.zeros([len(result.labels), 1])
    return dummy.DummyClassifier(strategy="most_frequent").fit(images, result.labels).score(images, result.labels)


def data_of(result):
    num_classes = result.probabilities[result.headline].shape[1]
    names, train = tuple(names_of(num_classes)), types.SimpleNamespace(labels=np.zeros(90))
    source = types.SimpleNamespace(name="any", class_names=names, display_names=names, splits={"train": train})
    return types.SimpleNamespace(source=source)


def test_summary_and_errors(results):
    result = results[-1]
    (summary,) = report._summary(config.Config(), None, data_of(result), result, STEP, None)
    accuracy = metrics.accuracy_score(result.labels, headline(result)[1])
    assert f"It classifies {100 * accuracy:.1f}% of the 240 images" in summary.text
    assert f"most frequent class would be correct for {100 * majority_accuracy(result):.1f}%." in summary.text
    (table,) = [each for each in report._errors(config.Config(), data_of(result), results) if hasattr(each, "rows")]
    rows = iter(table.rows)
    for each in results:
        for views, probabilities in each.probabilities.items():
            num_classes = probabilities.shape[1]
            expected = [1 - metrics.accuracy_score(each.labels, probabilities.argmax(axis=1))]
            if num_classes > 5:
                options = {"k": 5, "labels": range(num_classes)}
                expected.append(1 - metrics.top_k_accuracy_score(each.labels, probabilities, **options))
            assert next(rows) == [f"this run, {each.split}, {views}", 240, *map(percent, expected)]
        assert next(rows)[2] == percent(1 - majority_accuracy(each))
    assert not list(rows)


def test_confusions(results, drawn, tmp_path):
    result, num_classes = results[-1], results[-1].probabilities["ten views"].shape[1]
    blocks = list(report._confusion(tmp_path, result, names_of(num_classes)))
    options = {"labels": range(num_classes)}
    matrix = metrics.confusion_matrix(result.labels, headline(result)[1], **options)
    np.testing.assert_array_equal(drawn["confusion_matrix"], matrix)
    (table,) = [each for each in blocks if isinstance(each, pages.Table)]
    mistakes = np.sort(matrix[~np.eye(num_classes, dtype=bool)])[::-1]
    assert [row[2] for row in table.rows] == [count for count in mistakes[:5].tolist() if count]
    shares = metrics.confusion_matrix(result.labels, headline(result)[1], normalize="true", **options)
    for true, predicted, count, share in table.rows:
        place = names_of(num_classes).index(true), names_of(num_classes).index(predicted)
        assert (count, share) == (matrix[place], f"{100 * shares[place]:.1f}%")


def class_figures(result):
    """Returns the rows of the table of classes by name, the classes in the order of their F1, and both means."""
    probabilities, predicted = headline(result)
    options = {"labels": range(probabilities.shape[1]), "zero_division": np.nan}
    precision, recall, f1, support = metrics.precision_recall_fscore_support(result.labels, predicted, **options)
    rows = {
        name: [support[place], *map(percent, (precision[place], recall[place], f1[place]))]
        for place, name in enumerate(names_of(probabilities.shape[1]))
    }
    order = [f"class {place}" for place in np.argsort(f1, kind="stable")]
    means = (
        metrics.balanced_accuracy_score(result.labels, predicted),
        metrics.f1_score(result.labels, predicted, average="macro", **options),
    )
    return rows, order, [percent(mean) for mean in means]


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_classes(results, capsys):
    result = results[-1]
    rows, order, means = class_figures(result)
    _, paragraph, table = class_report._classes(result, list(rows))
    assert re.findall(r"-|\d+\.\d\d%", paragraph.text)[:2] == means
    listed = list(rows) if len(rows) <= 20 else order[:10]
    assert [row[0] for row in table.rows] == listed
    assert all(row[1:] == rows[row[0]] for row in table.rows)
    assert (["0", "-", "-", "-"] in [list(map(str, row[1:])) for row in table.rows]) == (len(rows) == 12)
    # The terminal has the same.
    section = classification.to_json(result, list(rows))
    classification.print_figures(result, section, list(rows), classification.choose(result), output.Console(width=200))
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("    class ")]
    assert [" ".join(line[:2]) for line in lines] == listed
    for line, name in zip(lines, listed):
        count, *shares = rows[name]
        assert line[2:] == [*shares, str(count)]


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_evaluation_json_and_the_terminal(results, capsys):
    result, num_classes = results[-1], results[-1].probabilities["ten views"].shape[1]
    section = classification.to_json(result, names_of(num_classes))
    choice = classification.choose(result)
    classification.print_figures(result, section, names_of(num_classes), choice, output.Console(width=200))
    printed = capsys.readouterr().out.splitlines()[1:3]
    for line, (views, probabilities) in zip(printed, result.probabilities.items(), strict=True):
        found, predicted = section[split_results.json_key(views)], probabilities.argmax(axis=1)
        options = {"labels": range(num_classes), "zero_division": np.nan}
        expected = metrics.precision_recall_fscore_support(result.labels, predicted, **options)
        for name, values in zip(("precision", "recall", "f1"), expected):
            np.testing.assert_allclose(np.array(found[name], np.float64), values, rtol=1e-14)
        assert section["support"] == expected[3].tolist()
        matrix = metrics.confusion_matrix(result.labels, predicted, labels=range(num_classes))
        assert found["confusion_matrix"] == matrix.tolist()
        balanced = metrics.balanced_accuracy_score(result.labels, predicted)
        macro = metrics.f1_score(result.labels, predicted, average="macro", **options)
        error = calibration_of(probabilities, result.labels)[2]
        for name, value in (
            ("balanced_accuracy", balanced),
            ("macro_f1", macro),
            ("expected_calibration_error", error),
        ):
            assert found[name] == pytest.approx(value, rel=1e-6)
        shown = [percent(balanced), percent(error)]
        if num_classes == 2:
            area = metrics.roc_auc_score(result.labels, probabilities[:, 1])
            assert found["area_under_roc"] == pytest.approx(area, rel=1e-14)
            shown.append(f"{area:.4f}")
        assert line.split() == [*views.split(), *shown]


def test_thresholds_of_two_classes():
    chosen_on, result = make_result("validation", 2, 0), make_result("test", 2, 1)
    _, paragraph, table = class_report._thresholds(chosen_on, result, names_of(2))
    area = metrics.roc_auc_score(result.labels, headline(result)[0][:, 1])
    assert f"The area under the ROC curve is {area:.4f}." in paragraph.text
    rows = iter(table.rows)
    for positive in (0, 1):
        for sensitivity in (0.9, 0.95, 0.99):
            scores = headline(chosen_on)[0][:, positive], headline(result)[0][:, positive]
            options = {"drop_intermediate": False}
            _, rates, thresholds = metrics.roc_curve(chosen_on.labels == positive, scores[0], **options)
            threshold = thresholds[np.argmax(rates >= sensitivity)]
            right, found = result.labels == positive, scores[1] >= threshold
            expected = metrics.recall_score(right, found), metrics.recall_score(~right, ~found)
            expected = map(percent, (*expected, metrics.precision_score(right, found)))
            assert next(rows) == [f"class {positive}", f"{100 * sensitivity:g}%", f"{threshold:.4g}", *expected]
    assert not list(rows)


def calibration_of(probabilities, labels):
    """Returns accuracy and confidence of the bins with images, and their mean difference."""
    confidences, is_correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    accuracy, confidence = sklearn_calibration.calibration_curve(is_correct, confidences, n_bins=BINS)
    counts = np.histogram(confidences, BINS, (0, 1))[0]
    weights = counts[counts > 0] / len(labels)
    return accuracy, confidence, float((np.abs(accuracy - confidence) * weights).sum())


def test_calibration(results, drawn, tmp_path):
    chosen_on, result = results
    choice = classification.choose(chosen_on, fit_temperature=True)
    fitted_temperature.write(tmp_path, choice, STEP)
    _, paragraph = class_report._calibration(tmp_path, result, STEP)
    probabilities, temperature = headline(result)[0], choice.temperatures["ten views"]
    corrected = scipy.special.softmax(np.log(probabilities.astype(np.float64)) / temperature, axis=1)
    shown = re.findall(r"\d+\.\d\d%", paragraph.text)
    for curve, each, error in zip(drawn["reliability"].values(), (probabilities, corrected), shown, strict=True):
        accuracy, confidence, expected = calibration_of(each, result.labels)
        has_images = curve.counts > 0
        np.testing.assert_allclose(curve.accuracy[has_images], accuracy, rtol=1e-12)
        np.testing.assert_allclose(curve.confidence[has_images], confidence, rtol=1e-5)
        assert error == percent(expected)
    assert (
        f"With the temperature {temperature:.4g}, fitted on 240 validation images, it is {shown[1]}." in paragraph.text
    )


def test_losses(results):
    """In evaluation.json and in the terminal; training reports the same of each split."""
    for result in results:
        for views, probabilities in result.probabilities.items():
            # In float64, so that scikit-learn does not clip at the resolution of float32.
            exact = probabilities.astype(np.float64)
            exact /= exact.sum(axis=1, keepdims=True)
            expected = metrics.log_loss(result.labels, exact, labels=range(exact.shape[1]))
            assert result.results[views].loss == pytest.approx(expected, rel=1e-6)
        table = errors.table(result.results, 0.5)
        assert all(f"{found.loss:.4f}" in table for found in result.results.values())
