"""Complete runs: one of the full-size network, the others of small networks on small images."""

import dataclasses
import json
import os
import shutil

import forks
import numpy as np
import pytest
import small_runs
import tensorflow as tf
from PIL import Image

from alexnet_tf import config
from alexnet_tf import flagfiles
from alexnet_tf.runs import evaluate
from alexnet_tf.runs import report
from alexnet_tf.runs import restore
from alexnet_tf.runs import train


def photograph(generator, shape):
    """Returns a smooth color image, which JPEG preserves."""
    small = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    return small.resize(shape[::-1], Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path):
    """A folder with seven training and two validation images of each of two classes."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 7), ("val", 2)):
        for label, name in enumerate(("bright", "dark")):
            directory = tmp_path / "photographs" / split / name
            directory.mkdir(parents=True)
            for number in range(count):
                picture = photograph(generator, (300 + number, 280))
                picture.point(lambda value, label=label: value // (1 + 2 * label)).save(directory / f"{number}.jpg")
    return tmp_path / "photographs"


@pytest.fixture
def without_report(monkeypatch):
    """Skips the report, which takes half of the time of these runs."""
    monkeypatch.setattr(report, "write", lambda workdir, *others: os.path.join(workdir, "none"))


def small_config(folder, **changes):
    values = {
        "source": f"folder:{folder}",
        "recipe": "original",
        "image_size": 40,
        "crop_size": 32,
        "batch_size": 4,
        "epochs": 2.0,
        "learning_rate": 0.001,
        "report_steps": 1,
        **changes,
    }
    return config.Config(**values)


@pytest.mark.slow
def test_a_run_of_the_full_size_network(folder, tmp_path):
    run = tmp_path / "run"
    written = train.train(small_config(folder, image_size=256, crop_size=224, epochs=1.0), str(run))
    assert written["step"] == 3
    assert written["evaluation"]["validation"]["center_crop"]["num_examples"] == 4
    picture = tf.io.decode_png((run / "kernels.png").read_bytes()).numpy()
    assert picture.shape == (8 * (6 * 12 + 1), 8 * (16 * 12 + 1), 3)  # 96 kernels of 11, 16 a row, gaps of 1
    assert (run / "report.html").exists() and (run / "train.json").exists()


def test_a_run_writes_all_promised_files(folder, tmp_path, capsys, monkeypatch):
    run_config = small_config(folder, network="cifar10_18", normalization="none")
    run = tmp_path / "run"
    written = train.train(run_config, str(run))
    stored = dataclasses.replace(run_config.resolved(), split_rule="hash")
    assert flagfiles.read_flagfile(run / "config.flags") == stored
    assert json.loads((run / "train.json").read_text()) == json.loads(json.dumps(written))
    # Both epochs are equally wrong, or one is better; the lower loss decides.
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    epochs = [record for record in records if record["kind"] == "validation"]
    lowest = min(epochs, key=lambda record: (record["top1_error"], record["loss"], record["step"]))
    best = run / "checkpoints" / "best"
    assert written["selected"] == "best" and written["selection"]["step"] == lowest["step"]
    assert written["checkpoint"] == str(best / f"ckpt-{lowest['step']}")
    assert (best / f"ckpt-{lowest['step']}.index").exists()
    found = written["evaluation"]["validation"]["center_crop"]
    assert (found["top1_error"], found["loss"]) == (lowest["top1_error"], pytest.approx(lowest["loss"], rel=1e-5))
    assert written["step"] == 6  # 14 images are 3 batches of 4; the last 2 images are dropped
    assert written["evaluation"]["validation"]["center_crop"]["num_examples"] == 4
    assert written["evaluation"]["validation"]["majority_error"] == 0.5
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if record["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert [record["step"] for record in records if record["kind"] == "validation"] == [3, 6]
    colors = {record["step"]: record["color_share"] for record in records if record["kind"] == "kernels"}
    assert colors.keys() == {3, 6} and colors[3] != colors[6] and 0 < colors[6]["conv1"] < 1
    assert (run / "kernels.png").exists()
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))
    assert not list(run.rglob("*.part"))
    said = capsys.readouterr().out
    assert "epoch 1: train loss" in said and "epoch 2: train loss" in said
    assert "always the most frequent class" in said and "50.00%" in said
    assert f"tensorboard --logdir={run}" in said
    assert "optimistic because the epoch was selected on it" in said
    assert "optimistic because the epoch was selected on it" in (run / "report.md").read_text()

    again = evaluate.evaluate(str(run))
    assert again["evaluation"] == written["evaluation"]
    assert json.loads((run / "evaluation.json").read_text())["step"] == lowest["step"]
    newest = evaluate.evaluate(str(run), checkpoint="newest")
    assert (newest["step"], newest["selected"]) == (6, "newest") and "selection" not in newest

    with pytest.raises(
        ValueError, match=r"^Expected epochs to be at least 2, as .* has already trained for 6 steps\. Received: 1$"
    ):
        train.train(dataclasses.replace(run_config, epochs=1.0), str(run))

    # Training is finished, so the same command only evaluates. A second report would say the same.
    monkeypatch.setattr(report, "write", lambda workdir, *others: os.path.join(workdir, "none"))
    checkpoint = (run / "checkpoints" / "ckpt-6.index").stat().st_mtime_ns
    assert train.train(run_config, str(run))["evaluation"] == written["evaluation"]
    assert (run / "checkpoints" / "ckpt-6.index").stat().st_mtime_ns == checkpoint


def test_a_written_configuration_resumes_and_may_end_early(without_report, folder, tmp_path, capsys):
    run_config = small_config(folder, network="cifar10_18", normalization="none", epochs=1.0)
    train.train(run_config, str(tmp_path / "run"))
    written = flagfiles.read_flagfile(tmp_path / "run" / "config.flags")
    # Resumed with more epochs, it ends with the first that does not lower the error.
    longer = dataclasses.replace(written, epochs=20.0, stop_after=1)
    for _ in range(2):
        ended = train.train(longer, str(tmp_path / "run"))
        epochs = [each for each in records(tmp_path / "run") if each["kind"] == "validation"]
        found = [each["top1_error"] for each in epochs]
        assert found[:-1] == sorted(set(found[:-1]), reverse=True) and found[-1] >= found[-2]
        assert ended["step"] == epochs[-1]["step"] == 3 * len(epochs) < 60
        said = capsys.readouterr().out
        assert f"ended after epoch {len(epochs)} of 20: no lower validation error for 1 epochs" in said


def test_a_run_resumes_on_two_devices_and_ends_as_on_one(without_report, folder, tmp_path):
    run_config = small_config(folder, normalization="none", summary_epochs=0.0, checkpoint_steps=3, keep_checkpoints=2)
    train.train(run_config, str(tmp_path / "one"))
    small_runs.killed_copy(tmp_path / "one", tmp_path / "two", step=3)
    # Replaces the devices of a configuration that was written on one device.
    resumed = dataclasses.replace(run_config, devices=("/CPU:0", "/CPU:1"))
    assert train.train(resumed, str(tmp_path / "two"))["step"] == 6
    weights = [
        {name: value for name, value in small_runs.stored(tmp_path / run, 6).items() if name.startswith("variables/")}
        for run in ("one", "two")
    ]
    assert weights[0].keys() == weights[1].keys()
    before = small_runs.stored(tmp_path / "two", 3)
    for name, value in weights[0].items():
        if value.dtype == np.float32:
            # Three steps of rounding, with the sums of two devices taken in another order.
            np.testing.assert_allclose(weights[1][name], value, rtol=1e-4, atol=1e-6, err_msg=name)
            assert (before[name] != value).any(), name


def test_unreadable_images_are_skipped_and_listed(folder, tmp_path, capsys, monkeypatch):
    class Read(Exception):
        pass

    def stop(*unused):
        raise Read

    # The images have been read when the network is built.
    monkeypatch.setattr(train, "_build_trainer", stop)
    whole = (folder / "train" / "dark" / "0.jpg").read_bytes()
    (folder / "train" / "dark" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "train" / "dark" / "text.jpg").write_text("not a picture")
    with pytest.raises(Read):
        train.train(small_config(folder, network="cifar10_18", epochs=0.1), str(tmp_path / "run"))
    said = capsys.readouterr().out
    assert "warning: skipped 2 train files that could not be read" in said
    assert "cut.jpg" in said and "text.jpg" in said
    assert "train: 14 images of 2 classes" in said


def test_a_work_directory_with_a_different_configuration_is_rejected(folder, tmp_path):
    (tmp_path / "run").mkdir()
    run_config = small_config(folder).resolved()
    (tmp_path / "run" / "config.flags").write_text(flagfiles.to_text(run_config))
    changed = dataclasses.replace(run_config, learning_rate=0.5, flips="both", report_steps=7)
    with pytest.raises(ValueError, match=r"flips=horizontal \(not both\), learning_rate=0\.001 \(not 0\.5\)") as error:
        train.train(changed, str(tmp_path / "run"))
    assert "report_steps" not in str(error.value)
    assert (tmp_path / "run" / "config.flags").read_text() == flagfiles.to_text(run_config)


def test_a_checkpoint_with_other_classes_is_rejected(without_report, folder, tmp_path):
    run_config = small_config(folder, network="cifar10_18", normalization="none", epochs=0.1)
    train.train(run_config, str(tmp_path / "run"))
    for split in ("train", "val"):
        (folder / split / "third").mkdir()
        photograph(np.random.default_rng(1), (256, 256)).save(folder / split / "third" / "0.jpg")
    with pytest.raises(ValueError, match="Received: 3 classes, third in addition; .*--initialize_from="):
        train.train(run_config, str(tmp_path / "run"))
    with pytest.raises(ValueError, match='classes=.*"third".*Received.*classes='):
        evaluate.evaluate(str(tmp_path / "run"))


def test_a_missing_device_is_rejected_with_a_list_of_devices(folder, tmp_path):
    run_config = small_config(folder, devices=("/GPU:6", "/GPU:7"))
    with pytest.raises(ValueError, match="/CPU:0, /CPU:1.*Received: /GPU:6, /GPU:7"):
        train.train(run_config, str(tmp_path / "run"))


@pytest.mark.parametrize(
    "source, message",
    [
        ("", "Expected source to be elpv, folder:DIR"),
        ("folder:/nowhere", "DIR/train/CLASS/IMAGE.*Received: /nowhere"),
        ("imagenet2012:/nowhere", "ILSVRC2012_img_train.tar"),
    ],
)
def test_missing_data_leave_no_work_directory(tmp_path, source, message):
    with pytest.raises((ValueError, OSError), match=message):
        train.train(config.Config(source=source), str(tmp_path / "run"))
    assert not os.path.exists(tmp_path / "run")


def test_evaluation_needs_a_run(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="config.flags"):
        evaluate.evaluate(str(tmp_path))
    (tmp_path / "config.flags").write_text(flagfiles.to_text(small_config(folder)))
    with pytest.raises(FileNotFoundError, match="checkpoint"):
        evaluate.evaluate(str(tmp_path))
    with pytest.raises(ValueError, match="train, validation"):
        evaluate.evaluate(str(tmp_path), split="test")


@pytest.fixture
def small_folder(tmp_path):
    return small_runs.make_pictures(tmp_path / "small")


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def without_speed(lines):
    of_the_clock = {"images_per_second", "input_wait"}
    return [{name: value for name, value in line.items() if name not in of_the_clock} for line in lines]


def test_the_test_set_is_monitored_without_a_validation_set(small_folder, tmp_path, capsys):
    run = tmp_path / "run"
    written = train.train(small_runs.make_config(small_folder), str(run))
    assert written["step"] == 12
    assert list(written["evaluation"]) == ["test"]
    assert json.loads((run / "train.json").read_text()) == json.loads(json.dumps(written))
    tested = written["evaluation"]["test"]
    assert tested["center_crop"]["num_examples"] == tested["ten_views"]["num_examples"] == 10
    # The training set keeps all its images.
    said = capsys.readouterr().out
    assert "train: 24 images of 2 classes" in said and "test: 10 images of 2 classes" in said
    assert said.count("10 images, each evaluated once") == 1
    assert "validation" not in said
    watched = [line for line in said.splitlines() if line.startswith("epoch ")]
    assert len(watched) == 4 and all(", test loss " in line for line in watched)
    # The last evaluation of the monitored split equals the final one.
    last = [record for record in records(run) if record["kind"] == "validation"][-1]
    for name in ("loss", "top1_error", "num_examples"):
        assert last[name] == pytest.approx(tested["center_crop"][name], rel=1e-6)
    assert 0.01 < tested["center_crop"]["loss"] != tested["ten_views"]["loss"]  # of the mirror images too
    picture = tf.io.decode_png((run / "kernels.png").read_bytes()).numpy()
    assert picture.shape == (8 * (2 * 6 + 1), 8 * (16 * 6 + 1), 3)  # 32 kernels of 5, 16 a row, gaps of 1
    assert evaluate.evaluate(str(run))["evaluation"] == written["evaluation"]
    with pytest.raises(ValueError, match="Expected split to be one of train, test. Received: validation"):
        evaluate.evaluate(str(run), "validation")


@pytest.mark.parametrize(
    "changes",
    [
        # The others restore all that this one does, and more.
        pytest.param({}, marks=pytest.mark.slow),
        {
            "normalization": "batch",
            "crop_size": 24,
            "crops": "random",
            "flips": "horizontal",
            "color_noise": 0.1,
            "reshuffle": True,
            "sampling": "balanced",
        },
        {
            "network": "cifar10_26",
            "normalization": "response",
            "schedule": "exponential_steps",
            "conv1_slow_epoch": 1.0,
            "conv1_frozen_epoch": 3.0,
            "class_weights": "balanced",
        },
    ],
    ids=["cifar10_18", "batch_normalization_and_crops", "cifar10_26_and_rates"],
)
def test_a_resumed_run_ends_with_the_same_bits(without_report, small_folder, tmp_path, changes):
    run_config = small_runs.make_config(small_folder, checkpoint_steps=1, keep_checkpoints=12, **changes)
    whole = train.train(run_config, str(tmp_path / "whole"))
    # In the middle of an epoch.
    small_runs.killed_copy(tmp_path / "whole", tmp_path / "parts", step=8)
    resumed = train.train(run_config, str(tmp_path / "parts"))
    assert resumed["evaluation"] == whole["evaluation"]
    expected, found = small_runs.stored(tmp_path / "whole", 12), small_runs.stored(tmp_path / "parts", 12)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    if changes.get("normalization") == "batch":
        assert_averages_moved(tmp_path / "parts", 12)
        # They are used: evaluating the restored run gives the same errors as the end of training.
        assert evaluate.evaluate(str(tmp_path / "parts"), split="test")["evaluation"] == whole["evaluation"]
    if "conv1_frozen_epoch" in changes:
        assert_conv1_was_frozen(tmp_path / "whole", 9, 12)
    reports = [[line for line in records(tmp_path / name) if line["kind"] == "train"] for name in ("whole", "parts")]
    # Those of the steps that were taken twice were written twice.
    assert reports[1] != reports[0] and without_speed(reports[1]) == without_speed(reports[0])
    assert [line["step"] for line in reports[0]] == list(range(1, 13))


@pytest.mark.slow
def test_a_run_of_several_steps_per_call_ends_with_the_same_bits_and_resumes(without_report, small_folder, tmp_path):
    changes = {"network": "alexnet", "report_steps": 3, "checkpoint_steps": 3}
    singly = small_runs.make_config(small_folder, **changes)
    several = dataclasses.replace(singly, steps_per_call=3)
    expected = train.train(singly, str(tmp_path / "singly"))
    train.train(dataclasses.replace(several, epochs=2.0), str(tmp_path / "several"))
    # The second half, with a step that is profiled alone.
    found = train.train(several, str(tmp_path / "several"), (8, 8))
    assert found["evaluation"] == expected["evaluation"]
    small_runs.assert_same_bits(small_runs.stored(tmp_path / "several", 12), small_runs.stored(tmp_path / "singly", 12))


def assert_averages_moved(workdir, step):
    """The averages of batch normalization are in the checkpoint."""
    averages = {name: value for name, value in small_runs.stored(workdir, step).items() if "moving_" in name}
    assert len(averages) == 4
    for name, value in averages.items():
        start = float("variance" in name)
        assert (value != start).any(), name


def assert_conv1_was_frozen(workdir, step, end):
    """The kernels of conv1 changed up to a step and then no more; the others did."""
    before, frozen, last = (small_runs.stored(workdir, each) for each in (step - 1, step, end))
    kernels = sorted(
        name for name in last if "kernel" in name and "velocity" not in name and name.startswith("variables")
    )
    assert len(kernels) == 5
    for name in kernels:
        assert (frozen[name] != before[name]).any(), name
        assert (last[name] != frozen[name]).any() == ("conv1" not in name), name


def test_a_run_is_initialized_from_another_only_once(without_report, small_folder, tmp_path, capsys):
    """It starts from the newest weights of the other run, and resumes from its own."""
    before, run = str(tmp_path / "before"), str(tmp_path / "run")
    one_epoch = {"epochs": 1.0, "drop_epochs": ()}
    train.train(small_runs.make_config(small_folder, **one_epoch), before)
    kept = lambda path, workdir, step: small_runs.stored(workdir, step)[path]
    kernel = "variables/conv1.Skernel/.ATTRIBUTES/VARIABLE_VALUE"
    # Without a learning rate, the weights stay those that it started from.
    changes = {"initialize_from": before, "new_layers": ("fc10",), "seed": 3, "learning_rate": 0.0}
    run_config = small_runs.make_config(small_folder, **changes, **one_epoch)
    train.train(run_config, run)
    assert f"initialized all layers but fc10 from {before}/checkpoints/ckpt-3" in capsys.readouterr().out
    np.testing.assert_array_equal(kept(kernel, run, 3), kept(kernel, before, 3))
    last = kernel.replace("conv1", "fc10")
    assert np.all(kept(last, run, 3) != kept(last, before, 3))

    # To resume, the other run is not needed.
    os.rename(before, f"{before}.away")
    train.train(dataclasses.replace(run_config, epochs=2.0), run)
    said = capsys.readouterr().out
    assert "resumed from" in said and "initialized all layers" not in said


def test_without_test_and_validation_sets_training_is_rejected(without_report, small_folder, tmp_path):
    shutil.rmtree(small_folder / "test")
    with pytest.raises(ValueError) as caught:
        train.train(small_runs.make_config(small_folder), str(tmp_path / "run"))
    message = str(caught.value)
    assert message.startswith("Expected validation_fraction above 0, as ") and message.endswith("Received: 0")
    assert "has no validation or test set" in message and "\n" not in message
    assert not (tmp_path / "run").exists()
    # With a share of it held out the same folder is enough.
    run_config = small_runs.make_config(small_folder, validation_fraction=0.25, epochs=1.0, drop_epochs=())
    written = train.train(run_config, str(tmp_path / "run"))
    assert list(written["evaluation"]) == ["validation"]
    assert written["evaluation"]["validation"]["center_crop"]["num_examples"] == 6


def test_fewer_images_than_a_batch_are_trained_on_together_and_the_run_resumes(without_report, tmp_path, capsys):
    pictures = small_runs.make_pictures(str(tmp_path / "pictures"), per_class=3)
    run_config = small_runs.make_config(pictures, batch_size=16, epochs=2.0, schedule="linear", drop_epochs=())
    train.train(run_config, str(tmp_path / "run"))
    assert "batches have 6 images instead of 16, as there are only 6 training images" in capsys.readouterr().out
    assert restore.read_config(tmp_path / "run").batch_size == 6
    train.train(dataclasses.replace(run_config, epochs=3.0), str(tmp_path / "run"))
    assert "resumed from " in capsys.readouterr().out
    assert [record["step"] for record in small_runs.lines(tmp_path / "run", "validation")] == [1, 2, 3]
    with pytest.raises(ValueError, match=r"batch_size=6 \(not 4\)"):
        train.train(dataclasses.replace(run_config, batch_size=4), str(tmp_path / "run"))


def test_a_larger_batch_than_that_of_the_run_is_rejected(tmp_path):
    pictures = small_runs.make_pictures(str(tmp_path / "pictures"))
    (tmp_path / "run").mkdir()
    run_config = small_runs.make_config(pictures).resolved()
    (tmp_path / "run" / "config.flags").write_text(flagfiles.to_text(run_config))
    with pytest.raises(ValueError, match=r"batch_size=8 \(not 16\)"):
        train.train(dataclasses.replace(run_config, batch_size=16), str(tmp_path / "run"))


@pytest.mark.slow  # test_small_sets.py has one image of each class without a test set.
def test_one_image_a_class_is_trained_on_with_a_test_set(without_report, tmp_path):
    pictures = small_runs.make_pictures(str(tmp_path / "pictures"), per_class=1)
    assert train.train(small_runs.make_config(pictures, epochs=1.0, drop_epochs=()), str(tmp_path / "run"))["step"] == 1


@pytest.mark.slow
def test_a_run_of_one_program_of_xla_is_deterministic_resumes_and_shares_its_checkpoints(small_folder, tmp_path):
    """As the program runs it: deterministic operations only, of which XLA lacks the gradient of max pooling."""
    run_config = small_runs.make_config(
        small_folder,
        network="alexnet",
        compile="step",
        epochs=2.0,
        drop_epochs=(),
        checkpoint_steps=1,
        keep_checkpoints=6,
    )
    flagfile = tmp_path / "run.flags"
    flagfile.write_text(flagfiles.to_text(run_config))

    def run(workdir, *flags):
        return forks.run("train", f"--flagfile={flagfile}", f"--workdir={tmp_path / workdir}", *flags)

    done = run("whole", "--profile_steps=5,6")
    assert done.returncode == 0, done.stderr
    assert "warning: the profile has the kernels of a single XLA program" in done.stdout
    small_runs.killed_copy(tmp_path / "whole", tmp_path / "parts", step=4)
    small_runs.killed_copy(tmp_path / "whole", tmp_path / "islands", step=4)
    assert run("parts").returncode == 0
    whole, parts = (small_runs.stored(tmp_path / name, 6) for name in ("whole", "parts"))
    small_runs.assert_same_bits(parts, whole)
    assert "resumed from" in run("islands", "--compile=islands").stdout
    islands = small_runs.stored(tmp_path / "islands", 6)
    assert islands.keys() == whole.keys()
    for name, value in whole.items():
        if name.startswith("variables") and value.dtype == np.float32:
            np.testing.assert_allclose(islands[name], value, rtol=1e-3, atol=1e-6, err_msg=name)
