"""Ensembles: means and searched weights against literal NumPy and brute force, and whole runs asked together."""

import dataclasses
import itertools
import json
import pathlib
import shutil
import weakref

import forks
import numpy as np
import pytest
from PIL import Image

from alexnet_tf import config as configuration
from alexnet_tf import flagfiles
from alexnet_tf.data import statistics
from alexnet_tf.evaluation import ensembles
from alexnet_tf.evaluation import errors
from alexnet_tf.runs import builders
from alexnet_tf.runs import dataset
from alexnet_tf.runs import evaluate


def members(count, examples, classes, seed=0, strengths=None):
    """Members that know something, each with noise of its own: float32 probabilities, and the labels."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, examples)
    logits = generator.normal(0, 1.5, [count, examples, classes])
    for member, strength in enumerate(strengths or [1.5] * count):
        logits[member, np.arange(examples), labels] += strength
    softmax = np.exp(logits)
    softmax /= softmax.sum(axis=-1, keepdims=True)
    return softmax.astype(np.float32), labels


def judge_by_hand(probabilities, labels, weights):
    """Top-1 errors and the mean loss, example by example."""
    wrong, loss = 0, 0.0
    for example, label in enumerate(labels):
        mixed = sum(weight * row.astype(np.float64) for weight, row in zip(weights, probabilities[:, example]))
        wrong += int(mixed.argmax()) != label
        loss -= np.log(mixed[label])
    return wrong, loss / len(labels)


def is_as_good(found, other):
    """Whether a pair of errors and loss is not worse than another, but for the rounding of the loss."""
    return found[0] < other[0] or (found[0] == other[0] and found[1] <= other[1] * (1 + 2e-6))


@pytest.mark.parametrize("elements", [1, 2**22])
def test_mean_is_the_mean(monkeypatch, elements):
    monkeypatch.setattr(errors, "_ELEMENTS", elements)
    probabilities, _ = members(3, 20, 7)
    weights = [0.5, 0.0, 0.5]
    plain, weighted = ensembles.mean_probabilities(probabilities), ensembles.mean_probabilities(probabilities, weights)
    assert plain.dtype == weighted.dtype == np.float32
    np.testing.assert_allclose(plain, probabilities.astype(np.float64).mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(weighted, (probabilities[0] + probabilities[2].astype(np.float64)) / 2, rtol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7])
def test_a_member_several_times_is_that_member(count):
    probabilities, labels = members(1, 60, 8)
    same = np.repeat(probabilities, count, axis=0)
    np.testing.assert_array_equal(ensembles.mean_probabilities(same), probabilities[0])
    np.testing.assert_array_equal(ensembles.search_weights(same, labels), np.full([count], 1 / count))


@pytest.mark.parametrize(
    "weights",
    [[0.5, 0.5], [0.5, 0.6, 0.1], [1.5, -0.5, 0.0], [np.nan, 0.5, 0.5]],
    ids=["few", "sum", "negative", "nan"],
)
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(ValueError, match=r"Expected 3 non-negative weights with sum 1\. Received: \["):
        ensembles.mean_probabilities(members(3, 4, 3)[0], weights)


@pytest.mark.parametrize("shape", [[4, 3], [0, 4, 3]])
def test_arrays_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"Expected probabilities \[members, examples, classes\]\. Received: \["):
        ensembles.mean_probabilities(np.zeros(shape, np.float32))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("piece", [1, 64])
def test_weights_of_two_members_are_the_best_of_a_grid(monkeypatch, seed, piece):
    monkeypatch.setattr(ensembles, "_CHUNK", piece)
    probabilities, labels = members(2, 80, 6, seed, strengths=[1.0, 1.8])
    weights = ensembles.search_weights(probabilities, labels, steps=20)
    found = judge_by_hand(probabilities, labels, weights)
    grid = [judge_by_hand(probabilities, labels, [share / 20, 1 - share / 20]) for share in range(21)]
    assert is_as_good(found, min(grid))
    # Nor is it better than what a grid has: it stands on one.
    assert is_as_good(min(grid), found)


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_weights_are_as_good_as_equal_ones_and_each_member_where_they_were_searched(seed, count):
    probabilities, labels = members(count, 100, 10, seed, strengths=np.linspace(0.3, 2, count).tolist())
    weights = ensembles.search_weights(probabilities, labels)
    assert weights.shape == (count,) and (weights >= 0).all()
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    found = judge_by_hand(probabilities, labels, weights)
    for other in [np.full(count, 1 / count), *np.eye(count)]:
        assert is_as_good(found, judge_by_hand(probabilities, labels, other))


@pytest.mark.parametrize("seed", range(3))
def test_no_share_of_one_member_improves_on_the_weights(seed):
    probabilities, labels = members(3, 60, 6, seed, strengths=[0.8, 1.5, 1.2])
    weights = ensembles.search_weights(probabilities, labels, steps=10)
    found = judge_by_hand(probabilities, labels, weights)
    for member in range(3):
        for share in np.linspace(0, 1, 11):
            others = np.where(np.arange(3) == member, 0, weights)
            # Where this member has all, the others share equally.
            others = others / others.sum() if others.any() else np.where(np.arange(3) == member, 0, 0.5)
            moved = (1 - share) * others + share * (np.arange(3) == member)
            assert is_as_good(found, judge_by_hand(probabilities, labels, moved))


@pytest.mark.parametrize("strength", [-1.0, 0.0, 4.0])
@pytest.mark.parametrize("piece", [1, 64])
def test_classes_that_no_weights_make_the_answer_change_nothing(monkeypatch, strength, piece):
    monkeypatch.setattr(ensembles, "_CHUNK", piece)
    probabilities, labels = members(3, 150, 40, strengths=[strength, 2.0, 3.0])
    # Ties: members that round to tenths.
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
    probabilities, labels = members(3, 120, 8, seed=3, strengths=[1.0, 1.6, 1.3])
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


def test_a_member_that_knows_and_one_that_misleads():
    probabilities, labels = members(2, 200, 5, strengths=[4.0, -6.0])
    weights = ensembles.search_weights(probabilities, labels)
    assert weights[0] > 0.9


def test_of_equally_many_errors_the_smaller_loss_counts():
    # No weights change an answer. The loss -ln(0.6 + 0.3 a) - ln(0.95 - 0.35 a) is least where 0.3 (0.95 - 0.35 a) =
    # 0.35 (0.6 + 0.3 a): at a = 0.357, of the grid 0.36.
    probabilities = np.array([[[0.9, 0.1], [0.4, 0.6]], [[0.6, 0.4], [0.05, 0.95]]], np.float32)
    weights = ensembles.search_weights(probabilities, np.array([0, 1]), steps=100)
    np.testing.assert_allclose(weights, [0.36, 0.64], atol=1e-9)


def test_division_takes_the_share_of_each_class():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 5], [10, 4, 20, 2]))
    searched, judged = ensembles.divide(labels, 0.25, seed=3)
    assert np.bincount(labels[searched]).tolist() == [2, 1, 5]  # round(2.5) is 2, round(0.5) is 0
    assert np.union1d(searched, judged).tolist() == list(range(36))
    assert len(searched) + len(judged) == 36
    assert (np.diff(searched) > 0).all() and (np.diff(judged) > 0).all()
    again, other = ensembles.divide(labels, 0.25, seed=3), ensembles.divide(labels, 0.25, seed=4)
    np.testing.assert_array_equal(again[0], searched)
    assert other[0].tolist() != searched.tolist()


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 1.5, float("nan")])
def test_division_needs_a_share(fraction):
    with pytest.raises(ValueError, match="Expected the fraction .* between 0 and 1"):
        ensembles.divide(np.zeros(10, int), fraction, 0)


@pytest.mark.parametrize("fraction", [0.1, 0.9])
def test_division_needs_examples_for_both_parts(fraction):
    with pytest.raises(ValueError, match="Received: 4 images of 2 classes"):
        ensembles.divide(np.array([0, 0, 1, 1]), fraction, 0)


def test_weights_are_searched_on_one_part_and_judged_on_the_other():
    # The first half is one on which the second member misleads, the second half the other way round.
    good, labels = members(2, 40, 6, strengths=[5.0, -5.0])
    bad = good[::-1]
    probabilities = np.concatenate([good, bad], axis=1)
    both = np.concatenate([labels, labels])
    result = ensembles.evaluate(probabilities, both, np.arange(40), np.arange(40, 80))
    assert result.weights[0] > 0.9
    wrong, loss = judge_by_hand(bad, labels, result.weights)
    assert result.weighted_held_out.num_examples == 40
    assert result.weighted_held_out.top1_error == wrong / 40 > 0.9
    assert result.weighted_held_out.loss == pytest.approx(loss, rel=1e-6)
    for found, (values, right) in {
        "mean": (probabilities, both),
        "mean_held_out": (bad, labels),
    }.items():
        wrong, loss = judge_by_hand(values, right, [0.5, 0.5])
        assert getattr(result, found).top1_error == wrong / len(right)
        assert getattr(result, found).loss == pytest.approx(loss, rel=1e-6)


def of_errors(top1_error, top5_error):
    return errors.Errors(10, 1.0, top1_error, top5_error, np.zeros([2, 2], np.int64))


def test_table_has_all_figures_in_columns():
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
        ["runs/with_a_long_name_of_a_directory", "50.00", "%", "25.00", "%", "100.00", "%", "0.00", "%"],
        ["mean", "12.34", "%", "-", "10.00", "%", "-"],
        ["weight", "of", "a", "0.2500", "1.0000"],
        ["majority", "class", "75.00", "%"],
    ]
    assert len({len(line) for line in lines[:4]}) == 1


CLASSES = ("ant", "bee", "cat", "dog", "elk", "fox")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six photographs of each of six classes, and none held out."""
    generator = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("photographs")
    for name in CLASSES:
        (root / "train" / name).mkdir(parents=True)
        for number in range(6):
            small = Image.fromarray(generator.integers(0, 256, (6, 6, 3), dtype=np.uint8))
            picture = small.resize((256 + number, 256), Image.Resampling.BICUBIC)
            picture.save(root / "train" / name / f"{number}.png")
    return root


def make_run(workdir, folder, class_names=CLASSES, diverged=False, **changes):
    """What a run of no learning leaves: its configuration, checkpoint and statistics."""
    values = {"initialization": "he", "input_scale": 0.02, "validation_fraction": 0.34}
    values |= {"image_size": 40, "crop_size": 32, **changes}
    config = configuration.Config(source=f"folder:{folder}", **values).resolved()
    source = dataset.open_data(config)[0]._replace(class_names=class_names)
    model = builders.build_model(config, len(class_names), devices=None)
    if diverged:
        bias = model.get_layer("fc8").trainable_variables[-1]
        bias.assign(np.full(bias.shape, np.nan))
    workdir.mkdir()
    (workdir / "config.flags").write_text(flagfiles.to_text(config))
    schedule = builders.build_schedule(config)
    builders.build_checkpoints(config, model, None, schedule, source.class_names, str(workdir)).save(1 + config.seed)
    mean_image = np.random.default_rng(config.seed).random([config.image_size, config.image_size, 3]) * 255
    image_statistics = builders.blank_statistics(config)._replace(mean_image=mean_image.astype(np.float32))
    statistics.save(image_statistics, str(workdir / "statistics.npz"))
    return str(workdir)


@pytest.fixture(scope="module")
def runs(folder, tmp_path_factory):
    """Two runs that differ in all that members may differ in."""
    root = tmp_path_factory.mktemp("runs")
    other = {"recipe": "original", "seed": 1, "input_scale": 0.01, "image_size": 48, "precision": "bfloat16"}
    return [make_run(root / "first", folder), make_run(root / "second", folder, **other)]


@pytest.fixture(scope="module")
def alone(runs):
    """What each of the runs reaches alone."""
    return [evaluate.evaluate(workdir) for workdir in runs]


def test_members_are_what_they_are_alone_and_the_mean_is_of_their_probabilities(runs, alone, monkeypatch, capsys):
    kept, models = [], []
    collect, build_model = errors.collect, builders.build_model

    def collect_and_keep(*arguments, **options):
        probabilities, labels = collect(*arguments, **options)
        kept.append(({way: values.copy() for way, values in probabilities.items()}, labels))
        return probabilities, labels

    def build_and_watch(*arguments, **options):
        # One network is gone before the next is built.
        assert [model() for model in models] == [None] * len(models)
        model = build_model(*arguments, **options)
        models.append(weakref.ref(model))
        return model

    monkeypatch.setattr(errors, "collect", collect_and_keep)
    monkeypatch.setattr(builders, "build_model", build_and_watch)
    written = evaluate.evaluate(runs, search_fraction=0.5, search_seed=2)
    said = capsys.readouterr().out
    assert len(models) == 2
    assert json.loads((pathlib.Path(runs[0]) / "ensemble.json").read_text()) == json.loads(json.dumps(written))
    assert not (pathlib.Path(runs[1]) / "ensemble.json").exists()

    assert [member["workdir"] for member in written["members"]] == runs
    assert [member["step"] for member in written["members"]] == [1, 2]
    for member, single in zip(written["members"], alone):
        for way in ("center_crop", "ten_views"):
            assert member[way] == pytest.approx(single["evaluation"]["validation"][way], rel=1e-6)
            assert f"{100 * member[way]['top1_error']:.2f} %" in said
    assert written["members"][0]["ten_views"] != written["members"][1]["ten_views"]

    (first, labels), (second, _) = kept
    searched, judged = ensembles.divide(labels, 0.5, 2)
    assert (written["search"]["num_searched"], written["search"]["num_judged"]) == (6, 6)
    for way in ("center crop", "ten views"):
        name = way.replace(" ", "_")
        both = np.stack([first[way], second[way]])
        weights = written["search"]["weights"][name]
        np.testing.assert_array_equal(weights, ensembles.search_weights(both[:, searched], labels[searched]))
        for part, shares, found in (
            (np.arange(12), [0.5, 0.5], written["mean"]),
            (judged, [0.5, 0.5], written["search"]["mean"]),
            (judged, weights, written["search"]["weighted"]),
        ):
            wrong, loss = judge_by_hand(both[:, part], labels[part], shares)
            assert found[name]["num_examples"] == len(part)
            assert found[name]["top1_error"] == wrong / len(part)
            assert found[name]["loss"] == pytest.approx(loss, rel=1e-6)
    # A run's own figures stay what they were.
    assert json.loads((pathlib.Path(runs[0]) / "evaluation.json").read_text())["step"] == 1


def test_a_list_of_one_is_that_run(runs, alone):
    assert evaluate.evaluate(runs[:1]) == alone[0]


def test_order_of_runs_only_permutes(runs):
    one, other = (evaluate.evaluate(order) for order in (runs, runs[::-1]))
    for way in ("center_crop", "ten_views"):
        assert other["mean"][way] == pytest.approx(one["mean"][way], rel=1e-6)
        assert other["search"]["weighted"][way] == pytest.approx(one["search"]["weighted"][way], rel=1e-6)
        assert other["search"]["weights"][way][::-1] == pytest.approx(one["search"]["weights"][way], abs=1e-9)


def test_a_run_with_its_copy_is_that_run(runs, alone, tmp_path):
    copy = str(shutil.copytree(runs[0], tmp_path / "copy"))
    written = evaluate.evaluate([runs[0], copy])
    for way in ("center_crop", "ten_views"):
        assert written["mean"][way] == written["members"][0][way] == written["members"][1][way]
        assert written["mean"][way] == pytest.approx(alone[0]["evaluation"]["validation"][way], rel=1e-6)
        assert written["search"]["weights"][way] == [0.5, 0.5]
        assert written["search"]["weighted"][way] == written["search"]["mean"][way]


def refused(workdirs, message, **options):
    """Checks that an evaluation ends in one line."""
    with pytest.raises((ValueError, OSError), match=message) as error:
        evaluate.evaluate(workdirs, **options)
    assert "\n" not in str(error.value)


def test_directories_that_make_no_ensemble_are_refused(runs, tmp_path):
    refused([], "Expected at least one work directory. Received: none")
    refused([runs[0], ""], "Expected work directories separated by commas. Received: an empty name")
    refused([runs[0], f"{runs[0]}/"], "Expected different work directories. Received: .*, the same")
    (tmp_path / "link").symlink_to(runs[0])
    refused([runs[0], str(tmp_path / "link")], "Expected different work directories")
    refused([runs[0], str(tmp_path)], f"Expected a run with its config.flags in {tmp_path}. Received: none")
    refused(runs, "Expected split to be one of train, validation. Received: test", split="test")
    refused(runs, "Expected the fraction of images", search_fraction=1.0)
    refused(runs, "Expected enough images to search weights on", search_fraction=0.1)


def test_a_run_without_checkpoint_or_with_other_classes_is_named(runs, folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy(f"{runs[0]}/config.flags", empty)
    refused([runs[0], str(empty)], f"Expected a checkpoint in {empty}/checkpoints. Received: none")
    for name, classes, message in (
        ("renamed", ("ant", "bee", "cow", *CLASSES[3:]), "number 2 'cat'. Received: 6 classes, number 2 'cow'"),
        ("permuted", ("bee", "ant", *CLASSES[2:]), "number 0 'ant'. Received: 6 classes, number 0 'bee'"),
        ("more", (*CLASSES, "gnu"), "number 6 'none'. Received: 7 classes, number 6 'gnu'"),
    ):
        other = make_run(tmp_path / name, folder, class_names=classes)
        refused([runs[0], other], f"Expected {other} to have the 6 classes of the data set, {message}")


def test_runs_that_hold_out_other_images_are_refused(runs, folder, tmp_path):
    config = flagfiles.read_flagfile(f"{runs[0]}/config.flags")

    def run_with(name, **changes):
        """The first run, as if its configuration had been another."""
        workdir = shutil.copytree(runs[0], tmp_path / name)
        (workdir / "config.flags").write_text(flagfiles.to_text(dataclasses.replace(config, **changes)))
        return str(workdir)

    for name, changes, message in (
        ("seed", {"split_seed": 5}, r"12 with split_seed=0. Received: 12 with split_seed=5, \d of them the same"),
        ("more", {"validation_fraction": 0.5}, "Received: 18 with validation_fraction=0.5, 12 of them the same"),
        ("none", {"validation_fraction": 0.0, "schedule": "epochs"}, "Received: 0 with validation_fraction=0.0, 0 of"),
    ):
        other = run_with(name, **changes)
        refused([runs[0], other], f"Expected {other} to have the validation images of {runs[0]}, .*{message}")

    # The same photographs elsewhere are the same; where one is gone, they are not.
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    other = run_with("moved_run", source=f"folder:{moved}")
    written = evaluate.evaluate([runs[0], other])
    assert written["mean"]["ten_views"] == written["members"][0]["ten_views"]
    (moved / "train" / "ant" / "0.png").rename(moved / "train" / "ant" / "9.png")
    refused([runs[0], other], "of them the same")
    # Given their place, all read it there; what each held out of it is still its own.
    assert evaluate.evaluate([runs[0], other], source=f"folder:{moved}")["mean"]["ten_views"]["num_examples"] == 12
    refused([runs[0], str(tmp_path / "seed")], "split_seed=5", source=f"folder:{moved}")


def test_statistics_of_another_size_are_named(runs, tmp_path):
    other = shutil.copytree(runs[0], tmp_path / "other")
    shutil.copy(f"{runs[1]}/statistics.npz", other)
    refused(
        [runs[0], str(other)], f"Expected images of 48 x 48, the size that {other} was trained on. Received: 40 x 40"
    )


def test_a_network_that_diverged_is_named(runs, folder, tmp_path):
    other = make_run(tmp_path / "other", folder, diverged=True)
    refused([runs[0], other], rf"{other}: Expected probabilities in \[0, 1\]\. Received: NaN")


def evaluate_as_program(*arguments):
    return forks.run("evaluate", *arguments)


def test_program_evaluates_an_ensemble(runs):
    done = evaluate_as_program(f"--workdir={','.join(runs)}", "--search_seed=1")
    assert done.returncode == 0, done.stderr
    assert "validation: 12 images, each evaluated once by each member" in done.stdout
    assert "weights searched on 6 images (50 % of each class, seed 1), errors on the other 6:" in (done.stdout)
    for name in (*runs, "mean", "weighted", "majority class", f"weight of {runs[1]}"):
        assert any(line.startswith(f"  {name} ") for line in done.stdout.splitlines()), name
    assert done.stdout.endswith(f"ensemble errors {runs[0]}/ensemble.json\n")


@pytest.mark.parametrize(
    "workdir, status, message",
    [("", 2, "Expected --workdir. Received: none"), ("a,", 1, "an empty name"), ("a,b,a/", 1, "a and a/, the same")],
)
def test_program_refuses_in_one_line(workdir, status, message):
    done = evaluate_as_program(f"--workdir={workdir}")
    assert done.returncode == status
    assert message in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
