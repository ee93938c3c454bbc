"""Evaluation of several runs as an ensemble."""

import contextlib
import csv
import dataclasses
import io
import json
import pathlib
import shutil
import types
import weakref

import forks
import numpy as np
import pytest
import reference_ensembles
from PIL import Image

from alexnet_tf import config
from alexnet_tf import flagfiles
from alexnet_tf.data import statistics
from alexnet_tf.evaluation import ensembles
from alexnet_tf.evaluation import errors
from alexnet_tf.runs import builders
from alexnet_tf.runs import dataset
from alexnet_tf.runs import evaluate
from alexnet_tf.runs import split_results

CLASSES = ("ant", "bee", "cat", "dog", "elk", "fox")
# Of the two sets of views in the results.
KEYS = [name.replace(" ", "_") for name in split_results.VIEWS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six images of each of six classes in one split."""
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
    """Writes an untrained run: its configuration, checkpoint and statistics."""
    values = {"network": "cifar10_18", "initialization": "he", "input_scale": 0.02, "validation_fraction": 0.34}
    values |= {"image_size": 40, "crop_size": 32, **changes}
    run_config = config.Config(source=f"folder:{folder}", **values).resolved()
    source = dataset.open_data(run_config)[0]._replace(class_names=class_names)
    model = builders.build_model(run_config, len(class_names), devices=None)
    if diverged:
        bias = model.trainable_variables[-1]
        bias.assign(np.full(bias.shape, np.nan))
    workdir.mkdir()
    (workdir / "config.flags").write_text(flagfiles.to_text(run_config))
    schedule = builders.build_schedule(run_config)
    builders.build_checkpoints(run_config, model, None, schedule, source.class_names, str(workdir)).save(
        1 + run_config.seed
    )
    mean_image = np.random.default_rng(run_config.seed).random([run_config.image_size, run_config.image_size, 3]) * 255
    image_statistics = builders.blank_statistics(run_config)._replace(mean_image=mean_image.astype(np.float32))
    statistics.save(image_statistics, str(workdir / "statistics.npz"))
    return str(workdir)


@pytest.fixture(scope="module")
def runs(folder, tmp_path_factory):
    """Two runs that differ in everything that members may differ in."""
    root = tmp_path_factory.mktemp("runs")
    other = {"network": "alexnet", "recipe": "original", "seed": 1, "input_scale": 0.01}
    other |= {"image_size": 48, "precision": "bfloat16"}
    return [make_run(root / "first", folder), make_run(root / "second", folder, **other)]


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Paths of the tables of the second run, by their names in `evaluate.Options`."""
    folder = tmp_path_factory.mktemp("tables")
    return {name: str(folder / name) for name in ("classes_csv", "confusion_csv", "predictions_csv")}


@pytest.fixture(scope="module")
def alone(runs, tables):
    """The results of each of the runs alone, of the second one with all options."""
    options = evaluate.Options(fit_temperature=True, top=2, **tables)
    return [evaluate.evaluate(runs[0]), evaluate.evaluate(runs[1], options=options)]


SEARCH = {"search_fraction": 0.5, "search_seed": 2}


@pytest.fixture(scope="module")
def together(runs, alone):
    """The results of both runs together, and the probabilities and networks used for them."""
    kept, models = [], []
    collect, build_model = errors.collect, builders.build_model

    def collect_and_keep(*arguments, **options):
        probabilities, labels = collect(*arguments, **options)
        kept.append(({views: values.copy() for views, values in probabilities.items()}, labels))
        return probabilities, labels

    def build_and_watch(*arguments, **options):
        # Each network is freed before the next is built.
        assert [model() for model in models] == [None] * len(models)
        model = build_model(*arguments, **options)
        models.append(weakref.ref(model))
        return model

    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(errors, "collect", collect_and_keep)
        patch.setattr(builders, "build_model", build_and_watch)
        written = evaluate.evaluate(runs, **SEARCH)
    return types.SimpleNamespace(written=written, kept=kept, models=models, printed=printed.getvalue())


def test_members_have_the_results_that_they_have_alone(runs, alone, together):
    written = together.written
    assert len(together.models) == 2
    assert json.loads((pathlib.Path(runs[0]) / "ensemble.json").read_text()) == json.loads(json.dumps(written))
    assert not (pathlib.Path(runs[1]) / "ensemble.json").exists()
    assert [member["workdir"] for member in written["members"]] == runs
    assert [member["step"] for member in written["members"]] == [1, 2]
    for member, single in zip(written["members"], alone):
        for views in KEYS:
            assert member[views] == pytest.approx(single["evaluation"]["validation"][views], rel=1e-6)
            assert f"{100 * member[views]['top1_error']:.2f}%" in together.printed
    assert written["members"][0]["ten_views"] != written["members"][1]["ten_views"]
    # The results of a single run are not overwritten.
    assert json.loads((pathlib.Path(runs[0]) / "evaluation.json").read_text())["step"] == 1


def test_members_that_learned_nothing_are_named(together):
    for member in together.written["members"]:
        is_bad = member["ten_views"]["top1_error"] >= together.written["majority_error"]
        warning = f"warning: {member['workdir']}: the validation error of "
        assert (warning in together.printed) == is_bad
    assert "warning: " in together.printed


def test_ensemble_averages_the_probabilities_of_its_members(together):
    written, ((first, labels), (second, _)) = together.written, together.kept
    search, held_out = ensembles.divide(labels, 0.5, 2)
    assert (written["search"]["num_searched"], written["search"]["num_judged"]) == (6, 6)
    for views, key in zip(first, KEYS, strict=True):
        both = np.stack([first[views], second[views]])
        weights = written["search"]["weights"][key]
        np.testing.assert_array_equal(weights, ensembles.search_weights(both[:, search], labels[search]))
        for part, shares, found in (
            (np.arange(12), [0.5, 0.5], written["mean"]),
            (held_out, [0.5, 0.5], written["search"]["mean"]),
            (held_out, weights, written["search"]["weighted"]),
        ):
            wrong, loss = reference_ensembles.score_by_hand(both[:, part], labels[part], shares)
            assert found[key]["num_examples"] == len(part)
            assert found[key]["top1_error"] == wrong / len(part)
            assert found[key]["loss"] == pytest.approx(loss, rel=1e-6)
        average = sum(member[key]["top1_error"] for member in written["members"]) / 2
        gain = average - written["mean"][key]["top1_error"]
        assert written["gain"][key]["top1_error"] == pytest.approx(gain, abs=1e-12)
        line = f"gain of the mean over the average member, {views}, in percentage points: top-1 {100 * gain:+.2f}, "
        assert line in together.printed


def test_figures_by_class_predictions_and_temperatures_are_written(runs, alone, tables):
    run, written = pathlib.Path(runs[1]), alone[1]
    assert json.loads((run / "evaluation.json").read_text()) == json.loads(json.dumps(written))
    found, errors_found = written["classification"]["validation"], written["evaluation"]["validation"]
    assert found["class_names"] == list(CLASSES) and found["support"] == [2] * 6
    for key in KEYS:
        matrix = np.array(found[key]["confusion_matrix"])
        assert 1 - np.trace(matrix) / 12 == pytest.approx(errors_found[key]["top1_error"])
    stored = json.loads((run / "temperature.json").read_text())
    assert (stored["step"], stored["split"], stored["num_examples"]) == (2, "validation", 12)
    assert [stored[key] for key in KEYS] == [found[key]["calibrated"]["temperature"] for key in KEYS]
    assert [pathlib.Path(path).read_text().count("\n") for path in tables.values()] == [7, 7, 13]
    with open(tables["predictions_csv"], newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert len(header) == 6 and all(row[0].startswith(f"train/{row[1]}/") for row in rows)
    wrong = sum(row[1] != row[2] for row in rows)
    assert wrong / 12 == errors_found["ten_views"]["top1_error"]


@pytest.mark.parametrize(
    "count, options, message",
    [
        (
            2,
            {"fit_temperature": True},
            "^Expected a single run for results by class, temperatures and .* Received: several$",
        ),
        (1, {"sensitivity": 0.9}, "^Expected two classes to choose a threshold for a sensitivity. Received: 6$"),
        (1, {"sensitivity": 2.0}, "^Expected sensitivity to be above 0 and at most 1. Received: 2$"),
        (1, {"top": 0}, "^Expected top to be at least 1. Received: 0$"),
        (1, {"positive_class": "ant"}, "^Expected sensitivity with positive_class=ant. Received: none$"),
    ],
)
def test_options_of_no_use_are_rejected(runs, count, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate.evaluate(runs[:count], options=evaluate.Options(**options))


def test_part_of_a_split_has_the_same_fraction_of_each_class(runs, folder, tmp_path, capsys, monkeypatch):
    run = str(shutil.copytree(runs[0], tmp_path / "run"))
    options = evaluate.Options(predictions_csv=str(tmp_path / "table.csv"))
    written = evaluate.evaluate(run, "train", images=12, options=options)
    assert written["evaluation"]["train"]["ten_views"]["num_examples"] == 12
    assert written["classification"]["train"]["support"] == [2] * 6
    printed = capsys.readouterr().out
    assert "train: 12 of 24 images, the same fraction of each class\n" in printed
    with open(tmp_path / "table.csv", newline="", encoding="utf-8") as file:
        names = [row[0] for row in csv.reader(file)][1:]
    assert len(set(names)) == 12 and all((folder / name).is_file() for name in names)

    # Members of an ensemble get the same part; a larger one is the whole split.
    part = lambda workdirs, configs, source, split, *others: source.splits[split]
    monkeypatch.setattr(evaluate, "_evaluate_ensemble", part)
    chosen = evaluate.evaluate(runs, "train", images=12)
    assert [chosen.name_of(index).removeprefix(f"{folder}/") for index in range(12)] == names
    assert len(evaluate.evaluate(runs, "train", images=24).labels) == 24
    assert len(evaluate.evaluate(runs, "train", images=10_000).labels) == 24
    with pytest.raises(
        ValueError, match="^Expected images to be from 6, one per class, to 24, all of them. Received: 5$"
    ):
        evaluate.evaluate(run, "train", images=5)


def test_list_of_one_run_is_evaluated_as_that_run(runs, alone):
    assert evaluate.evaluate(runs[:1]) == alone[0]


@pytest.mark.slow  # tests/evaluation/test_ensembles.py permutes members.
def test_order_of_runs_only_permutes_the_results(runs, together):
    one, other = together.written, evaluate.evaluate(runs[::-1], **SEARCH)
    for views in KEYS:
        assert other["mean"][views] == pytest.approx(one["mean"][views], rel=1e-6)
        assert other["search"]["weighted"][views] == pytest.approx(one["search"]["weighted"][views], rel=1e-6)
        assert other["search"]["weights"][views][::-1] == pytest.approx(one["search"]["weights"][views], abs=1e-9)


@pytest.mark.slow  # tests/evaluation/test_ensembles.py has copies of members.
def test_run_with_its_copy_is_evaluated_as_that_run(runs, alone, tmp_path):
    copy = str(shutil.copytree(runs[0], tmp_path / "copy"))
    written = evaluate.evaluate([runs[0], copy])
    for views in KEYS:
        assert written["mean"][views] == written["members"][0][views] == written["members"][1][views]
        assert written["mean"][views] == pytest.approx(alone[0]["evaluation"]["validation"][views], rel=1e-6)
        assert written["search"]["weights"][views] == [0.5, 0.5]
        assert written["search"]["weighted"][views] == written["search"]["mean"][views]


def rejected(workdirs, message, **options):
    """Checks that an evaluation ends with an error in one line."""
    with pytest.raises((ValueError, OSError), match=message) as error:
        evaluate.evaluate(workdirs, **options)
    assert "\n" not in str(error.value)


def test_directories_that_are_not_an_ensemble_are_rejected(runs, tmp_path):
    rejected([], "Expected at least one work directory. Received: none")
    rejected([runs[0], ""], "Expected work directories separated by commas. Received: an empty name")
    rejected([runs[0], f"{runs[0]}/"], "Expected different work directories. Received: .*, the same")
    (tmp_path / "link").symlink_to(runs[0])
    rejected([runs[0], str(tmp_path / "link")], "Expected different work directories")
    rejected([runs[0], str(tmp_path)], f"Expected a run with its config.flags in {tmp_path}. Received: none")
    rejected(runs, "Expected split to be one of train, validation. Received: test", split="test")
    rejected(runs, "Expected the fraction of images", search_fraction=1.0)
    rejected(runs, "Expected enough images to search weights on", search_fraction=0.1)


def test_run_without_checkpoint_or_with_other_classes_is_named(runs, folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy(f"{runs[0]}/config.flags", empty)
    rejected([runs[0], str(empty)], f"Expected a checkpoint in {empty}/checkpoints. Received: none")
    for name, classes, message in (
        ("renamed", ("ant", "bee", "cow", *CLASSES[3:]), "number 2 'cat'. Received: 6 classes, number 2 'cow'"),
        ("permuted", ("bee", "ant", *CLASSES[2:]), "number 0 'ant'. Received: 6 classes, number 0 'bee'"),
        ("more", (*CLASSES, "gnu"), "number 6 'none'. Received: 7 classes, number 6 'gnu'"),
    ):
        other = make_run(tmp_path / name, folder, class_names=classes)
        rejected([runs[0], other], f"Expected {other} to have the 6 classes of the data set, {message}")


@pytest.mark.slow
def test_runs_that_hold_out_other_images_are_rejected(runs, folder, tmp_path):
    run_config = flagfiles.read_flagfile(f"{runs[0]}/config.flags")

    def run_with(name, **changes):
        """Copies the first run with another configuration."""
        workdir = shutil.copytree(runs[0], tmp_path / name)
        (workdir / "config.flags").write_text(flagfiles.to_text(dataclasses.replace(run_config, **changes)))
        return str(workdir)

    for name, changes, message in (
        ("seed", {"split_seed": 5}, r"12 with split_seed=0. Received: 12 with split_seed=5, \d of them the same"),
        ("more", {"validation_fraction": 0.5}, "Received: 18 with validation_fraction=0.5, 12 of them the same"),
        ("none", {"validation_fraction": 0.0, "schedule": "epochs"}, "Received: 0 with validation_fraction=0.0, 0 of"),
    ):
        other = run_with(name, **changes)
        rejected([runs[0], other], f"Expected {other} to have the validation images of {runs[0]}, .*{message}")

    # The same photographs in another place are accepted, unless one is missing.
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    other = run_with("moved_run", source=f"folder:{moved}")
    written = evaluate.evaluate([runs[0], other])
    assert written["mean"]["ten_views"] == written["members"][0]["ten_views"]
    (moved / "train" / "ant" / "0.png").rename(moved / "train" / "ant" / "9.png")
    rejected([runs[0], other], "of them the same")
    # With a given source all runs read it, but each still holds out its own images.
    assert evaluate.evaluate([runs[0], other], source=f"folder:{moved}")["mean"]["ten_views"]["num_examples"] == 12
    rejected([runs[0], str(tmp_path / "seed")], "split_seed=5", source=f"folder:{moved}")


def test_statistics_of_another_size_are_named(runs, tmp_path):
    other = shutil.copytree(runs[0], tmp_path / "other")
    shutil.copy(f"{runs[1]}/statistics.npz", other)
    message = f"Expected images of 48 x 48, the size that {other} was trained on. Received: 40 x 40"
    rejected([runs[0], str(other)], message)


def test_diverged_network_is_named(runs, folder, tmp_path):
    other = make_run(tmp_path / "other", folder, diverged=True)
    rejected(
        [runs[0], other], rf"Expected finite numbers in {other}/checkpoints/ckpt-1\. Received: NaN or infinity in "
    )


def evaluate_as_program(*arguments):
    return forks.run("evaluate", *arguments)


@pytest.mark.slow
def test_program_evaluates_an_ensemble(runs):
    done = evaluate_as_program(f"--workdir={','.join(runs)}", "--search_seed=1")
    assert done.returncode == 0, done.stderr
    assert "validation: 12 images, each evaluated once by each member" in done.stdout
    assert "weights searched on 6 images (50% of each class, seed 1), errors on the other 6:" in done.stdout
    for name in (*runs, "mean", "weighted", "always the most frequent class", f"weight of {runs[1]}"):
        assert any(line.startswith(f"  {name} ") for line in done.stdout.splitlines()), name
    assert done.stdout.endswith(f"ensemble errors {runs[0]}/ensemble.json\n")


@pytest.mark.parametrize(
    "workdir, status, message",
    [("", 2, "Expected --workdir. Received: none"), ("a,", 1, "an empty name"), ("a,b,a/", 1, "a and a/, the same")],
)
def test_program_reports_errors_in_one_line(workdir, status, message):
    done = evaluate_as_program(f"--workdir={workdir}")
    assert done.returncode == status
    assert message in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
