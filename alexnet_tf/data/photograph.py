"""From one photograph in any supported format to 256 x 256 RGB pixels.

Everything is TensorFlow operations, so training, evaluation and a served model run the same code.
"""

import functools

import tensorflow as tf

IMAGE_SIZE = 256

# A file of a few kilobytes can declare gigabytes of pixels. This many take 300 MB to decode.
MAX_PIXELS = 100_000_000
# The blocks of a GIF, of at most 255 bytes each, are parsed one after another.
_MAX_GIF_BLOCKS = 100_000

# Bytes at the start of a file that are searched for the EXIF orientation: its segment is the first or the second.
_EXIF_BYTES = 4096


def exif_orientation(encoded: tf.Tensor) -> tf.Tensor:
    """Returns the EXIF orientation of a JPEG, 1 to 8.

    Args:
      encoded: scalar string tensor, the file.

    Returns:
      Scalar int32; 1 (upright) for a file without an orientation, and for any other format.
    """
    head = tf.strings.substr(encoded, 0, _EXIF_BYTES)
    # Few photographs have the segment, and searching for its tag takes several times as long as this match.
    has_segment = tf.strings.regex_full_match(head, r"\C*?Exif\x00\x00(?:MM|II)\C*")
    return tf.cond(has_segment, lambda: _orientation_tag(head), lambda: tf.constant(1))


def _orientation_tag(head):
    """Returns the orientation tag in the first bytes of a JPEG with an EXIF segment; 1 if there is none."""
    data = tf.cast(tf.io.decode_raw(head, tf.uint8), tf.int32)
    is_jpeg = tf.reduce_all(tf.equal(data[:2], [0xFF, 0xD8]))
    _, segment = _find(data, b"Exif\x00\x00")
    data = data[segment:]
    # The tag 0x0112, type 3 (short), count 1, value, in the byte order that the segment declares.
    big, big_place = _find(data, b"\x01\x12\x00\x03\x00\x00\x00\x01\x00")
    little, little_place = _find(data, b"\x12\x01\x03\x00\x01\x00\x00\x00")
    is_little = tf.equal(data[0], ord("I"))
    found, place = tf.where(is_little, little, big), tf.where(is_little, little_place, big_place)
    value = tf.reduce_sum(data[place : place + 1])
    return tf.where(is_jpeg & found & (value >= 1) & (value <= 8), value, 1)


def _find(data, pattern):
    """Returns whether `data` contains `pattern`, and the position after its first occurrence (otherwise 0)."""
    count = tf.maximum(tf.size(data) - len(pattern) + 1, 0)
    hits = tf.ones([count], tf.bool)
    for shift, value in enumerate(pattern):
        hits &= tf.equal(data[shift : shift + count], value)
    found = tf.reduce_any(hits)
    first = tf.reduce_min(tf.where(hits, tf.range(count), tf.int32.max))
    return found, tf.where(found, first, -len(pattern)) + len(pattern)


def apply_orientation(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Rotates and mirrors an image according to its EXIF orientation.

    Args:
      image: ``[height, width, channels]``.
      orientation: scalar int32, 1 to 8.

    Returns:
      The upright image; height and width are swapped for 5 to 8.
    """

    def rotated():
        upright = tf.cond(orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
        # This transposition reduces 5 to 8 to mirroring, as 2 to 4.
        flipped_left_right = tf.reduce_any(tf.equal(orientation, [2, 3, 6, 7]))
        flipped_up_down = tf.reduce_any(tf.equal(orientation, [3, 4, 7, 8]))
        upright = tf.cond(flipped_left_right, lambda: tf.reverse(upright, [1]), lambda: upright)
        return tf.cond(flipped_up_down, lambda: tf.reverse(upright, [0]), lambda: upright)

    return tf.cond(tf.equal(orientation, 1), lambda: image, rotated)


def _of_allowed_size(encoded):
    """Returns the file if it declares at most `MAX_PIXELS`; in a graph, otherwise a text that cannot be decoded."""
    pixels = _declared_pixels(encoded)

    def message():
        received = tf.strings.as_string(pixels, precision=0)
        return tf.strings.join([f"Expected a photograph of at most {MAX_PIXELS} pixels. Received: ", received])

    if tf.executing_eagerly() and pixels > MAX_PIXELS:
        raise tf.errors.InvalidArgumentError(None, None, message().numpy().decode())
    # Not an assertion: a pipeline skips what fails, then reads it again outside the graph to report the reason.
    return tf.cond(pixels <= MAX_PIXELS, lambda: encoded, message)


def _declared_pixels(encoded):
    """Returns the number of pixels that a file's header declares, scalar float64; 0 for an unknown format."""

    def of_jpeg():
        height, width, _ = tf.unstack(tf.cast(tf.image.extract_jpeg_shape(encoded), tf.float64))
        return height * width

    # Most photographs are JPEG files, and the other formats take several times as long to distinguish.
    is_jpeg = tf.equal(tf.strings.substr(encoded, 0, 3), b"\xff\xd8\xff")
    return tf.cond(is_jpeg, of_jpeg, lambda: _pixels_of_others(encoded))


def _pixels_of_others(encoded):
    """Implements `_declared_pixels` for formats other than JPEG."""
    # A short file is padded with zeros.
    head = tf.io.decode_raw(tf.strings.join([tf.strings.substr(encoded, 0, 30), bytes(30)]), tf.uint8)
    head = tf.ensure_shape(head[:30], [30])

    def begins(start, place=0):
        return tf.reduce_all(tf.equal(head[place : place + len(start)], list(start)))

    def product(width, height):
        return tf.cast(width, tf.float64) * tf.cast(height, tf.float64)

    def of_png():
        # Big-endian.
        return product(_number(head[19:15:-1]), _number(head[23:19:-1]))

    def of_bmp():
        # Signed: the rows of a negative height are stored from top to bottom.
        return tf.abs(product(*tf.unstack(tf.bitcast(tf.reshape(head[18:26], [2, 4]), tf.int32))))

    def of_webp():
        lossless = _number(head[21:25])
        kinds = [
            (b"VP8 ", _number(head[26:28]) % 2**14, _number(head[28:30]) % 2**14),
            (b"VP8L", lossless % 2**14 + 1, lossless // 2**14 % 2**14 + 1),
            (b"VP8X", _number(head[24:27]) + 1, _number(head[27:30]) + 1),
        ]
        return tf.add_n([tf.where(begins(name, 12), product(*size), 0.0) for name, *size in kinds])

    formats = [
        (begins(b"\x89PNG"), of_png),
        (begins(b"GIF8"), lambda: _pixels_of_gif(encoded)),
        (begins(b"BM"), of_bmp),
        (begins(b"RIFF") & begins(b"WEBP", 8), of_webp),
    ]
    return tf.case(formats, default=lambda: tf.constant(0.0, tf.float64))


def _number(data):
    """Returns the int64 with the given bytes in little-endian order."""
    return tf.reduce_sum(tf.cast(data, tf.int64) * [256**place for place in range(data.shape[0])])


def _pixels_of_gif(encoded):
    """Returns the number of pixels of all frames of a GIF, scalar float64, as the decoder unpacks all of them.

    A GIF is a sequence of frames and extensions, each followed by its data: blocks that begin with their length, up to
    a length of 0. Parsing stops at `MAX_PIXELS`.
    """
    data = tf.io.decode_raw(tf.strings.join([encoded, bytes(13)]), tf.uint8)
    size = tf.size(data, tf.int64) - 13

    def colors(flags):
        # The number of bytes of a color table.
        flags = tf.cast(flags, tf.int64)
        return tf.where(flags >= 128, 3 * tf.bitwise.left_shift(tf.constant(2, tf.int64), flags % 8), 0)

    def has_next(place, in_data, pixels):
        is_block = in_data | tf.reduce_any(tf.equal(data[tf.minimum(place, size)], [0x2C, 0x21]))
        return (place < size) & is_block & (pixels <= MAX_PIXELS)

    def block(place, in_data, pixels):
        head = tf.ensure_shape(data[place : place + 10], [10])
        is_frame = ~in_data & tf.equal(head[0], 0x2C)
        frame_pixels = tf.cast(_number(head[5:7]) * _number(head[7:9]), tf.float64)
        length = tf.where(is_frame, 11 + colors(head[9]), 2)
        # Most data blocks have the maximum length, so up to 64 are skipped at a time.
        longest = tf.cast(tf.equal(data[place : place + 64 * 256 : 256], 255), tf.int64)
        data_length = tf.maximum(256 * tf.reduce_sum(tf.math.cumprod(longest)), 1 + tf.cast(head[0], tf.int64))
        length = tf.where(in_data, data_length, length)
        return place + length, ~in_data | (head[0] > 0), pixels + tf.where(is_frame, frame_pixels, 0.0)

    start = (13 + colors(data[10]), tf.constant(False), tf.constant(0.0, tf.float64))
    place, in_data, pixels = tf.while_loop(has_next, block, start, maximum_iterations=_MAX_GIF_BLOCKS)
    # A file that has not reached its end has too many blocks.
    return tf.where(has_next(place, in_data, pixels), tf.constant(float("inf"), tf.float64), pixels)


def decode(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes a photograph and turns it upright.

    Args:
      encoded: scalar string tensor: JPEG (also gray and CMYK), PNG (also gray, palette and 16 bits; transparency is
        dropped), GIF (the first frame), BMP (8, 24 or 32 bits) or WebP.

    Returns:
      uint8 ``[height, width, 3]``, RGB in [0, 255].

    Raises:
      tf.errors.InvalidArgumentError: for another format, a truncated or corrupt file, or more than `MAX_PIXELS` pixels;
        all frames of a GIF count.
    """
    encoded = _of_allowed_size(encoded)
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    image = tf.ensure_shape(image, [None, None, 3])
    # TensorFlow takes the palette indices of an 8-bit BMP for gray levels.
    has_palette = tf.strings.regex_full_match(tf.strings.substr(encoded, 0, 30), r"BM\C{26}\x08\x00")
    image = tf.cond(has_palette, lambda: _palette_colors(image[..., 0], encoded), lambda: image)
    return apply_orientation(image, exif_orientation(encoded))


def _palette_colors(indices, encoded):
    """Returns the colors, uint8 ``[height, width, 3]``, of a BMP's palette indices, uint8 ``[height, width]``."""
    # From the file: the offset of the pixels, and the size of the second header, which begins at byte 14.
    pixels, header = tf.unstack(tf.io.decode_raw(tf.strings.substr(encoded, 10, 8), tf.int32), num=2)
    palette = tf.io.decode_raw(tf.strings.substr(encoded, 14 + header, pixels - header - 14), tf.uint8)
    # Each color is blue, green, red and a zero.
    return tf.gather(tf.reshape(palette, [-1, 4])[:, 2::-1], tf.cast(indices, tf.int32))


def to_square(image: tf.Tensor, size: int = IMAGE_SIZE) -> tf.Tensor:
    """Scales an image so that its shorter side becomes `size`, and returns the central square (paper section 2).

    Args:
      image: uint8 ``[height, width, 3]``.
      size: int, the result's side.

    Returns:
      uint8 ``[size, size, 3]``: averaged over areas if it shrinks, interpolated bicubically if it grows. The aspect
      ratio is kept.
    """
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    side = tf.minimum(height, width)
    # Cropping first and then scaling gives the same square without ever holding a scaled 8000 x 50 strip.
    square = tf.image.crop_to_bounding_box(image, (height - side) // 2, (width - side) // 2, side, side)

    def scaled(method):
        pixels = tf.image.resize(square, [size, size], method=method)
        return tf.cast(tf.clip_by_value(tf.round(pixels), 0, 255), tf.uint8)

    result = tf.case(
        [(side > size, lambda: scaled("area")), (side < size, lambda: scaled("bicubic"))],
        default=lambda: square,
        exclusive=True,
    )
    return tf.ensure_shape(result, [size, size, 3])


def _decode_to_square(encoded, size):
    return to_square(decode(encoded), size)


@functools.lru_cache(maxsize=8)
def _decode_in_graph(size):
    """Returns `_decode_to_square` as a function that is traced once, as pipelines would trace it repeatedly."""
    signature = [tf.TensorSpec([], tf.string)]
    return tf.function(lambda encoded: _decode_to_square(encoded, size), input_signature=signature, autograph=False)


def decode_to_square(photograph: tf.Tensor, size: int = IMAGE_SIZE) -> tf.Tensor:
    """Returns a photograph as a square: `decode` if it is encoded, then `to_square`.

    Args:
      photograph: scalar string tensor, a file; or uint8 ``[height, width, 1 or 3]``, pixels.
      size: int, the side of the square.

    Returns:
      uint8 ``[size, size, 3]``.

    Raises:
      tf.errors.InvalidArgumentError: if it cannot be decoded.
    """
    if photograph.dtype == tf.string:
        return _decode_to_square(photograph, size) if tf.executing_eagerly() else _decode_in_graph(size)(photograph)
    if photograph.shape[-1] == 1:
        photograph = tf.image.grayscale_to_rgb(photograph)
    return to_square(photograph, size)
