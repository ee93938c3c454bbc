"""The table of experiments."""

import json
import os
import pathlib

import pytest
import small_experiments as small

from alexnet_tf.experiments import plan
from alexnet_tf.experiments import runner
from alexnet_tf.experiments import tables


def test_the_table_tells_mean_spread_and_the_difference_seed_by_seed(flagfile, variant, places):
    flagfile.write_text(flagfile.read_text().replace("# Data", "# Paper: 30 | a third\n# Data"))
    base = small.leave_results(places, plan.plan([flagfile], [0, 1, 2]), [(0.30, 0.10), (0.34, 0.12), (0.35, 0.14)])
    ours = small.leave_results(places, plan.plan([variant], [1, 2, 3]), [(0.36, 0.12), (0.36, 0.16), (0.50, 0.20)])
    table = tables.table([*base, *ours, runner.look(plan.plan([variant], [4])[0], places)], places)
    assert "| small | 30 \\| a third | - |" in table
    row = small.cells(table.replace("\\|", "or"), "small")
    assert row["ours"] == "33.00 / 12.00 (30.00 to 35.00 / 10.00 to 14.00, 3 seeds)"
    assert row["difference to the base"] == "-"
    assert row["status"] == "done (3 of 3 seeds); within band"
    assert row["data"] == "pictures (100 train, 20 test)"
    assert row["images seen"] == "400" and row["wall time"] == "11 s"
    row = small.cells(table, "variant")
    # Of seeds 1 and 2; seed 3 has no pair.
    assert row["difference to the base"] == "+1.50 / +1.00 (+1.00 to +2.00 / +0.00 to +2.00, 2 pairs) to small"
    assert row["ours"].startswith("40.67 / 16.00 (36.00 to 50.00")
    assert row["status"] == "done (3 of 4 seeds); outside band"
    assert "on: a machine that was not recorded" in table
    # The base's results are found without being asked for, and only those of the same overrides.
    assert small.cells(tables.table(ours, places), "variant") == {**row, "status": "done (3 of 3 seeds); outside band"}
    precise = plan.plan([variant], [1], ["--precision=bfloat16"])
    other = places._replace(workdir=f"{places.workdir}2", results=f"{places.results}2")
    plan.check_places(other)
    standings = small.leave_results(other, precise, [(0.2, 0.1)])
    assert small.cells(tables.table(standings, places), "variant, with precision=bfloat16")[
        "difference to the base"
    ] == ("small: not run")


@pytest.mark.parametrize(
    "top1, status", [(0.35, "within"), (0.2501, "within"), (0.3501, "outside"), (0.2499, "outside")]
)
def test_the_band_holds_both_of_its_ends(flagfile, places, top1, status):
    standings = small.leave_results(places, plan.plan([flagfile], [0]), [(top1, 0.1)])
    assert small.cells(tables.table(standings, places), "small")["status"] == f"done (1 of 1 seeds); {status} band"


def test_what_was_learnt_from_other_data_is_told_and_compared_with_nothing(flagfile, variant, places):
    def leave(run, tested):
        small.leave_run(pathlib.Path(places.of_run(run)), run.config, tested=tested)
        return runner.harvest_all([run], places)

    first, second = plan.plan([flagfile], [0, 1])
    found = [*leave(first, 20), *leave(second, 30)]
    assert small.cells(tables.table(found, places), "small")["status"] == "done (2 of 2 seeds); seeds of different data"
    other, same = plan.plan([variant], [0, 1])
    row = small.cells(tables.table(leave(other, 30), places), "variant")
    assert row["difference to the base"] == "small: of other data"
    row = small.cells(tables.table([*leave(other, 30), *leave(same, 30)], places), "variant")
    assert row["difference to the base"] == "+0.00 / +0.00 (1 pair) to small"

    # A data set that is known, by how many images it holds out.
    flagfile.write_text(flagfile.read_text().replace("Data: pictures", "Data: cifar10"))
    for tested, name, verdict in ((20, "other than cifar10", "other data"), (9990, "cifar10", "within band")):
        pathlib.Path(places.result(first)).unlink()
        (run,) = plan.plan([flagfile], [0])
        row = small.cells(tables.table(leave(run, tested), places), "small")
        assert row["data"] == f"{name} (100 train, {tested:,} test)"
        assert row["status"] == f"done (1 of 1 seeds); {verdict}"


def test_the_header_says_which_views_and_how_many_errors_are_compared(flagfile, places):
    standings = small.leave_results(places, plan.plan([flagfile], [0]), [(0.3, 0.1)])
    seen = {}
    for views, expected in (("centre", "30"), ("ten", "30 / 10")):
        header = small.HEADER.replace("Views: centre", f"Views: {views}").replace("30 / 10", expected)
        flagfile.write_text(header.replace("5 / 2", expected) + small.FLAGS)
        seen[views] = small.cells(
            tables.table(runner.harvest_all(plan.plan([flagfile], [0]), places), places), "small"
        )["ours"]
    assert seen == {"centre": "30.00 (1 seed)", "ten": "25.00 / 10.00 (1 seed)"}
    # Unless it says so: the centre for the small nets.
    flagfile.write_text(small.HEADER.replace("# Views: centre\n", "") + small.FLAGS)
    run = plan.plan([flagfile], [0])[0]
    assert "30.00 / 10.00 (1 seed)" in tables.table([standings[0]._replace(run=run)], places)


def test_without_a_test_set_the_validation_set_counts(flagfile, places):
    (run,) = plan.plan([flagfile], [0])
    workdir = pathlib.Path(places.of_run(run))
    small.leave_run(workdir, run.config)
    figures = json.loads((workdir / "train.json").read_text())
    section = figures["evaluation"]["test"]
    better = {**section, "centre_crop": {**section["centre_crop"], "top1_error": 0.31}}
    (workdir / "train.json").write_text(json.dumps({**figures, "evaluation": {"validation": better}}))
    assert "31.00 / 10.00 (1 seed)" in tables.table(runner.harvest_all([run], places), places)
    os.remove(places.result(run))
    both = {"validation": better, "test": section}
    (workdir / "train.json").write_text(json.dumps({**figures, "evaluation": both}))
    assert "25.00 / 10.00 (1 seed)" in tables.table(runner.harvest_all([run], places), places)


@pytest.mark.parametrize(
    "threshold, expected",
    [(0.9, 1.0), (0.8, 1.0), (0.65, 2.25), (0.5, 3.0), (0.25, None), (0.3, 5.0), (0.31, 4 + 0.29 / 0.3)],
)
def test_epochs_to_an_error_lie_on_straight_lines(threshold, expected):
    curve = {"epoch": [1.0, 2.0, 3.0, 4.0, 5.0], "train_error": [0.8, 0.7, 0.5, 0.6, 0.3]}
    found = tables.epochs_to_error(curve, threshold)
    assert found == (expected if expected is None else pytest.approx(expected, abs=1e-12))


def test_when_experiments_reach_an_error_is_said_of_all_seeds(flagfile, variant):
    curve = lambda *errors: {"epoch": [1.0, 2.0, 3.0], "train_error": list(errors)}
    runs = plan.plan([flagfile, variant], [0, 1])
    found = [curve(0.6, 0.4, 0.2), curve(0.5, 0.2, 0.1), curve(0.6, 0.4, 0.2), curve(0.9, 0.8, 0.7)]
    standings = [runner.Standing(run, "done", result={"curve": each}) for run, each in zip(runs, found)]
    text = tables.reached(standings, 0.3)
    names = [run.experiment.name for run in runs]
    assert f"- {names[0]}: after {(2.5 + 5 / 3) / 2:.2f} (1.67 to 2.50, 2 seeds) epochs\n" in text
    assert f"- {names[2]}: not within 3 epochs by 1 of 2 seeds\n" in text
    assert tables.curves(standings) == {names[0]: found[:2], names[2]: found[2:]}
    assert tables.reached([runner.Standing(runs[0], "not run")], 0.3) == ""
