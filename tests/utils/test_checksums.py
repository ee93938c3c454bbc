"""Checksums of files in a file next to them."""

import hashlib

import mutations
import numpy as np
import pytest

from alexnet_tf.utils import checksums


def check(directory):
    checksums.check(directory, "the files", "write them again")


def test_checksum_is_the_sha_256_of_a_file(tmp_path):
    content = np.random.default_rng(0).bytes(3 * 2**20 + 7)
    (tmp_path / "file").write_bytes(content)
    assert checksums.of_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("name", ["a", "b/c", checksums.FILE])
def test_any_change_is_an_error_of_one_line(tmp_path, name):
    (tmp_path / "b").mkdir()
    for each in ("a", "b/c", "not listed"):
        (tmp_path / each).write_text(f"the text of {each}")
    check(tmp_path)
    checksums.write(tmp_path, ["a", "b/c"])
    (tmp_path / "not listed").write_text("changed")
    check(tmp_path)
    content = (tmp_path / name).read_bytes()
    # Other spaces between the values of JSON are not damage.
    versions = mutations.of_json(content, 60) if name == checksums.FILE else mutations.of_bytes(content, 40)
    for version in versions:
        (tmp_path / name).write_bytes(version)
        with pytest.raises(ValueError, match="^Expected the files in .*; write them again$") as caught:
            check(tmp_path)
        assert "\n" not in str(caught.value)
    (tmp_path / name).unlink()
    if name == checksums.FILE:
        check(tmp_path)
    else:
        with pytest.raises(
            ValueError, match=f"^Expected the files in .* Received: none named {name}; write them again$"
        ):
            check(tmp_path)
