"""Nearest neighbors of a run: queries by index and by file, in prepared and other data sets."""

import dataclasses
import importlib.util
import json
import pathlib

import forks
import numpy as np
import pytest
import tensorflow as tf
import untrained_runs
from PIL import Image

from alexnet_tf.data import loading
from alexnet_tf.data import prepare
from alexnet_tf.data import sources
from alexnet_tf.evaluation import feature_index
from alexnet_tf.reporting import figures
from alexnet_tf.runs import export
from alexnet_tf.runs import neighbours
from alexnet_tf.runs import queries

ROOT = pathlib.Path(__file__).resolve().parents[2]
# All training images stay in the training set.
ALL_TRAIN = {"validation_fraction": 0.0, "schedule": "linear"}
CLASS_NAMES = ["apple", "pear", "plum"]
TRAIN, TEST = 24, 6
UNREADABLE = "train/pear/10.png"
needs_matplotlib = pytest.mark.skipif(
    not importlib.util.find_spec("matplotlib"), reason="needs matplotlib: pip install -e '.[figures]'"
)


def picture(seed, size=(44, 50)):
    coarse = np.random.default_rng(seed).integers(0, 256, [5, 6, 3], dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with images of three classes, one of which is unreadable."""
    root = tmp_path_factory.mktemp("photographs")
    for split, count in (("train", TRAIN), ("test", TEST)):
        for number in range(count):
            path = root / split / CLASS_NAMES[number % 3] / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(number + 100 * (split == "test")).save(path)
    (root / UNREADABLE).write_bytes((root / UNREADABLE).read_bytes()[:200])
    return root


@pytest.fixture
def run(folder, tmp_path):
    return make_run(folder, tmp_path / "run")


@pytest.fixture(scope="module")
def same_run(folder, tmp_path_factory):
    """A run for tests that change only the index of its training images."""
    return make_run(folder, tmp_path_factory.mktemp("runs") / "same")


def make_run(folder, workdir, **changes):
    # Compiling response normalization would take most of the time of these tests.
    config = dataclasses.replace(
        untrained_runs.SMALL, source=f"folder:{folder}", **{"normalization": "none", **ALL_TRAIN, **changes}
    )
    return untrained_runs.make_run(workdir, config, CLASS_NAMES)


def stored(index):
    return np.asarray(index.features, np.float64)


def test_features_equal_those_of_an_export(run, tmp_path):
    index = neighbours.index_run(run, dtype="float32")
    served = tf.saved_model.load(export.export_run(run, tmp_path / "served")).signatures["features"]
    contents = [pathlib.Path(name).read_bytes() for name in index.images.names]
    expected = served(image_bytes=tf.constant(contents))["features"].numpy()
    assert expected.std() > 0.01
    np.testing.assert_allclose(index.features, expected, rtol=1e-4, atol=1e-5)
    half = neighbours.index_run(run, index_dir=tmp_path / "half")
    assert half.features.dtype == np.float16
    np.testing.assert_allclose(half.features, expected, rtol=1e-3, atol=1e-4)


def test_an_index_lists_the_readable_images(run, folder, capsys):
    index = neighbours.index_run(run)
    assert index.directory == pathlib.Path(run, "neighbours", "train")
    assert len(index) == TRAIN - 1
    # In the order of the folder: class by class.
    paths = sorted((folder / "train").glob("*/*.png"))
    places = [place for place, path in enumerate(paths) if path != folder / UNREADABLE]
    np.testing.assert_array_equal(index.images.places, places)
    assert index.images.names == [str(paths[place]) for place in places]
    names = [index.class_names[label] for label in index.images.labels]
    assert names == [paths[place].parent.name for place in places]
    said = capsys.readouterr().out
    assert "warning: skipped 1 train files that could not be read" in said and "23 train images" in said
    assert index.metadata["step"] == 7 and index.metadata["split"] == "train"


def test_neighbors_have_the_nearest_features(same_run, folder):
    answers = neighbours.query(same_run, queries.Queries(indices=(0, 5)), k=4, dtype="float32")
    train = neighbours.index_run(same_run)
    test = neighbours.index_run(same_run, "test", dtype="float32")
    for place, answer in zip((0, 5), answers["queries"]):
        distances = np.linalg.norm(stored(train) - stored(test)[place], axis=1)
        nearest = np.argsort(distances, kind="stable")[:4]
        near = answer["neighbours"]
        assert [each["index"] for each in near] == train.images.places[nearest].tolist()
        assert [each["name"] for each in near] == [train.images.names[number] for number in nearest]
        assert [each["class"] for each in near] == [CLASS_NAMES[train.images.labels[number]] for number in nearest]
        np.testing.assert_allclose([each["distance"] for each in near], distances[nearest], rtol=1e-4)
        assert answer["index"] == place and answer["split"] == "test" and answer["left_out"] is None
        assert answer["class"] == pathlib.Path(answer["name"]).parent.name


def test_an_indexed_image_is_not_its_own_neighbor(same_run, folder):
    by_index = neighbours.query(same_run, queries.Queries(split="train", indices=(3,)), k=TRAIN - 2)["queries"][0]
    assert 3 not in [each["index"] for each in by_index["neighbours"]]
    by_path = neighbours.query(same_run, queries.Queries((by_index["name"],)), k=TRAIN - 2)["queries"][0]
    assert by_path["neighbours"] == by_index["neighbours"]
    assert by_path["left_out"] == by_index["left_out"] == by_index["name"]
    assert by_path["class"] is None and by_index["class"] == "apple"


def test_the_nearest_neighbor_of_a_copy_is_the_original(same_run, folder, tmp_path):
    picture(4).save(tmp_path / "copy.png")
    (answer,) = neighbours.query(same_run, queries.Queries((str(tmp_path / "copy.png"),)), dtype="float32")["queries"]
    assert answer["neighbours"][0]["name"] == str(folder / "train" / "pear" / "04.png")
    assert answer["neighbours"][0]["distance"] < 1e-3 * answer["neighbours"][1]["distance"]


def test_an_index_is_built_once_per_checkpoint(run, folder, capsys):
    features = neighbours.index_run(run).directory / "features.npy"
    before = features.stat().st_mtime_ns
    capsys.readouterr()
    neighbours.index_run(run)
    assert features.stat().st_mtime_ns == before
    assert capsys.readouterr().out == f"checkpoint {run}/checkpoints/ckpt-7 (newest)\n"
    # The same step of a different run.
    make_run(folder, run, seed=9)
    neighbours.index_run(run)
    assert "has features of ckpt-7, but the checkpoint is ckpt-7" in capsys.readouterr().out
    assert neighbours.index_run(run, dtype="float32").features.dtype == np.float32
    assert "is in float16" in capsys.readouterr().out
    assert neighbours.index_run(run).features.dtype == np.float32


def test_an_index_of_other_images_is_rebuilt(run, folder, tmp_path, capsys):
    neighbours.index_run(run)
    other = tmp_path / "other"
    for number in range(6):
        (other / "train" / CLASS_NAMES[number % 3]).mkdir(parents=True, exist_ok=True)
        picture(number).save(other / "train" / CLASS_NAMES[number % 3] / f"{number}.png")
    assert len(neighbours.index_run(run, source=f"folder:{other}")) == 6
    assert "has different images" in capsys.readouterr().out


def test_an_index_of_another_run_or_split_is_kept(run, folder, tmp_path):
    directory = tmp_path / "index"
    neighbours.index_run(run, index_dir=directory)
    other = make_run(folder, tmp_path / "other", seed=9)
    with pytest.raises(
        ValueError, match=f"^Expected the index in .* to have train images and features of {other}. Received: tr"
    ):
        neighbours.index_run(other, index_dir=directory)
    with pytest.raises(ValueError, match="to have test images and .* Received: train images"):
        neighbours.index_run(run, "test", index_dir=directory)
    (directory / "images.json").write_text("{")
    with pytest.raises(ValueError, match="^Expected the images of an index in .*images.json. Received: "):
        neighbours.index_run(run, index_dir=directory)


@pytest.mark.parametrize(
    "storage", [pytest.param(each, marks=[pytest.mark.slow] * (each != "jpeg")) for each in prepare.STORAGES]
)
def test_prepared_data_can_be_searched(folder, tmp_path, storage):
    config = dataclasses.replace(
        untrained_runs.CONFIG,
        source=f"folder:{folder}",
        network="cifar10_18",
        normalization="none",
        crop_size=64,
        **ALL_TRAIN,
    )
    data_dir = str(tmp_path / "prepared")
    prepare.prepare(sources.open_source(f"folder:{folder}"), data_dir, prepare.Options(storage))
    config = dataclasses.replace(config, source="", data_dir=data_dir)
    run = untrained_runs.make_run(tmp_path / "run", config, CLASS_NAMES)
    index = neighbours.index_run(run, dtype="float32")
    assert len(index) == TRAIN - 1
    # A query is read in the same way as the indexed images.
    answer = neighbours.query(run, queries.Queries(split="train", indices=(2,)), index_dir=index.directory)["queries"][
        0
    ]
    distances = np.linalg.norm(stored(index) - stored(index)[2], axis=1)
    nearest = np.argsort(distances, kind="stable")[1:7]
    assert [each["index"] for each in answer["neighbours"]] == nearest.tolist()
    np.testing.assert_allclose([each["distance"] for each in answer["neighbours"]], distances[nearest], rtol=1e-4)
    # A file of the original folder is recognized by the end of its path.
    path = folder / index.images.names[2]
    (answer,) = neighbours.query(run, queries.Queries((str(path),)))["queries"]
    assert answer["left_out"] == index.images.names[2]


@pytest.mark.parametrize(
    "requested, arguments, message",
    [
        (queries.Queries(), {}, "^Expected at least one query. Received: none$"),
        (queries.Queries(("/nowhere.png",)), {}, "^Expected an image in /nowhere.png. Received: .*No such file"),
        (queries.Queries((str(ROOT / "setup.py"),)), {}, "^Expected an image in .*setup.py. Received: "),
        (queries.Queries(indices=(6,)), {}, "^Expected queries from 0 to 5 in the test split. Received: 6$"),
        (queries.Queries(split="train", indices=(11,)), {}, f"^Expected an image in .*{UNREADABLE}. Received: "),
        (queries.Queries(random=7), {}, "^Expected random to be 0 to 6, the number of test images. Received: 7$"),
        (queries.Queries(split="validation", random=1), {}, "^Expected split to be one of train, test. Received"),
        (queries.Queries(random=1), {"index_split": "validation"}, "^Expected split to be one of train, test."),
        (queries.Queries(random=1), {"method": "best"}, "^Expected method to be one of auto, exact, approximate"),
        (queries.Queries(random=1), {"json_path": "/nowhere/a.json"}, "^Expected a file in an existing directory"),
        (
            queries.Queries(random=1),
            {"figure_path": "a.svg"},
            r"^Expected the name of a figure to end in .png. Received",
        ),
        (
            queries.Queries(split="train", indices=(0,) * 51),
            {"figure_path": "a.png"},
            "^Expected at most 50 queries",
        ),
    ],
)
def test_invalid_requests_are_rejected_before_an_index_is_built(run, requested, arguments, message):
    if arguments.get("figure_path") == "a.png":
        pytest.importorskip("matplotlib")
    with pytest.raises((ValueError, OSError), match=message) as caught:
        neighbours.query(run, requested, **arguments)
    assert "\n" not in str(caught.value)
    assert not pathlib.Path(run, "neighbours").exists()


@pytest.mark.parametrize("name", ["missing.png", "text.png", "folder.png"])
def test_files_that_cannot_be_read_are_rejected_before_the_run_is_opened(run, tmp_path, monkeypatch, name):
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    monkeypatch.setattr(neighbours, "open_run", lambda *arguments, **options: pytest.fail("the run was opened"))
    with pytest.raises(ValueError, match=f"^Expected an image in .*{name}. Received: ") as caught:
        neighbours.query(run, queries.Queries((str(tmp_path / name),), indices=(0,)))
    assert "\n" not in str(caught.value)


def test_slow_queries_are_named(folder, monkeypatch):
    monkeypatch.setattr(loading, "SLOW_SECONDS", -1.0)
    slow, paths = [], [str(folder / "test" / CLASS_NAMES[0] / "00.png"), str(folder / UNREADABLE)]
    queries.load_files(queries.Queries(paths[:1]), 32, lambda *each: slow.append(each))
    with pytest.raises(ValueError):
        queries.load_files(queries.Queries(paths[1:]), 32, lambda *each: slow.append(each))
    assert [name for name, _ in slow] == paths and all(0 <= seconds < 60 for _, seconds in slow)


def test_more_neighbors_than_images_are_rejected(same_run):
    with pytest.raises(ValueError, match="^Expected k to be from 1 to 23, the number of images. Received: 24$"):
        neighbours.query(same_run, queries.Queries(random=1), k=24)


def test_random_queries_depend_only_on_the_seed(same_run):
    drawn = lambda seed: [
        each["index"] for each in neighbours.query(same_run, queries.Queries(random=4, seed=seed), k=1)["queries"]
    ]
    assert drawn(1) == drawn(1) != drawn(2)
    assert len(set(drawn(1))) == 4


def test_an_approximate_search_builds_its_index(same_run):
    pytest.importorskip("faiss")
    requested = queries.Queries(random=3)
    approximate, exact = (neighbours.query(same_run, requested, method=method) for method in ("approximate", "exact"))
    # Every image is a candidate.
    assert approximate.pop("method") == "approximate" and exact.pop("method") == "exact"
    assert approximate == exact
    assert feature_index.open_index(pathlib.Path(same_run, "neighbours", "train")).has_approximate


def test_table_lists_neighbors_and_counts_those_of_the_same_class():
    near = [
        {"distance": 1.5, "class": "pear", "name": "a.png"},
        {"distance": 12345.6, "class": "plum", "name": "b.png"},
    ]
    answers = [
        {"name": "q.png", "class": "pear", "neighbours": near},
        {"name": "cat.jpg", "class": None, "neighbours": near},
    ]
    lines = neighbours.table({"queries": answers}).splitlines()
    assert lines[0] == "q.png: pear" and lines[3] == "cat.jpg"
    assert lines[1].split() == ["1", "1.5", "pear", "a.png"]
    assert lines[-1] == "neighbors of the same class as their query: 1 of 2"


def test_classes_are_shown_with_their_words():
    near = [{"distance": 1.5, "class": "n02012849", "words": "crane, of birds", "name": "a.png"}]
    answers = [{"name": "q.png", "class": "n03126707", "words": "crane", "neighbours": near}]
    lines = neighbours.table({"queries": answers}).splitlines()
    assert lines[0] == "q.png: crane (n03126707)" and lines[1].split(maxsplit=2)[2] == "crane (n02012849)        a.png"
    assert lines[-1].endswith("0 of 1")
    words = {"n02012849": "crane, of birds", "n03126707": "crane", "n01443537": "goldfish, Carassius auratus"}
    assert neighbours.figure_names(words) == {**dict(zip(words, words)), "n01443537": "goldfish"}


@needs_matplotlib
def test_figure_shows_names_and_marks_neighbors_of_the_same_class():
    shown = [figures.NamedImage(np.full([9, 9, 3], 20 * number, np.uint8), "pear", 1.5) for number in range(3)]
    other = figures.NamedImage(np.zeros([9, 9, 3], np.uint8), "a plum with a long name", 2.25)
    query = figures.NamedImage(np.full([9, 9, 3], 255, np.uint8), "pear")
    axes = figures.neighbors(
        [figures.NeighborsRow(query, True, [*shown, other]), figures.NeighborsRow(query, False, [other, *shown])]
    ).axes
    assert len(axes) == 10
    np.testing.assert_array_equal(axes[2].images[0].get_array(), shown[1].pixels)
    colors = [each.spines["left"].get_edgecolor() for each in axes]
    assert colors[1] == colors[2] == colors[3] != colors[4]
    # Without a frame: the queries, and all images if the class is unknown.
    assert not any(color[3] for color in [colors[0], *colors[5:]]) and colors[4][3] == 1
    assert axes[1].get_xlabel() == "pear" and axes[4].get_xlabel() == "a plum with a …"
    assert [text.get_text() for text in axes[4].texts] == ["2.25"] and not axes[0].texts
    lefts = [each.get_position().x0 for each in axes[:5]]
    assert lefts == sorted(lefts) and axes[5].get_position().y1 < axes[0].get_position().y0


@needs_matplotlib
def test_the_program_writes_table_json_and_figure(run, folder, tmp_path):
    command = ["neighbours", f"--workdir={run}", "--k=3"]
    request = [f"--image={folder / UNREADABLE}", "--query=1,4", "--json=a.json", "--figure=a.png"]
    done = forks.run(*command, *request, directory=tmp_path)
    assert done.returncode == 1 and not list(tmp_path.glob("a.*"))
    assert done.stderr.startswith("neighbours.py: Expected an image in") and done.stderr.count("\n") == 1
    request[0] = f"--image={folder / 'train' / 'apple' / '00.png'}"
    done = forks.run(*command, *request, directory=tmp_path)
    assert done.returncode == 0 and not done.stderr, done.stderr
    answers = json.loads((tmp_path / "a.json").read_text())
    assert [query["index"] for query in answers["queries"]] == [None, 1, 4]
    assert neighbours.table(answers) in done.stdout
    assert tf.io.decode_png((tmp_path / "a.png").read_bytes()).shape[2] == 4
    done = forks.run(*command, "--query=first", directory=tmp_path)
    assert done.returncode == 2 and "Expected --query such as 0,5,17. Received: first" in done.stderr
