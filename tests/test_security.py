"""Hostile input: none of it is executed, nothing is written outside, and excessive sizes are rejected."""

import ast
import functools
import gzip
import importlib.metadata
import io
import json
import pathlib
import pickle
import re
import resource
import shutil
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import packaging.requirements
import packaging.utils
import pictures
import PIL.Image
import pytest
import source_code
import tensorflow as tf

from alexnet_tf import flagfiles
from alexnet_tf.data import archives
from alexnet_tf.data import ilsvrc2010
from alexnet_tf.data import image_records
from alexnet_tf.data import loading
from alexnet_tf.data import photograph
from alexnet_tf.data import prepare
from alexnet_tf.data import prepared
from alexnet_tf.data import sources
from alexnet_tf.data import statistics
from alexnet_tf.evaluation import feature_index
from alexnet_tf.reporting import pages
from alexnet_tf.serving import client
from alexnet_tf.training import checkpoints
from alexnet_tf.training import metrics
from alexnet_tf.utils import files
from alexnet_tf.utils import messages

ROOT = pathlib.Path(__file__).parents[1]

# Forbidden names, and their alternatives.
FORBIDDEN = {
    r"(pickle|_pickle|cloudpickle|dill|joblib|marshal|shelve)(\..+)?": "store arrays in .npz files, the rest in JSON",
    r"(yaml|ruamel)(\..+)?": "store it in JSON or a flagfile",
    r"os\.(system|popen|exec\w+|spawn\w+|posix_spawn\w*)|pty\.\w+": "run a list of arguments with subprocess",
    r"subprocess(\..+)?": "call the function, or add a row to ALLOWED for a process without a shell",
    r"(tensorflow\.)?keras\.(models|saving)\.(load|deserialize|model_from)\w*|(tensorflow\.)?keras\.models\.\w+_from_\w+"
    r"|(tensorflow\.)?keras\.config\.enable_unsafe_deserialization|(tensorflow\.)?keras\.layers\.(Lambda|TFSMLayer)": (
        "build the network from its configuration and read its weights from a checkpoint"
    ),
    r"tensorflow\.(compat\.v1\.)?saved_model(\.loader)?\.load": "a SavedModel is a program; use serving.client",
    r"(urllib|urllib3|requests|httpx|aiohttp|http\.client|ftplib)(\..+)?|(tensorflow\.)?keras\.utils\.get_file": (
        "download nothing; let the user name a file"
    ),
    r"zipfile\.(ZipFile|main)|shutil\.unpack_archive": "read members by index, as alexnet_tf.data.archives does",
    r"tempfile\.mktemp": "create the file or directory at once: tempfile.mkdtemp, NamedTemporaryFile",
}

# Exceptions: our own programs, started with lists of arguments; servers and exports that the user names or a benchmark
# makes; the network of a benchmark; imports of names that are listed in the source.
ALLOWED = {
    "alexnet_tf/experiments/runner.py": ["subprocess"],
    "alexnet_tf/utils/machine.py": ["subprocess"],
    "alexnet_tf/benchmarks/rows.py": ["importlib.import_module", "subprocess"],
    "alexnet_tf/benchmarks/serving.py": ["subprocess", "tensorflow.saved_model.load"],
    "alexnet_tf/benchmarks/network_peers.py": ["keras.layers.Lambda"],
    "alexnet_tf/benchmarks/measuring.py": ["importlib.import_module"],
    "alexnet_tf/__init__.py": ["importlib.import_module"],
    "alexnet_tf/models/registry.py": ["importlib.import_module"],
    "alexnet_tf/serving/client.py": ["urllib", "http.client", "tensorflow.saved_model.load"],
    "alexnet_tf/serving/stub_model.py": ["tensorflow.compat.v1.saved_model.loader.load"],
}


def keyword(call, name):
    """Returns the constant passed for a keyword, None without the keyword, ... for any other expression."""
    for each in call.keywords:
        if each.arg == name:
            return each.value.value if isinstance(each.value, ast.Constant) else ...
    return None


def check_call(call, name):
    """Yields what is wrong with the call of a dotted name or a built-in."""
    method = name.rpartition(".")[2] or getattr(call.func, "attr", "")
    if name in ("eval", "exec", "compile"):
        yield f"calls {name}: never execute text; parse values with ast.literal_eval or json.loads"
    if name == "numpy.load" and keyword(call, "allow_pickle") is not False:
        yield "calls numpy.load: pass allow_pickle=False"
    elif keyword(call, "allow_pickle") not in (None, False):
        yield "allows pickles: pass allow_pickle=False"
    if keyword(call, "shell") not in (None, False):
        yield "calls a shell: pass a list of arguments"
    if method in ("extract", "extractall"):
        yield f"calls {method}: read members by index, as alexnet_tf.data.archives does"


def violations(path, source):
    """Returns the violations in a file, one line each; `path` is relative to the repository."""
    tree = ast.parse(source)
    uses = source_code.Uses(path, tree)
    found = []
    for line, name, _, _ in uses.found:
        for pattern, alternative in FORBIDDEN.items():
            is_allowed = any(source_code.is_at_or_below(name, each) for each in ALLOWED.get(path, []))
            if re.fullmatch(pattern, name) and not is_allowed:
                found.append((line, f"uses {name}: {alternative}"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = uses.dotted(node.func) or getattr(node.func, "id", "")
            found += [(node.lineno, message) for message in check_call(node, name)]
            is_given = node.args and not isinstance(node.args[0], ast.Constant)
            if name in ("importlib.import_module", "__import__") and is_given and name not in ALLOWED.get(path, []):
                found.append((node.lineno, f"calls {name}: import modules by name"))
    return [f"{path}:{line} {message}" for line, message in dict.fromkeys(found)]


@pytest.mark.parametrize("path", [path for path in source_code.FILES if not path.startswith("tests/")])
def test_source_executes_no_input(path):
    assert violations(path, (ROOT / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source, message",
    [
        ("import pickle", "store arrays in .npz"),
        ("from pickle import loads", "store arrays in .npz"),
        ("def f():\n  import dill as d\n  d.load", "2 uses dill"),
        ("import joblib\njoblib.load('a')", "uses joblib.load"),
        ("import marshal", "uses marshal"),
        ("import shelve", "uses shelve"),
        ("import yaml\nyaml.load(text)", "store it in JSON"),
        ("eval('1')", "calls eval: never execute text"),
        ("exec(text)", "calls exec"),
        ("compile(text, 'a', 'exec')", "calls compile"),
        ("import os\nos.system('ls')", "a list of arguments"),
        ("from os import popen", "a list of arguments"),
        ("import subprocess", "add a row to ALLOWED"),
        ("f(['ls'], shell=True)", "calls a shell"),
        ("f('ls', shell=flag)", "calls a shell"),
        ("import numpy as np\nnp.load('a.npy')", "pass allow_pickle=False"),
        ("import numpy as np\nnp.load('a.npy', allow_pickle=True)", "pass allow_pickle=False"),
        ("import numpy\nnumpy.load('a.npy', allow_pickle=given)", "pass allow_pickle=False"),
        ("read('a.npy', allow_pickle=True)", "pass allow_pickle=False"),
        ("import keras\nkeras.models.load_model('a')", "read its weights from a checkpoint"),
        ("import tensorflow as tf\ntf.keras.models.load_model('a')", "read its weights from a checkpoint"),
        ("from keras import saving\nsaving.load_model('a')", "read its weights from a checkpoint"),
        ("import keras\nkeras.models.model_from_json(text)", "read its weights from a checkpoint"),
        ("import keras\nkeras.config.enable_unsafe_deserialization()", "read its weights from a checkpoint"),
        ("import keras\nkeras.layers.Lambda(f)", "read its weights from a checkpoint"),
        ("import tensorflow as tf\ntf.saved_model.load('a')", "a SavedModel is a program"),
        ("archive.extractall('a')", "read members by index"),
        ("import tarfile\ntarfile.open('a').extract(member)", "read members by index"),
        ("import zipfile\nzipfile.ZipFile('a')", "read members by index"),
        ("import shutil\nshutil.unpack_archive('a')", "read members by index"),
        ("import urllib.request\nurllib.request.urlopen(url)", "download nothing"),
        ("import requests", "download nothing"),
        ("import keras\nkeras.utils.get_file('a')", "download nothing"),
        ("import tempfile\ntempfile.mktemp()", "tempfile.mkdtemp"),
        ("import importlib\nimportlib.import_module(name)", "import modules by name"),
    ],
)
def test_unsafe_source_is_reported_with_an_alternative(source, message):
    for path in ("alexnet_tf/data/sources.py", "tools/train.py"):
        found = violations(path, source)
        assert any(message in each for each in found), found


@pytest.mark.parametrize(
    "path, source",
    [
        ("alexnet_tf/experiments/runner.py", "import subprocess\nsubprocess.Popen(command)"),
        ("alexnet_tf/data/archives.py", "import tarfile\narchive = tarfile.open('a')\narchive.extractfile(member)"),
        ("alexnet_tf/data/prepared.py", "import numpy as np\nnp.load(file, allow_pickle=False)"),
        (
            "alexnet_tf/data/prepared.py",
            "import re\nre.compile('a')\nmodel.compile()\nimport zipfile\nzipfile.BadZipFile",
        ),
    ],
)
def test_safe_source_has_no_violations(path, source):
    assert violations(path, source) == []


def refusal(call, *arguments):
    """Returns the one-line error of a call."""
    with pytest.raises((ValueError, OSError)) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def contents(directory):
    return {path: path.read_bytes() if path.is_file() else None for path in directory.rglob("*")}


class Trap:
    """An object that creates a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return pathlib.Path.touch, (self.mark,)


@pytest.fixture
def trap(tmp_path):
    """An array that contains a `Trap`; the test fails if it was unpickled."""
    mark = tmp_path / "was run"
    array = np.array([Trap(mark)], object)
    pickle.loads(pickle.dumps(array))
    assert mark.exists()
    mark.unlink()
    yield array
    assert not mark.exists()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    for number in range(4):
        path = root / "train" / f"class {number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(pictures.noise(9, 9, number)).save(path)
    prepare.prepare(sources.folder(root), root / "data", prepare.Options(shard_examples=2))
    return root / "data"


@pytest.fixture
def data_dir(made, tmp_path):
    return pathlib.Path(shutil.copytree(made, tmp_path / "data"))


@pytest.fixture
def index_dir(tmp_path):
    images = feature_index.Images(np.zeros(3, np.int64), ["a", "b", "c"], np.arange(3))
    features = np.ones([3, 4], np.float32)
    feature_index.write(tmp_path / "index", [features], images, units=4, class_names=["a"], metadata={})
    return tmp_path / "index"


def change_arrays(path, **changes):
    with np.load(path) as arrays:
        values = {**arrays, **changes}
    np.savez(path, **values)


def change_json(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


NESTED = "[" * 100_000
DEEP = {"list": NESTED, "object": '{"version":' * 100_000, "closed": NESTED + "]" * 100_000}


def test_pickles_are_never_loaded(trap, data_dir, index_dir):
    places, statistics_file, features = (
        data_dir / prepared.INDEX,
        data_dir / prepared.STATISTICS,
        index_dir / "features.npy",
    )
    calls = {
        places: lambda: prepared.read_index(data_dir, "train"),
        statistics_file: lambda: statistics.load(statistics_file),
        features: lambda: feature_index.open_index(index_dir),
    }
    for path, call in calls.items():
        call()
        if path.suffix == ".npz":
            whole = path.read_bytes()
            with np.load(path) as arrays:
                names = list(arrays)
            for name in set(names) - {"mean_color"}:
                change_arrays(path, **{name: trap})
                assert "allow_pickle=False" in refusal(call), name
                path.write_bytes(whole)
        np.save(index_dir / "array.npy", trap)
        for content in ((index_dir / "array.npy").read_bytes(), pickle.dumps(trap)):
            path.write_bytes(content)
            assert refusal(call).startswith("Expected ")


def npz(header, content=b"", compression=zipfile.ZIP_STORED):
    """Returns an archive whose only array, mean_image, has the given header."""
    text = header.encode() + b"\n"
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("mean_image.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content)
    return file.getvalue()


def damaged_stream():
    content = bytearray(npz("{'descr': '<f4', 'fortran_order': False, 'shape': (9,)}", bytes(36), zipfile.ZIP_DEFLATED))
    content[44:60] = b"\xff" * 16
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [
        npz("{'descr': '<f8', 'fortran_order': False, 'shape': (10**6, 10**6, 10**3)}"),
        npz("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000, 1000)}"),
        npz("{'descr': '<f8', 'fortran_order': False, 'shape': (" + "9" * 40 + ",)}"),
        npz("(" * 9000),
        npz("__import__('os').getcwd()"),
        npz("{'descr': '|O', 'fortran_order': False, 'shape': ()}", b"\x80\x04."),
        damaged_stream(),
    ],
    ids=["sum", "petabyte", "digits", "brackets", "call", "object", "stream"],
)
def test_hostile_npz_files_are_one_line_errors(content, tmp_path, data_dir):
    (tmp_path / "statistics.npz").write_bytes(content)
    assert refusal(statistics.load, tmp_path / "statistics.npz").startswith("Expected statistics of a training set in")
    (data_dir / prepared.INDEX).write_bytes(content.replace(b"mean_image.npy", b"train.labels00"))
    assert refusal(prepared.read_index, data_dir, "train").startswith("Expected the record locations of train")


@pytest.mark.parametrize(
    "changes", [{"num_examples": np.arange(2)}, {"mean_image": np.zeros(3)}, {"directions": np.zeros([3, 4])}]
)
def test_statistics_of_other_shapes_are_rejected(changes, data_dir):
    change_arrays(data_dir / prepared.STATISTICS, **changes)
    assert "Received: arrays of " in refusal(statistics.load, data_dir / prepared.STATISTICS)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "..", "", ".", "a/../../outside", "a\0b", 3, None])
def test_no_shard_outside_the_directory_is_read(name, data_dir):
    def change(manifest):
        manifest["splits"]["train"]["shards"][0]["file"] = name

    shard = json.loads((data_dir / prepared.MANIFEST).read_text())["splits"]["train"]["shards"][0]["file"]
    # A file that would fit if it were read.
    shutil.copy(data_dir / shard, data_dir.parent / "outside")
    change_json(data_dir / prepared.MANIFEST, change)
    for call in (prepared.open_data_dir, prepared.verify):
        assert refusal(call, data_dir).startswith("Expected a manifest of version 1 in ")
    change_json(data_dir / prepared.MANIFEST, lambda manifest: manifest["files"].update({"../outside": "00"}))
    assert refusal(prepared.verify, data_dir).startswith("Expected a manifest of version 1 in ")


def of_train(**changes):
    return lambda manifest: manifest["splits"]["train"].update(changes)


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.update(splits={}),
        lambda manifest: manifest.update(splits=[]),
        lambda manifest: manifest.update(files="../outside"),
        lambda manifest: manifest.update(license=3),
        lambda manifest: manifest["splits"].update(train=None),
        of_train(shards={"file": 1}),
        of_train(shards=["file"]),
        of_train(examples="4"),
        of_train(examples=float("inf")),
        of_train(per_class=None),
    ],
)
def test_malformed_manifest_is_a_one_line_error(change, data_dir):
    change_json(data_dir / prepared.MANIFEST, change)
    for call in (prepared.open_data_dir, prepared.verify):
        assert refusal(call, data_dir).startswith("Expected a manifest of version 1 in ")


@pytest.mark.parametrize(
    "field, value",
    [
        *[(field, value) for field in image_records.Index._fields[:-1] for value in (-1, 2**31 - 1)],
        *[(field, 2**62) for field in ("labels", "places", "lengths")],
        ("labels", 2),
        ("shards", 2),
    ],
)
def test_index_with_values_out_of_range_is_rejected(field, value, data_dir):
    column = getattr(prepared.read_index(data_dir, "train"), field).copy()
    column[1] = value
    change_arrays(data_dir / prepared.INDEX, **{f"train.{field}": column})
    assert refusal(prepared.open_data_dir, data_dir).startswith("Expected the record locations of train in ")


@pytest.mark.parametrize("shape", [[], [3], [4, 1]])
def test_index_of_another_shape_is_rejected(shape, data_dir):
    change_arrays(data_dir / prepared.INDEX, **{"train.labels": np.zeros(shape, np.int64)})
    assert refusal(prepared.open_data_dir, data_dir).startswith("Expected the record locations of train in ")


@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP)
def test_deeply_nested_json_is_a_one_line_error(text, data_dir, index_dir):
    for name in (prepared.MANIFEST, prepared.CLASSES):
        whole = (data_dir / name).read_bytes()
        (data_dir / name).write_text(text)
        assert refusal(prepared.open_data_dir, data_dir).startswith("Expected ")
        (data_dir / name).write_bytes(whole)
    (index_dir / "manifest.json").write_text(text)
    assert refusal(feature_index.open_index, index_dir).startswith("Expected JSON in ")
    rest = client.Rest("localhost:1")
    assert "not a JSON object" in refusal(rest._parse, text.encode()) or text == DEEP["closed"]
    assert "HTTP status 500" in str(rest._error(500, text.encode()))


def test_size_of_a_response_is_limited(monkeypatch):
    monkeypatch.setattr(client, "_MAX_RESPONSE_BYTES", 10)
    assert "Received: more than 10 bytes" in refusal(client.Rest("localhost:1")._parse, b'{"a": 12345}')


@pytest.mark.parametrize("value", ["[1e400, 0, 0]", "[" + "9" * 30 + ", 0, 0]", "[[], 0, 0]", "3", '{"a": 1}'])
def test_feature_index_with_invalid_labels_is_rejected(value, index_dir):
    path = index_dir / "images.json"
    path.write_text(re.sub(r'"labels": \[[^]]*\]', f'"labels": {value}', path.read_text()))
    assert refusal(feature_index.open_index, index_dir).startswith("Expected ")


@pytest.mark.parametrize(
    "line",
    ["[]", "3", "null", '"step"', '{"step": "1", "epoch": 1, "kind": "a"}', '{"step": NaN, "epoch": 1, "kind": "a"}']
    + ['{"step": ' + "9" * 5000 + ', "epoch": 1, "kind": "a"}', "\0", '{"step": {}, "epoch": [], "kind": "a"}'],
)
def test_malformed_metrics_are_one_line_errors(line, tmp_path):
    (tmp_path / "metrics.jsonl").write_text(f"{line}\n")
    assert refusal(metrics.read, tmp_path / "metrics.jsonl").startswith("Expected a record of a run. Received: ")


def test_flagfiles_are_plain_text(tmp_path):
    mark, path = tmp_path / "mark", tmp_path / "run.flags"
    for value in (f"$(touch {mark})", f"`touch {mark}`", f"a; touch {mark}", f"|touch {mark}", "{0.__class__}", "%s%n"):
        path.write_text(f"--source={value}\n")
        assert flagfiles.read_flagfile(path).source == value
    path.write_text(f"--flagfile={path}\n--seed=3\n")
    assert flagfiles.read_flagfile(path).seed == 3
    assert not mark.exists()


def test_malformed_flagfiles_are_one_line_errors(tmp_path):
    path, other = tmp_path / "run.flags", tmp_path / "other"
    other.write_text("root:x:0:0:root:/root:/bin/sh\n")
    for number in range(100):
        (tmp_path / f"{number}.flags").write_text(f"--flagfile={tmp_path / f'{number + 1}.flags'}\n")
    for text in (
        f"--flagfile={other}",
        f"--flagfile={tmp_path}",
        f"--flagfile={tmp_path}/0.flags",
        "--flagfile=a\0b",
        "--seed=" + "9" * 1_000_000,
        "--epochs=" + "9" * 1_000_000,
        "--epochs=nan",
        "--dropout=1e400",
        "--recipe=\0",
        "\0" * 1000,
        "--" + "a" * 100_000,
        "--help",
        "--seed=__import__('os')",
    ):
        path.write_text(f"{text}\n")
        refusal(flagfiles.read_flagfile, path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 1000,
        b"\xff\xfe\x00",
        b"model_checkpoint_path: " + b"a" * 1_000_000,
        b'model_checkpoint_path: "' + b"a" * 100_000 + b'"',
        b'model_checkpoint_path: "/etc/passwd"',
        b'model_checkpoint_path: "../../$(touch mark)"',
        b'model_checkpoint_path: "ckpt-1"',
        b'model_checkpoint_path: "a\\000b"',
        b"!!python/object/apply:os.system",
    ],
)
def test_malformed_checkpoint_lists_are_one_line_errors(content, tmp_path):
    (tmp_path / "checkpoint").write_bytes(content)
    for name in ("ckpt-1.index", "ckpt-1.data-00000-of-00001"):
        (tmp_path / name).write_bytes(pickle.dumps(Trap(tmp_path / "mark")))
    refusal(lambda: checkpoints.read_metadata(checkpoints.newest_checkpoint(tmp_path)))
    assert not (tmp_path / "mark").exists()


def member(name, content=b"", kind=tarfile.REGTYPE, link=""):
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.size = kind, link, len(content)
    return entry, content


def packed(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for entry, content in members:
            archive.addfile(entry, io.BytesIO(content))
    return bytearray(file.getvalue())


HOSTILE_MEMBERS = [
    member("../../outside.jpeg", b"up"),
    member("/tmp/outside_absolute.jpeg", b"absolute"),
    member("a/../../b.jpeg", b"through"),
    member("link.jpeg", kind=tarfile.SYMTYPE, link="/etc/passwd"),
    member("hard.jpeg", kind=tarfile.LNKTYPE, link="../../outside.jpeg"),
    member("device.jpeg", kind=tarfile.CHRTYPE),
    member("block.jpeg", kind=tarfile.BLKTYPE),
    member("pipe.jpeg", kind=tarfile.FIFOTYPE),
    member("folder.jpeg", kind=tarfile.DIRTYPE),
    member("nested.tar", bytes(packed([member("../inner.jpeg", b"inner")]))),
]


def test_reading_an_archive_writes_nothing(tmp_path):
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "images.tar"
    path.write_bytes(packed(HOSTILE_MEMBERS))
    before = contents(tmp_path)
    found = archives.members(path, suffix=".jpeg")
    assert found.names == ["a/../../b.jpeg", "../../outside.jpeg", "/tmp/outside_absolute.jpeg"]
    content = path.read_bytes()
    assert [content[at:][:size] for at, size in zip(found.offsets, found.sizes)] == [b"through", b"up", b"absolute"]
    assert archives.members(path, suffix=".tar").names == ["nested.tar"]
    assert contents(tmp_path) == before
    assert not pathlib.Path("/tmp/outside_absolute.jpeg").exists()


def with_size(archive, field):
    """Returns an archive whose first member has another size in its header."""
    archive[124:136] = field
    archive[148:156] = b" " * 8
    archive[148:156] = b"%06o\0 " % sum(archive[:512])
    return bytes(archive)


@pytest.mark.parametrize("bytes_back", [512, 1024, 1])
def test_negative_sizes_in_an_archive_are_rejected(bytes_back, tmp_path):
    """After a member with a negative size, a reader would return to the same member."""
    archive = with_size(packed([member("a.jpeg")]), b"\xff" * 4 + struct.pack(">q", -bytes_back))
    (tmp_path / "a.tar").write_bytes(archive)
    assert "complete, uncompressed tar archive" in refusal(lambda: archives.members(tmp_path / "a.tar", suffix=".jpeg"))
    (tmp_path / ilsvrc2010.DEVKIT).write_bytes(gzip.compress(archive))
    assert "Received: a size of -" in refusal(ilsvrc2010._devkit_file, tmp_path, ilsvrc2010.META)


def test_decompressed_size_of_a_devkit_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_DECOMPRESSED_BYTES", 1000)
    (tmp_path / ilsvrc2010.DEVKIT).write_bytes(gzip.compress(packed([member(ilsvrc2010.META, bytes(1001))])))
    assert "1001 bytes, more than 1000" in refusal(ilsvrc2010._devkit_file, tmp_path, ilsvrc2010.META)


@pytest.mark.parametrize("name", ["kubric:movi", "huggingface:mnist", "a/b/data_dir=c", "mnist/x=1", "../a", "a b", ""])
def test_tfds_downloads_no_code(name, monkeypatch):
    import tensorflow_datasets as tfds

    calls = []
    monkeypatch.setattr(tfds, "builder", lambda *arguments, **options: calls.append(arguments))
    assert refusal(sources.tfds_by_name, name).startswith("Expected the name of a TFDS data set. Received: ")
    assert calls == []


def png(width, height):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


def jpeg(width, height, **options):
    content = bytearray(pictures.encode(pictures.noise(8, 8), "JPEG", **options))
    place = max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2"))
    content[place + 5 : place + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def gif(*sizes, parts=1):
    """Returns a GIF whose small images declare other sizes."""
    pictures = [
        b"!\xf9\x04\0\0\0\0\0,"
        + struct.pack("<HHHH", 0, 0, *size)
        + b"\x81"
        + bytes(12)
        + b"\x02"
        + b"\x02\x4c\x01" * parts
        + b"\0"
        for size in sizes
    ]
    return b"GIF89a" + struct.pack("<HH", 9, 9) + b"\xf1\0\0" + bytes(12) + b"".join(pictures) + b";"


def bmp(width, height):
    return b"BM" + struct.pack("<IIIIiiHHI", 99, 0, 54, 40, width, height, 1, 24, 0) + bytes(60)


def webp(kind, sizes):
    return b"RIFF\x40\0\0\0WEBP" + kind + b"\x20\0\0\0" + sizes + bytes(40)


LARGE = {
    "png": (png(20_000, 20_000), 400_000_000),
    "png, largest": (png(2**31 - 1, 2**31 - 1), (2**31 - 1) ** 2),
    "jpeg": (jpeg(65_500, 65_000), 65_500 * 65_000),
    "jpeg, progressive": (jpeg(20_000, 10_000, progressive=True), 200_000_000),
    "gif": (gif([20_000, 10_000]), 200_000_000),
    "gif, many": (gif(*[[3000, 3000]] * 12), 108_000_000),
    "bmp": (bmp(20_000, 10_000), 200_000_000),
    "bmp, upside down": (bmp(20_000, -10_000), 200_000_000),
    "webp": (webp(b"VP8 ", bytes(3) + b"\x9d\x01\x2a" + struct.pack("<HH", 16_000, 12_000)), 192_000_000),
    "webp, lossless": (webp(b"VP8L", b"\x2f" + struct.pack("<I", 15_999 | 11_999 << 14)), 192_000_000),
    "webp, extended": (webp(b"VP8X", bytes(4) + b"\x7f\x3e\0\xdf\x2e\0"), 192_000_000),
}


@functools.cache
def compiled_decoder():
    return tf.function(photograph.decode_to_square, input_signature=[tf.TensorSpec([], tf.string)])


@pytest.mark.parametrize("name", LARGE)
def test_images_that_declare_too_many_pixels_are_not_decoded(name):
    content, pixels = LARGE[name]
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        photograph.decode_to_square(tf.constant(content))
    expected = f"Expected a photograph of at most 100000000 pixels. Received: {pixels}"
    # The product is computed in float64.
    assert messages.first_line(caught.value)[:-3] == expected[:-3]
    with pytest.raises(tf.errors.InvalidArgumentError):
        compiled_decoder()(content)


def test_gif_of_many_parts_is_not_decoded(monkeypatch):
    monkeypatch.setattr(photograph, "_MAX_GIF_BLOCKS", 20)
    assert photograph._pixels_of_gif(tf.constant(gif([3, 2], parts=10))) == 6
    assert photograph._pixels_of_gif(tf.constant(gif([3, 2], parts=30))) == np.inf


def test_declared_pixels_are_those_of_the_image():
    files = pictures.formats() | {
        "jpeg": pictures.encode(pictures.noise(40, 60), "JPEG"),
        "webp lossy": pictures.encode(pictures.noise(40, 60), "WEBP"),
        "webp extended": pictures.encode(pictures.noise(40, 60), "WEBP", exif=b"Exif\0\0" + bytes(9)),
        "large gif": pictures.encode(PIL.Image.fromarray(pictures.noise(400, 300)), "GIF"),
        "no photograph": b"RIFF",
        "nothing": b"",
    }
    expected = {"gif of two": 4800, "large gif": 120_000, "no photograph": 0, "nothing": 0}
    compiled = tf.function(photograph._declared_pixels, input_signature=[tf.TensorSpec([], tf.string)])
    for name, content in files.items():
        assert compiled(content) == expected.get(name, 2400), name


def test_large_images_are_skipped_and_named(tmp_path):
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    (tmp_path / "train" / "b").mkdir()
    for path in (folder / "good.png", tmp_path / "train" / "b" / "good.png"):
        PIL.Image.fromarray(pictures.noise(9, 9)).save(path)
    for number, (content, _) in enumerate(LARGE.values()):
        (folder / f"large {number}.jpg").write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    examples, skipped, _ = loading.load(sources.folder(tmp_path).splits["train"])
    # In KiB; the smallest of them would take 300 MB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
    assert len(examples) == 2
    assert len(skipped) == len(LARGE)
    assert all("large" in each.name and "at most 100000000 pixels" in each.reason for each in skipped)


def test_class_names_are_escaped_in_html(tmp_path):
    evil = "<script>alert(1)</script>\"'&"
    PIL.Image.new("RGB", (1, 1)).save(tmp_path / "a.png")
    blocks = [pages.Heading(evil), pages.Paragraph(evil), pages.Table([evil], [[evil]]), pages.Listing(evil)]
    page = pages.html(evil, [*blocks, pages.Picture("a.png", evil)], tmp_path)
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 9
    assert not re.search(r"alt=\"[^\"]*\"[^ ]", page)


def requirements():
    """Returns the requirements in setup.py: pairs of the extra, or "", and a requirement."""
    call = next(
        node.value
        for node in ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    )
    values = {each.arg: each.value for each in call.keywords}
    extras = {"": ast.literal_eval(values["install_requires"]), **ast.literal_eval(values["extras_require"])}
    return [(extra, packaging.requirements.Requirement(text)) for extra, texts in extras.items() for text in texts]


def pins():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_constraints_satisfy_every_requirement():
    versions = pins()
    for extra, requirement in requirements():
        name = packaging.utils.canonicalize_name(requirement.name)
        if extra in ("", "cpu", "test", "figures") and (requirement.marker is None or requirement.marker.evaluate()):
            assert versions[name] in requirement.specifier, requirement


def test_installed_versions_satisfy_every_requirement():
    for extra, requirement in requirements():
        if extra in ("", "cpu", "test", "figures") and (requirement.marker is None or requirement.marker.evaluate()):
            assert importlib.metadata.version(requirement.name) in requirement.specifier, requirement


def test_constraints_are_sorted_versions():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ") and "pip install -c constraints.txt" in lines[0]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in lines[1:])
    assert lines[1:] == sorted(set(lines[1:]))
    assert not {"torch", "tensorflow-serving-api", "alexnet-tf", "pip"} & set(pins())


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "\xff", ""], ids=["deep", "cut", "latin", "empty"])
def test_invalid_json_is_a_one_line_error(text, tmp_path):
    path = tmp_path / "figures.json"
    path.write_bytes(text.encode("latin-1"))
    assert refusal(files.read_json, path).startswith(f"Expected JSON in {path}. Received: ")
