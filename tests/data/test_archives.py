"""Tar archives: their files are found at the right offsets, and truncated or damaged archives are refused."""

import gzip
import io
import tarfile

import numpy as np
import pytest
import tar_files

from alexnet_tf.data import archives


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_offsets_are_those_of_tarfile(tmp_path, format):
    # The longer names have headers of their own but in the oldest format.
    folder = "a/" * 30 + "b" * 60
    entries = [f"{folder}/two.JPEG", "one.jpeg", "three.Jpeg", "empty.JPEG", "./four.JPEG"]
    packed = {name: b"" if name == "empty.JPEG" else tar_files.image(name) * 5 for name in entries}
    path = tmp_path / "images.tar"
    path.write_bytes(b"before" + tar_files.pack(packed.items(), format=format) + b"behind")
    size = path.stat().st_size - 12
    found = archives.members(path, suffix=".jpeg", start=6, size=size)
    assert found.names == ["empty.JPEG", "./four.JPEG", "one.jpeg", "three.Jpeg", f"{folder}/two.JPEG"]
    assert found.offsets.dtype == found.sizes.dtype == np.int64
    content = path.read_bytes()
    for name, offset, size in zip(*found):
        assert content[offset : offset + size] == packed[name]


def test_other_members_are_ignored(tmp_path):
    special = []
    for kind, name in ((tarfile.SYMTYPE, "s"), (tarfile.LNKTYPE, "l"), (tarfile.DIRTYPE, "d"), (tarfile.FIFOTYPE, "f")):
        info = tarfile.TarInfo(f"{name}.JPEG")
        info.type, info.linkname = kind, "/etc/passwd"
        special.append((info, b""))
    with_hole = tarfile.TarInfo("hole.JPEG")
    with_hole.size = 4
    with_hole.pax_headers = {"GNU.sparse.map": "0,4", "GNU.sparse.size": "900"}
    special += [(with_hole, b"data"), ("._one.JPEG", b"resource"), ("val/.two.JPEG", b""), ("list.txt", b"")]
    (tmp_path / "images.tar").write_bytes(tar_files.pack([*special, ("one.JPEG", b"1")], format=tarfile.PAX_FORMAT))
    assert archives.members(tmp_path / "images.tar", suffix=".jpeg").names == ["one.JPEG"]


def test_headers_are_not_kept(tmp_path, monkeypatch):
    kept = []
    following = tarfile.TarFile.next

    def spy(archive):
        member = following(archive)
        kept.append(len(archive.members))
        return member

    monkeypatch.setattr(tarfile.TarFile, "next", spy)
    (tmp_path / "images.tar").write_bytes(tar_files.images(tar_files.numbered("val", 30)))
    assert len(archives.members(tmp_path / "images.tar", suffix=".jpeg").names) == 30
    assert max(kept) == 1


def test_truncation_anywhere_is_noticed(tmp_path):
    whole = tar_files.images(["a.JPEG", "b.JPEG", "c.JPEG"], format=tarfile.PAX_FORMAT)
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        last = archive.getmembers()[-1]
    end = last.offset_data + -(-last.size // 512) * 512
    for cut in [*range(0, len(whole), 64), *range(511, len(whole), 512), *range(513, len(whole), 512)]:
        # In front of another archive, as in the training archive, and at the end of the file.
        for behind in (b"", tar_files.images(["d.JPEG"]), bytes(2048)):
            (tmp_path / "cut.tar").write_bytes(whole[:cut] + behind)

            def look(cut=cut):
                return archives.members(tmp_path / "cut.tar", suffix=".jpeg", size=cut)

            # One block of zeros is enough of an end.
            if cut >= end + 512:
                assert look().names == ["a.JPEG", "b.JPEG", "c.JPEG"]
            else:
                assert f"Received: {cut} bytes, " in tar_files.refusal(look)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"from somewhere else",
        b"x" * 5000,
        gzip.compress(tar_files.images(["a.JPEG"]), mtime=0),
        tar_files.images(["a.JPEG"])[:700],
    ],
)
def test_not_an_archive_raises(tmp_path, content):
    (tmp_path / "no.tar").write_bytes(content)
    message = tar_files.refusal(lambda: archives.members(tmp_path / "no.tar", suffix=".jpeg"))
    assert message.startswith(
        f"Expected {tmp_path / 'no.tar'} to be a complete, uncompressed tar archive. "
        f"Received: {len(content)} bytes, without a valid member ("
    )


# Another name under the old checksum, and no header at all.
@pytest.mark.parametrize("value", [b"x", b"\1" * 512])
def test_damaged_header_is_not_taken_for_the_end(tmp_path, value):
    whole = tar_files.images(["a.JPEG", "b.JPEG", "c.JPEG"])
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        start = archive.getmember("c.JPEG").offset
    (tmp_path / "a.tar").write_bytes(whole[:start] + value + whole[start + len(value) :])
    message = tar_files.refusal(lambda: archives.members(tmp_path / "a.tar", suffix=".jpeg"))
    assert message.endswith(" bytes, truncated or damaged after b.JPEG; download or copy it again")


@pytest.mark.parametrize(
    "kind, size",
    [(tarfile.REGTYPE, size) for size in (-(2**40), -1, 2**40, 2**80)]
    # Of a header that goes on.
    + [(tarfile.XHDTYPE, size) for size in (-(2**40), 2**80)],
)
def test_impossible_size_raises(tmp_path, kind, size):
    info = tarfile.TarInfo("a.JPEG")
    info.type = kind
    header = bytearray(info.tobuf())
    # Numbers that eight octal digits cannot hold are in base 256.
    header[124:136] = size.to_bytes(12, "big", signed=True)
    header[124] = 0x80 if size > 0 else 0xFF
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "a.tar").write_bytes(bytes(header) + tar_files.images(["b.JPEG"]))
    assert "without a valid member" in tar_files.refusal(lambda: archives.members(tmp_path / "a.tar", suffix=".jpeg"))
