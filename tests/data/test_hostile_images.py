"""Images that declare too many pixels are rejected before they are decoded."""

import functools
import resource
import struct
import zlib

import numpy as np
import pictures
import PIL.Image
import pytest
import tensorflow as tf

from alexnet_tf.data import loading
from alexnet_tf.data import photograph
from alexnet_tf.data import sources
from alexnet_tf.utils import messages


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
