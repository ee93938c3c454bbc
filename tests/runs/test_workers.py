"""Several processes train the same weights as one, and the job resumes after it loses one of them."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import forks
import numpy as np
import pytest
import small_runs
import yaml

from alexnet_tf.benchmarks import workers

ROOT = pathlib.Path(__file__).resolve().parents[2]
# 64 images are two steps per epoch.
EPOCHS = 10
STEPS = 2 * EPOCHS


def config(folder, **changes):
    return small_runs.make_config(
        folder,
        **{"batch_size": 32, "epochs": float(EPOCHS), "drop_epochs": (8.0,), "recipe": "paper", "report_steps": 1},
        **{"summary_epochs": 0.0, "checkpoint_steps": 3, **changes},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_runs.make_pictures(tmp_path_factory.mktemp("pictures") / "small", per_class=32)


@pytest.fixture(scope="module")
def server():
    return forks.server()


def addresses():
    return ",".join(workers.free_addresses(2))


def start_workers(server, workdir, arguments, log):
    where = addresses()
    return [
        server.start(
            "train",
            f"{log}.{index}",
            f"--workdir={workdir}",
            *arguments,
            "--distribute=multiworker",
            f"--workers={where}",
            f"--worker_index={index}",
        )
        for index in range(2)
    ]


@pytest.fixture(scope="module")
def two_workers(server, folder, tmp_path_factory):
    """The work directory of an undisturbed run of two workers, and the output of each."""
    directory = tmp_path_factory.mktemp("two")
    children = start_workers(server, directory / "run", small_runs.flags(config(folder)), directory / "log")
    assert [child.wait() for child in children] == [0, 0], "\n".join(child.said() for child in children)
    return directory / "run", [child.said() for child in children]


def test_two_workers_with_16_images_each_equal_one_process_with_32(server, folder, two_workers, tmp_path):
    workdir, said = two_workers
    alone = server.start("train", tmp_path / "log", f"--workdir={tmp_path / 'one'}", *small_runs.flags(config(folder)))
    assert alone.wait() == 0, alone.said()
    expected, found = small_runs.stored(tmp_path / "one", STEPS), small_runs.stored(workdir, STEPS)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        if np.asarray(value).dtype == np.float32:
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
    # Losses and errors are those of all images, each counted once.
    for kind, names in {
        "train": ["train_loss", "train_error", "examples"],
        "validation": ["loss", "top1_error"],
    }.items():
        one, two = small_runs.lines(tmp_path / "one", kind), small_runs.lines(workdir, kind)
        assert len(one) == len(two) == (STEPS if kind == "train" else EPOCHS)
        for ours, theirs in zip(two, one):
            assert {name: ours[name] for name in names} == pytest.approx(
                {name: theirs[name] for name in names}, rel=1e-4
            )
    assert {line["examples"] for line in small_runs.lines(workdir, "train")} == {32}
    assert {line["num_examples"] for line in small_runs.lines(workdir, "validation")} == {10}
    # Only the chief writes and prints.
    assert len(list((workdir / "tensorboard").iterdir())) == 1
    assert "epoch 1: " in said[0] and "epoch 1: " not in said[1]
    assert "2 replicas in 2 processes, 16 of the 32 images of each batch per replica" in said[0]


def test_a_waiting_worker_lists_missing_peers_and_can_be_stopped(server, folder, tmp_path):
    here, there = addresses().split(",")
    missing = [f"--workers={here},{there},no.such.host.invalid:1", "--distribute=multiworker"]
    arguments = [*small_runs.flags(config(folder)), *missing, "--worker_index=0", f"--workdir={tmp_path / 'run'}"]
    child = server.start("train", tmp_path / "log", *arguments)
    deadline = time.monotonic() + 120
    while "waiting for" not in child.said() and child.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert f"waiting for 2 of 3 workers: 1 at {there} (Connection refused), 2 at no.such.host" in child.said()
    # A second worker at the same address.
    second = server.start("train", tmp_path / "second", *arguments)
    assert second.wait() == 1
    port = here.rpartition(":")[2]
    expected = f"train.py: Expected port {port} to be free for this worker. Received: Address already in use"
    assert second.said().splitlines()[-1] == expected
    child.kill(signal.SIGTERM)
    assert child.wait(30) == 143, child.said()
    assert "Traceback" not in child.said() and not (tmp_path / "run").exists()


def wait_for_step(workdir, step, children, timeout=600):
    deadline = time.monotonic() + timeout
    while len(small_runs.lines(workdir, "train")) < step:
        assert all(child.is_alive() for child in children), "\n".join(child.said() for child in children)
        assert time.monotonic() < deadline
        time.sleep(0.005)


SRUN = """#!/usr/bin/env bash
# Stands in for Slurm's srun: one process per node, returns the highest status.
shift
for index in 0 1; do
    SLURM_PROCID=$index "$@" &
    pids[index]=$!
    echo "${pids[index]}" >> "$PIDS"
done
status=0
for pid in "${pids[@]}"; do
    wait "$pid" || { code=$?; ((code > status)) && status=$code; }
done
exit "$status"
"""


def stop_at_fourth_step(server, workdir, arguments, log):
    """Starts two workers and stops both by a SIGTERM to the second; returns the step of the chief's checkpoint."""
    children = start_workers(server, workdir, arguments, log)
    wait_for_step(workdir, 4, children)
    children[1].kill(signal.SIGTERM)
    assert [child.wait() for child in children] == [143, 143], "\n".join(child.said() for child in children)
    stopped = len(small_runs.lines(workdir, "train"))
    assert 4 <= stopped < STEPS
    assert f"stopped at step {stopped} of {STEPS}" in children[0].said()
    return stopped


def assert_ended_as(workdir, undisturbed):
    small_runs.assert_same_bits(small_runs.stored(workdir, STEPS), small_runs.stored(undisturbed, STEPS))
    assert [line["step"] for line in small_runs.lines(workdir, "train")] == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_a_stopped_job_ends_with_the_same_weights(server, folder, two_workers, tmp_path):
    workdir, arguments = tmp_path / "run", small_runs.flags(config(folder))
    stop_at_fourth_step(server, workdir, arguments, tmp_path / "log")
    children = start_workers(server, workdir, arguments, tmp_path / "log")
    assert [child.wait() for child in children] == [0, 0], "\n".join(child.said() for child in children)
    assert_ended_as(workdir, two_workers[0])


def slurm_job(tmp_path, train, first, *arguments):
    """Starts tools/slurm.sh on two nodes, which are processes here, with a script that stands in for tools/train.py."""
    for name, text in {"srun": SRUN, "scontrol": "#!/bin/sh\necho localhost\necho localhost\n"}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "train.sh").write_text(f"#!/usr/bin/env bash\n{train}\n")
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "two",
        "PIDS": str(tmp_path / "pids"),
        "PORT": first,
        "PYTHON": "bash",
        "TRAIN": str(tmp_path / "train.sh"),
    }
    with open(tmp_path / "job.log", "w") as log:
        return subprocess.Popen(
            ["bash", str(ROOT / "tools" / "slurm.sh"), *arguments],
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )


def test_the_slurm_job_restarts_all_workers(tmp_path):
    """The second worker ends once with the status of one that lost another."""
    train = f'echo "$SLURM_PROCID $*" >> {tmp_path}/calls\n'
    train += f"if ((SLURM_PROCID == 1)) && mkdir {tmp_path}/lost 2> /dev/null; then exit 75; fi"
    job = slurm_job(tmp_path, train, "5000", "--workdir=run")
    assert job.wait(timeout=120) == 0, (tmp_path / "job.log").read_text()
    calls = (tmp_path / "calls").read_text().splitlines()
    assert sorted(call[0] for call in calls) == ["0", "0", "1", "1"]
    assert all("--workdir=run" in call and "--workers=localhost:5000,localhost:5000" in call for call in calls)
    said = (tmp_path / "job.log").read_text()
    assert "attempt 1 of 10 ended with status 75" in said and "attempt 2" not in said


# The two tests before it have its parts, except for the loss of a worker, for which see tests/training/test_peers.py.
@pytest.mark.slow
def test_a_stopped_job_that_loses_a_worker_ends_with_the_same_weights(server, folder, two_workers, tmp_path):
    workdir, arguments = tmp_path / "run", small_runs.flags(config(folder))
    stopped = stop_at_fourth_step(server, workdir, arguments, tmp_path / "log")
    # Two workers on one host need different ports, while nodes use the same port.
    first, second = (address.rpartition(":")[2] for address in addresses().split(","))
    hosts = f"localhost:{first},localhost:{first}/localhost:{first},localhost:{second}"
    train = f'exec "{sys.executable}" "{ROOT}/tools/train.py" "${{@/{hosts}}}"'
    job = slurm_job(tmp_path, train, first, f"--workdir={workdir}", *arguments)
    try:
        deadline = time.monotonic() + 600
        while len(small_runs.lines(workdir, "train")) < stopped + 3:
            assert job.poll() is None and time.monotonic() < deadline, (tmp_path / "job.log").read_text()
            time.sleep(0.005)
        os.kill(int((tmp_path / "pids").read_text().split()[1]), signal.SIGKILL)
        assert job.wait(timeout=900) == 0, (tmp_path / "job.log").read_text()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
    said = (tmp_path / "job.log").read_text()
    assert "Expected all 2 workers to be running. Received: " in said
    assert "attempt 1 of 10 ended with status" in said and "attempt 2" not in said
    assert_ended_as(workdir, two_workers[0])


def test_the_kubernetes_example_starts_workers_with_valid_flags():
    with open(ROOT / "tools" / "jobset.yaml", encoding="utf-8") as file:
        described = yaml.safe_load(file)
    assert (described["apiVersion"], described["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    name, (job,) = described["metadata"]["name"], described["spec"]["replicatedJobs"]
    indexed = job["template"]["spec"]
    assert indexed["completionMode"] == "Indexed" and indexed["parallelism"] == indexed["completions"]
    (container,) = indexed["template"]["spec"]["containers"]
    shell, option, line = container["command"]
    assert (shell, option) == ("sh", "-c")
    (port,) = [each["containerPort"] for each in container["ports"]]
    hosts = [f"{name}-{job['name']}-0-{index}.{name}:{port}" for index in range(indexed["completions"])]
    # As the shell expands it, with the index that Kubernetes sets.
    told = subprocess.run(
        [shell, option, line.replace("exec python", "printf '%s\\n'")],
        env={**os.environ, "JOB_COMPLETION_INDEX": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert told[0] == "tools/train.py" and "--distribute=multiworker" in told
    assert f"--workers={','.join(hosts)}" in told and "--worker_index=1" in told
    # All flags exist and have valid values.
    from absl import flags

    from alexnet_tf import flagfiles

    values = flags.FlagValues()
    flagfiles.define_flags(values)
    own = ("--workers", "--worker_index", "--workdir")
    values(["train", *(each for each in told[1:] if not each.startswith(own))])
    assert flagfiles.from_flags(values).batch_size % indexed["completions"] == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--distribute=multiworker"], "Expected workers and worker_index, or TF_CONFIG in the environment"),
        (
            ["--workers=a:1", "--worker_index=0"],
            "Expected distribute=multiworker with --workers and --worker_index. Received: none",
        ),
        (["--distribute=multiworker", "--workers=a:1,b:2", "--worker_index=2"], "Expected worker_index from 0 to 1"),
        (["--distribute=mirrored", "--devices=/CPU:0,/CPU:1"], "Expected devices to be auto or empty"),
        (["--data_service=grpc://a:1"], "Expected data_dir for data_service, which reads it"),
    ],
)
def test_invalid_input_is_rejected_in_one_line(arguments, message, server, tmp_path):
    child = server.start("train", tmp_path / "log", f"--workdir={tmp_path / 'run'}", "--source=synthetic", *arguments)
    assert child.wait() == 1
    (line,) = child.said().splitlines()
    assert message in line
    assert not (tmp_path / "run").exists()
