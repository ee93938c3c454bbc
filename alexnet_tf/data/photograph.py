"""From one photograph in any supported format to 256 x 256 RGB pixels.

Everything is TensorFlow operations, so training, evaluation and a served model run the same code.
"""

import functools

import tensorflow as tf

from alexnet_tf.data import image_headers
from alexnet_tf.data import orientation

IMAGE_SIZE = 256


def decode(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes a photograph and turns it upright.

    Args:
      encoded: scalar string tensor: JPEG (also gray and CMYK), PNG (also gray, palette and 16 bits; transparency is
        dropped), GIF (the first frame), BMP (8, 24 or 32 bits) or WebP.

    Returns:
      uint8 ``[height, width, 3]``, RGB in [0, 255].

    Raises:
      tf.errors.InvalidArgumentError: for a truncated or corrupt file, and one with an `image_headers.refusal`.
    """
    allowed = _allowed(encoded)
    return _compiled(decode_known)(allowed) if tf.executing_eagerly() else decode_known(allowed)


def _allowed(encoded):
    """Returns a file that may be decoded. In a graph, returns the reason otherwise: a text that cannot be decoded."""
    if tf.executing_eagerly():
        reason = image_headers.refusal(tf.convert_to_tensor(encoded)).numpy()
        if reason:
            raise tf.errors.InvalidArgumentError(None, None, reason.decode())
        return encoded
    # Not an assertion: a pipeline skips what fails, then reads it again outside the graph to report the reason.
    reason = image_headers.refusal(encoded)
    return tf.cond(tf.equal(reason, ""), lambda: encoded, lambda: reason)


def decode_known(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes a photograph as `decode` does. The caller must have checked that it has no `image_headers.refusal`."""
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    image = tf.ensure_shape(image, [None, None, 3])
    # TensorFlow takes the palette indices of an 8-bit BMP for gray levels.
    has_palette = tf.strings.regex_full_match(tf.strings.substr(encoded, 0, 30), r"BM\C{26}\x08\x00")
    image = tf.cond(has_palette, lambda: _palette_colors(image[..., 0], encoded), lambda: image)
    return orientation.apply(image, orientation.declared(encoded))


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


@functools.lru_cache(maxsize=16)
def _compiled(function, *arguments):
    """Returns a function of arguments and, last, a file. It is traced once, as pipelines would trace it repeatedly."""
    signature = [tf.TensorSpec([], tf.string)]
    return tf.function(functools.partial(function, *arguments), input_signature=signature, autograph=False)


def _square(decoder, size, encoded):
    return to_square(decoder(encoded), size)


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
        if tf.executing_eagerly():
            return _compiled(_square, decode_known, size)(_allowed(photograph))
        return _compiled(_square, decode, size)(photograph)
    if photograph.shape[-1] == 1:
        photograph = tf.image.grayscale_to_rgb(photograph)
    return to_square(photograph, size)
