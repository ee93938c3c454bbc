"""The orientation that a photograph's metadata declare: EXIF in JPEG, PNG and WebP files, otherwise XMP, as in Pillow.

Everything is TensorFlow operations, so a served model does the same.
"""

import tensorflow as tf

from alexnet_tf.data import image_headers

# Metadata of a JPEG precede the image; color profiles, of half a megabyte for print, may precede them.
_JPEG_BYTES = 2**20
# Chunks of a PNG or WebP that are parsed.
_MAX_CHUNKS = 20_000
_PADDING = 64

_TAG = 0x0112
# Bytes of a value of each TIFF type; 0 for types that do not exist. Pillow skips those.
_TYPE_BYTES = [0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 0]
_SHORTS, _LONGS = (3, 8), (4, 9)


# Traced once, as pipelines and served models would trace it repeatedly.
@tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
def declared(encoded: tf.Tensor) -> tf.Tensor:
    """Returns the orientation of a photograph, 1 to 8, as `PIL.ImageOps.exif_transpose` finds it.

    Args:
      encoded: scalar string tensor, the file.

    Returns:
      Scalar int32; 1 (upright) for a file without an orientation, and for GIF and BMP files.
    """
    is_jpeg = tf.equal(tf.strings.substr(encoded, 0, 2), b"\xff\xd8")
    searched = tf.cond(is_jpeg, lambda: _jpeg_header(encoded), lambda: encoded)
    # Few photographs have metadata, and parsing a file takes several times as long as this match. Only \C is any byte.
    has_metadata = tf.strings.regex_full_match(searched, r"\C*?(?:Exif\x00\x00|eXIf|EXIF|tiff:Orientation)\C*")
    return tf.cond(has_metadata, lambda: _of_metadata(searched, is_jpeg), lambda: tf.constant(1))


def _jpeg_header(encoded):
    """Returns the beginning of a JPEG with its metadata; with the image where the end of the header is not obvious."""
    parts = image_headers.parts_by_scan(encoded)
    return tf.strings.substr(tf.where(tf.size(parts) == 2, parts[0], encoded), 0, _JPEG_BYTES)


@image_headers.rarely
def _of_metadata(encoded, is_jpeg):
    """Implements `declared` for a file that may have metadata."""
    exif = tf.cond(is_jpeg, lambda: _jpeg_segments(encoded, until_exif=True).exif, lambda: _of_chunks(encoded)[0])
    has_tag, value = _tag_of_tiff(_payload(encoded, exif))
    may_have_xmp = ~has_tag & tf.strings.regex_full_match(encoded, r"\C*?tiff:Orientation\C*")
    value = tf.cond(may_have_xmp, lambda: _of_xmp(encoded, is_jpeg), lambda: value)
    return tf.cast(tf.where((value >= 1) & (value <= 8), value, 1), tf.int32)


@image_headers.rarely
def _of_xmp(encoded, is_jpeg):
    """Returns the orientation in the XMP data of a file, scalar int64; 1 if there is none."""
    xmp = tf.cond(is_jpeg, lambda: _jpeg_segments(encoded).xmp, lambda: _of_chunks(encoded)[1])
    text = tf.strings.substr(encoded, xmp[0], xmp[1] - xmp[0])
    # A pattern of Pillow's.
    pattern = r'\C*?tiff:Orientation(?:="|>)([0-9])\C*'
    is_found = tf.strings.regex_full_match(text, pattern)
    digit = tf.cond(is_found, lambda: tf.strings.regex_replace(text, pattern, r"\1"), lambda: tf.constant("1"))
    return tf.strings.to_number(digit, tf.int64)


def _jpeg_segments(encoded, until_exif=False):
    return image_headers.jpeg_segments(encoded, max_scans=1, window=256, until_exif=until_exif)


def _payload(encoded, place):
    """Returns the TIFF file in EXIF data at a place, uint8 ``[bytes]``."""
    text = tf.strings.substr(encoded, place[0], place[1] - place[0])
    without_name = tf.strings.regex_replace(text, r"^(?:Exif\x00\x00){1,2}", "", replace_global=False)
    return tf.io.decode_raw(without_name, tf.uint8)


@image_headers.rarely
def _of_chunks(encoded):
    """Returns the places of EXIF and XMP data in a PNG or WebP, two int64 ``[2]``; zeros if there are none."""
    size = tf.cast(tf.strings.length(encoded), tf.int64)
    data = tf.io.decode_raw(tf.strings.join([encoded, bytes(_PADDING)]), tf.uint8)
    is_png = image_headers.begins_with(data, b"\x89PNG")
    is_webp = image_headers.begins_with(data, b"RIFF") & image_headers.begins_with(data, b"WEBPVP8X", 8)
    # Only a file in the extended format has metadata, if the flags of its header say so.
    flags = data[20]
    nowhere = tf.zeros([2], tf.int64)

    def has_next(place, exif, xmp):
        return (place < size) & (is_png | is_webp)

    def chunk(place, exif, xmp):
        head = tf.ensure_shape(data[place : place + 30], [30])
        name = tf.where(is_png, head[4:8], head[:4])
        length = tf.where(is_png, image_headers.number(head[3::-1]), image_headers.number(head[4:8]))
        payload = tf.minimum(tf.stack([place + 8, place + 8 + length]), size)

        def is_named(png, webp, flag):
            flagged = tf.bitwise.bitwise_and(flags, flag) > 0
            return tf.where(
                is_png, tf.reduce_all(tf.equal(name, list(png))), flagged & tf.reduce_all(tf.equal(name, list(webp)))
            )

        is_xmp = is_named(b"iTXt", b"XMP ", 4) & (~is_png | image_headers.begins_with(head, b"XML:com.adobe.xmp\0", 8))
        is_exif = is_named(b"eXIf", b"EXIF", 8)
        # After the data: a checksum in a PNG; in a WebP, a byte if their number is odd.
        following = place + 8 + length + tf.where(is_png, tf.constant(4, tf.int64), length % 2)
        is_end = is_png & tf.reduce_all(tf.equal(name, list(b"IEND")))
        return tf.where(is_end, size, following), tf.where(is_exif, payload, exif), tf.where(is_xmp, payload, xmp)

    start = (tf.where(is_png, tf.constant(8, tf.int64), 12), nowhere, nowhere)
    _, exif, xmp = tf.while_loop(has_next, chunk, start, maximum_iterations=_MAX_CHUNKS)
    return exif, xmp


def _tag_of_tiff(data):
    """Finds the orientation in a TIFF file, uint8 ``[bytes]``.

    Returns:
      Whether the first directory has the tag, scalar bool, and its value, scalar int64; 0 if that is not an integer.
    """
    size = tf.size(data, tf.int64)
    data = tf.concat([data, tf.zeros([_PADDING], tf.uint8)], axis=0)
    is_little = tf.equal(data[0], ord("I"))
    # Pillow accepts the two with their version in the wrong byte order.
    headers = (b"II\x2a\x00", b"MM\x00\x2a", b"II\x00\x2a", b"MM\x2a\x00")
    is_tiff = tf.reduce_any(tf.stack([image_headers.begins_with(data, header) for header in headers]))

    def numbers(fields):
        powers = tf.constant([256**place for place in range(fields.shape[-1])], tf.int64)
        return tf.reduce_sum(tf.cast(fields, tf.int64) * tf.where(is_little, powers, powers[::-1]), axis=-1)

    def number_at(place, length):
        return numbers(tf.ensure_shape(data[place : place + length], [length]))

    begin = tf.minimum(number_at(4, 4), size) + 2
    complete = tf.maximum(size - begin, 0) // 12
    count = tf.where(is_tiff, tf.minimum(number_at(begin - 2, 2), complete), 0)
    entries = tf.reshape(data[begin : begin + 12 * count], [-1, 12])
    types = tf.minimum(numbers(entries[:, 2:4]), len(_TYPE_BYTES) - 1)
    length = numbers(entries[:, 4:8]) * tf.gather(tf.constant(_TYPE_BYTES, tf.int64), types)
    # Longer values are elsewhere in the file. Pillow skips those that exceed it together, and stops at one beyond it.
    is_elsewhere = length > 4
    elsewhere = numbers(entries[:, 8:12])
    is_skipped = is_elsewhere & (tf.cumsum(tf.where(is_elsewhere, length, 0)) > size)
    is_beyond = is_elsewhere & ~is_skipped & (elsewhere + length > size)
    is_read = tf.cumsum(tf.cast(is_beyond, tf.int64)) < 1
    is_tag = tf.equal(numbers(entries[:, :2]), _TAG) & (length > 0) & is_read & ~is_skipped
    # Without an entry, the first of these.
    first = tf.argmax(tf.concat([tf.cast(is_tag, tf.uint8), [0]], axis=0))

    def value():
        place = tf.where(is_elsewhere[first], elsewhere[first], begin + 12 * first + 8)
        short = tf.where(_is_one_of(types[first], _SHORTS), number_at(place, 2), 0)
        return tf.where(_is_one_of(types[first], _LONGS), number_at(place, 4), short)

    return tf.reduce_any(is_tag), tf.cond(tf.reduce_any(is_tag), value, lambda: tf.constant(0, tf.int64))


def apply(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
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


def _is_one_of(value, choices):
    return tf.reduce_any(tf.equal(value, choices))
