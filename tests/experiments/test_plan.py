"""Which runs are planned, and how they are divided among machines."""

import pytest
import small_experiments as small

from alexnet_tf.experiments import plan


@pytest.mark.parametrize("flags, message", [(["--batch_size=0"], "batch_size"), (["--crop_size=40"], "image_size")])
def test_override_out_of_range_is_refused_before_any_run(flagfile, flags, message):
    with pytest.raises(ValueError, match=f"^{flagfile}: Expected .*{message}"):
        plan.plan([flagfile], [0], flags)


@pytest.mark.parametrize("seeds", [[], ["0", "x"], ["-1"], ["1", "1"]])
def test_invalid_seeds_are_refused(flagfile, seeds):
    with pytest.raises(ValueError, match="Expected seeds"):
        plan.plan([flagfile], seeds)


@pytest.mark.parametrize(
    "before, after, message",
    [
        ("Base: small", "Base: nothere", "Base: Expected a flagfile. Received: nothere.flags; searched "),
        ("Base: small", "Base: variant", "Expected Base to name another flagfile. Received: itself"),
        ("epochs, dropout", "epochs", "Changes to name what differs from small: dropout epochs. Received: epochs$"),
        ("# Changes: epochs, dropout\n", "", "Expected Changes to name what differs from small: .* Received: none"),
    ],
)
def test_mismatch_with_the_base_is_refused_before_any_run(variant, before, after, message):
    assert before in variant.read_text()
    variant.write_text(variant.read_text().replace(before, after))
    with pytest.raises(ValueError, match=f"{variant}: .*{message}"):
        plan.plan([variant], [0])


def test_cycle_of_initializations_is_refused(flagfile, tmp_path):
    paths = [tmp_path / f"{name}.flags" for name in "abc"]
    for path, other in zip(paths, "bca"):
        path.write_text(f"{small.HEADER}--flagfile={flagfile}\n--initialize_from=runs/{other}\n")
    with pytest.raises(
        ValueError, match="Expected experiments not to be initialized from each other. Received: a, b, c"
    ):
        plan.plan(paths, [0])
    assert [run.initial_run for run in plan.plan(paths[:2], [3])] == ["b-3", "c-3"]


def test_flagfiles_of_the_same_name_are_refused(flagfile, tmp_path):
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "small.flags").write_text(small.HEADER + small.FLAGS)
    with pytest.raises(ValueError, match="Expected flagfiles of different names. Received: small twice"):
        plan.plan([flagfile, tmp_path / "deeper" / "small.flags"], [0])


@pytest.mark.parametrize("count", range(1, 8))
def test_shards_cover_every_run_once(flagfile, variant, count):
    runs = plan.plan([flagfile, variant], range(3))
    parts = [plan.shard(runs, index, count) for index in range(count)]
    assert sorted(run.name for part in parts for run in part) == sorted(run.name for run in runs)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    with pytest.raises(ValueError, match=f"Expected index to be 0 to {count - 1}"):
        plan.shard(runs, count, count)


def test_unwritable_path_error_names_flag_and_path(tmp_path):
    (tmp_path / "file").write_text("")
    fine, wrong = str(tmp_path / "fine"), str(tmp_path / "file" / "deeper")
    for directories, table, flag in [
        (plan.Directories(fine, wrong), "", "results"),
        (plan.Directories(wrong, fine), "", "workdir"),
        (plan.Directories(fine, fine), f"{wrong}/table.md", "table"),
        (plan.Directories(fine, str(tmp_path / "file")), "", "results"),
    ]:
        with pytest.raises(OSError, match=f"Expected --{flag} to be writable. Received: .*file"):
            plan.check_writable(directories, table=table)
    with pytest.raises(OSError, match=f"Expected --curves to be a file. Received: {tmp_path}, a directory"):
        plan.check_writable(plan.Directories(fine, fine), table="", curves=str(tmp_path))
