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
    head = tf.cast(tf.io.decode_raw(tf.strings.substr(encoded, 0, _EXIF_BYTES), tf.uint8), tf.int32)
    # The tag 0x0112, type 3 (short), count 1, value, in the byte order that the segment declares.
    big, big_places = _find(head, b"\x01\x12\x00\x03\x00\x00\x00\x01\x00")
    little, little_places = _find(head, b"\x12\x01\x03\x00\x01\x00\x00\x00")
    exif, _ = _find(head, b"Exif\x00\x00")
    is_jpeg = tf.reduce_all(tf.equal(head[:2], [0xFF, 0xD8]))
    place = tf.where(big, big_places, little_places)
    value = tf.reduce_sum(tf.where(tf.equal(tf.range(tf.size(head)), place), head, 0))
    known = is_jpeg & exif & (big | little) & (value >= 1) & (value <= 8)
    return tf.where(known, value, 1)


def _find(data, pattern):
    """Whether `pattern` stands in `data`, and the place just behind its first occurrence."""
    count = tf.maximum(tf.size(data) - len(pattern) + 1, 0)
    hits = tf.ones([count], tf.bool)
    for shift, value in enumerate(pattern):
        hits &= tf.equal(data[shift : shift + count], value)
    first = tf.reduce_min(tf.where(hits, tf.range(count), tf.int32.max - len(pattern)), axis=0)
    return tf.reduce_any(hits), first + len(pattern)


def apply_orientation(image, orientation):
    """Turns and mirrors an image as its EXIF orientation asks.

    Args:
      image: ``[height, width, channels]``.
      orientation: scalar int32, 1 to 8.

    Returns:
      The upright image; height and width are exchanged for 5 to 8.
    """
    image = tf.cond(orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    # After that transposition 5 to 8 are upright, quarter turns and their mirror images.
    mirrored = tf.reduce_any(tf.equal(orientation, [2, 3, 6, 7]))
    upended = tf.reduce_any(tf.equal(orientation, [3, 4, 7, 8]))
    image = tf.cond(mirrored, lambda: tf.reverse(image, [1]), lambda: image)
    return tf.cond(upended, lambda: tf.reverse(image, [0]), lambda: image)


def decode(encoded):
    """The pixels of an encoded photograph, upright.

    Args:
      encoded: scalar string tensor: JPEG (also grey and CMYK), PNG (also grey, palette and 16 bits; transparency is
        dropped), GIF (the first picture) or BMP.

    Returns:
      uint8 ``[height, width, 3]``, RGB in [0, 255].

    Raises:
      tf.errors.InvalidArgumentError: for anything else, and for a truncated or corrupt file.
    """
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    image = tf.ensure_shape(image, [None, None, 3])
    return apply_orientation(image, exif_orientation(encoded))


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


def prepare_image(photograph):
    """An encoded (string) or decoded (uint8 ``[height, width, 1 or 3]``) photograph as uint8 ``[256, 256, 3]``.

    Raises:
      tf.errors.InvalidArgumentError: if it cannot be decoded.
    """
    if photograph.dtype == tf.string:
        return to_square(decode(photograph))
    if photograph.shape[-1] == 1:
        photograph = tf.image.grayscale_to_rgb(photograph)
    return to_square(photograph)
