"""One photograph, in whatever form it comes, as 256 x 256 RGB pixels.

All of it is TensorFlow operations, so that training, evaluation and a served model do literally the same.
"""

import tensorflow as tf

IMAGE_SIZE = 256

# How far into a file the EXIF orientation is looked for: the segment comes first or second.
_EXIF_BYTES = 4096


def exif_orientation(encoded):
    """The EXIF orientation of a JPEG, 1 to 8.

    Args:
      encoded: scalar string tensor, the file.

    Returns:
      Scalar int32: 1 (upright) for a file that says nothing, or that is no JPEG with an EXIF segment.
    """
    head = tf.strings.substr(encoded, 0, _EXIF_BYTES)
    # Few photographs have the segment, and the search for its tag takes several times as long as this glance.
    has_segment = tf.strings.regex_full_match(head, r"\C*?Exif\x00\x00(?:MM|II)\C*")
    return tf.cond(has_segment, lambda: _orientation_tag(head), lambda: tf.constant(1))


def _orientation_tag(head):
    """The value of the orientation tag in the first bytes of a JPEG with an EXIF segment, 1 if there is none."""
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
    """Whether `pattern` stands in `data`, and the place just behind its first occurrence (else 0)."""
    count = tf.maximum(tf.size(data) - len(pattern) + 1, 0)
    hits = tf.ones([count], tf.bool)
    for shift, value in enumerate(pattern):
        hits &= tf.equal(data[shift : shift + count], value)
    found = tf.reduce_any(hits)
    first = tf.reduce_min(tf.where(hits, tf.range(count), tf.int32.max))
    return found, tf.where(found, first, -len(pattern)) + len(pattern)


def apply_orientation(image, orientation):
    """Turns and mirrors an image as its EXIF orientation asks.

    Args:
      image: ``[height, width, channels]``.
      orientation: scalar int32, 1 to 8.

    Returns:
      The upright image; height and width are exchanged for 5 to 8.
    """

    def turned():
        upright = tf.cond(orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
        # After that transposition 5 to 8 are upright, quarter turns and their mirror images.
        mirrored = tf.reduce_any(tf.equal(orientation, [2, 3, 6, 7]))
        upended = tf.reduce_any(tf.equal(orientation, [3, 4, 7, 8]))
        upright = tf.cond(mirrored, lambda: tf.reverse(upright, [1]), lambda: upright)
        return tf.cond(upended, lambda: tf.reverse(upright, [0]), lambda: upright)

    return tf.cond(tf.equal(orientation, 1), lambda: image, turned)


def decode(encoded):
    """The pixels of an encoded photograph, upright.

    Args:
      encoded: scalar string tensor: JPEG (also grey and CMYK), PNG (also grey, palette and 16 bits; transparency is
        dropped), GIF (the first picture), BMP (8, 24 or 32 bits) or WebP.

    Returns:
      uint8 ``[height, width, 3]``, RGB in [0, 255].

    Raises:
      tf.errors.InvalidArgumentError: for anything else, and for a truncated or corrupt file.
    """
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    image = tf.ensure_shape(image, [None, None, 3])
    # TensorFlow takes the colour numbers of a BMP of 8 bits for grey levels.
    has_palette = tf.strings.regex_full_match(tf.strings.substr(encoded, 0, 30), r"BM\C{26}\x08\x00")
    image = tf.cond(has_palette, lambda: _look_up(image[..., 0], encoded), lambda: image)
    return apply_orientation(image, exif_orientation(encoded))


def _look_up(numbers, encoded):
    """The colours, uint8 ``[height, width, 3]``, of the colour numbers of a BMP, uint8 ``[height, width]``."""
    # In the file: where the pixels begin, and the size of the second header, which begins at byte 14.
    pixels, header = tf.unstack(tf.io.decode_raw(tf.strings.substr(encoded, 10, 8), tf.int32), num=2)
    palette = tf.io.decode_raw(tf.strings.substr(encoded, 14 + header, pixels - header - 14), tf.uint8)
    # Each colour is blue, green, red and a zero.
    return tf.gather(tf.reshape(palette, [-1, 4])[:, 2::-1], tf.cast(numbers, tf.int32))


def to_square(image, size=IMAGE_SIZE):
    """The central square, scaled so that the shorter side becomes `size` (paper section 2).

    Args:
      image: uint8 ``[height, width, 3]``.
      size: int, the result's side.

    Returns:
      uint8 ``[size, size, 3]``: averaged over areas where it shrinks, bicubic where it grows. Never warped.
    """
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    side = tf.minimum(height, width)
    # Cutting first and scaling then gives the same square and never holds a scaled 8000 x 50 strip.
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


def prepare_image(photograph, size=IMAGE_SIZE):
    """An encoded (string) or decoded (uint8 ``[height, width, 1 or 3]``) photograph as uint8 ``[size, size, 3]``.

    Raises:
      tf.errors.InvalidArgumentError: if it cannot be decoded.
    """
    if photograph.dtype == tf.string:
        return to_square(decode(photograph), size)
    if photograph.shape[-1] == 1:
        photograph = tf.image.grayscale_to_rgb(photograph)
    return to_square(photograph, size)
