"""Nearly two thousand damaged files of the package's own formats: each is one line that names the file, or harmless.

Damage that leaves valid JSON or valid arrays is refused wherever answers depend on it.
"""

import json
import pathlib
import shutil

import mutations
import numpy as np
import pictures
import PIL.Image
import pytest
import small_experiments
import small_features

from alexnet_tf.data import prepare
from alexnet_tf.data import prepared
from alexnet_tf.data import sources
from alexnet_tf.data import statistics
from alexnet_tf.evaluation import feature_index
from alexnet_tf.experiments import plan
from alexnet_tf.experiments import results
from alexnet_tf.experiments import runner
from alexnet_tf.experiments import tables
from alexnet_tf.profiling import trace
from alexnet_tf.runs import export
from alexnet_tf.training import best_checkpoint
from alexnet_tf.training import metrics
from alexnet_tf.utils import schema


def check(path, versions, read, *, refused=False):
    """Reads a file in each version: either nothing is raised, or one line that names it. Restores the file.

    Args:
      path: of the file.
      versions: contents of the file.
      read: called without arguments.
      refused: whether each must raise.
    """
    content = path.read_bytes()
    accepted = 0
    for number, version in enumerate(versions):
        path.write_bytes(version)
        try:
            read()
            accepted += 1
            assert not refused, f"version {number} of {path}: {version[:200]}"
        # Anything else would be a traceback.
        except (ValueError, OSError) as error:
            message = str(error)
            assert "\n" not in message and "\x1b" not in message, message
            assert path.name in message or path.parent.name in message, message
    path.write_bytes(content)
    read()
    return accepted


@pytest.fixture
def experiment(tmp_path):
    """The runs and directories of an experiment with one trained seed."""
    flagfile = tmp_path / "small.flags"
    flagfile.write_text(small_experiments.HEADER + small_experiments.FLAGS)
    directories = plan.Directories(str(tmp_path / "runs"), str(tmp_path / "results"))
    for directory in directories:
        pathlib.Path(directory).mkdir(exist_ok=True)
    (run,) = plan.plan([flagfile], [0])
    small_experiments.leave_run(pathlib.Path(directories.run(run)), run.config)
    return run, directories


def read_run(run, directories):
    workdir = directories.run(run)
    records = results.read_run(workdir).records
    metrics.curve(records)
    metrics.images_per_second(records)
    export.read_errors(workdir, 40)
    for status in runner.collect_all([run], directories):
        if status.status == "failed":
            raise ValueError(status.detail)
    pathlib.Path(directories.result(run)).unlink(missing_ok=True)


def test_metrics_of_a_run(experiment, tmp_path):
    path = pathlib.Path(experiment[1].run(experiment[0])) / "metrics.jsonl"
    content = path.read_bytes()
    read = lambda: read_run(*experiment)
    check(path, mutations.of_lines(content, 200) + mutations.of_bytes(content, 60), read)
    for number, version in enumerate(mutations.of_lines(content, 40) + mutations.of_bytes(content, 40)):
        # Resuming removes what is not a record, or what an older program wrote.
        copy = tmp_path / f"{number}.jsonl"
        copy.write_bytes(version)
        metrics.Writer(copy, 40).write(kind="warning", step=40, epoch=4.0, text="")


def test_errors_of_a_run(experiment):
    path = pathlib.Path(experiment[1].run(experiment[0])) / "train.json"
    content = path.read_bytes()
    read = lambda: read_run(*experiment)
    check(path, mutations.of_json(content, 200) + mutations.of_bytes(content, 40), read)


def test_record_of_the_best_checkpoint(tmp_path):
    (tmp_path / "best").mkdir()
    path = tmp_path / "best" / "best.json"
    record = best_checkpoint.Record(12, 3.0, 0.25, 0.7, "validation")
    path.write_text(json.dumps(schema.sealed(record._asdict())))
    content = path.read_bytes()

    def read():
        assert best_checkpoint.read(str(tmp_path)) == record

    # Only damage to the name of its checksum is harmless.
    assert check(path, mutations.of_json(content, 100) + mutations.of_bytes(content, 60), read) < 5


def test_state_of_a_run(experiment):
    run, directories = experiment
    path = pathlib.Path(directories.run(run, ".state.json"))
    path.write_text('{"machines": [{"processor": "a", "cores": 2, "accelerators": []}]}')
    content = path.read_bytes()
    read = lambda: read_run(run, directories)
    check(path, mutations.of_json(content, 100) + mutations.of_bytes(content, 30), read)


def test_results(experiment):
    run, directories = experiment
    runner.collect_all([run], directories)
    path = pathlib.Path(directories.result(run))
    content = path.read_bytes()

    def read():
        results.read_result(path)
        status = runner.run_status(run, directories)
        tables.table([status], directories)
        tables.threshold_epochs([status], 0.5)

    check(path, mutations.of_json(content, 300) + mutations.of_bytes(content, 60), read)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    for number in range(4):
        path = root / "train" / f"class {number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(pictures.noise(9, 9, number)).save(path)
    prepare.prepare(sources.folder(root), root / "data", prepare.Options(shard_examples=2))
    return root


@pytest.fixture
def data_dir(made, tmp_path):
    return pathlib.Path(shutil.copytree(made / "data", tmp_path / "data"))


def test_manifest_of_prepared_data(data_dir):
    path = data_dir / prepared.MANIFEST
    content = path.read_bytes()

    def read():
        prepared.open_data_dir(data_dir)
        prepared.verify(data_dir)

    # Its name is not in an error about a shard that has another size than the manifest says.
    def read_alone():
        prepared.read_manifest(data_dir)

    check(path, mutations.of_json(content, 200) + mutations.of_bytes(content, 40), read_alone)
    read()


@pytest.mark.parametrize("name", [prepared.CLASSES, prepared.INDEX, prepared.STATISTICS])
def test_files_of_prepared_data_on_which_answers_depend(data_dir, name):
    path = data_dir / name
    content = path.read_bytes()
    versions = mutations.of_json(content, 60) if path.suffix == ".json" else mutations.of_npz(content)
    read = lambda: prepared.open_data_dir(data_dir)
    check(path, versions, read, refused=True)
    check(path, mutations.of_bytes(content, 60), read, refused=True)
    assert prepared.verify(data_dir) == []


@pytest.mark.parametrize("name", prepared.TFDS_FILES)
def test_verification_finds_damage_in_the_files_of_tfds(data_dir, name):
    content = (data_dir / name).read_bytes()
    for version in mutations.of_bytes(content, 30):
        (data_dir / name).write_bytes(version)
        (line,) = prepared.verify(data_dir)
        assert line == f"{data_dir / name}: not the bytes that were written"


def test_verification_parses_the_files_of_tfds_of_version_0_1(tmp_path):
    old = pathlib.Path(__file__).parent / "data" / "version_0_1" / "prepared"
    directory = pathlib.Path(shutil.copytree(old, tmp_path / "old"))
    assert prepared.verify(directory) == []
    for name, content, problem in (
        ("dataset_info.json", b"{", "damaged (Expected the metadata of TFDS in "),
        ("dataset_info.json", None, "damaged ("),
        ("dataset_info.json", (old / "dataset_info.json").read_bytes().replace(b'"8"', b'"9"'), "the counts of train"),
        ("features.json", b"\0" * 9, "damaged ("),
        ("features.json", b"[]", "damaged ("),
    ):
        (directory / name).unlink()
        if content is not None:
            (directory / name).write_bytes(content)
        (line,) = prepared.verify(directory)
        assert line.startswith(f"{directory / name}: {problem}") and "\n" not in line
        shutil.copy(old / name, directory / name)


def test_progress_of_a_preparation(made, tmp_path, monkeypatch):
    jobs = []

    def interrupted(source, found, request):
        jobs.extend(found)
        raise KeyboardInterrupt

    directory = tmp_path / "unfinished"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(prepare, "_finish", interrupted)
        prepare.prepare(sources.folder(made), directory, prepare.Options(shard_examples=2))
    path = directory / prepared.PROGRESS / "train-00000.npz"
    content = path.read_bytes()
    versions = mutations.of_npz(content) + mutations.of_bytes(content, 20)
    check(path, versions, lambda: prepare._read_shard_metadata(jobs[0], 0))
    path = directory / prepared.PROGRESS / "request.json"
    request = json.loads(path.read_bytes())
    for version in mutations.of_bytes(path.read_bytes(), 20) + mutations.of_json(path.read_bytes(), 40):
        path.write_bytes(version)
        try:
            prepare._begin(directory, request)
        except ValueError as error:
            assert "\n" not in str(error) and str(directory) in str(error)


def test_statistics_of_a_run(data_dir):
    path = data_dir / prepared.STATISTICS
    content = path.read_bytes()
    read = lambda: statistics.load(path)
    accepted = check(path, mutations.of_npz(content) + mutations.of_bytes(content, 60), read)
    # Directions of zeros, one image instead of four, and other arrays of the same kind.
    assert accepted <= 12


@pytest.mark.parametrize("name", [feature_index.IMAGES, feature_index.FEATURES, feature_index.MANIFEST])
def test_index_of_features(tmp_path, name):
    features = small_features.clustered(12)
    directory = small_features.write(tmp_path / "index", features)
    path = directory / name
    content = path.read_bytes()
    expected = feature_index.open_index(directory).search(features[:2], 3)

    def read():
        index = feature_index.open_index(directory)
        np.testing.assert_array_equal(index.search(features[:2], 3).indices, expected.indices)
        assert index.class_names == ["a", "b", "c"] and index.images.names[0] == "train/0.png"

    versions = mutations.of_bytes(content, 60)
    if path.suffix == ".json":
        versions += mutations.of_json(content, 100)
    if name == feature_index.MANIFEST:
        # An error may name the file whose checksum differs.
        for version in versions:
            path.write_bytes(version)
            try:
                read()
            except (ValueError, OSError) as error:
                assert "\n" not in str(error) and str(directory) in str(error)
        return
    check(path, versions, read, refused=True)


def test_description_of_a_step(tmp_path):
    path = tmp_path / trace.DESCRIPTION
    path.write_text(
        '{"conv1": {"phase": "forward", "layer": "conv1_a", "bytes": 8, "device": "CPU:0"}, "x": {"layer": ""}}'
    )
    content = path.read_bytes()
    read = lambda: trace.timeline_of([], trace._read_description(tmp_path))
    check(path, mutations.of_json(content, 100) + mutations.of_bytes(content, 30), read)
