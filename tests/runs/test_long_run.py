"""Memory and files during 20,000 steps. Slow: pytest -m slow -n 0 tests/runs/test_long_run.py."""

import os

import psutil
import pytest
import small_runs

from alexnet_tf.runs import builders
from alexnet_tf.runs import train
from alexnet_tf.training import metrics

STEPS = 20_000
STEPS_PER_EPOCH = 100


@pytest.mark.slow
def test_memory_traces_and_files_do_not_grow(tmp_path, monkeypatch, capsys):
    folder = small_runs.make_pictures(tmp_path / "pictures", per_class=2 * STEPS_PER_EPOCH)
    workdir = tmp_path / "run"
    trainers, memory = [], {}

    def build(*arguments, build_trainer=builders.build_trainer):
        trainers.append(build_trainer(*arguments))
        return trainers[0]

    def look(self, progress, write=metrics.Writer.__call__):
        write(self, progress)
        memory[progress.step] = psutil.Process().memory_info().rss

    monkeypatch.setattr(builders, "build_trainer", build)
    monkeypatch.setattr(metrics.Writer, "__call__", look)
    train.train(
        small_runs.make_config(
            folder,
            image_size=16,
            crop_size=16,
            batch_size=4,
            epochs=STEPS / STEPS_PER_EPOCH,
            drop_epochs=(100.0,),
            report_steps=20,
            checkpoint_steps=1000,
        ),
        str(workdir),
    )
    assert max(memory) == STEPS
    assert trainers[0].traces == 1
    # The allocator takes a while to reach its final size.
    early = max(value for step, value in memory.items() if 2000 <= step <= 4000)
    late = max(value for step, value in memory.items() if step > STEPS - 2000)
    kept = [name for name in os.listdir(workdir / "checkpoints") if name.endswith(".index")]
    (events,) = (workdir / "tensorboard").glob("events.out.tfevents.*")
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    with capsys.disabled():
        print(f"\nmemory at most, MB: {early / 1e6:.0f} by step 4,000, {late / 1e6:.0f} by step {STEPS:,}")
        print(f"metrics.jsonl {(workdir / 'metrics.jsonl').stat().st_size:,} bytes, events {events.stat().st_size:,}")
    assert late <= 1.05 * early
    assert len(kept) == 2
    # One line per report and one per epoch.
    assert len(lines) == STEPS // 20 + STEPS // STEPS_PER_EPOCH
    # A thousand reports, and histograms, eight images and kernels of 200 epochs.
    assert events.stat().st_size < 20_000_000
