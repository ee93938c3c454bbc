"""Image files with the orientation in every place where it may be, and in places where it is not."""

import struct
import zlib

import numpy as np
import pictures

ORIENTATION, MAKER, SHORT, LONG, BYTE, TEXT = 0x0112, 0x010F, 3, 4, 1, 2
PIXELS = pictures.waves(24, 40)
JPEG = pictures.encode(PIXELS, "JPEG", quality=95)
PNG = pictures.encode(PIXELS, "PNG")
WEBP = pictures.encode(PIXELS, "WEBP", lossless=True, exif=b"Exif\0\0" + bytes(9))


def entry(tag, kind, count, value, order="<"):
    """Returns an entry of a TIFF directory; `value` is an int, or bytes that are padded to four."""
    if isinstance(value, int):
        value = struct.pack(order + ("H" if kind == SHORT else "I"), value)
    return struct.pack(order + "HHI", tag, kind, count) + value.ljust(4, b"\0")


def directory(*entries, order="<", count=None, following=0):
    counted = len(entries) if count is None else count
    return struct.pack(order + "H", counted) + b"".join(entries) + struct.pack(order + "I", following)


def tiff(value=6, order="<", *, version=42, gap=0, thumbnail=None, before=(), after=(), extra=b"", kind=SHORT, count=1):
    """Returns a TIFF file whose first directory has an orientation, unless `value` is None."""
    entries = [*before, *([] if value is None else [entry(ORIENTATION, kind, count, value, order)]), *after]
    begin = 8 + gap
    second = begin + 6 + 12 * len(entries) if thumbnail else 0
    first = directory(*entries, order=order, following=second)
    if thumbnail:
        first += directory(entry(ORIENTATION, SHORT, 1, thumbnail, order), order=order)
    name = b"II" if order == "<" else b"MM"
    return name + struct.pack(order + "HI", version, begin) + bytes(gap) + first + extra


def segment(content, marker=b"\xe1"):
    return b"\xff" + marker + struct.pack(">H", len(content) + 2) + content


def exif(content=None, **options):
    return segment(b"Exif\0\0" + (tiff(**options) if content is None else content))


def xmp(text):
    return segment(b"http://ns.adobe.com/xap/1.0/\0" + text)


def jpeg(*segments):
    """Returns a JPEG with segments before its own."""
    return JPEG[:2] + b"".join(segments) + JPEG[2:]


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(*chunks, place=33):
    """Returns a PNG with chunks at a place: after its header, or a negative one before its end."""
    return PNG[:place] + b"".join(chunks) + PNG[place:]


def webp(content, flags=0x08, name=b"EXIF"):
    """Returns a WebP with other EXIF data."""
    body = WEBP[12 : WEBP.index(b"EXIF")]
    body = body[:8] + bytes([body[8] & ~0x0C | flags]) + body[9:]
    body += name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


PROFILE = segment(b"ICC_PROFILE\0\1\1" + np.random.default_rng(0).bytes(60_000), b"\xe2")
DECOYS = b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06", b"\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00"
BEYOND = entry(MAKER, TEXT, 90, 9000)
ATTRIBUTE, ELEMENT = b'<x tiff:Orientation="8"/>', b"<tiff:Orientation>3</tiff:Orientation>"


def maker(text, order="<"):
    """Returns the options of `tiff` for an entry before the orientation whose text follows the directory."""
    return {"before": [entry(MAKER, TEXT, len(text), 38, order)], "extra": text, "order": order}


JPEGS = {
    "little": jpeg(exif()),
    "big": jpeg(exif(order=">")),
    "thumbnail only": jpeg(exif(value=None, thumbnail=6)),
    "thumbnail only, big": jpeg(exif(value=None, thumbnail=6, order=">")),
    "thumbnail of another": jpeg(exif(value=3, thumbnail=6)),
    "upright with a thumbnail of another": jpeg(exif(value=1, thumbnail=8)),
    "after a profile": jpeg(PROFILE, exif()),
    "after ten profiles": jpeg(*[PROFILE] * 10, exif(value=8)),
    "after a comment": jpeg(segment(b"a comment", b"\xfe"), exif()),
    "after a comment that looks like it": jpeg(segment(b"\xff\xe1\0\x40Exif\0\0" + tiff(3), b"\xfe"), exif(value=8)),
    "in a comment only": jpeg(segment(b"Exif\0\0" + tiff(3), b"\xfe")),
    "in another segment only": jpeg(segment(b"Exif\0\0" + tiff(3), b"\xe3")),
    "after Photoshop": jpeg(segment(b"Photoshop 3.0\0" + bytes(5000), b"\xed"), exif(value=5)),
    "after its own segments": JPEG[:20] + exif(value=7) + JPEG[20:],
    "after the image": JPEG + jpeg(exif()),
    "twice": jpeg(exif(value=3), exif(value=6)),
    "named twice": jpeg(exif(b"Exif\0\0" + tiff(8))),
    "text before": jpeg(exif(**maker(DECOYS[1]))),
    "text of another order": jpeg(exif(value=3, **maker(DECOYS[0]))),
    "text, big": jpeg(exif(value=3, **maker(DECOYS[0], ">"))),
    "text only": jpeg(exif(value=None, **maker(b"maker" + DECOYS[1]))),
    "directory later": jpeg(exif(gap=500)),
    "directory at an odd place": jpeg(exif(gap=13, order=">")),
    "entry after others": jpeg(exif(before=[entry(0x0132 + i, SHORT, 1, i) for i in range(40)])),
    "first of two": jpeg(exif(value=3, after=[entry(ORIENTATION, SHORT, 1, 6)])),
    "long": jpeg(exif(kind=LONG)),
    "long, big": jpeg(exif(kind=LONG, order=">", value=8)),
    "signed": jpeg(exif(kind=8, value=struct.pack("<h", 6))),
    "two of them": jpeg(exif(count=2, value=struct.pack("<HH", 6, 1))),
    "three of them elsewhere": jpeg(exif(count=3, value=struct.pack("<I", 26), extra=struct.pack("<HHH", 5, 1, 1))),
    "none of them": jpeg(exif(count=0)),
    "byte": jpeg(exif(kind=BYTE, value=b"\6")),
    "text type": jpeg(exif(kind=TEXT, count=2, value=b"6\0")),
    "unknown type": jpeg(exif(kind=14)),
    "unknown type, then known": jpeg(exif(kind=99, after=[entry(ORIENTATION, SHORT, 1, 6)])),
    "after a value beyond the end": jpeg(exif(before=[BEYOND], extra=bytes(200))),
    "before a value beyond the end": jpeg(exif(after=[BEYOND], extra=bytes(200))),
    "after a value larger than the file": jpeg(exif(before=[entry(MAKER, TEXT, 2**31, 9)])),
    "directory cut": jpeg(exif(b"II*\0\x08\0\0\0" + directory(entry(ORIENTATION, SHORT, 1, 6), count=9))),
    "directory cut within": jpeg(exif(b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01")),
    "directory beyond the end": jpeg(exif(b"II*\0\xff\xff\xff\x7f" + bytes(40))),
    "version in the other order": jpeg(exif(version=42 << 8)),
    "0": jpeg(exif(value=0)),
    "9": jpeg(exif(value=9)),
    "300": jpeg(exif(value=300)),
    "padded": jpeg(b"\xff" * 1000, exif()),
    "bytes between": jpeg(segment(b"a comment", b"\xfe"), bytes(700), exif(value=7)),
    "xmp attribute": jpeg(xmp(ATTRIBUTE)),
    "xmp element": jpeg(xmp(ELEMENT)),
    "xmp of no orientation": jpeg(xmp(b"<x tiff:Orientation='8'/>")),
    "xmp and exif": jpeg(xmp(ATTRIBUTE), exif(value=6)),
    "xmp and upright exif": jpeg(exif(value=1), xmp(ATTRIBUTE)),
    "xmp and exif without": jpeg(exif(value=None), xmp(ATTRIBUTE)),
    "xmp in a comment": jpeg(segment(ATTRIBUTE, b"\xfe")),
}
PNGS = {
    "png": png(chunk(b"eXIf", tiff())),
    "png, big": png(chunk(b"eXIf", tiff(8, ">"))),
    "png, named": png(chunk(b"eXIf", b"Exif\0\0" + tiff(7))),
    "png, after the pixels": png(chunk(b"eXIf", tiff(5)), place=-12),
    "png, thumbnail": png(chunk(b"eXIf", tiff(None, thumbnail=6))),
    "png, in a text": png(chunk(b"tEXt", b"Comment\0eXIf" + tiff())),
    "png, after its end": PNG + chunk(b"eXIf", tiff()),
    "png, xmp": png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + ATTRIBUTE)),
    "png, other text": png(chunk(b"iTXt", b"Description\0\0\0\0\0" + ATTRIBUTE)),
}
WEBPS = {
    "webp": webp(tiff()),
    "webp, named": webp(b"Exif\0\0" + tiff(8, ">")),
    "webp, odd": webp(tiff(3, extra=b"1")),
    "webp, thumbnail": webp(tiff(None, thumbnail=6)),
    "webp, not flagged": webp(tiff(), flags=0),
    "webp, xmp": webp(ELEMENT, 0x04, b"XMP "),
}
OTHERS = {
    "gif": pictures.encode(PIXELS, "GIF"),
    "gif with a comment": pictures.encode(PIXELS, "GIF", comment=b"Exif\0\0" + tiff()),
    "bmp": pictures.encode(PIXELS, "BMP"),
}
FILES = JPEGS | PNGS | WEBPS | OTHERS
