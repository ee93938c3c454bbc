"""Ensembles: means and searched weights, compared with literal NumPy and brute force."""

import itertools

import numpy as np
import pytest
import reference_ensembles

from alexnet_tf.evaluation import ensembles
from alexnet_tf.evaluation import errors


def is_as_good(found, other):
    """Returns whether a pair of errors and loss is at least as good as another, up to rounding of the loss."""
    return found[0] < other[0] or (found[0] == other[0] and found[1] <= other[1] * (1 + 2e-6))


@pytest.mark.parametrize("elements", [1, 2**22])
def test_mean_equals_numpys_mean(monkeypatch, elements):
    monkeypatch.setattr(errors, "_ELEMENTS", elements)
    probabilities, _ = reference_ensembles.members(3, 20, 7)
    weights = [0.5, 0.0, 0.5]
    plain, weighted = ensembles.mean_probabilities(probabilities), ensembles.mean_probabilities(probabilities, weights)
    assert plain.dtype == weighted.dtype == np.float32
    np.testing.assert_allclose(plain, probabilities.astype(np.float64).mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(weighted, (probabilities[0] + probabilities[2].astype(np.float64)) / 2, rtol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7])
def test_copies_of_a_member_equal_the_member(count):
    probabilities, labels = reference_ensembles.members(1, 60, 8)
    same = np.repeat(probabilities, count, axis=0)
    np.testing.assert_array_equal(ensembles.mean_probabilities(same), probabilities[0])
    np.testing.assert_array_equal(ensembles.search_weights(same, labels), np.full([count], 1 / count))


@pytest.mark.parametrize(
    "weights",
    [[0.5, 0.5], [0.5, 0.6, 0.1], [1.5, -0.5, 0.0], [np.nan, 0.5, 0.5]],
    ids=["few", "sum", "negative", "nan"],
)
def test_invalid_weights_are_rejected(weights):
    with pytest.raises(ValueError, match=r"Expected 3 non-negative weights with sum 1\. Received: \["):
        ensembles.mean_probabilities(reference_ensembles.members(3, 4, 3)[0], weights)


@pytest.mark.parametrize("shape", [[4, 3], [0, 4, 3]])
def test_arrays_of_other_shapes_are_rejected(shape):
    with pytest.raises(ValueError, match=r"Expected probabilities \[members, examples, classes\]\. Received: \["):
        ensembles.mean_probabilities(np.zeros(shape, np.float32))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("piece", [1, 64])
def test_weights_of_two_members_are_optimal_on_the_grid(monkeypatch, seed, piece):
    monkeypatch.setattr(ensembles, "_CHUNK", piece)
    probabilities, labels = reference_ensembles.members(2, 80, 6, seed, strengths=[1.0, 1.8])
    weights = ensembles.search_weights(probabilities, labels, steps=20)
    found = reference_ensembles.score_by_hand(probabilities, labels, weights)
    grid = [
        reference_ensembles.score_by_hand(probabilities, labels, [share / 20, 1 - share / 20]) for share in range(21)
    ]
    assert is_as_good(found, min(grid))
    # Nor can they be better than the grid, as they are on it.
    assert is_as_good(min(grid), found)


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_weights_are_at_least_as_good_as_equal_weights_and_each_member(seed, count):
    probabilities, labels = reference_ensembles.members(
        count, 100, 10, seed, strengths=np.linspace(0.3, 2, count).tolist()
    )
    weights = ensembles.search_weights(probabilities, labels)
    assert weights.shape == (count,) and (weights >= 0).all()
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    found = reference_ensembles.score_by_hand(probabilities, labels, weights)
    for other in [np.full(count, 1 / count), *np.eye(count)]:
        assert is_as_good(found, reference_ensembles.score_by_hand(probabilities, labels, other))


@pytest.mark.parametrize("seed", range(3))
def test_no_change_of_one_weight_improves_the_weights(seed):
    probabilities, labels = reference_ensembles.members(3, 60, 6, seed, strengths=[0.8, 1.5, 1.2])
    weights = ensembles.search_weights(probabilities, labels, steps=10)
    found = reference_ensembles.score_by_hand(probabilities, labels, weights)
    for member in range(3):
        for share in np.linspace(0, 1, 11):
            others = np.where(np.arange(3) == member, 0, weights)
            # If this member has all the weight, the others share equally.
            others = others / others.sum() if others.any() else np.where(np.arange(3) == member, 0, 0.5)
            moved = (1 - share) * others + share * (np.arange(3) == member)
            assert is_as_good(found, reference_ensembles.score_by_hand(probabilities, labels, moved))


@pytest.mark.parametrize("strength", [-1.0, 0.0, 4.0])
@pytest.mark.parametrize("piece", [1, 64])
def test_removed_classes_do_not_change_the_scores(monkeypatch, strength, piece):
    monkeypatch.setattr(ensembles, "_CHUNK", piece)
    probabilities, labels = reference_ensembles.members(3, 150, 40, strengths=[strength, 2.0, 3.0])
    # Rounding to tenths makes ties.
    probabilities[:, ::2] = probabilities[:, ::2].round(1)
    pieces = ensembles._reduce_classes(probabilities, labels)
    assert np.mean([values.shape[2] for values, _ in pieces]) < (20 if piece == 1 else 40)
    candidates = np.random.default_rng(1).dirichlet(np.ones(3), 30)
    candidates[:4] = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0]]
    whole = [
        errors.from_probabilities(ensembles.mean_probabilities(probabilities, each), labels) for each in candidates
    ]
    for (wrong, loss), result in zip(ensembles._score(pieces, candidates), whole):
        assert wrong == round(result.top1_error * 150)
        assert loss == pytest.approx(150 * result.loss, rel=1e-9)


def test_order_of_members_only_permutes_the_weights():
    probabilities, labels = reference_ensembles.members(3, 120, 8, seed=3, strengths=[1.0, 1.6, 1.3])
    weights = ensembles.search_weights(probabilities, labels)
    assert len(set(weights.round(6))) == 3
    for order in itertools.permutations(range(3)):
        permuted = ensembles.search_weights(probabilities[list(order)], labels)
        np.testing.assert_allclose(permuted, weights[list(order)], atol=1e-12)
        np.testing.assert_allclose(
            ensembles.mean_probabilities(probabilities[list(order)]),
            ensembles.mean_probabilities(probabilities),
            rtol=1e-6,
        )


def test_misleading_member_gets_a_small_weight():
    probabilities, labels = reference_ensembles.members(2, 200, 5, strengths=[4.0, -6.0])
    weights = ensembles.search_weights(probabilities, labels)
    assert weights[0] > 0.9


def test_ties_of_errors_are_broken_by_the_loss():
    # All weights give the same predictions. The loss -ln(0.6 + 0.3 a) - ln(0.95 - 0.35 a) is smallest where
    # 0.3 (0.95 - 0.35 a) = 0.35 (0.6 + 0.3 a), at a = 0.357, and on the grid at 0.36.
    probabilities = np.array([[[0.9, 0.1], [0.4, 0.6]], [[0.6, 0.4], [0.05, 0.95]]], np.float32)
    weights = ensembles.search_weights(probabilities, np.array([0, 1]), steps=100)
    np.testing.assert_allclose(weights, [0.36, 0.64], atol=1e-9)


def test_division_takes_the_fraction_of_each_class():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 5], [10, 4, 20, 2]))
    search, held_out = ensembles.divide(labels, 0.25, seed=3)
    assert np.bincount(labels[search]).tolist() == [2, 1, 5]  # round(2.5) is 2, round(0.5) is 0
    assert np.union1d(search, held_out).tolist() == list(range(36))
    assert len(search) + len(held_out) == 36
    assert (np.diff(search) > 0).all() and (np.diff(held_out) > 0).all()
    again, other = ensembles.divide(labels, 0.25, seed=3), ensembles.divide(labels, 0.25, seed=4)
    np.testing.assert_array_equal(again[0], search)
    assert other[0].tolist() != search.tolist()


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 1.5, float("nan")])
def test_division_requires_a_fraction(fraction):
    with pytest.raises(ValueError, match="Expected the fraction .* between 0 and 1"):
        ensembles.divide(np.zeros(10, int), fraction, 0)


@pytest.mark.parametrize("fraction", [0.1, 0.9])
def test_division_requires_examples_in_both_parts(fraction):
    with pytest.raises(ValueError, match="Received: 4 images of 2 classes"):
        ensembles.divide(np.array([0, 0, 1, 1]), fraction, 0)


def test_weights_are_searched_on_one_part_and_tested_on_the_other():
    # The second member is misleading on the first half, the first member on the second half.
    good, labels = reference_ensembles.members(2, 40, 6, strengths=[5.0, -5.0])
    bad = good[::-1]
    probabilities = np.concatenate([good, bad], axis=1)
    both = np.concatenate([labels, labels])
    result = ensembles.evaluate(probabilities, both, np.arange(40), np.arange(40, 80))
    assert result.weights[0] > 0.9
    wrong, loss = reference_ensembles.score_by_hand(bad, labels, result.weights)
    assert result.weighted_held_out.num_examples == 40
    assert result.weighted_held_out.top1_error == wrong / 40 > 0.9
    assert result.weighted_held_out.loss == pytest.approx(loss, rel=1e-6)
    for found, (values, right) in {
        "mean": (probabilities, both),
        "mean_held_out": (bad, labels),
    }.items():
        wrong, loss = reference_ensembles.score_by_hand(values, right, [0.5, 0.5])
        assert getattr(result, found).top1_error == wrong / len(right)
        assert getattr(result, found).loss == pytest.approx(loss, rel=1e-6)


def of_errors(top1_error, top5_error):
    return errors.Errors(10, 1.0, top1_error, top5_error, np.zeros([2, 2], np.int64))


def test_table_has_all_errors_and_weights_in_columns():
    rows = [
        (
            "runs/with_a_long_name_of_a_directory",
            {"center crop": of_errors(0.5, 0.25), "ten views": of_errors(1.0, 0.0)},
        ),
        ("mean", {"center crop": of_errors(0.1234, None), "ten views": of_errors(0.1, None)}),
    ]
    shares = [("weight of a", {"center crop": 0.25, "ten views": 1.0})]
    lines = ensembles.table(rows, majority=0.75, weights=shares).splitlines()
    assert [line.split() for line in lines] == [
        ["center", "crop", "ten", "views"],
        ["top-1", "top-5", "top-1", "top-5"],
        ["runs/with_a_long_name_of_a_directory", "50.00%", "25.00%", "100.00%", "0.00%"],
        ["mean", "12.34%", "-", "10.00%", "-"],
        ["weight", "of", "a", "0.2500", "1.0000"],
        ["always", "the", "most", "frequent", "class", "75.00%"],
    ]
    assert len({len(line) for line in lines[:4]}) == 1


def test_table_has_no_columns_of_top5_errors_that_there_are_not():
    rows = [(name, {"center crop": of_errors(0.5, None), "ten views": of_errors(1.0, None)}) for name in ("a", "mean")]
    shares = [("weight of a", {"center crop": 0.25, "ten views": 1.0})]
    lines = ensembles.table(rows, majority=0.75, weights=shares).splitlines()
    assert [line.split() for line in lines] == [
        ["center", "crop", "ten", "views"],
        ["top-1", "top-1"],
        *([name, "50.00%", "100.00%"] for name in ("a", "mean")),
        ["weight", "of", "a", "0.2500", "1.0000"],
        ["always", "the", "most", "frequent", "class", "75.00%"],
    ]
    # All end in the same columns; weights leave two for the percent sign.
    assert [len(line) for line in lines] == [60] * 4 + [58, 46]


def test_gain_is_that_over_the_average_member():
    members = [of_errors(0.40, 0.20), of_errors(0.44, 0.10)]
    gain = ensembles.gain(members, of_errors(0.38, 0.16))
    assert gain == {"top1_error": pytest.approx(0.04), "top5_error": pytest.approx(-0.01)}
    assert ensembles.gain([of_errors(0.4, None)] * 2, of_errors(0.4, None)) == {"top1_error": 0.0, "top5_error": None}
