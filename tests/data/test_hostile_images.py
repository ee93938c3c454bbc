"""Images that declare too many pixels are rejected before they are decoded."""

import functools
import resource
import struct
import time
import zlib

import numpy as np
import pictures
import PIL.Image
import pytest
import tensorflow as tf

from alexnet_tf.data import image_headers
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


# From a name to a file, and what it declares.
LARGE = {
    "png": (png(20_000, 20_000), "20000 x 20000"),
    "png, largest": (png(2**31 - 1, 2**31 - 1), "2147483647 x 2147483647"),
    "jpeg": (jpeg(65_500, 65_000), "65500 x 65000"),
    "jpeg, progressive": (jpeg(20_000, 10_000, progressive=True), "20000 x 10000"),
    "gif": (gif([20_000, 10_000]), "200000000 in all frames"),
    "gif, many": (gif(*[[3000, 3000]] * 12), "108000000 in all frames"),
    "bmp": (bmp(20_000, 10_000), "20000 x 10000"),
    "bmp, upside down": (bmp(20_000, -10_000), "20000 x 10000"),
    "webp": (webp(b"VP8 ", bytes(3) + b"\x9d\x01\x2a" + struct.pack("<HH", 16_000, 12_000)), "16000 x 12000"),
    "webp, lossless": (webp(b"VP8L", b"\x2f" + struct.pack("<I", 15_999 | 11_999 << 14)), "16000 x 12000"),
    "webp, extended": (webp(b"VP8X", bytes(4) + b"\x7f\x3e\0\xdf\x2e\0"), "16000 x 12000"),
}


@functools.cache
def compiled_decoder():
    return tf.function(photograph.decode_to_square, input_signature=[tf.TensorSpec([], tf.string)])


def refusal(content):
    return image_headers.refusal(tf.constant(content)).numpy().decode()


@pytest.mark.parametrize("name", LARGE)
def test_images_that_declare_too_many_pixels_are_not_decoded(name):
    content, declared = LARGE[name]
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        photograph.decode_to_square(tf.constant(content))
    expected = f"Expected an image of at most 100000000 pixels. Received: {declared}"
    assert messages.first_line(caught.value) == refusal(content) == expected
    with pytest.raises(tf.errors.InvalidArgumentError):
        compiled_decoder()(content)


# TensorFlow decodes the first two, whose size is not read before.
OTHER_FORMATS = {
    "jpeg xl": b"\xff\x0a" + bytes(80),
    "jpeg xl, boxed": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(80),
    "avif": b"\0\0\0\x1cftypavif" + bytes(80),
    "heic": b"\0\0\0\x18ftypheic" + bytes(80),
    "tiff": pictures.encode(pictures.noise(8, 8), "TIFF"),
    "icon": pictures.encode(pictures.noise(16, 16), "ICO"),
    "jpeg 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(80),
    "portable pixels": pictures.encode(pictures.noise(8, 8), "PPM"),
    "riff of another kind": b"RIFF\x40\0\0\0WAVEfmt " + bytes(40),
    "png, its first bytes damaged": b"\x89PNG\n\x1a\n" + bytes(40),
    "text": b"GIF, PNG and JPEG are formats.",
    "short": b"\xff\xd8",
}


@pytest.mark.parametrize("name", OTHER_FORMATS)
def test_other_formats_are_refused_although_the_decoder_may_know_them(name):
    content = OTHER_FORMATS[name]
    expected = f"Expected a JPEG, PNG, GIF, BMP or WebP. Received: {len(content)} bytes of another format"
    assert refusal(content) == expected
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"^{expected}$"):
        photograph.decode(tf.constant(content))
    with pytest.raises(tf.errors.InvalidArgumentError):
        compiled_decoder()(content)


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n" + bytes(40), b"RIFF\x40\0\0\0WEBPVP9 " + bytes(40)])
def test_formats_without_a_known_header_are_refused(content):
    expected = f"Expected a complete JPEG, PNG, GIF, BMP or WebP. Received: {len(content)} bytes that cannot be decoded"
    assert refusal(content) == expected


def test_animated_webp_is_refused_before_it_is_decoded():
    content = b"RIFF\x40\0\0\0WEBPVP8X\x0a\0\0\0" + b"\x02\0\0\0" + b"\x07\0\0" * 2 + bytes(40)
    assert refusal(content) == "Expected a WebP of one image. Received: an animation"
    assert refusal(content.replace(b"\x02\0\0\0", b"\x10\0\0\0")) == ""


def blocks(*lengths, count):
    """Returns a GIF whose data, blocks of these lengths in turn, have no end."""
    head = gif([3, 2])[:-5]
    return head + b"".join(bytes([length]) + bytes(length) for _ in range(count) for length in lengths)


def test_gif_of_many_parts_is_not_decoded(monkeypatch):
    monkeypatch.setattr(image_headers, "_MAX_PARTS", 20)
    # Blocks of the same length are skipped together.
    for content, pixels in ((gif([3, 2], parts=50), 6), (blocks(1, 2, count=5), 6), (blocks(1, 2, count=15), np.inf)):
        assert image_headers.gif_frames(tf.constant(content))[1] == pixels


@pytest.mark.parametrize("count", [1000, 1001])
def test_frames_of_a_gif_are_limited(count):
    expected = "" if count == 1000 else "Expected a GIF of at most 1000 frames and 20000 parts. Received: more"
    assert refusal(gif(*[[3, 2]] * count)) == expected


@pytest.mark.parametrize("lengths", [[1], [1, 2], [255, 1], [3, 1, 2]])
def test_damaged_gif_is_explained_in_time(tmp_path, lengths):
    path = tmp_path / "damaged.gif"
    path.write_bytes(blocks(*lengths, count=10_000))
    begun = time.monotonic()
    skipped = loading.explain_skipped(sources._files([path], [0]), 0)
    assert time.monotonic() - begun < 10
    assert skipped.name == str(path) and skipped.reason


def scan(components, data=b"\x12\x34"):
    return b"\xff\xda" + struct.pack(">HB", 6 + 2 * components, components) + b"\1\0" * components + b"\0\x3f\0" + data


def frame(marker, components=3):
    parts = b"".join(bytes([number + 1, 0x11, 0]) for number in range(components))
    return b"\xff" + marker + struct.pack(">HBHHB", 8 + 3 * components, 8, 8, 8, components) + parts


BASELINE = pictures.encode(pictures.noise(8, 8), "JPEG")
PROGRESSIVE = pictures.encode(pictures.noise(8, 8), "JPEG", progressive=True)
COMMENT = b"\xff\xfe\0\x06\xff\xd9\xff\xda"
MANY_SCANS = {
    "progressive": PROGRESSIVE[:-2] + scan(1) * 200 + b"\xff\xd9",
    "one component each": b"\xff\xd8" + frame(b"\xc0") + scan(1) * 101 + b"\xff\xd9",
    "restarted": b"\xff\xd8" + frame(b"\xc2") + scan(1, b"\1\xff\xd0\2\xff\xd1\xff\0") * 101 + b"\xff\xd9",
    "an end in a comment": b"\xff\xd8" + frame(b"\xc2") + (scan(1) + COMMENT) * 101 + b"\xff\xd9",
    "comments between": PROGRESSIVE[:-2] + COMMENT * 30_000 + scan(1) * 200,
    "no end": b"\xff\xd8" + frame(b"\xc2", 1) + scan(1) * 101,
}
FEW_SCANS = {
    "baseline": BASELINE,
    "progressive": PROGRESSIVE,
    "hundred": b"\xff\xd8" + frame(b"\xc2") + scan(1) * 100 + b"\xff\xd9",
    # As a telephone appends them.
    "a video at the end": BASELINE + b"\xff\xda\0" * 500,
    "a video at the end of a progressive": PROGRESSIVE + b"\xff\xda\0" * 500,
    "comments": BASELINE[:2] + COMMENT * 300 + BASELINE[2:],
    "scans of which none but the first is read": BASELINE[:-2] + scan(3) * 200 + b"\xff\xd9",
}


@pytest.mark.parametrize("name", MANY_SCANS)
def test_jpeg_of_many_scans_is_not_decoded(name):
    assert refusal(MANY_SCANS[name]) == "Expected a JPEG of at most 100 scans. Received: more"


@pytest.mark.parametrize("name", FEW_SCANS)
def test_jpeg_of_few_scans_is_decoded(name):
    assert refusal(FEW_SCANS[name]) == ""


def test_declared_pixels_are_those_of_the_image():
    files = pictures.formats() | {
        "jpeg": pictures.encode(pictures.noise(40, 60), "JPEG"),
        "webp lossy": pictures.encode(pictures.noise(40, 60), "WEBP"),
        "webp extended": pictures.encode(pictures.noise(40, 60), "WEBP", exif=b"Exif\0\0" + bytes(9)),
        "large gif": pictures.encode(PIL.Image.fromarray(pictures.noise(400, 300)), "GIF"),
    }
    expected = {"gif of two": 4800, "large gif": 120_000}
    for name, content in files.items():
        pixels = expected.get(name, 2400)
        assert image_headers.refusal(tf.constant(content), tf.constant(pixels, tf.float64)) == b"", name
        assert image_headers.refusal(tf.constant(content), tf.constant(pixels - 1, tf.float64)) != b"", name


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
