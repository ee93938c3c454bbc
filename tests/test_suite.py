"""Experiments: headers, runs one after another, what is kept of them, the table."""

import dataclasses
import fcntl
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from alexnet_tf import suite

ROOT = pathlib.Path(__file__).resolve().parent.parent

HEADER = """\
# Claim: a small net
#   learns.
# Command: python tools/train.py --flagfile=flags/small.flags --source=folder:DIR --workdir=DIR
# Expected: 30 / 10
# Band: 5 / 2
# Data: pictures
# Views: centre
# Cost: a second.
"""
FLAGS = """\
--network=cifar10_26
--recipe=original
--image_size=32
--crop_size=32
--schedule=linear
--batch_size=10
--epochs=4
"""

# Does to a work directory what tools/train.py does, at once. Seed 7 fails, seed 8 is killed, seed 9 hangs.
TRAINER = """
import json, os, pathlib, signal, sys, time
from absl import flags
sys.path[:0] = [ROOT, ROOT + "/tests"]
from alexnet_tf import config as configuration
import test_suite
configuration.define_flags(flags.FLAGS)
flags.DEFINE_string("workdir", "", "")
flags.FLAGS(sys.argv)
config = configuration.from_flags(flags.FLAGS)
with open(LOG, "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
if config.seed == 7:
    sys.exit("a first line\\ntrain.py: Expected luck. Received: none")
if config.seed == 8:
    os.kill(os.getpid(), signal.SIGKILL)
if config.seed == 9:
    print(os.getpid(), flush=True)
    time.sleep(60)
test_suite.leave_run(pathlib.Path(flags.FLAGS.workdir), config)
"""


def leave_run(workdir, config, *, top1=0.25, top5=0.1, epochs=None):
    """Writes what a run of 100 training images leaves behind: two reports an epoch, the error falling by a tenth."""
    config = config.resolved()
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "config.flags").write_text(config.to_flagfile())
    steps_per_epoch = 100 // config.batch_size
    done = round(config.epochs if epochs is None else epochs)
    with open(workdir / "metrics.jsonl", "w") as file:
        for epoch in range(1, done + 1):
            step = epoch * steps_per_epoch
            # 80 images at 100 a second, 20 at 10 a second; the mean error is 0.9 - 0.1 * epoch.
            for examples, speed, at, error in (80, 100.0, step - 2, -0.02), (20, 10.0, step, 0.08):
                record = {
                    "kind": "train",
                    "step": at,
                    "epoch": at / steps_per_epoch,
                    "train_loss": 2 - 0.1 * epoch + error,
                    "train_error": max(0, 0.9 - 0.1 * epoch + error),
                    "examples": examples,
                    "images_per_second": speed,
                    "epoch_ended": at == step,
                }
                file.write(json.dumps(record) + "\n")
            record = {"kind": "validation", "step": step, "epoch": epoch, "num_examples": 20, "top1_error": 1 / epoch}
            file.write(json.dumps(record) + "\n")
    views = {"num_examples": 20, "loss": 1.0, "top1_error": top1, "top5_error": top5}
    section = {
        "majority_error": 0.9,
        "centre_crop": views,
        "ten_views": {**views, "top1_error": top1 - 0.05},
        "confusions": [["cat", "dog", 3, 0.5]],
    }
    if done == config.epochs:
        figures = {"step": done * steps_per_epoch, "checkpoint": f"{workdir}/ckpt", "evaluation": {"test": section}}
        (workdir / "train.json").write_text(json.dumps(figures))


@pytest.fixture
def flagfile(tmp_path):
    path = tmp_path / "small.flags"
    path.write_text(HEADER + FLAGS)
    return path


@pytest.fixture
def variant(tmp_path, flagfile):
    path = tmp_path / "variant.flags"
    header = HEADER.replace("# Data", "# Base: small\n# Changes: epochs, dropout\n# Data")
    path.write_text(f"{header}--flagfile={flagfile}\n--epochs=2\n--dropout=0.2\n")
    return path


@pytest.fixture
def places(tmp_path):
    places = suite.Places(str(tmp_path / "runs"), str(tmp_path / "results"))
    suite.check_places(places)
    return places


@pytest.fixture
def trainer(tmp_path):
    """The command line of `TRAINER`."""
    path = tmp_path / "trainer.py"
    path.write_text(f"ROOT, LOG = {str(ROOT)!r}, {str(tmp_path / 'calls')!r}\n{TRAINER}")
    return [sys.executable, str(path)]


def calls(tmp_path):
    """The command lines that the trainer was given."""
    path = tmp_path / "calls"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def statuses(standings):
    return [str(each) for each in standings]


def run_quietly(runs, places, trainer, **options):
    return suite.run_all(runs, places, trainer, tell=lambda line: None, **options)


def test_a_header_is_read_by_key(flagfile):
    flagfile.write_text(HEADER.replace("# Cost: a second.", "# Cost: a second.\n#\n# Note that: this is free.") + FLAGS)
    header = suite.read_header(flagfile)
    assert header == suite.Header(
        claim="a small net learns.",
        command="python tools/train.py --flagfile=flags/small.flags --source=folder:DIR --workdir=DIR",
        data="pictures",
        cost="a second.",
        expected=(30.0, 10.0),
        band=(5.0, 2.0),
        views="centre",
    )


@pytest.mark.parametrize(
    "before, after, message",
    [
        ("# Cost: a second.\n", "", "Expected Cost in the header. Received: Claim"),
        ("# Claim: a small net\n#   learns.\n", "", "Expected Claim in the header"),
        ("# Cost", "# Price", "Expected keys among Claim, .* Received: Price"),
        ("# Cost", "# Data: other\n# Cost", "Expected Data once. Received: twice"),
        ("# Cost: a second.", "# Cost:", "Expected a value behind Cost"),
        ("# Cost", "# Any words.\n# Cost", "Expected Cost before other comments"),
        ("# Views: centre", "# Views: five", r"Expected Views to be centre \| ten. Received: 'five'"),
        ("# Views", "# Changes: momentun\n# Views", "Expected Changes to be flags of the configuration.*momentun"),
        ("# Expected: 30 / 10", "# Expected: few", "Expected Expected to begin with errors in percent"),
        ("# Band: 5 / 2", "# Band: 5", "Expected Band to have as many figures as Expected"),
        ("# Band: 5 / 2\n", "", "Expected Band to have as many figures as Expected"),
    ],
)
def test_a_bad_header_names_file_and_key(flagfile, before, after, message):
    assert before in HEADER
    flagfile.write_text(HEADER.replace(before, after) + FLAGS)
    with pytest.raises(ValueError, match=f"small.flags: {message}") as caught:
        suite.read_header(flagfile)
    assert "\n" not in str(caught.value)


def test_a_flagfile_that_cannot_be_read_is_named(flagfile, tmp_path):
    flagfile.write_bytes(b"# Claim: \xff\n")
    for path in (flagfile, tmp_path / "none.flags", tmp_path):
        with pytest.raises(ValueError, match=f"Expected a flagfile. Received: {path} "):
            suite.plan([path], [0])


def test_the_difference_to_the_base_is_that_of_all_fields(flagfile, variant):
    assert suite.base_difference(flagfile) == []
    assert suite.base_difference(variant) == ["dropout", "epochs"]
    # The data's place and the seed are none, and what the recipe brings along is.
    variant.write_text(variant.read_text() + "--source=elpv\n--seed=3\n--report_steps=1\n--recipe=paper\n")
    found = suite.base_difference(variant)
    assert {"recipe", "report_steps", "bias_learning_rate_factor", "input_divisor"} <= set(found)
    assert not {"source", "seed"} & set(found)


def test_a_base_that_is_not_there_is_named(flagfile, variant):
    flagfile.rename(flagfile.with_name("other.flags"))
    variant.write_text(variant.read_text().replace("small.flags\n--epochs", "other.flags\n--epochs"))
    with pytest.raises(ValueError, match="variant.flags: Expected Base to name a flagfile beside it. Received: small"):
        suite.base_difference(variant)


@pytest.mark.parametrize("flags, message", [(["--batch_size=0"], "batch_size"), (["--crop_size=40"], "image_size")])
def test_an_override_out_of_range_ends_it_before_any_run(flagfile, flags, message):
    with pytest.raises(ValueError, match=f"^{flagfile}: Expected .*{message}"):
        suite.plan([flagfile], [0], flags)


@pytest.mark.parametrize("seeds", [[], ["0", "x"], ["-1"], ["1", "1"]])
def test_seeds_that_are_none_are_refused(flagfile, seeds):
    with pytest.raises(ValueError, match="Expected seeds"):
        suite.plan([flagfile], seeds)


def test_two_flagfiles_of_one_name_are_refused(flagfile, tmp_path):
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "small.flags").write_text(HEADER + FLAGS)
    with pytest.raises(ValueError, match="Expected flagfiles of different names. Received: small twice"):
        suite.plan([flagfile, tmp_path / "deeper" / "small.flags"], [0])


@pytest.mark.parametrize("count", range(1, 8))
def test_machines_share_every_run_once(flagfile, variant, count):
    runs = suite.plan([flagfile, variant], range(3))
    parts = [suite.share(runs, index, count) for index in range(count)]
    assert sorted(run.name for part in parts for run in part) == sorted(run.name for run in runs)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    with pytest.raises(ValueError, match=f"Expected index to be 0 to {count - 1}"):
        suite.share(runs, count, count)


def test_every_run_is_a_process_of_its_own_and_none_is_done_twice(flagfile, variant, places, trainer, tmp_path):
    runs = suite.plan([flagfile, variant], [0, 1], ["--precision=bfloat16"])
    done = run_quietly(runs, places, trainer, source="folder:/somewhere")
    assert statuses(done) == ["done"] * 4
    assert calls(tmp_path)[1] == [
        f"--flagfile={flagfile}",
        "--source=folder:/somewhere",
        "--precision=bfloat16",
        "--seed=1",
        f"--workdir={places.workdir}/small-1",
    ]
    assert sorted(os.listdir(places.results)) == ["small-0.json", "small-1.json", "variant-0.json", "variant-1.json"]

    assert statuses(run_quietly(runs, places, trainer)) == ["done"] * 4
    # What is lost of the results is harvested again.
    before = pathlib.Path(places.result(runs[2])).read_text()
    os.remove(places.result(runs[2]))
    assert [each.status for each in map(suite.look, runs, itertools.repeat(places))][2] == "finished"
    assert statuses(run_quietly(runs, places, trainer)) == ["done"] * 4
    assert pathlib.Path(places.result(runs[2])).read_text() == before
    # A result needs no work directory.
    os.rename(places.workdir, f"{places.workdir}.away")
    suite.check_places(places)
    assert statuses(run_quietly(runs, places, trainer)) == ["done"] * 4
    assert len(calls(tmp_path)) == 4


def test_data_that_a_flagfile_names_stay(flagfile, places, trainer, tmp_path):
    flagfile.write_text(flagfile.read_text() + "--source=elpv\n")
    run_quietly(suite.plan([flagfile], [0]), places, trainer, source="folder:/somewhere")
    assert not any("/somewhere" in argument for argument in calls(tmp_path)[0])


def test_a_failed_run_is_told_and_the_others_go_on(flagfile, places, trainer, tmp_path, capfd):
    runs = suite.plan([flagfile], [7, 8, 1])
    done = run_quietly(runs, places, trainer)
    failed = ["failed: train.py: Expected luck. Received: none", "failed: signal 9"]
    assert statuses(done) == [*failed, "done"]
    assert "a first line" in capfd.readouterr().err
    # It is known later, and tried again.
    assert statuses(suite.harvest_all(runs, places)) == [*failed, "done"]
    assert "done (1 of 3 seeds); within band; seed 7 failed: train.py: Expected luck." in suite.table(done, places)
    run_quietly(runs, places, trainer)
    assert len(calls(tmp_path)) == 5
    # As it would be with luck.
    leave_run(pathlib.Path(places.of_run(runs[0])), runs[0].config)
    assert statuses(suite.harvest_all(runs, places)) == ["done", failed[1], "done"]


def test_a_run_goes_on_after_fewer_epochs_and_results_are_not_those_of_before(flagfile, places, trainer, tmp_path):
    short = suite.plan([flagfile], [0], ["--epochs=1"])
    (done,) = run_quietly(short, places, trainer)
    assert done.result["step"] == 10 and done.result["overrides"] == {"epochs": 1.0}
    assert "| small, with epochs=1.0 |" in suite.table([done], places)
    assert "done (1 of 1 seeds); not as written |" in suite.table([done], places)

    runs = suite.plan([flagfile], [0])
    # Killed on the way to four epochs, with train.json from one.
    stale = (tmp_path / "runs" / "small-0" / "train.json").read_text()
    leave_run(tmp_path / "runs" / "small-0", runs[0].config, epochs=2)
    assert (tmp_path / "runs" / "small-0" / "train.json").read_text() == stale
    with open(tmp_path / "runs" / "small-0" / "metrics.jsonl", "a") as file:
        file.write('{"kind": "tra')
    assert suite.look(runs[0], places).status == "begun"
    (done,) = run_quietly(runs, places, trainer)
    assert done.result["step"] == 40 and done.result["overrides"] == {} and len(calls(tmp_path)) == 2

    # The short run takes nobody's place.
    (refused,) = run_quietly(short, places, trainer)
    assert "Expected --results without small-0.json of another configuration" in str(refused)
    elsewhere = places._replace(results=str(tmp_path / "elsewhere"))
    suite.check_places(elsewhere)
    (refused,) = run_quietly(short, elsewhere, trainer)
    assert "at most the 10 steps of epochs=1. Received: 40" in str(refused)
    assert json.loads(pathlib.Path(places.result(runs[0])).read_text())["step"] == 40 and len(calls(tmp_path)) == 2


def test_a_changed_flagfile_makes_its_results_void(flagfile, places, trainer):
    run_quietly(suite.plan([flagfile], [0]), places, trainer)
    flagfile.write_text(flagfile.read_text() + "--momentum=0.5\n")
    (run,) = suite.plan([flagfile], [0])
    (standing,) = run_quietly([run], places, trainer)
    assert str(standing).startswith("failed: Expected --workdir without small-0 of another configuration")
    assert "momentum" in str(standing)
    os.rename(places.workdir, f"{places.workdir}.away")
    suite.check_places(places)
    assert str(suite.look(run, places)) == "not run: the result there is of another momentum"
    (standing,) = run_quietly([run], places, trainer)
    assert standing.result["configuration"]["momentum"] == 0.5


def test_a_run_that_another_process_is_at_is_left(flagfile, places, trainer, tmp_path):
    runs = suite.plan([flagfile], [0, 1])
    with open(places.of_run(runs[0], ".lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = run_quietly(runs, places, trainer)
    assert statuses(done) == ["left: another process is at it", "done"]
    assert statuses(run_quietly(runs, places, trainer)) == ["done", "done"]


def test_training_that_outlives_its_parent_keeps_the_lock(flagfile, places, trainer):
    program = (
        "import sys; from alexnet_tf import suite\n"
        "flagfile, workdir, results, *trainer = sys.argv[1:]\n"
        "suite.run_all(suite.plan([flagfile], [9]), suite.Places(workdir, results), trainer, tell=lambda line: None)"
    )
    command = [sys.executable, "-c", program, str(flagfile), *places, *trainer]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        child = int(parent.stdout.readline())
        parent.kill()
    runs = suite.plan([flagfile], [9])
    try:
        assert statuses(run_quietly(runs, places, trainer)) == ["left: another process is at it"]
    finally:
        os.kill(child, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with open(places.of_run(runs[0], ".lock")) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.05)
    else:
        pytest.fail("the lock outlives training")


def test_what_is_kept_of_a_run(flagfile, places):
    (run,) = suite.plan([flagfile], [5])
    config = dataclasses.replace(run.config, source="folder:/home/me/pictures", deterministic=False)
    leave_run(pathlib.Path(places.of_run(run)), config)
    result = suite.harvest(run, places)
    path = pathlib.Path(places.result(run))
    assert result == json.loads(path.read_text()) == suite.read_result(path)
    for word in ("/home", "confusions", str(places.workdir), os.uname().nodename):
        assert word not in path.read_text()
    assert result["experiment"] == "small" and result["seed"] == 5 and result["step"] == 40
    assert result["overrides"] == {"deterministic": False}
    assert result["configuration"]["network"] == "cifar10_26" and result["configuration"]["input_divisor"] == 1.1
    assert suite.result_config(result) == dataclasses.replace(config, source="")
    assert result["data"] == {"name": "pictures", "source": "folder", "images": {"train": 100, "test": 20}}
    assert result["errors"]["test"]["ten_views"]["top1_error"] == 0.2
    assert result["curve"] == {
        "epoch": [1.0, 2.0, 3.0, 4.0],
        "train_error": [0.8, 0.7, 0.6, 0.5],
        "train_loss": [1.9, 1.8, 1.7, 1.6],
        "watched_error": [1.0, 0.5, 0.33333, 0.25],
    }
    assert result["images_seen"] == 400
    assert result["wall_seconds"] == 4 * (0.8 + 2)
    assert result["images_per_second"] == round(400 / 11.2, 3)
    # Nobody saw where it ran.
    assert result["machine"] is None


def test_a_result_tells_the_machine_that_it_was_trained_on(flagfile, places, trainer):
    (done,) = run_quietly(suite.plan([flagfile], [0]), places, trainer)
    facts = done.result["machine"]
    assert facts["processor"] and facts["cores"] == len(os.sched_getaffinity(0))
    import tensorflow as tf

    assert facts["tensorflow"] == tf.__version__
    assert f"on: {facts['processor']}, {facts['cores']} cores" in suite.table([done], places)


def test_a_result_stays_small(flagfile, places):
    flagfile.write_text(flagfile.read_text() + "--epochs=1001\n")
    (run,) = suite.plan([flagfile], [0])
    leave_run(pathlib.Path(places.of_run(run)), run.config)
    curve = suite.harvest(run, places)["curve"]
    assert os.path.getsize(places.result(run)) < 20_000
    assert curve["epoch"][-1] == 1001 and len(curve["epoch"]) > 100
    assert set(map(float.__sub__, curve["epoch"][1:], curve["epoch"])) == {6.0}


@pytest.mark.parametrize(
    "name, text",
    [
        ("train.json", '{"step": 40'),
        ("train.json", '{"step": 40}'),
        ("train.json", '{"step": 40, "evaluation": {"test": {"centre_crop": {}}}}'),
        ("train.json", '{"step": 40, "evaluation": {"train": {"centre_crop": {"num_examples": 1}}}}'),
        ("train.json", "[]"),
        ("metrics.jsonl", "nothing\n"),
        ("metrics.jsonl", '{"kind": "train", "step": 40, "epoch": 4}\n'),
        ("config.flags", "--learning_rat=1\n"),
    ],
)
def test_a_damaged_work_directory_is_named_and_not_trained_in(flagfile, places, trainer, tmp_path, name, text):
    (run,) = suite.plan([flagfile], [0])
    leave_run(pathlib.Path(places.of_run(run)), run.config)
    pathlib.Path(places.of_run(run), name).write_text(text)
    (standing,) = run_quietly([run], places, trainer)
    assert standing.status == "failed" and "small-0" in standing.detail and "\n" not in standing.detail
    assert calls(tmp_path) == [] and os.listdir(places.results) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda result: "{",
        lambda result: json.dumps([result]),
        lambda result: json.dumps({**result, "errors": {}}),
        lambda result: json.dumps({**result, "configuration": {"no_field": 1}}),
        lambda result: json.dumps({**result, "configuration": {"batch_size": "many"}}),
        lambda result: json.dumps({**result, "curve": {**result["curve"], "epoch": []}}),
        lambda result: json.dumps({**result, "images_seen": "many"}),
        lambda result: json.dumps({key: value for key, value in result.items() if key != "seed"}),
    ],
)
def test_a_malformed_result_is_named_and_left_as_it_is(flagfile, places, trainer, tmp_path, change):
    runs = suite.plan([flagfile], [0, 1])
    (done,) = run_quietly(runs[:1], places, trainer)
    path = pathlib.Path(places.result(runs[0]))
    path.write_text(change(done.result))
    before = path.read_text()
    standings = run_quietly(runs, places, trainer)
    assert [each.status for each in standings] == ["failed", "done"]
    assert standings[0].detail.startswith("Expected ") and str(path) in standings[0].detail
    assert path.read_text() == before and len(calls(tmp_path)) == 2
    assert "done (1 of 2 seeds); within band; seed 0 failed: Expected" in suite.table(standings, places)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    fine, wrong = str(tmp_path / "fine"), str(tmp_path / "file" / "deeper")
    for places, table, flag in [
        (suite.Places(fine, wrong), "", "results"),
        (suite.Places(wrong, fine), "", "workdir"),
        (suite.Places(fine, fine), f"{wrong}/table.md", "table"),
        (suite.Places(fine, str(tmp_path / "file")), "", "results"),
    ]:
        with pytest.raises(OSError, match=f"Expected --{flag} to be where files can be written. Received: .*file"):
            suite.check_places(places, table)


def leave_results(places, runs, errors):
    """Harvests runs with these top-1 and top-5 errors."""
    for run, (top1, top5) in zip(runs, errors):
        leave_run(pathlib.Path(places.of_run(run)), run.config, top1=top1, top5=top5)
    return suite.harvest_all(runs, places)


def cells(table, name):
    """The row of an experiment, by column."""
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines() if line[:1] == "|"]
    (row,) = [row for row in rows if row[0] == name]
    return dict(zip(rows[0], row))


def test_the_table_tells_mean_spread_and_the_difference_seed_by_seed(flagfile, variant, places):
    flagfile.write_text(flagfile.read_text().replace("# Data", "# Paper: 30 | a third\n# Data"))
    base = leave_results(places, suite.plan([flagfile], [0, 1, 2]), [(0.30, 0.10), (0.34, 0.12), (0.35, 0.14)])
    ours = leave_results(places, suite.plan([variant], [1, 2, 3]), [(0.36, 0.12), (0.36, 0.16), (0.50, 0.20)])
    table = suite.table([*base, *ours, suite.look(suite.plan([variant], [4])[0], places)], places)
    assert "| small | 30 \\| a third | - |" in table
    row = cells(table.replace("\\|", "or"), "small")
    assert row["ours"] == "33.00 / 12.00 (30.00 to 35.00 / 10.00 to 14.00, 3 seeds)"
    assert row["difference to the base"] == "-"
    assert row["status"] == "done (3 of 3 seeds); within band"
    assert row["data"] == "pictures (100 train, 20 test)"
    assert row["images seen"] == "400" and row["wall time"] == "11 s"
    row = cells(table, "variant")
    # Of seeds 1 and 2; seed 3 has no pair.
    assert row["difference to the base"] == "+1.50 / +1.00 (+1.00 to +2.00 / +0.00 to +2.00, 2 pairs) to small"
    assert row["ours"].startswith("40.67 / 16.00 (36.00 to 50.00")
    assert row["status"] == "done (3 of 4 seeds); outside band"
    assert "on: a machine that was not recorded" in table
    # The base's results are found without being asked for, and only those of the same overrides.
    assert cells(suite.table(ours, places), "variant") == {**row, "status": "done (3 of 3 seeds); outside band"}
    precise = suite.plan([variant], [1], ["--precision=bfloat16"])
    other = places._replace(workdir=f"{places.workdir}2", results=f"{places.results}2")
    suite.check_places(other)
    standings = leave_results(other, precise, [(0.2, 0.1)])
    assert cells(suite.table(standings, places), "variant, with precision=bfloat16")["difference to the base"] == (
        "small: not run"
    )


@pytest.mark.parametrize(
    "top1, status", [(0.35, "within"), (0.2501, "within"), (0.3501, "outside"), (0.2499, "outside")]
)
def test_the_band_holds_both_of_its_ends(flagfile, places, top1, status):
    standings = leave_results(places, suite.plan([flagfile], [0]), [(top1, 0.1)])
    assert cells(suite.table(standings, places), "small")["status"] == f"done (1 of 1 seeds); {status} band"


def test_the_header_says_which_views_and_how_many_errors_are_compared(flagfile, places):
    standings = leave_results(places, suite.plan([flagfile], [0]), [(0.3, 0.1)])
    seen = {}
    for views, expected in (("centre", "30"), ("ten", "30 / 10")):
        header = HEADER.replace("Views: centre", f"Views: {views}").replace("30 / 10", expected)
        flagfile.write_text(header.replace("5 / 2", expected) + FLAGS)
        seen[views] = cells(suite.table(suite.harvest_all(suite.plan([flagfile], [0]), places), places), "small")[
            "ours"
        ]
    assert seen == {"centre": "30.00 (1 seed)", "ten": "25.00 / 10.00 (1 seed)"}
    # Unless it says so: the centre for the small nets.
    flagfile.write_text(HEADER.replace("# Views: centre\n", "") + FLAGS)
    run = suite.plan([flagfile], [0])[0]
    assert "30.00 / 10.00 (1 seed)" in suite.table([standings[0]._replace(run=run)], places)


def test_without_a_test_set_the_validation_set_counts(flagfile, places):
    (run,) = suite.plan([flagfile], [0])
    workdir = pathlib.Path(places.of_run(run))
    leave_run(workdir, run.config)
    figures = json.loads((workdir / "train.json").read_text())
    section = figures["evaluation"]["test"]
    better = {**section, "centre_crop": {**section["centre_crop"], "top1_error": 0.31}}
    (workdir / "train.json").write_text(json.dumps({**figures, "evaluation": {"validation": better}}))
    assert "31.00 / 10.00 (1 seed)" in suite.table(suite.harvest_all([run], places), places)
    os.remove(places.result(run))
    both = {"validation": better, "test": section}
    (workdir / "train.json").write_text(json.dumps({**figures, "evaluation": both}))
    assert "25.00 / 10.00 (1 seed)" in suite.table(suite.harvest_all([run], places), places)


@pytest.mark.parametrize(
    "data, runs",
    [
        ({}, False),
        ({"source": "folder:/pictures"}, False),
        ({"source": "imagenet2012:/tars"}, True),
        ({"source": "ilsvrc2010:/tars"}, True),
        ({"source": "tfds:imagenet2012"}, True),
        ({"data_dir": "/prepared"}, True),
    ],
)
def test_what_needs_imagenet_runs_on_nothing_else(flagfile, places, trainer, tmp_path, data, runs):
    flagfile.write_text(flagfile.read_text().replace("Data: pictures", "Data: ilsvrc2012"))
    (standing,) = run_quietly(suite.plan([flagfile], [0]), places, trainer, **data)
    assert str(standing) == ("done" if runs else "not run: needs ImageNet")
    assert len(calls(tmp_path)) == runs
    table = suite.table([standing], places)
    below = (
        "- small: `python tools/train.py --flagfile=flags/small.flags --source=folder:DIR --workdir=DIR`; expected "
        "error in percent: 30 / 10, give or take 5 / 2. a second."
    )
    assert (below in table) == (not runs)
    assert (cells(table, "small")["status"] == "not run: needs ImageNet") == (not runs)


@pytest.mark.parametrize(
    "threshold, expected",
    [(0.9, 1.0), (0.8, 1.0), (0.65, 2.25), (0.5, 3.0), (0.25, None), (0.3, 5.0), (0.31, 4 + 0.29 / 0.3)],
)
def test_epochs_to_an_error_lie_on_straight_lines(threshold, expected):
    curve = {"epoch": [1.0, 2.0, 3.0, 4.0, 5.0], "train_error": [0.8, 0.7, 0.5, 0.6, 0.3]}
    found = suite.epochs_to_error(curve, threshold)
    assert found == (expected if expected is None else pytest.approx(expected, abs=1e-12))


def test_when_experiments_reach_an_error_is_said_of_all_seeds(flagfile, variant):
    curve = lambda *errors: {"epoch": [1.0, 2.0, 3.0], "train_error": list(errors)}
    runs = suite.plan([flagfile, variant], [0, 1])
    found = [curve(0.6, 0.4, 0.2), curve(0.5, 0.2, 0.1), curve(0.6, 0.4, 0.2), curve(0.9, 0.8, 0.7)]
    standings = [suite.Standing(run, "done", result={"curve": each}) for run, each in zip(runs, found)]
    text = suite.reached(standings, 0.3)
    names = [run.experiment.name for run in runs]
    assert f"- {names[0]}: after {(2.5 + 5 / 3) / 2:.2f} (1.67 to 2.50, 2 seeds) epochs\n" in text
    assert f"- {names[2]}: not within 3 epochs by 1 of 2 seeds\n" in text
    assert suite.curves(standings) == {names[0]: found[:2], names[2]: found[2:]}
    assert suite.reached([suite.Standing(runs[0], "not run")], 0.3) == ""


def test_it_loads_without_tensorflow():
    program = "import sys; from alexnet_tf import suite; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0
