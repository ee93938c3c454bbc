"""The benchmarks measure the same work on every side, and say what they could not measure. No timing is asserted."""

import contextlib
import dataclasses
import importlib.util
import itertools
import json
import os

import forks
import numpy as np
import PIL.Image
import pytest
import reference_network
import tensorflow as tf

import alexnet_tf
from alexnet_tf import config as configuration
from alexnet_tf.benchmarks import feeding
from alexnet_tf.benchmarks import measuring
from alexnet_tf.benchmarks import network_peers
from alexnet_tf.benchmarks import peers
from alexnet_tf.benchmarks import report
from alexnet_tf.benchmarks import serving
from alexnet_tf.benchmarks import showing
from alexnet_tf.benchmarks import steps
from alexnet_tf.benchmarks import workers
from alexnet_tf.data import examples
from alexnet_tf.data import pipeline
from alexnet_tf.data import prepare
from alexnet_tf.data import prepared
from alexnet_tf.data import sampling
from alexnet_tf.data import sources
from alexnet_tf.data import statistics
from alexnet_tf.utils import machine

IMAGES = 6
BATCH = 4
CONFIG = configuration.Config(batch_size=BATCH, cache="none")
MEAN = np.array([120, 110, 100], np.float32)
# Colours that are far enough apart to be told from rounding.
STATISTICS = statistics.Statistics(
    np.broadcast_to(MEAN, [256, 256, 3]).copy(), np.eye(3, dtype=np.float32), np.full(3, 50, np.float32), IMAGES
)
TORCH = pytest.param(
    feeding.TORCH, marks=pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="torch is not installed")
)


@pytest.fixture(scope="module")
def data_dirs(tmp_path_factory):
    """The same photographs as JPEG and as raw records."""
    root = tmp_path_factory.mktemp("benchmarks")
    generator = np.random.default_rng(0)
    for number in range(IMAGES):
        path = root / "photographs" / "train" / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = generator.integers(0, 256, [32, 32, 3], dtype=np.uint8)
        PIL.Image.fromarray(coarse).resize([256, 256], PIL.Image.Resampling.BICUBIC).save(path)
    source = sources.open_source(f"folder:{root / 'photographs'}")
    for storage in prepare.STORAGES:
        prepare.prepare(source, root / storage, prepare.Options(storage))
    return tuple(str(root / storage) for storage in prepare.STORAGES)


@pytest.fixture(scope="module")
def splits(data_dirs):
    opened = [prepared.open_data_dir(directory)[0].splits["train"] for directory in data_dirs]
    return {split.is_raw: split for split in opened}


def originals(split):
    """All images of a split, float32 ``[images, 256, 256, 3]``."""
    batches = pipeline.evaluation_batches(examples.from_records(split), batch_size=IMAGES)
    return next(batches.as_numpy_iterator())[0].astype(np.float32)


def find(image, originals):
    """Which part of which original an image is, apart from one shift of its colour.

    Returns:
      (index, top, left, mirrored), float32 ``[3]``, the shift, and the mean absolute difference that remains, in grey
      levels.
    """
    # Every crop there is, one pixel in 32 both ways: [originals, rows, columns, 3, 7, 7].
    crops = np.lib.stride_tricks.sliding_window_view(originals, [224, 224], axis=[1, 2])[..., ::32, ::32]
    found = []
    for mirrored in (False, True):
        upright = image[:, ::-1] if mirrored else image
        apart = upright[::32, ::32].transpose(2, 0, 1) - crops
        apart = np.abs(apart - apart.mean(axis=(4, 5), keepdims=True)).mean(axis=(3, 4, 5))
        index, top, left = np.unravel_index(np.argmin(apart), apart.shape)
        difference = upright - originals[index, top : top + 224, left : left + 224]
        shift = difference.mean(axis=(0, 1))
        found.append(((index, top, left, mirrored), shift, np.abs(difference - shift).mean()))
    return min(found, key=lambda each: each[2])


def start(side, config, splits, folder):
    """A side's first batch: float32 ``[batch, 224, 224, 3]`` and labels."""
    if side in (feeding.JPEG, feeding.RAW, feeding.CACHED):
        sides = feeding.our_batches(config.resolved(), splits, STATISTICS)
    else:
        feeding.write_folder(splits[False], folder)
        sides, _ = feeding.peer_batches(folder, config.resolved(), STATISTICS)
    images, labels = (np.asarray(value) for value in next(iter(sides[side]())))
    return (images.transpose(0, 2, 3, 1) if side == feeding.TORCH else images), labels


SIDES = [feeding.JPEG, feeding.RAW, feeding.CACHED, feeding.TF_DATA, feeding.KERAS, TORCH]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("color_noise", [0.0, 0.1])
def test_every_side_does_the_same_work(side, color_noise, splits, tmp_path):
    """Each image is a crop of one of the photographs, mirrored or not, less the mean, its colour shifted as a whole."""
    config = configuration.Config(batch_size=BATCH, color_noise=color_noise)
    images, labels = start(side, config, splits, tmp_path)
    assert images.shape == (BATCH, 224, 224, 3) and images.dtype == np.float32
    assert labels.shape == (BATCH,) and set(labels.tolist()) <= {0, 1}
    photographs = originals(splits[side == feeding.RAW])
    places, shifts, remains = zip(*[find(image + MEAN, photographs) for image in images])
    # Pillow decodes more exactly than TensorFlow does by default, which is 1.3 grey levels off in red and blue.
    inexact = 2 if side == feeding.TORCH else 1
    assert max(remains) < inexact
    assert len({place[0] for place in places}) == BATCH, "an image twice in an epoch"
    np.testing.assert_array_equal([splits[False].labels[place[0]] for place in places], labels)
    if color_noise:
        # Three colours of four images, each with a standard deviation of 5.
        assert 1 < np.std(shifts) < 15
        assert len(np.unique(np.round(shifts, 3))) == 3 * BATCH
    else:
        assert np.abs(shifts).max() < inexact


@pytest.mark.parametrize("side", [feeding.TF_DATA, feeding.KERAS, TORCH])
def test_peers_draw_crops_and_mirror_images(side, splits, tmp_path):
    config = configuration.Config(batch_size=1, color_noise=0.0)
    feeding.write_folder(splits[False], tmp_path)
    sides, _ = feeding.peer_batches(tmp_path, config.resolved(), STATISTICS)
    images = [np.asarray(images)[0] for images, _ in itertools.islice(sides[side](), 12)]
    if side == feeding.TORCH:
        images = [image.transpose(1, 2, 0) for image in images]
    photographs = originals(splits[False])
    places = [find(image + MEAN, photographs)[0] for image in images]
    assert len({place[1:3] for place in places}) > 6
    # 1 in 2,048 that twelve draws are alike.
    assert {place[3] for place in places} == {False, True}


def test_torch_that_is_not_there_is_said(monkeypatch, splits, tmp_path):
    monkeypatch.setattr(feeding, "_installed", lambda name: False)
    feeding.write_folder(splits[False], tmp_path)
    sides, missing = feeding.peer_batches(tmp_path, CONFIG.resolved(), STATISTICS)
    assert missing == ["torch: not installed"]
    assert list(sides) == [feeding.TF_DATA, feeding.KERAS]


def test_labels_of_a_folder_are_its_classes_in_order(splits, tmp_path):
    feeding.write_folder(splits[False], tmp_path)
    paths, labels = peers.files_and_labels(tmp_path)
    assert len(paths) == IMAGES
    assert labels.tolist() == sorted(splits[False].labels.tolist())


def test_sides_take_turns_and_only_what_counts_is_counted():
    said = []

    def side(name, images):
        def work():
            said.append(f"{name} begins")
            try:
                while True:
                    yield images
            finally:
                said.append(f"{name} ends")

        return work

    rates = measuring.interleave({"a": side("a", 1), "b": side("b", 2)}, rounds=2, seconds=0.0, warm_up=3)
    assert said == ["a begins", "a ends", "b begins", "b ends"] * 3
    assert {name: len(values) for name, values in rates.items()} == {"a": 2, "b": 2}


def test_ratios_are_of_the_same_round():
    """So what slows a whole round down does not count."""
    result = measuring.Result(
        "speed", "images/s", {"a": [2.0, 20.0, 6.0], "b": [1.0, 10.0, 2.0]}, [measuring.Ratio("a", "b")]
    )
    found = measuring.as_dict(result)
    assert found["medians"] == {"a": 6.0, "b": 2.0}
    assert found["ratios"] == [
        {
            "above": "a",
            "below": "b",
            "reach": None,
            "bound": "at least",
            "median": 2.0,
            "least": 2.0,
            "most": 3.0,
            "reached": None,
        }
    ]


def test_what_is_reached_depends_on_the_bound():
    assert measuring.is_reached(4.0, 4.0, measuring.AT_LEAST) and not measuring.is_reached(3.9, 4.0, measuring.AT_LEAST)
    assert measuring.is_reached(1.1, 1.1, measuring.AT_MOST) and not measuring.is_reached(1.2, 1.1, measuring.AT_MOST)
    assert measuring.is_reached(1, 1.0, measuring.EXACTLY) and not measuring.is_reached(2, 1.0, measuring.EXACTLY)
    assert measuring.is_reached(4.0, None, measuring.AT_LEAST) is None


def test_a_side_works_in_a_process_of_its_own():
    with measuring.elsewhere((steps.matrix_product,)) as sides:
        assert list(sides) == ["tf.matmul"]
        rates = measuring.interleave(sides, rounds=1, seconds=0.0, warm_up=0)
        assert rates["tf.matmul"][0] > 0


def test_what_goes_wrong_in_another_process_is_said():
    with pytest.raises(ChildProcessError, match="Expected tensorflow_normalization to work in its process. Received: "):
        with measuring.elsewhere((steps.tensorflow_normalization, "many")):
            pass


def join_towers(weights):
    """Our weights as Keras's grouped network takes them: a list of kernels and biases."""

    def both(number):
        kernels, biases = zip(*[weights[f"{number}_{tower}"] for tower in "ab"])
        return np.concatenate(kernels, axis=-1), np.concatenate(biases)

    found = [*both("conv1"), *both("conv2"), *both("conv3"), *both("conv4"), *both("conv5")]
    kernel, bias = both("fc6")
    # Ours are flattened tower by tower, theirs position by position.
    kernel = kernel.reshape([2, 36, 128, 4096]).transpose(1, 0, 2, 3).reshape([9216, 4096])
    found += [kernel, bias]
    # Ours halves what fc6 and fc7 give in use, theirs doubles it in training.
    for kernel, bias in (both("fc7"), weights["fc8"]):
        found += [kernel / 2, bias]
    return found


@pytest.fixture(scope="module")
def keras_peer():
    return network_peers.keras_alexnet()


def test_keras_peer_is_the_same_network(keras_peer):
    assert keras_peer.count_params() == 60_965_224
    ours = alexnet_tf.AlexNet(seed=0)
    weights = {
        layer.name: [value.numpy() for value in layer.weights] for layer in ours.layers if "kernel" in dir(layer)
    }
    keras_peer.set_weights(join_towers(weights))
    # Small ones: at the groups' border their normalisation sees maps that ours does not, which must not count.
    images = reference_network.random_images(2, seed=1) / 60
    expected = ours(images, training=False).numpy()
    np.testing.assert_allclose(
        keras_peer(images, training=False), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()
    )


def test_arithmetic_of_a_step_is_counted_right(keras_peer):
    """Each weight meets each position forward, and twice backward but for the images' gradient, which nobody needs."""
    layers = [layer for layer in keras_peer.layers if hasattr(layer, "kernel")]
    flops = [2 * np.prod(layer.output.shape[1:-1], initial=1) * np.prod(layer.kernel.shape) for layer in layers]
    assert (3 * sum(flops) - flops[0]) / 1e9 == pytest.approx(steps.GFLOP_AN_IMAGE, abs=5e-5)


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="torch is not installed")
def test_torch_peer_is_the_network_of_the_keras_peer(keras_peer):
    import torch

    model = network_peers.torch_alexnet().eval()
    parameters = list(model.parameters())
    assert sum(parameter.numel() for parameter in parameters) == 60_965_224
    shapes = {str(index): kernel.shape for index, kernel in enumerate(keras_peer.get_weights()[::2])}
    # Activities at which the normalisations count.
    weights = reference_network.large_weights(shapes, seed=2)
    keras_peer.set_weights([value for pair in weights.values() for value in pair])
    for index, (kernel, bias) in enumerate(weights.values()):
        if index == 5:
            kernel = kernel.reshape([6, 6, 256, 4096]).transpose(2, 0, 1, 3).reshape([9216, 4096])
        kernel = kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
        for parameter, value in zip(parameters[2 * index :], (kernel, bias)):
            parameter.data.copy_(torch.from_numpy(value.copy()))
    images = reference_network.random_images(1, seed=3)
    with torch.inference_mode():
        found = model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    expected = keras_peer(images, training=False).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.fixture
def small(monkeypatch):
    """Everything once, on two images, in this process."""

    @contextlib.contextmanager
    def here(*builds):
        yield {name: side for build, *arguments in builds for name, side in build(*arguments).items()}

    monkeypatch.setattr(measuring, "elsewhere", here)
    monkeypatch.setattr(steps, "WARM_UP", 0)
    monkeypatch.setattr(steps, "MATRIX_SIDE", 64)
    monkeypatch.setattr(steps, "COPIED_BYTES", 1 << 16)
    return measuring.Request(configuration.Config(batch_size=2), rounds=1, seconds=0.0)


@pytest.fixture(scope="module", autouse=True)
def release_trainer():
    yield
    steps._our_trainer.cache_clear()


torch_if_there = [steps.TORCH] if importlib.util.find_spec("torch") else []
LRN_SIDES = ["ours 2x55x55x96", "ours 2x27x27x256", "TensorFlow 2x55x55x96", "TensorFlow 2x27x27x256"]
ROWS = {
    "P1": ([steps.OURS, steps.KERAS, *torch_if_there], [4.0, 3.0][: 1 + len(torch_if_there)], 0),
    "P3": (["without LRN", steps.OURS], [1.15], 0),
    "P4": (LRN_SIDES, [4.0, 4.0], 0),
    "P6": ([steps.OURS, "tf.matmul"], [1.2], 0),
    "P7": (["bfloat16", "float32"], [1.4], 0),
    "P11": ([steps.OURS, steps.KERAS], [1.5], 0),
    "forward": (
        [f"{side}, {size}" for side in (steps.OURS, steps.KERAS, *torch_if_there) for size in (1, 2)],
        [None] * (2 + 2 * len(torch_if_there)),
        0,
    ),
    "growth": (["batch 2"], [], 2),
    "machine": ([], [], 2),
}


# Each other process loads TensorFlow anew; these rows differ from the others in what is measured alone.
ALIKE = {"P6", "P11", "forward", "growth"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in ALIKE else n for n in ROWS])
def test_each_row_is_measured_on_all_its_sides(name, small, monkeypatch):
    monkeypatch.setattr(steps, "processor_flags", lambda: {"avx512_bf16"})
    sides, reach, figures = ROWS[name]
    found = report.measure_here(name, small)
    assert sorted(found["rates"]) == sorted(sides)
    assert all(len(rates) == 1 and rates[0] > 0 for rates in found["rates"].values())
    assert [ratio["reach"] for ratio in found["ratios"]] == reach
    assert len(found["figures"]) == figures
    assert all(figure["value"] > 0 for figure in found["figures"])
    assert report.lines(name, found)


@pytest.fixture
def small_export(small, monkeypatch):
    """As `small`, of the network for small pictures."""
    monkeypatch.setattr(serving, "BATCH", 2)
    monkeypatch.setattr(serving, "SIZES", ((30, 20), (40, 50), (60, 70)))
    changes = {"image_size": 40, "crop_size": 32, "initialization": "he", "input_scale": 0.02}
    return small._replace(config=dataclasses.replace(small.config, **changes))


def test_an_export_is_measured_by_files_and_by_pixels(small_export):
    found = report.measure_here("P12", small_export)
    assert list(found["rates"]) == ["pixels, 1", "same file, 1", "file, 1", "files, 2"]
    assert [ratio["reach"] for ratio in found["ratios"]] == [2.3, 1.15, None]
    assert found["figures"][0]["value"] > 0


def test_a_server_under_load_answers_everything_right(small_export, monkeypatch):
    monkeypatch.setattr(serving, "CLIENTS", (1, 3))
    monkeypatch.setattr(serving, "REQUESTS", 7)
    found = report.measure_here("load", small_export)
    assert list(found["rates"]) == ["1 clients", "3 clients"]
    assert [figure["what"] for figure in found["figures"]] == [
        *(f"latency, {clients} clients, {share} %" for clients in (1, 3) for share in (50, 95, 99)),
        "memory after 2 mixed requests",
        "memory after 20",
    ]
    assert all(figure["value"] > 0 for figure in found["figures"])


def test_wrong_answers_of_a_server_are_noticed(small_export, monkeypatch):
    monkeypatch.setattr(serving, "CLIENTS", (1,))
    monkeypatch.setattr(serving, "TOLERANCE", -1.0)
    with pytest.raises(ValueError, match="^Expected the answers of the export in this process. Received: "):
        serving.load(small_export)


def test_requests_are_mixed():
    requests = serving._mixed(40)
    assert {len(request) for request in requests} == {1, 2, 3, 4, 5}
    assert sum(serving.BAD in request for request in requests) == 8
    assert len({file for request in requests for file in request}) == 5


def test_network_without_normalization_is_ours_without_it():
    ours = alexnet_tf.AlexNet(seed=0)
    bare = steps.without_normalization(ours)
    assert [value.path for value in bare.variables] == [value.path for value in ours.variables]
    assert not [layer for layer in bare.layers if isinstance(layer, alexnet_tf.LocalResponseNormalization)]
    assert [layer.name for layer in bare.layers] == [layer.name for layer in ours.layers]


def test_bfloat16_needs_a_processor_that_has_it(small, monkeypatch):
    monkeypatch.setattr(steps, "processor_flags", lambda: {"avx2"})
    assert "bfloat16" in report.measure_here("P7", small)["not_run"]


def test_step_is_traced_once(small):
    (figure,) = report.measure_here("P13", small)["figures"]
    assert figure["value"] == 1 and figure["reached"]


def test_what_tensorboard_costs_is_a_share_of_the_steps_time(small):
    found = report.measure_here("summaries", small)
    step, scalars, details, _, share = (figure["value"] for figure in found["figures"])
    config = small.config
    assert share == pytest.approx(100 * (scalars / config.report_steps + details / showing.STEPS_PER_EPOCH) / step)
    assert step > 0 and 0 < scalars < details
    assert found["figures"][-1]["bound"] == measuring.AT_MOST


def test_two_devices_share_the_work(small):
    two = dataclasses.replace(small.config, devices=("/CPU:0", "/CPU:1"))
    found = report.measure_here("P8", small._replace(config=two))
    assert list(found["rates"]) == ["one device", "two devices"]
    assert len(found["figures"]) == 4 and all(figure["reached"] for figure in found["figures"])
    assert found["ratios"][0]["bound"] == measuring.AT_MOST


@pytest.mark.slow
def test_two_workers_are_measured_against_one_process(tmp_path):
    path = tmp_path / "figures.json"
    done = benchmark("--rows=workers", "--quick", "--batch_size=4", f"--json={path}")
    assert done.returncode == 0 and not done.stderr, done.stderr
    row = json.loads(path.read_text())["rows"]["workers"]
    assert row["cores"] == workers.COUNT and len(row["rates"]) == 3
    assert all(rate > 0 for rates in row["rates"].values() for rate in rates)
    assert [round(figure["value"], 3) for figure in row["figures"] if figure["unit"] == "MB"] == [243.861, 121.93]
    assert all(figure["value"] > 0 for figure in row["figures"])


def test_two_workers_need_a_core_each(small, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    assert "needs 2 cores" in report.measure_here("workers", small)["not_run"]


def test_two_devices_are_not_measured_on_one(small):
    assert "needs two devices" in report.measure_here("P8", small)["not_run"]


def figures(batch):
    result = measuring.Result(
        "steps",
        "images/s",
        {f"a{batch}": [2.0, 4.0], f"b{batch}": [1.0, 1.0]},
        [measuring.Ratio(f"a{batch}", f"b{batch}", 2.5)],
        ["a note"],
        [measuring.Figure(f"memory {batch}", 1234.0, "MB", 1000.0, measuring.AT_MOST)],
    )
    return measuring.as_dict(result)


def test_table_is_written_for_machines_and_for_readers(tmp_path):
    rows = {"P1": report.merge([figures(1), figures(2)]), "P8": {"not_run": "needs two devices"}}
    report.write(rows, tmp_path / "found.json", tmp_path / "found.md")
    read = json.loads((tmp_path / "found.json").read_text())
    assert read["rows"] == rows and read["machine"]["cores"] == machine.available_cores()
    assert [ratio["reached"] for ratio in read["rows"]["P1"]["ratios"]] == [True, True]
    text = (tmp_path / "found.md").read_text()
    assert "| P1 | a1 / b1 | 3.00 (2.00 to 4.00) | 2.5 | steps: a1 3, b1 1, a2 3, b2 1 images/s; a note |" in text
    assert "| P1 | memory 2 | 1234 MB | at most 1000 |  |" in text
    assert "| P8 | not run: needs two devices | | | |" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {6}


def grown(size):
    """The row "growth" at one batch size, as its process writes it."""
    sides = {f"batch {size}": [4.0, 5.0, 6.0]}
    found = [
        measuring.Figure(f"step, batch {size}", size / 5.0, "s"),
        measuring.Figure(f"peak memory, batch {size}", 1500.0 + size, "MB"),
    ]
    return measuring.as_dict(measuring.Result("steps", "images/s", sides, [], figures=found))


@pytest.mark.skipif(not importlib.util.find_spec("matplotlib"), reason="matplotlib is not installed")
def test_growth_is_drawn_as_it_was_measured(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(report.figures, "save_figure", lambda figure, path: drawn.append((figure, path)))
    report.plot(report.merge([grown(1), grown(8), grown(64)]), tmp_path / "growth.png")
    ((figure, path),) = drawn
    assert path == tmp_path / "growth.png"
    values = [axes.lines[0].get_xydata().T.tolist() for axes in figure.axes]
    times, memory, speeds = values
    assert times == [[1, 8, 64], [200.0, 1600.0, 12800.0]]
    assert memory == [[1, 8, 64], [1.501, 1.508, 1.564]]
    assert speeds == [[1, 8, 64], [5.0, 5.0, 5.0]]


def test_plot_is_refused_before_anything_is_measured(monkeypatch):
    with pytest.raises(ValueError, match=r"^Expected growth among --rows, for --plot\. Received: P1,P9$"):
        report.check_plot("growth.png", ["P1", "P9"])
    with pytest.raises(ValueError, match=r"^Expected --plot=FILE\.png\. Received: growth\.svg$"):
        report.check_plot("growth.svg", ["growth"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"^Expected matplotlib for --plot: pip install -e '\.\[figures\]'$"):
        report.check_plot("growth.png", ["growth"])


def test_speed_of_the_machine_is_among_its_facts():
    row = measuring.as_dict(measuring.Result("", "", {}, [], figures=[measuring.Figure("copy", 7.0, "GB/s")]))
    assert report.machine_facts({"machine": row})["copy in GB/s"] == 7.0


def test_rows_are_chosen_by_name():
    assert report.choose(["P9", "P2"]) == ["P1", "P9"]
    assert report.choose([]) == list(report.rows())


def test_ready_batches_are_measured_on_all_sides(data_dirs, monkeypatch):
    monkeypatch.setattr(feeding, "WARM_UP_BATCHES", 1)
    found = measuring.as_dict(feeding.ready_batches(measuring.Request(CONFIG, data_dirs, rounds=1, seconds=0.0)))
    assert {feeding.JPEG, feeding.RAW, feeding.CACHED, feeding.TF_DATA, feeding.KERAS} <= set(found["medians"])
    assert all(rate > 0 for rates in found["rates"].values() for rate in rates)
    reach = {(ratio["above"], ratio["below"]): ratio["reach"] for ratio in found["ratios"]}
    assert reach[feeding.CACHED, feeding.TF_DATA] == 5 and reach[feeding.JPEG, feeding.TF_DATA] == 1.35


def test_raw_records_that_are_not_there_are_said(data_dirs, monkeypatch):
    monkeypatch.setattr(feeding, "WARM_UP_BATCHES", 1)
    found = feeding.ready_batches(measuring.Request(CONFIG, data_dirs[:1], rounds=1, seconds=0.0))
    assert feeding.RAW not in found.rates
    assert f"{feeding.RAW}: not run: needs --data_dir=JPEG,RAW" in found.notes


@pytest.mark.parametrize("measure", [feeding.ready_batches, feeding.training])
def test_without_data_a_row_is_not_run(measure):
    with pytest.raises(measuring.NotRunError, match="needs --data_dir"):
        measure(measuring.Request(CONFIG))


def test_raw_records_alone_are_not_enough(data_dirs):
    with pytest.raises(measuring.NotRunError, match="JPEG records"):
        feeding.ready_batches(measuring.Request(CONFIG, data_dirs[1:]))


def test_two_data_sets_of_a_kind_are_refused(data_dirs):
    with pytest.raises(ValueError, match="Received: two of JPEG"):
        feeding.ready_batches(measuring.Request(CONFIG, [data_dirs[0]] * 2))


def test_training_is_measured(data_dirs, monkeypatch):
    monkeypatch.setattr(feeding, "WARM_UP_STEPS", 0)
    found = measuring.as_dict(feeding.training(measuring.Request(CONFIG, data_dirs, rounds=1, seconds=0.0)))
    assert list(found["medians"]) == ["training from JPEG records", "on one batch"]
    assert found["ratios"][0]["reach"] == 0.95


def test_synthetic_batch_is_like_a_real_one(splits):
    data = examples.from_records(splits[True])
    real = pipeline.training_batches(data, sampling.Sampling(batch_size=BATCH, seed=0, first_step=0, steps=1))
    noise = feeding.synthetic_batch(BATCH, 2, 0)
    assert {name: (value.shape, value.dtype) for name, value in noise.items()} == {
        name: (spec.shape, spec.dtype) for name, spec in real.element_spec.items()
    }
    assert tf.reduce_min(noise["offsets"]) >= 0 and tf.reduce_max(noise["offsets"]) <= 32


def benchmark(*arguments):
    return forks.run("benchmark", *arguments)


def test_program_writes_the_figures(data_dirs, tmp_path):
    """P9 in a process of its own, on one core."""
    path = tmp_path / "figures.json"
    done = benchmark("--rows=P9", f"--data_dir={','.join(data_dirs)}", "--quick", "--batch_size=4", f"--json={path}")
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert "P9: cached / tf.data textbook: " in done.stdout and ", reach 5" in done.stdout
    row = json.loads(path.read_text())["rows"]["P9"]
    assert row["cores"] == 1
    assert row["medians"][feeding.CACHED] > 0 and len(row["rates"][feeding.CACHED]) == 1


def test_program_says_what_it_could_not_run(tmp_path):
    path = tmp_path / "figures.json"
    done = benchmark("--rows=P9,P10", f"--json={path}")
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert "P9: not run: needs --data_dir" in done.stdout and "P10: not run: needs --data_dir" in done.stdout
    assert "needs --data_dir" in json.loads(path.read_text())["rows"]["P10"]["not_run"]


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (["--rows=P9", "--data_dir=/nowhere", "--json=figures.json"], 1, "Expected a data set that tools/prepare.py"),
        (["--rows=P99", "--json=figures.json"], 1, "Expected rows among machine, P1, P3"),
        (["--json=/nowhere/figures.json"], 1, "Expected --json, --markdown and --plot in a directory that is there"),
        (["--rows=P10"], 2, "Expected --json"),
        (["--rows=P10", "--json=figures.json", "--plot=growth.png"], 1, "Expected growth among --rows, for --plot."),
    ],
)
def test_bad_input_gets_one_line(arguments, status, message):
    done = benchmark(*arguments)
    assert done.returncode == status
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
