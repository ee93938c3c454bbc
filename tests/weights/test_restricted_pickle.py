import pickle
import sys

import numpy as np
import pytest
import weight_files

from alexnet_tf.weights import contents
from alexnet_tf.weights import restricted_pickle


def load(content):
    value, end = restricted_pickle.load(memoryview(content), 0, path="weights", what="arrays", remedy="save arrays")
    assert end == len(content)
    return value


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_are_read(protocol):
    value = {
        "a": [1, -1, 255, 65536, 2**40, -(2**40), 0.5, True, None, ()],
        "b": (1, (2, 3), b"ab", "\u00e9" * 100),
        "c": {1: {}},
    }
    assert load(pickle.dumps(value, protocol)) == value


def test_strings_of_python_2_are_text_if_they_are_short():
    assert load(b"\x80\x02}U\x05conv1T\x02\0\0\0abs.") == {"conv1": "ab"}
    long = load(b"\x80\x02T\x00\x10\0\0" + b"a" * 4096 + b".")
    assert isinstance(long, memoryview) and long == b"a" * 4096


def test_several_pickles_in_a_row_are_read():
    content = pickle.dumps("a", 2) + pickle.dumps("b", 2)
    first, end = restricted_pickle.load(memoryview(content), 0, path="weights", what="arrays", remedy="")
    second, end = restricted_pickle.load(memoryview(content), end, path="weights", what="arrays", remedy="")
    assert (first, second, end) == ("a", "b", len(content))


@pytest.mark.parametrize("name", ["system", "eval", "import", "numpy function", "object", "getattr"])
def test_calls_are_refused_by_name_and_nothing_is_imported(name):
    with pytest.raises(contents.FormatError, match="object or a call of .*; save arrays$"):
        load(weight_files.HOSTILE_PICKLES[name])
    assert "antigravity" not in sys.modules


def test_only_functions_of_the_table_are_called():
    content = weight_files.global_name("torch", "Size", b"(K\1K\2\x86")
    with pytest.raises(contents.FormatError, match="torch.Size"):
        load(content)
    calls = {"torch.Size": lambda sizes: sizes}
    value, _ = restricted_pickle.load(memoryview(content), 0, path="weights", what="", remedy="", calls=calls)
    assert value == (1, 2)


def test_long_text_is_decoded_once():
    data = bytes(range(256)) * 40
    text = data.decode("latin-1").encode()
    encode = b"c_codecs\nencode\nh\1X\6\0\0\0latin1\x86R"
    content = b"\x80\x02X" + len(text).to_bytes(4, "little") + text + b"q\x01" + encode + encode + b"\x86."
    first, second = load(content)
    assert first == data and first is second


def test_items_of_an_ordered_dictionary_are_not_copied_repeatedly():
    call = b"ccollections\nOrderedDict\nh\1\x85R"
    first, second = load(b"\x80\x02](U\1aK\1\x86eq\1" + b"0" + call + call + b"\x86.")
    assert first == {"a": 1} and second == {}


def test_walk_yields_places_in_order():
    value = {"b": [1.0, {"x": 2.0}], "a": {3: 3.0}, "c": "text"}
    found = restricted_pickle.walk(value, "/", float, path="weights", what="arrays")
    assert list(found) == [("b/0", 1.0), ("b/1/x", 2.0), ("a/3", 3.0)]


def test_arrays_are_views_of_the_buffer():
    content = pickle.dumps({"a": np.arange(10_000.0)}, 4)
    array = load(content)["a"].value
    assert not array.flags.owndata and not array.flags.writeable and array.tolist() == list(range(10_000))
