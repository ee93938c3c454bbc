"""Tar archives of synthetic images."""

import io
import tarfile

import pytest


def image(name):
    """Returns the bytes of a synthetic image, different for each name; the zeros at the end belong to it."""
    name = name.rpartition("/")[2]
    return b"\xff\xd8" + f"{name} ".encode() * (1 + sum(name.encode()) % 90) + b"\0\0\0"


def pack(entries, **options):
    """Returns a tar archive of pairs of (name or TarInfo, content)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", **options) as archive:
        for info, content in entries:
            if isinstance(info, str):
                info = tarfile.TarInfo(info)
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def images(names, **options):
    """Returns a tar archive of synthetic images."""
    return pack([(name, image(name)) for name in names], **options)


def numbered(split, count):
    """Returns the names of the first images of a split."""
    return [f"ILSVRC2010_{split}_{number:08d}.JPEG" for number in range(1, count + 1)]


def refusal(call, kind=ValueError):
    """Returns the one-line message of the error that a call raises."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert message.startswith("Expected ")
    assert " Received: " in message
    assert "\n" not in message
    return message
