"""The reader of JSON and npz files: structures, messages of one line, and checksums."""

import json

import numpy as np
import pytest

from alexnet_tf.utils import files
from alexnet_tf.utils import schema

STRUCTURE = schema.Object(
    {
        "step": schema.Number(low=0, integer=True),
        "speeds": schema.List(schema.Number(positive=True)),
        "kind": schema.Text(("a", "b")),
        "by_split": schema.Map(schema.Object({"names": schema.List(schema.Text())}), required=("train",)),
        "ended": schema.Truth(),
    },
    {"pair": schema.List(schema.Number(), length=2), "error": schema.Nullable(schema.Number(low=0, high=1))},
)
VALUES = {
    "step": 3,
    "speeds": [1.5, 2],
    "kind": "a",
    "by_split": {"train": {"names": ["größer"]}},
    "ended": False,
    "pair": [1, 2],
    "error": None,
}


def refusal(path, structure=STRUCTURE):
    with pytest.raises(ValueError) as caught:
        schema.read_json(path, structure, "a run", "delete it")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_values_are_read_as_they_were_written(tmp_path):
    files.write_json(tmp_path / "values.json", {**VALUES, "of a later version": 1})
    assert schema.read_json(tmp_path / "values.json", STRUCTURE, "a run") == {**VALUES, "of a later version": 1}


def test_missing_json_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="values.json"):
        schema.read_json(tmp_path / "values.json", STRUCTURE, "a run")


@pytest.mark.parametrize(
    "changes, received",
    [
        ({"step": None}, "step = None, not an integer"),
        ({"step": True}, "step = True, not an integer"),
        ({"step": 1.0}, "step = 1.0, not an integer"),
        ({"step": -1}, "step = -1, not an integer of at least 0"),
        ({"step": 10**30}, "not an integer of a usual size"),
        ({"speeds": {}}, "speeds = {}, not a list"),
        ({"speeds": [1, "2"]}, "speeds[1] = '2', not a number"),
        ({"speeds": [1, 0]}, "speeds[1] = 0, not a number above 0"),
        ({"speeds": [float("nan")]}, "speeds[0] = nan, not a number above 0"),
        ({"speeds": [1e400]}, "speeds[0] = inf, not a number above 0"),
        ({"kind": "c\x1b\n"}, r"kind = 'c\x1b\n', not one of a, b"),
        ({"by_split": {}}, "no 'train' in by_split"),
        ({"by_split": {"train": {"names": "a"}}}, "by_split.train.names = 'a', not a list"),
        ({"by_split": {"train": {"names": []}, "a b": []}}, "by_split.'a b' = [], not an object"),
        ({"ended": 0}, "ended = 0, not true or false"),
        ({"pair": [1]}, "pair = [1], not a list of 2"),
        ({"error": 1.5}, "error = 1.5, not a number from 0 to 1"),
    ],
)
def test_place_and_value_of_the_first_problem_are_named(tmp_path, changes, received):
    path = tmp_path / "values.json"
    path.write_text(json.dumps({**VALUES, **changes}))
    assert refusal(path).startswith(f"Expected a run in {path}. Received: ") and received in refusal(path)
    assert refusal(path).endswith("; delete it")


@pytest.mark.parametrize("name", STRUCTURE.required)
def test_missing_field_is_named(tmp_path, name):
    path = tmp_path / "values.json"
    path.write_text(json.dumps({other: value for other, value in VALUES.items() if other != name}))
    assert f"Received: no '{name}'; delete it" in refusal(path)


@pytest.mark.parametrize(
    "content, received",
    [
        (b"", "text that is not JSON"),
        (b"[]", "Received: [], not an object"),
        (b"\0\0\0", "text that is not JSON"),
        (b'{"step": "\xff"}', "bytes that are not UTF-8, at 10"),
        (b"[" * 100_000, "JSON that is nested too deeply"),
        (b"9" * 5000, "text that is not JSON"),
        (json.dumps("x" * 10_000).encode(), "not an object"),
    ],
)
def test_other_contents_are_one_short_line(tmp_path, content, received):
    (tmp_path / "values.json").write_bytes(content)
    message = refusal(tmp_path / "values.json")
    assert received in message and len(message) < 400


def test_arrays_are_read_by_name(tmp_path):
    np.savez(tmp_path / "a.npz", one=np.arange(3), other=np.eye(2))
    found = schema.read_npz(
        tmp_path / "a.npz", {"one": schema.Array("iu", (None,), low=0)}, "arrays", optional={"no": schema.Array("f")}
    )
    assert list(found) == ["one"]
    np.testing.assert_array_equal(found["one"], np.arange(3))


@pytest.mark.parametrize(
    "array, structure, received",
    [
        (np.array(["a"]), schema.Array("f"), "one of type <U1"),
        (np.zeros([2, 3]), schema.Array("f", (None, 2)), "one of shape [2, 3], not [None, 2]"),
        (np.array([1, np.nan]), schema.Array("f"), "not numbers that are finite"),
        (np.array([0.0, np.inf]), schema.Array("f", low=0), "not numbers that are finite"),
        (np.array([0, 300]), schema.Array("i", low=0, high=255), "one from 0 to 300, not numbers from 0 to 255"),
    ],
)
def test_other_arrays_are_named(tmp_path, array, structure, received):
    np.savez(tmp_path / "a.npz", one=array)
    with pytest.raises(ValueError) as caught:
        schema.read_npz(tmp_path / "a.npz", {"one": structure}, "arrays", "delete it")
    assert str(caught.value).startswith(f"Expected arrays in {tmp_path / 'a.npz'}. Received: ")
    assert received in str(caught.value) and str(caught.value).endswith("; delete it")


def test_seal_notices_every_change():
    values = schema.sealed({"a": [1, 2], "b": "x"})
    schema.check_seal(json.loads(json.dumps(values)), "values", "file")
    assert schema.sealed(values) == values
    schema.check_seal({"a": [1, 3]}, "values of an older version", "file")
    for changed in ({**values, "a": [1, 3]}, {**values, "c": 0}, {"a": [1, 2], "sha256": values["sha256"]}):
        with pytest.raises(ValueError, match="^Expected values in file. Received: contents that differ"):
            schema.check_seal(changed, "values", "file")
