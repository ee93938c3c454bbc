"""Descriptions of weight files."""

import pytest

from alexnet_tf.runs import inspect_weights


@pytest.mark.parametrize("name", ["a\nb.npy", "a\x1b[31mb.npy", "caf\udce9.npy"])
def test_a_file_that_cannot_be_read_is_one_line_whatever_its_name(tmp_path, capsys, name):
    (tmp_path / name).write_bytes(b"none")
    with pytest.raises(inspect_weights.UnrecognizedError):
        inspect_weights.inspect([str(tmp_path / name)])
    (line,) = capsys.readouterr().out.splitlines()
    assert "\x1b" not in line and ".npy: Expected " in line
