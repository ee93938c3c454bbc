"""Hostile input: none of it is executed, nothing is written outside, and errors are one line."""

import gzip
import io
import json
import pathlib
import pickle
import re
import shutil
import struct
import tarfile
import zipfile

import numpy as np
import pictures
import PIL.Image
import pytest

from alexnet_tf import flagfiles
from alexnet_tf.data import archives
from alexnet_tf.data import ilsvrc2010
from alexnet_tf.data import image_records
from alexnet_tf.data import prepare
from alexnet_tf.data import prepared
from alexnet_tf.data import sources
from alexnet_tf.data import statistics
from alexnet_tf.evaluation import feature_index
from alexnet_tf.reporting import pages
from alexnet_tf.serving import client
from alexnet_tf.training import checkpoint_files
from alexnet_tf.training import metrics
from alexnet_tf.utils import schema


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
    (name,) = changes
    assert f"Received: {name} of " in refusal(statistics.load, data_dir / prepared.STATISTICS)


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
    assert refusal(feature_index.open_index, index_dir).startswith("Expected the manifest of an index in ")
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
    path = tmp_path / "metrics.jsonl"
    assert refusal(metrics.read, path).startswith(f"Expected a record of a run in {path}, line 1. Received: ")


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
    refusal(lambda: checkpoint_files.read_metadata(checkpoint_files.newest_checkpoint(tmp_path)))
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


def test_class_names_are_escaped_in_html(tmp_path):
    evil = "<script>alert(1)</script>\"'&"
    PIL.Image.new("RGB", (1, 1)).save(tmp_path / "a.png")
    blocks = [pages.Heading(evil), pages.Paragraph(evil), pages.Table([evil], [[evil]]), pages.Listing(evil)]
    page = pages.html(evil, [*blocks, pages.Picture("a.png", evil)], tmp_path)
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 9
    assert not re.search(r"alt=\"[^\"]*\"[^ ]", page)


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "\xff", ""], ids=["deep", "cut", "latin", "empty"])
def test_invalid_json_is_a_one_line_error(text, tmp_path):
    path = tmp_path / "figures.json"
    path.write_bytes(text.encode("latin-1"))
    assert refusal(schema.read_json, path, schema.Map(), "figures").startswith(
        f"Expected figures in {path}. Received: "
    )
