import collections
import io
import struct
import zipfile

import numpy as np
import pytest
import weight_files

from alexnet_tf.weights import contents
from alexnet_tf.weights import torch_state

WRITERS = {"zip": weight_files.torch_zip, "stream": weight_files.torch_stream}


@pytest.fixture(params=WRITERS)
def write(request, tmp_path):
    """Writes a value as PyTorch does, in both formats, and returns the path."""

    def write(value, **options):
        path = tmp_path / "weights.pth"
        path.write_bytes(WRITERS[request.param](value, **options))
        return path

    return write


def state(prefix="", arrays=None):
    arrays = weight_files.arrays() if arrays is None else arrays
    return collections.OrderedDict((prefix + name, weight_files.Tensor(array)) for name, array in arrays.items())


def assert_equal(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name


def test_state_dict_is_read_equal_to_the_bit(write):
    found = torch_state.read(write(state()))
    assert_equal(found.arrays, weight_files.arrays())
    assert found.format == "PyTorch state_dict" and found.operations == () and found.metadata == {}


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_state_dict_is_found_among_other_entries(write, key):
    optimizer = {"state": {0: {"momentum_buffer": weight_files.Tensor(np.ones(3, np.float32))}}, "param_groups": [{}]}
    path = write({"epoch": 90, key: state(), "best": np.float64(56.5), "optimizer": optimizer})
    found = torch_state.read(path)
    assert_equal(found.arrays, weight_files.arrays())
    assert found.metadata == {"ignored_entries": ["epoch", "best", "optimizer"]}


@pytest.mark.parametrize(
    "prefix, plain, removed",
    [
        ("module.", "", ["module."]),
        ("features.module.", "features.", ["module."]),
        ("_orig_mod.module.", "", ["module.", "_orig_mod."]),
        ("modules.", "modules.", None),
    ],
)
def test_names_are_normalized(write, prefix, plain, removed):
    found = torch_state.read(write({"state_dict": state(prefix)}))
    assert list(found.arrays) == [plain + name for name in weight_files.arrays()]
    assert found.metadata.get("removed_from_names") == removed


def test_names_that_would_clash_are_kept(write):
    one = np.ones(1, np.float32)
    found = torch_state.read(write(state(arrays={"module.a": one, "a": one})))
    assert list(found.arrays) == ["module.a", "a"] and found.metadata == {}


def test_types_and_layouts_are_read(write):
    kinds = {kind: np.arange(6).astype(kind).reshape(2, 3) for kind in ("f2", "f4", "f8", "i8", "u1")}
    others = {"number": np.array(3.5, np.float32), "empty": np.zeros((0, 3), np.float32)}
    assert_equal(torch_state.read(write(state(arrays={**kinds, **others}))).arrays, {**kinds, **others})


def test_bfloat16_becomes_float32_of_the_same_values(write):
    values = np.array([1.0, -2.5, 3e38, np.inf, -0.0, 2.0**-130] * 500, np.float32)
    halves = (values.view(np.uint32) >> 16).astype("<u2")
    storage = weight_files.Storage("bf16", halves.tobytes(), halves.size)
    found = torch_state.read(write({"a": weight_files.Tensor(storage=storage, shape=(3000,))}))
    assert found.arrays["a"].dtype == np.float32
    assert found.arrays["a"].tobytes() == (halves.astype(np.uint32) << 16).tobytes()
    assert found.metadata == {"converted_types": ["bfloat16"]}


def test_tensors_share_a_storage(write):
    base = np.arange(20, dtype=np.float32).reshape(4, 5)
    storage = weight_files.Storage("f4", base.tobytes(), 20)
    tensor = lambda offset, shape, strides: weight_files.Tensor(
        storage=storage, offset=offset, shape=shape, strides=strides
    )
    found = torch_state.read(
        write(
            {"all": tensor(0, (4, 5), (5, 1)), "transposed": tensor(0, (5, 4), (1, 5)), "column": tensor(3, (4,), (5,))}
        )
    ).arrays
    assert_equal(found, {"all": base, "transposed": base.T, "column": base[:, 3]})


@pytest.mark.parametrize(
    "offset, shape, strides",
    [
        *[(0, (21,), (1,)), (1, (20,), (1,)), (0, (5,), (5,)), (0, (4, 5), (5, 2)), (-1, (3,), (1,))],
        *[(0, (1000, 1000), (0, 0)), (0, (2**40, 2**40), (0, 0)), (0, (-1,), (1,)), (0, (4,), (-1,))],
        *[(0, (4,), (1, 1)), (0, (1.0,), (1,)), (21, (), ()), (2**70, (1,), (1,)), (0, (2,), (2**62,))],
    ],
)
def test_tensors_beyond_their_storage_are_refused(write, offset, shape, strides):
    storage = weight_files.Storage("f4", bytes(80), 20)
    path = write({"a": weight_files.Tensor(storage=storage, offset=offset, shape=shape, strides=strides)})
    with pytest.raises(contents.FormatError, match="tensor"):
        torch_state.read(path)


def test_larger_storages_than_the_files_are_refused(write):
    storage = weight_files.Storage("f4", bytes(80), 2**39)
    path = write({"a": weight_files.Tensor(storage=storage, shape=(2**39,))})
    with pytest.raises(contents.FormatError, match="storages? of|incomplete"):
        torch_state.read(path)


@pytest.mark.parametrize(
    "value, message",
    [
        ([1], "a pickle of another value"),
        ({"epoch": 3}, "a checkpoint without tensors"),
        ({"state_dict": {}}, "a checkpoint without tensors"),
        (state("a\nb"), "an array of the name"),
    ],
)
def test_other_values_are_refused(write, value, message):
    with pytest.raises(contents.FormatError, match=message):
        torch_state.read(write(value))


@pytest.mark.parametrize(
    "entries, message",
    [
        ({"extra": [("archive/constants.pkl", b"")]}, r"a TorchScript program; save model.state_dict\(\)"),
        ({"extra": [("archive/code/__torch__.py", b"")]}, "a TorchScript program"),
        ({"extra": [("other/data.pkl", b"")]}, "a zip file without data.pkl"),
        ({"skip": ["archive/data.pkl"]}, "a zip file without data.pkl"),
        ({"skip": ["archive/data/1"]}, "no entry for a storage"),
        ({"extra": [("archive/../../data", b"")]}, "the path"),
        ({"extra": [("/etc/passwd", b"")]}, "the path"),
        ({"compression": zipfile.ZIP_DEFLATED}, "the compressed entry"),
        ({"compression": zipfile.ZIP_LZMA}, "unknown compression"),
    ],
)
def test_other_zip_files_are_refused(tmp_path, entries, message):
    path = tmp_path / "weights.pth"
    path.write_bytes(weight_files.torch_zip(state(), **entries))
    with pytest.raises(contents.FormatError, match=message):
        torch_state.read(path)


def test_two_entries_of_a_name_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    with pytest.warns(UserWarning, match="Duplicate name"):
        path.write_bytes(weight_files.torch_zip(state(), extra=[("archive/data/0", bytes(2400))]))
    with pytest.raises(contents.FormatError, match="two entries of the name"):
        torch_state.read(path)


def test_whole_networks_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    network = b"\x80\x02ctorchvision.models.alexnet\nAlexNet\n)\x81}b."
    path.write_bytes(weight_files.zip_file([("archive/data.pkl", network), ("archive/version", b"3")]))
    with pytest.raises(contents.FormatError, match=r"torchvision.models.alexnet.AlexNet.*save model.state_dict\(\)$"):
        torch_state.read(path)
    stream = weight_files.torch_stream({})
    place = stream.index(b"\x80\x02}q\x00.\x80", 40)
    content = b"\x80\x02(U\x06moduleca\nb\nU\1aU\1btQ."
    path.write_bytes(stream[:place] + content + stream[place + 6 :])
    with pytest.raises(contents.FormatError, match=r"a whole network.*save model.state_dict\(\)$"):
        torch_state.read(path)


def test_big_endian_files_are_read(tmp_path):
    path = tmp_path / "weights.pth"
    array = np.arange(6, dtype=">f4")
    storage = weight_files.Storage("f4", array.tobytes(), 6)
    content = weight_files.torch_zip(
        {"a": weight_files.Tensor(storage=storage, shape=(6,))},
        skip=["archive/byteorder"],
        extra=[("archive/byteorder", b"big")],
    )
    path.write_bytes(content)
    assert torch_state.read(path).arrays["a"].tolist() == [0, 1, 2, 3, 4, 5]


def test_zip64_directories_are_read(tmp_path, monkeypatch):
    # PyTorch writes them for files of any size.
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    path = tmp_path / "weights.pth"
    path.write_bytes(weight_files.torch_zip(state()))
    assert b"PK\6\6" in path.read_bytes()
    assert_equal(torch_state.read(path).arrays, weight_files.arrays())


def test_python_2_streams_are_read(tmp_path):
    # Python 2 writes names as strings of bytes.
    content = weight_files.torch_stream(state())
    for name in (b"features.0.weight", b"storage", b"cpu", b"little_endian", b"0", b"1"):
        text = b"X" + struct.pack("<I", len(name)) + name
        assert text in content
        content = content.replace(text, b"U" + bytes([len(name)]) + name)
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    assert_equal(torch_state.read(path).arrays, weight_files.arrays())


def test_sizes_that_contradict_the_pickle_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    for size in (0, 5, -1, 2**62):
        path.write_bytes(weight_files.torch_stream(state(), sizes={"1": size}))
        with pytest.raises(contents.FormatError, match="a storage of another size than its tensors"):
            torch_state.read(path)


def test_damaged_files_are_refused_or_read(write):
    path = write(state())
    refused = weight_files.reads_or_refuses(path, weight_files.damaged(path.read_bytes()), torch_state.read)
    assert refused > (150 if path.read_bytes()[:2] == b"PK" else 60)


@pytest.mark.parametrize("form", WRITERS)
def test_hostile_pickles_are_refused(tmp_path, form):
    path = tmp_path / "weights.pth"
    pickles = {**weight_files.HOSTILE_PICKLES, **weight_files.hostile_arrays()}
    if form == "zip":
        versions = {
            name: weight_files.zip_file([("archive/data.pkl", each), ("archive/data/0", bytes(9))])
            for name, each in pickles.items()
        }
    else:
        stream = weight_files.torch_stream({})
        place = stream.index(b"\x80\x02}q\x00.\x80", 40)
        versions = {name: stream[:place] + each + stream[place + 6 :] for name, each in pickles.items()}
    assert weight_files.reads_or_refuses(path, versions, torch_state.read) == len(versions)


def _changed_directory(content, place, form, value, *, of=b"PK\1\2"):
    """Returns a zip file with another value in a header: of the directory's last entry by default."""
    content = bytearray(content)
    struct.pack_into(form, content, content.rindex(of) + place, value)
    return bytes(content)


def test_hostile_zip_files_are_refused(tmp_path):
    content = weight_files.torch_zip(state())
    bomb = weight_files.torch_zip(
        {"a": weight_files.Tensor(np.zeros(1 << 20, np.float32))}, compression=zipfile.ZIP_DEFLATED
    )
    many = io.BytesIO()
    with zipfile.ZipFile(many, "w") as archive:
        for number in range(21_000):
            archive.writestr(zipfile.ZipInfo(f"a/{number}"), b"")
    versions = {
        "bomb": bomb,
        "many entries": many.getvalue(),
        "encrypted": _changed_directory(content, 8, "<H", 1),
        "count": _changed_directory(content, 10, "<H", 9, of=b"PK\5\6"),
        "size of the directory": _changed_directory(content, 12, "<I", 0xFFFFFFF0, of=b"PK\5\6"),
        "place of the directory": _changed_directory(content, 16, "<I", 0xFFFFFFF0, of=b"PK\5\6"),
        "length of a name": _changed_directory(content, 28, "<H", 0xFFFF),
        "no long sizes": _changed_directory(content, 24, "<I", 0xFFFFFFFF),
        "end only": b"PK\3\4" + b"PK\5\6" + bytes(18),
        "link to a directory beyond": b"PK\3\4" + b"PK\6\7" + bytes(4) + b"\xff" * 12 + b"PK\5\6" + b"\xff" * 18,
    }
    for entry in (b"archive/data.pkl", b"archive/data/0"):
        place = content.rindex(entry) - 46
        for offset, name in ((16, "checksum"), (20, "packed size"), (24, "size"), (42, "header")):
            changed = bytearray(content)
            struct.pack_into("<I", changed, place + offset, 0x7FFFFFFF)
            versions[f"{name} of {entry}"] = bytes(changed)
    path = tmp_path / "weights.pth"
    assert weight_files.reads_or_refuses(path, versions, torch_state.read) == len(versions)


def test_files_of_pytorch_are_read(tmp_path):
    torch = pytest.importorskip("torch")
    arrays = weight_files.arrays()
    tensors = collections.OrderedDict((name, torch.from_numpy(array)) for name, array in arrays.items())
    for is_zip in (True, False):
        path = tmp_path / "weights.pth"
        torch.save(tensors, path, _use_new_zipfile_serialization=is_zip)
        assert_equal(torch_state.read(path).arrays, arrays)
