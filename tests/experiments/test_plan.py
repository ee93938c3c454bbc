"""Which runs are made, by whom, and where."""

import pytest
import small_experiments as small

from alexnet_tf.experiments import plan


@pytest.mark.parametrize("flags, message", [(["--batch_size=0"], "batch_size"), (["--crop_size=40"], "image_size")])
def test_an_override_out_of_range_ends_it_before_any_run(flagfile, flags, message):
    with pytest.raises(ValueError, match=f"^{flagfile}: Expected .*{message}"):
        plan.plan([flagfile], [0], flags)


@pytest.mark.parametrize("seeds", [[], ["0", "x"], ["-1"], ["1", "1"]])
def test_seeds_that_are_none_are_refused(flagfile, seeds):
    with pytest.raises(ValueError, match="Expected seeds"):
        plan.plan([flagfile], seeds)


@pytest.mark.parametrize(
    "before, after, message",
    [
        ("Base: small", "Base: nothere", "Expected Base to name a flagfile beside it. Received: nothere"),
        ("Base: small", "Base: variant", "Expected Base to name another flagfile. Received: itself"),
        ("epochs, dropout", "epochs", "Changes to name what differs from small: dropout epochs. Received: epochs$"),
        ("# Changes: epochs, dropout\n", "", "Expected Changes to name what differs from small: .* Received: none"),
    ],
)
def test_a_base_that_does_not_fit_ends_it_before_any_run(variant, before, after, message):
    assert before in variant.read_text()
    variant.write_text(variant.read_text().replace(before, after))
    with pytest.raises(ValueError, match=f"{variant}: .*{message}"):
        plan.plan([variant], [0])


def test_experiments_that_begin_with_each_other_are_refused(flagfile, tmp_path):
    paths = [tmp_path / f"{name}.flags" for name in "abc"]
    for path, other in zip(paths, "bca"):
        path.write_text(f"{small.HEADER}--flagfile={flagfile}\n--initialize_from=runs/{other}\n")
    with pytest.raises(ValueError, match="Expected experiments not to begin with each other. Received: a, b, c"):
        plan.plan(paths, [0])
    assert [run.start for run in plan.plan(paths[:2], [3])] == ["b-3", "c-3"]


def test_two_flagfiles_of_one_name_are_refused(flagfile, tmp_path):
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "small.flags").write_text(small.HEADER + small.FLAGS)
    with pytest.raises(ValueError, match="Expected flagfiles of different names. Received: small twice"):
        plan.plan([flagfile, tmp_path / "deeper" / "small.flags"], [0])


@pytest.mark.parametrize("count", range(1, 8))
def test_machines_share_every_run_once(flagfile, variant, count):
    runs = plan.plan([flagfile, variant], range(3))
    parts = [plan.share(runs, index, count) for index in range(count)]
    assert sorted(run.name for part in parts for run in part) == sorted(run.name for run in runs)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    with pytest.raises(ValueError, match=f"Expected index to be 0 to {count - 1}"):
        plan.share(runs, count, count)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    fine, wrong = str(tmp_path / "fine"), str(tmp_path / "file" / "deeper")
    for places, table, flag in [
        (plan.Places(fine, wrong), "", "results"),
        (plan.Places(wrong, fine), "", "workdir"),
        (plan.Places(fine, fine), f"{wrong}/table.md", "table"),
        (plan.Places(fine, str(tmp_path / "file")), "", "results"),
    ]:
        with pytest.raises(OSError, match=f"Expected --{flag} to be where files can be written. Received: .*file"):
            plan.check_places(places, table=table)
    with pytest.raises(OSError, match=f"Expected --curves to be a file. Received: {tmp_path}, a directory"):
        plan.check_places(plan.Places(fine, fine), table="", curves=str(tmp_path))
