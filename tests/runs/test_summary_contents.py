"""What a run writes to TensorBoard; writing it and profiling do not change the trained weights."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator

from alexnet_tf import config
from alexnet_tf.profiling import bottlenecks
from alexnet_tf.profiling import trace
from alexnet_tf.runs import summary_contents
from alexnet_tf.runs import train

LAYERS = {f"{name}_{tower}" for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7") for tower in "ab"}
ERRORS = ("loss", "top1_error", "top5_error")
SCALARS = {"learning_rate", "images_per_second", "input_wait"}
SCALARS |= {f"{name}/train" for name in ERRORS}
VALIDATION = {f"{name}/validation" for name in ERRORS}
COLORS = {f"color_share/conv1_{tower}" for tower in "ab"}


def small_config(photographs, **changes):
    """Returns a configuration of a small network with six steps per epoch."""
    values = {
        "source": f"folder:{photographs}",
        "image_size": 32,
        "crop_size": 32,
        # Compiling response normalization would take half of the time of a run.
        "normalization": "none",
        "batch_size": 4,
        "epochs": 1.0,
        "schedule": "epochs",
        "report_steps": 2,
    }
    return config.Config(**values | changes)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder with four small training images of each of six classes, and two for validation."""
    folder = tmp_path_factory.mktemp("photographs")
    generator = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for label in range(6):
            directory = folder / split / f"class{label}"
            directory.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                (directory / f"{number}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    return folder


def train_steps(run_config, workdir, **arguments):
    """Trains without the final evaluation and report."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "_finish", lambda *unused: {})
        train.train(run_config, str(workdir), **arguments)


@pytest.fixture(scope="module")
def run(photographs, tmp_path_factory):
    """The directory of a run that was profiled in its fourth and fifth step."""
    workdir = tmp_path_factory.mktemp("run")
    train_steps(small_config(photographs), workdir, profile_steps=(4, 5))
    return workdir


def accumulated(workdir):
    sizes = {"tensors": 0, "images": 0}
    accumulator = event_accumulator.EventAccumulator(str(workdir / "tensorboard"), size_guidance=sizes)
    accumulator.Reload()
    return accumulator


def steps_of(accumulator):
    return {tag: [event.step for event in accumulator.Tensors(tag)] for tag in accumulator.Tags()["tensors"]}


def test_a_run_writes_scalars_histograms_images_and_graph(run):
    accumulator = accumulated(run)
    steps = steps_of(accumulator)
    assert all(steps[name] == [2, 4, 6] for name in SCALARS)
    assert all(steps[name] == [6] for name in VALIDATION)
    for layer in LAYERS | {"fc8"}:
        assert steps[f"weights/{layer}"] == steps[f"update_over_weights/{layer}"] == [2, 6]
        ratios = [float(tf.make_ndarray(e.tensor_proto)) for e in accumulator.Tensors(f"update_over_weights/{layer}")]
        assert all(0 < ratio < 1 for ratio in ratios), layer
    # All 32 kernels in one image, and the entire batch of four images at the network's input size.
    width, height, *kernels = tf.make_ndarray(accumulator.Tensors("conv1_kernels")[0].tensor_proto)
    assert (int(width), int(height), len(kernels)) == (4 * (16 * 6 + 1), 4 * (2 * 6 + 1), 1)
    width, height, *images = tf.make_ndarray(accumulator.Tensors("augmented_images")[0].tensor_proto)
    assert (int(width), int(height), len(images)) == (32, 32, 4)
    scopes = {node.name.partition("/")[0] for node in accumulator.Graph().node}
    assert {"preprocess", "gradient_tape", "loss", "update"} <= scopes
    assert len(steps["_hparams_/session_start_info"]) == len(steps["_hparams_/session_end_info"]) == 1


def test_profile_of_a_run_is_readable(run):
    found = bottlenecks.measure(trace.read(trace.newest(run)))
    assert found["steps"] == [4, 5]
    assert found["layers"]["conv1_a forward"] > 0


def weights(workdir, step):
    reader = tf.train.load_checkpoint(str(workdir / "checkpoints" / f"ckpt-{step}"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map() if "variables" in name}


def test_summaries_and_profiling_do_not_change_the_weights(run, photographs, tmp_path):
    train_steps(small_config(photographs, summary_epochs=0.0), tmp_path)
    plain, shown = weights(tmp_path, 6), weights(run, 6)
    assert plain.keys() == shown.keys()
    for name, value in plain.items():
        np.testing.assert_array_equal(shown[name], value, err_msg=name)
    steps = steps_of(accumulated(tmp_path))
    assert set(steps) == SCALARS | VALIDATION | COLORS
    with pytest.raises(FileNotFoundError, match="--profile_steps"):
        trace.newest(tmp_path)


def test_a_resumed_run_writes_nothing_twice_and_warns_about_past_profile_steps(run, photographs, capsys):
    # Must be the last user of the run, which it resumes.
    profiles = list((run / "tensorboard").rglob("*.xplane.pb"))
    train_steps(small_config(photographs, epochs=2.0), run, profile_steps=(4, 5))
    said = capsys.readouterr().out
    assert "warning: nothing is profiled, as step 4 is not one of the remaining steps 7 to 12\n" in said
    assert list((run / "tensorboard").rglob("*.xplane.pb")) == profiles
    accumulator = accumulated(run)
    steps = steps_of(accumulator)
    assert steps["weights/conv1_a"] == [2, 6, 12]
    assert steps["loss/train"] == [2, 4, 6, 8, 10, 12]
    assert len(steps["_hparams_/session_start_info"]) == len(steps["_hparams_/session_end_info"]) == 1


def test_invalid_profile_steps_are_rejected_first(photographs, tmp_path):
    with pytest.raises(ValueError, match=r"^Expected the first and the last step to profile, .* Received: 20,10$"):
        train_steps(small_config(photographs), tmp_path / "run", profile_steps=(20, 10))
    assert not (tmp_path / "run").exists()


def test_gray_levels_are_centered_and_scaled_per_image():
    images = np.zeros([3, 2, 2, 3], np.float32)
    images[0, 0, 0, 0] = 200.0
    images[1, 1, 1, 2] = -0.5
    levels = summary_contents.to_gray_levels(images)
    assert levels.dtype == np.uint8
    assert levels[0, 0, 0].tolist() == [255, 128, 128]
    assert levels[1, 1, 1].tolist() == [128, 128, 0]
    assert (levels[2] == 128).all()


def test_hyperparameters_are_all_fields_that_are_not_none():
    run_config = small_config("any", drop_epochs=(0.25, 0.5)).resolved()
    values = summary_contents.hyperparameters(run_config)
    assert values["drop_epochs"] == "0.25,0.5" and values["learning_rate"] == 0.01 and values["reshuffle"] is True
    unset = {name for name, value in dataclasses.asdict(run_config).items() if value is None}
    assert set(values) == {field.name for field in dataclasses.fields(run_config)} - unset
    assert all(isinstance(value, (bool, int, float, str)) for value in values.values())


def test_latest_keeps_the_latest_batch():
    latest = summary_contents.Latest(range(3))
    assert latest.batch is None
    assert [(batch, latest.batch) for batch in latest] == [(0, 0), (1, 1), (2, 2)]
    assert latest.batch == 2
