"""The table of experiments."""

import json
import os
import pathlib
import re

import pytest
import small_experiments as small

from alexnet_tf.experiments import plan
from alexnet_tf.experiments import results
from alexnet_tf.experiments import runner
from alexnet_tf.experiments import tables


def test_table_has_mean_range_and_paired_difference(flagfile, variant, directories):
    flagfile.write_text(flagfile.read_text().replace("# Data", "# Paper: 30 | a third\n# Data"))
    base = small.leave_results(
        directories, plan.plan([flagfile], [0, 1, 2]), [(0.30, 0.10), (0.34, 0.12), (0.35, 0.14)]
    )
    ours = small.leave_results(directories, plan.plan([variant], [1, 2, 3]), [(0.36, 0.12), (0.36, 0.16), (0.50, 0.20)])
    table = tables.table([*base, *ours, runner.run_status(plan.plan([variant], [4])[0], directories)], directories)
    assert "| small | 30 \\| a third | - |" in table
    row = small.cells(table.replace("\\|", "or"), "small")
    assert row["ours"] == "33.00 / 12.00 (30.00 to 35.00 / 10.00 to 14.00, 3 seeds)"
    assert row["difference to the base"] == "-"
    assert row["status"] == "done (3 of 3 seeds); within band"
    assert row["data"] == "pictures (100 train, 20 test)"
    assert row["images seen"] == "400" and row["wall time"] == "11 s"
    row = small.cells(table, "variant")
    # Seeds 1 and 2 form pairs; seed 3 does not.
    assert row["difference to the base"] == "+1.50 / +1.00 (+1.00 to +2.00 / +0.00 to +2.00, 2 pairs) to small"
    assert row["ours"].startswith("40.67 / 16.00 (36.00 to 50.00")
    assert row["status"] == "done (3 of 4 seeds); outside band"
    assert "on: an unrecorded machine" in table
    # The base's results are looked up, but only those with the same overrides.
    assert small.cells(tables.table(ours, directories), "variant") == {
        **row,
        "status": "done (3 of 3 seeds); outside band",
    }
    precise = plan.plan([variant], [1], ["--precision=bfloat16"])
    other = directories._replace(workdir=f"{directories.workdir}2", results=f"{directories.results}2")
    plan.check_writable(other)
    statuses = small.leave_results(other, precise, [(0.2, 0.1)])
    assert small.cells(tables.table(statuses, directories), "variant, with precision=bfloat16")[
        "difference to the base"
    ] == ("small: not run")


@pytest.mark.parametrize(
    "top1, status", [(0.35, "within"), (0.2501, "within"), (0.3501, "outside"), (0.2499, "outside")]
)
def test_band_includes_its_ends(flagfile, directories, top1, status):
    statuses = small.leave_results(directories, plan.plan([flagfile], [0]), [(top1, 0.1)])
    assert small.cells(tables.table(statuses, directories), "small")["status"] == f"done (1 of 1 seeds); {status} band"


def test_runs_on_other_data_are_marked_and_not_compared(flagfile, variant, directories):
    def leave(run, tested):
        small.leave_run(pathlib.Path(directories.run(run)), run.config, tested=tested)
        return runner.collect_all([run], directories)

    first, second = plan.plan([flagfile], [0, 1])
    found = [*leave(first, 20), *leave(second, 30)]
    assert (
        small.cells(tables.table(found, directories), "small")["status"]
        == "done (2 of 2 seeds); seeds with different data"
    )
    other, same = plan.plan([variant], [0, 1])
    row = small.cells(tables.table(leave(other, 30), directories), "variant")
    assert row["difference to the base"] == "small: different data"
    row = small.cells(tables.table([*leave(other, 30), *leave(same, 30)], directories), "variant")
    assert row["difference to the base"] == "+0.00 / +0.00 (1 pair) to small"

    # A known data set is recognized by the number of its test images.
    flagfile.write_text(flagfile.read_text().replace("Data: pictures", "Data: cifar10"))
    for tested, name, verdict in ((20, "other than cifar10", "other data"), (9990, "cifar10", "within band")):
        pathlib.Path(directories.result(first)).unlink()
        (run,) = plan.plan([flagfile], [0])
        row = small.cells(tables.table(leave(run, tested), directories), "small")
        assert row["data"] == f"{name} (100 train, {tested:,} test)"
        assert row["status"] == f"done (1 of 1 seeds); {verdict}"


def test_header_selects_views_and_number_of_errors(flagfile, directories):
    statuses = small.leave_results(directories, plan.plan([flagfile], [0]), [(0.3, 0.1)])
    seen = {}
    for views, expected in (("center", "30"), ("ten", "30 / 10")):
        header = small.HEADER.replace("Views: center", f"Views: {views}").replace("30 / 10", expected)
        flagfile.write_text(header.replace("5 / 2", expected) + small.FLAGS)
        seen[views] = small.cells(
            tables.table(runner.collect_all(plan.plan([flagfile], [0]), directories), directories), "small"
        )["ours"]
    assert seen == {"center": "30.00 (1 seed)", "ten": "25.00 / 10.00 (1 seed)"}
    # The default for small networks is the center crop.
    flagfile.write_text(small.HEADER.replace("# Views: center\n", "") + small.FLAGS)
    run = plan.plan([flagfile], [0])[0]
    assert "30.00 / 10.00 (1 seed)" in tables.table([statuses[0]._replace(run=run)], directories)


def test_validation_set_counts_without_a_test_set(flagfile, directories):
    (run,) = plan.plan([flagfile], [0])
    workdir = pathlib.Path(directories.run(run))
    small.leave_run(workdir, run.config)
    figures = json.loads((workdir / "train.json").read_text())
    section = figures["evaluation"]["test"]
    better = {**section, "center_crop": {**section["center_crop"], "top1_error": 0.31}}
    (workdir / "train.json").write_text(json.dumps({**figures, "evaluation": {"validation": better}}))
    assert "31.00 / 10.00 (1 seed)" in tables.table(runner.collect_all([run], directories), directories)
    os.remove(directories.result(run))
    both = {"validation": better, "test": section}
    (workdir / "train.json").write_text(json.dumps({**figures, "evaluation": both}))
    assert "25.00 / 10.00 (1 seed)" in tables.table(runner.collect_all([run], directories), directories)


@pytest.mark.parametrize(
    "threshold, expected",
    [(0.9, 1.0), (0.8, 1.0), (0.65, 2.25), (0.5, 3.0), (0.25, None), (0.3, 5.0), (0.31, 4 + 0.29 / 0.3)],
)
def test_epochs_to_error_interpolates_linearly(threshold, expected):
    curve = {"epoch": [1.0, 2.0, 3.0, 4.0, 5.0], "train_error": [0.8, 0.7, 0.5, 0.6, 0.3]}
    found = tables.epochs_to_error(curve, threshold)
    assert found == (expected if expected is None else pytest.approx(expected, abs=1e-12))


def test_threshold_epochs_covers_all_seeds(flagfile, variant):
    curve = lambda *errors: {"epoch": [1.0, 2.0, 3.0], "train_error": list(errors)}
    runs = plan.plan([flagfile, variant], [0, 1])
    found = [curve(0.6, 0.4, 0.2), curve(0.5, 0.2, 0.1), curve(0.6, 0.4, 0.2), curve(0.9, 0.8, 0.7)]
    statuses = [runner.RunStatus(run, "done", result={"curve": each}) for run, each in zip(runs, found)]
    text = tables.threshold_epochs(statuses, 0.3)
    names = [run.experiment.name for run in runs]
    assert f"- {names[0]}: after {(2.5 + 5 / 3) / 2:.2f} (1.67 to 2.50, 2 seeds) epochs\n" in text
    assert f"- {names[2]}: not within 3 epochs for 1 of 2 seeds\n" in text
    assert tables.curves(statuses) == {names[0]: found[:2], names[2]: found[2:]}
    assert tables.threshold_epochs([runner.RunStatus(runs[0], "not run")], 0.3) == ""


def test_tiny_imagenet_is_not_imagenet(flagfile, directories):
    """Anybody can get it, so it is not listed as missing; its classes are ImageNet's, so both errors are shown."""
    text = flagfile.read_text().replace("Data: pictures", "Data: tiny_imagenet")
    text = re.sub("# Expected: .*", "# Expected: none (no error is recorded)", text)
    flagfile.write_text(re.sub("# Band: .*", "# Band: none", text))
    (run,) = plan.plan([flagfile], [0])
    table = tables.table([runner.run_status(run, directories)], directories)
    assert small.cells(table, "small")["status"] == "not run" and "ImageNet was not available" not in table
    row = small.cells(tables.table(small.leave_results(directories, [run], [(0.30, 0.10)]), directories), "small")
    assert row["ours"] == "30.00 / 10.00 (1 seed)"
    assert row["data"] == "other than tiny_imagenet (100 train, 20 test)"


def test_gaps_are_those_of_the_trained_networks(flagfile, variant, directories, evaluator, tmp_path, capsys):
    base = small.leave_results(directories, plan.plan([flagfile], [0, 1]), [(0.30, 0.10), (0.34, 0.12)])
    ours = small.leave_results(directories, plan.plan([variant], [0, 7]), [(0.36, 0.16), (0.50, 0.20)])
    assert tables.gaps([*base, *ours], directories) == ""
    lines = []
    options = {"source": "folder:/moved", "log": lines.append}
    base = runner.add_training_errors(base, directories, evaluator, 20, **options)
    ours = runner.add_training_errors(ours, directories, evaluator, 20, **options)
    # The errors of training itself are not replaced, and what cannot be evaluated is reported.
    assert lines[3:] == [
        "variant-7: evaluating on 20 training images",
        "warning: variant-7 has no error on training images: evaluate.py: Expected luck. Received: none",
    ]
    assert "a line of the evaluation" not in capsys.readouterr().out
    assert small.calls(tmp_path)[0] == [
        f"--workdir={directories.workdir}/small-0",
        "--split=train",
        "--images=20",
        "--checkpoint=newest",
        "--source=folder:/moved",
    ]
    text = tables.gaps([*base, *ours], directories)
    assert small.cells(text, "small") == {
        "experiment": "small",
        "training images": "20",
        "training error": "10.00 / 5.00 (10.00 to 10.00 / 5.00 to 5.00, 2 seeds)",
        "validation or test error": "32.00 / 11.00 (30.00 to 34.00 / 10.00 to 12.00, 2 seeds)",
        "gap": "22.00 / 6.00 (20.00 to 24.00 / 5.00 to 7.00, 2 seeds)",
        "difference of the gap to the base": "-",
    }
    row = small.cells(text, "variant")
    assert row["gap"] == "26.00 / 11.00 (1 seed)"
    assert row["difference of the gap to the base"] == "+6.00 / +6.00 (1 pair) to small"
    # The results have them: no run is evaluated again, and the main table stays the same.
    statuses = runner.collect_all([status.run for status in base], directories)
    assert [status.result for status in statuses] == [status.result for status in base]
    assert runner.add_training_errors(statuses, directories, ["/nowhere"], 20) == statuses
    assert small.cells(tables.table(statuses, directories), "small")["ours"].startswith("32.00 / 11.00 (30.00 to 34.00")
    assert small.cells(tables.table(statuses, directories), "small")["data"] == "pictures (100 train, 20 test)"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"step": 39}, "train, step 39"),
        ({"selected": "best"}, "train, step 40"),
        ({"evaluation": {}}, "Received: , step"),
    ],
)
def test_training_errors_of_another_checkpoint_are_refused(changes, message, flagfile, directories, evaluator):
    (status,) = small.leave_results(directories, plan.plan([flagfile], [0]), [(0.30, 0.10)])
    runner.add_training_errors([status], directories, evaluator, 20)
    path = pathlib.Path(directories.run(status.run)) / "evaluation.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ValueError, match=re.escape(message)):
        results.add_training_errors(status.run, directories, status.result)
