"""What an image file declares about itself, read before it is decoded: its format, its size, and the work it takes.

`refusal` decides which files are decoded at all, the same for training, preparation, evaluation and served models. It
consists of TensorFlow operations, so a served model can contain it.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

# The formats that are decoded. TensorFlow's decoder knows more, whose size it is not told before it unpacks them.
FORMATS = "JPEG, PNG, GIF, BMP or WebP"

# A file of a few kilobytes can declare gigabytes of pixels. This many take 300 MB to decode.
MAX_PIXELS = 100_000_000
# All frames of a GIF are decoded, although only the first is used.
MAX_FRAMES = 1000
# Every scan of a JPEG goes through all of its pixels. Encoders write about ten.
MAX_SCANS = 100

# Parts of a file that are parsed one after another, each in some 100 microseconds.
_MAX_PARTS = 20_000  # of a GIF
_MAX_SEGMENTS = 2000  # of a JPEG
# Data blocks of a GIF that are skipped at a time if they have the same length.
_BLOCKS_AT_A_TIME = 64


def rarely(function: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    """Compiles a branch of a graph so that it costs a single operation, not all of its operations, if it is not taken.

    Otherwise TensorFlow would insert its operations into the graph, and skip them one by one.
    """
    return tf.function(function, autograph=False, experimental_attributes={"_noinline": True})


# Traced once, as pipelines and served models would trace it repeatedly.
@tf.function(autograph=False)
def refusal(encoded: tf.Tensor, max_pixels: int = MAX_PIXELS) -> tf.Tensor:
    """Returns why a file is not to be decoded.

    Args:
      encoded: scalar string tensor, the file.
      max_pixels: int, the largest number of pixels.

    Returns:
      Scalar string: one line that says what was expected and received, or the empty string for an image of one of the
      `FORMATS` that declares at most `max_pixels` (for a GIF, those of all frames), at most `MAX_FRAMES` and at most
      `MAX_SCANS`.

    Raises:
      tf.errors.InvalidArgumentError: for a JPEG without a complete header.
    """
    # Most photographs are JPEG files.
    is_jpeg = tf.equal(tf.strings.substr(encoded, 0, 3), b"\xff\xd8\xff")
    return tf.cond(is_jpeg, lambda: _of_jpeg(encoded, max_pixels), lambda: _of_others(encoded, max_pixels))


def damaged(encoded: tf.Tensor) -> tf.Tensor:
    """Returns the message for files that could not be decoded.

    Args:
      encoded: string tensor of any shape, the files.

    Returns:
      String tensor of the same shape.
    """
    length = tf.strings.as_string(tf.strings.length(encoded))
    return tf.strings.join([f"Expected a complete {FORMATS}. Received: ", length, " bytes that cannot be decoded"])


def _allowed():
    return tf.constant("")


def _of_jpeg(encoded, max_pixels):
    height, width, _ = tf.unstack(tf.image.extract_jpeg_shape(encoded, tf.int64))
    is_allowed = _pixels(width, height) <= max_pixels
    return tf.cond(is_allowed, lambda: _of_scans(encoded), lambda: _too_large(width, height, max_pixels))


def parts_by_scan(encoded: tf.Tensor) -> tf.Tensor:
    """Returns the parts of a file before, between and after the two bytes with which a scan of a JPEG begins.

    The bytes may also occur elsewhere, such as in a thumbnail or in a video that a telephone appends. If they occur
    once in a JPEG that can be decoded, the first part is its header.

    Args:
      encoded: scalar string tensor, the file.

    Returns:
      string ``[parts]``, at most `MAX_SCANS` + 2; the last is the rest of the file.
    """
    return tf.strings.split([encoded], b"\xff\xda", maxsplit=MAX_SCANS + 1).values


def _of_scans(encoded):
    """Returns why a JPEG has too many scans, scalar string, or the empty string."""
    count = tf.size(parts_by_scan(encoded)) - 1
    return tf.cond(count <= MAX_SCANS, _allowed, lambda: _of_many_scans(encoded))


@rarely
def _of_many_scans(encoded):
    """Implements `_of_scans` for a file with many occurrences of the two bytes: the segments decide."""
    found = jpeg_segments(encoded, max_scans=MAX_SCANS + 1, window=2**16)
    text = f"Expected a JPEG of at most {MAX_SCANS} scans. Received: more"
    return tf.where((found.scans <= MAX_SCANS) & found.is_complete, "", text)


class Segments(NamedTuple):
    """What was found among the segments of a JPEG."""

    exif: tf.Tensor  # int64 [2], first and last + 1 of the bytes of the first EXIF segment; zeros if there is none
    xmp: tf.Tensor  # the same of the last XMP segment
    scans: tf.Tensor  # scalar int64
    is_complete: tf.Tensor  # scalar bool; False if there are too many segments to parse


def jpeg_segments(encoded: tf.Tensor, *, max_scans: int, window: int, until_exif: bool = False) -> Segments:
    """Parses the segments of a JPEG one after another.

    Args:
      encoded: scalar string tensor, the file.
      max_scans: the number of scans at which parsing stops. It also stops where a decoder would: at the end of the
        image, and at the first scan if that has all components, unless the file is progressive.
      window: bytes between two segments that are searched at a time.
      until_exif: whether parsing also stops at the first EXIF segment.

    Returns:
      `Segments`. EXIF and XMP are searched before the first scan only, as Pillow does.
    """
    size = tf.cast(tf.strings.length(encoded), tf.int64)
    data = tf.io.decode_raw(tf.strings.join([encoded, bytes(window + 64)]), tf.uint8)
    nowhere = tf.zeros([2], tf.int64)
    state = {
        "place": tf.constant(2, tf.int64),
        "ended": tf.constant(False),
        "exif": nowhere,
        "xmp": nowhere,
        "scans": tf.constant(0, tf.int64),
        "components": tf.constant(0),  # of the frame; more than a scan can have if it is progressive
    }

    def has_next(state):
        is_found = tf.constant(until_exif) & (state["exif"][1] > 0)
        return (state["place"] < size) & ~state["ended"] & ~is_found

    def parse(state):
        place = state["place"]
        first, second = (tf.ensure_shape(data[place + i : place + i + window], [window]) for i in range(2))
        # Bytes between segments, data of a scan (where 0 follows 255, or a number that restarts it) and padding.
        is_other = tf.equal(second, 0) | tf.equal(second, 0xFF) | (tf.equal(tf.bitwise.bitwise_and(second, 0xF8), 0xD0))
        begins = tf.equal(first, 0xFF) & ~is_other
        return tf.cond(
            tf.reduce_any(begins),
            lambda: _segment(data, place + tf.argmax(tf.cast(begins, tf.uint8)), state, max_scans, size),
            lambda: {**state, "place": place + window},
        )

    found = tf.while_loop(has_next, lambda state: [parse(state)], [state], maximum_iterations=_MAX_SEGMENTS)[0]
    return Segments(found["exif"], found["xmp"], found["scans"], ~has_next(found))


def _segment(data, place, state, max_scans, size):
    """Returns the state of `jpeg_segments` after the segment at `place`."""
    head = tf.ensure_shape(data[place : place + 40], [40])
    marker = tf.cast(head[1], tf.int32)
    length = tf.cast(head[2], tf.int64) * 256 + tf.cast(head[3], tf.int64)
    payload = tf.stack([tf.minimum(place + 4, size), tf.minimum(place + 2 + length, size)])
    is_scan = tf.equal(marker, 0xDA)
    # Start of a frame; 0xC4, 0xC8 and 0xCC are other segments.
    is_frame = tf.equal(tf.bitwise.bitwise_and(marker, 0xF0), 0xC0) & (tf.bitwise.bitwise_and(marker, 3) > 0)
    is_progressive = tf.equal(tf.bitwise.bitwise_and(marker, 3), 2)
    components = tf.where(is_progressive, 256, tf.cast(head[9], tf.int32))
    components = tf.where(is_frame | tf.equal(marker, 0xC0), components, state["components"])
    scans = state["scans"] + tf.cast(is_scan, tf.int64)
    is_only_scan = is_scan & (tf.cast(head[4], tf.int32) >= components)
    is_searched = tf.equal(marker, 0xE1) & tf.equal(state["scans"], 0)
    is_exif = is_searched & begins_with(head, b"Exif\0\0", 4) & tf.equal(state["exif"][1], 0)
    is_xmp = is_searched & begins_with(head, b"http://ns.adobe.com/xap/1.0/\0", 4)
    # The start of the image and TEM have no length.
    has_length = tf.not_equal(marker, 0xD8) & tf.not_equal(marker, 0x01)
    return {
        "place": place + tf.where(has_length, 2 + tf.maximum(length, 2), 2),
        "ended": tf.equal(marker, 0xD9) | is_only_scan | (scans >= max_scans),
        "exif": tf.where(is_exif, payload, state["exif"]),
        "xmp": tf.where(is_xmp, payload, state["xmp"]),
        "scans": scans,
        "components": components,
    }


@rarely
def _of_others(encoded, max_pixels):
    """Implements `refusal` for formats other than JPEG."""
    # A short file is padded with zeros.
    head = tf.io.decode_raw(tf.strings.join([tf.strings.substr(encoded, 0, 30), bytes(30)]), tf.uint8)
    head = tf.ensure_shape(head[:30], [30])

    def checked(width, height):
        is_allowed = _pixels(width, height) <= max_pixels
        return tf.cond(is_allowed, _allowed, lambda: _too_large(width, height, max_pixels))

    def of_png():
        # Big-endian, in the first chunk.
        size = lambda: checked(number(head[19:15:-1]), number(head[23:19:-1]))
        return tf.cond(begins_with(head, b"IHDR", 12), size, lambda: damaged(encoded))

    def of_bmp():
        # Signed: the rows of a negative height are stored from top to bottom.
        width, height = tf.unstack(tf.bitcast(tf.reshape(head[18:26], [2, 4]), tf.int32))
        return checked(tf.abs(tf.cast(width, tf.int64)), tf.abs(tf.cast(height, tf.int64)))

    def of_webp():
        lossless = number(head[21:25])
        kinds = [
            (b"VP8 ", number(head[26:28]) % 2**14, number(head[28:30]) % 2**14),
            (b"VP8L", lossless % 2**14 + 1, lossless // 2**14 % 2**14 + 1),
            (b"VP8X", number(head[24:27]) + 1, number(head[27:30]) + 1),
        ]
        cases = [(begins_with(head, name, 12), lambda size=size: checked(*size)) for name, *size in kinds]
        # The decoder takes animations with transparency only, and unpacks all of their frames.
        is_animated = begins_with(head, b"VP8X", 12) & (tf.bitwise.bitwise_and(head[20], 2) > 0)
        cases.insert(0, (is_animated, lambda: tf.constant("Expected a WebP of one image. Received: an animation")))
        return tf.case(cases, default=lambda: damaged(encoded))

    def of_unknown():
        length = tf.strings.length(encoded)
        other = tf.strings.join([tf.strings.as_string(length), " bytes of another format"])
        received = tf.where(length > 0, other, "an empty file")
        return tf.strings.join([f"Expected a {FORMATS}. Received: ", received])

    formats = [
        (begins_with(head, b"\x89PNG\r\n\x1a\n"), of_png),
        (begins_with(head, b"GIF8"), lambda: _of_gif(encoded, max_pixels)),
        (begins_with(head, b"BM"), of_bmp),
        (begins_with(head, b"RIFF") & begins_with(head, b"WEBP", 8), of_webp),
    ]
    return tf.case(formats, default=of_unknown)


def _pixels(width, height):
    """Returns a number of pixels in float64, which represents the product of any two sizes that files can declare."""
    return tf.cast(width, tf.float64) * tf.cast(height, tf.float64)


def _too_large(width, height, max_pixels):
    sizes = [tf.strings.as_string(width), " x ", tf.strings.as_string(height)]
    return tf.strings.join([f"Expected an image of at most {max_pixels} pixels. Received: ", *sizes])


def begins_with(data: tf.Tensor, text: bytes, place: int = 0) -> tf.Tensor:
    """Returns whether `data`, uint8 ``[bytes]``, has the bytes of `text` at `place`, as a scalar bool tensor."""
    return tf.reduce_all(tf.equal(data[place : place + len(text)], list(text)))


def number(data: tf.Tensor) -> tf.Tensor:
    """Returns the int64 with the given bytes, uint8 ``[bytes]``, in little-endian order."""
    return tf.reduce_sum(tf.cast(data, tf.int64) * [256**place for place in range(data.shape[0])])


def _of_gif(encoded, max_pixels):
    frames, pixels = gif_frames(encoded, max_pixels)

    def message():
        many = f"Expected a GIF of at most {MAX_FRAMES} frames and {_MAX_PARTS} parts. Received: more"
        large = f"Expected an image of at most {max_pixels} pixels. Received: "
        large = tf.strings.join([large, tf.strings.as_string(pixels, precision=0), " in all frames"])
        return tf.where(tf.math.is_inf(pixels) | (frames > MAX_FRAMES), many, large)

    return tf.cond((pixels <= max_pixels) & (frames <= MAX_FRAMES), _allowed, message)


def gif_frames(encoded: tf.Tensor, max_pixels: int = MAX_PIXELS) -> tuple[tf.Tensor, tf.Tensor]:
    """Counts the frames of a GIF and their pixels, as the decoder unpacks all of them.

    A GIF is a sequence of frames and extensions, each followed by its data: blocks that begin with their length, up to
    a length of 0.

    Args:
      encoded: scalar string tensor, the file.
      max_pixels: the number of pixels above which parsing stops. It also stops above `MAX_FRAMES`.

    Returns:
      The number of frames, scalar int64, and of their pixels, scalar float64; infinity if there are too many blocks to
      parse.
    """
    padding = 256 * _BLOCKS_AT_A_TIME + 16
    data = tf.io.decode_raw(tf.strings.join([encoded, bytes(padding)]), tf.uint8)
    size = tf.size(data, tf.int64) - padding

    def colors(flags):
        # The number of bytes of a color table.
        flags = tf.cast(flags, tf.int64)
        return tf.where(flags >= 128, 3 * tf.bitwise.left_shift(tf.constant(2, tf.int64), flags % 8), 0)

    def has_next(place, in_data, frames, pixels):
        is_block = in_data | tf.reduce_any(tf.equal(data[tf.minimum(place, size)], [0x2C, 0x21]))
        return (place < size) & is_block & (frames <= MAX_FRAMES) & (pixels <= max_pixels)

    def block(place, in_data, frames, pixels):
        head = tf.ensure_shape(data[place : place + 10], [10])
        is_frame = ~in_data & tf.equal(head[0], 0x2C)
        frame_pixels = _pixels(number(head[5:7]), number(head[7:9]))
        length = tf.where(is_frame, 11 + colors(head[9]), 2)
        # Most data blocks have the same length as the one before.
        block_length = 1 + tf.cast(head[0], tf.int64)
        lengths = data[place : place + _BLOCKS_AT_A_TIME * block_length : block_length]
        same = tf.reduce_sum(tf.math.cumprod(tf.cast(tf.equal(lengths, head[0]), tf.int64)))
        data_length = tf.where(head[0] > 0, same * block_length, 1)
        return (
            place + tf.where(in_data, data_length, length),
            ~in_data | (head[0] > 0),
            frames + tf.cast(is_frame, tf.int64),
            pixels + tf.where(is_frame, frame_pixels, 0.0),
        )

    zero = tf.constant(0, tf.int64)
    start = (13 + colors(data[10]), tf.constant(False), zero, tf.constant(0.0, tf.float64))
    place, in_data, frames, pixels = tf.while_loop(has_next, block, start, maximum_iterations=_MAX_PARTS)
    stopped_early = has_next(place, in_data, frames, pixels)
    return frames, tf.where(stopped_early, tf.constant(float("inf"), tf.float64), pixels)
