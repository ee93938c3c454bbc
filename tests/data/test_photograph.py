"""Decoding and scaling against Pillow and NumPy: formats, orientation, the central square, invalid files."""

import io

import numpy as np
import pictures
import PIL.Image
import PIL.ImageOps
import pytest
import tensorflow as tf

from alexnet_tf.data import orientation
from alexnet_tf.data import photograph

ORIENTATION = 0x0112


def pillow(encoded):
    return np.asarray(PIL.Image.open(io.BytesIO(encoded)).convert("RGB"))


def central_square(pixels):
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]


def resized(pixels, method):
    return np.asarray(PIL.Image.fromarray(central_square(pixels)).resize([256, 256], method))


def difference(a, b):
    """Returns the largest difference, in gray levels."""
    return np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max()


def averaged_over_areas(pixels, size):
    """Averages over areas: border pixels of each area count in part."""
    side = len(pixels)
    weights = np.zeros([size, side])
    for i in range(size):
        begin, end = i * side / size, (i + 1) * side / size
        for j in range(side):
            weights[i, j] = max(0.0, min(end, j + 1) - max(begin, j)) / (end - begin)
    rows = np.tensordot(weights, pixels.astype(np.float64), 1)
    return np.einsum("ikc,lk->ilc", rows, weights, optimize=True)


@pytest.mark.parametrize("shape", [(300, 400), (401, 257), (375, 500), (700, 640)])
def test_shrinking_averages_the_central_square_over_areas(shape):
    pixels = pictures.noise(*shape)
    expected = averaged_over_areas(central_square(pixels), 256)
    # Half a level of rounding, and 1e-3 for sums in float32.
    assert difference(photograph.to_square(pixels), expected) <= 0.501


@pytest.mark.parametrize("size", [24, 32, 64])
def test_other_sizes_are_averaged_enlarged_and_cropped_alike(size):
    for shape in ((300, 400), (401, 257)):
        pixels = pictures.noise(*shape)
        assert (
            difference(photograph.to_square(pixels, size), averaged_over_areas(central_square(pixels), size)) <= 0.501
        )
    small = pictures.waves(20, 23)
    grown = PIL.Image.fromarray(central_square(small)).resize([size, size], PIL.Image.Resampling.BICUBIC)
    assert difference(photograph.to_square(small, size), np.asarray(grown)) <= 1
    cut = pictures.noise(size, size + 9)
    np.testing.assert_array_equal(photograph.to_square(cut, size), cut[:, 4 : 4 + size])


@pytest.mark.parametrize("shape", [(512, 700), (1100, 768)])
def test_shrinking_by_integers_agrees_with_pillow(shape):
    pixels = pictures.noise(*shape)
    # Pillow rounds after the rows and again after the columns, so halves may be rounded in the other direction.
    assert difference(photograph.to_square(pixels), resized(pixels, PIL.Image.Resampling.BOX)) <= 1


@pytest.mark.parametrize("shape", [(300, 400), (500, 375), (333, 1000)])
def test_shrinking_a_smooth_image_agrees_with_pillow(shape):
    pixels = pictures.waves(*shape)
    # Pillow's box has integer bounds: it is off by up to half a pixel in each direction, at 4 levels a pixel.
    assert difference(photograph.to_square(pixels), resized(pixels, PIL.Image.Resampling.BOX)) <= 4


@pytest.mark.parametrize("shape", [(100, 60), (200, 255), (50, 8000), (8000, 50), (3, 2)])
def test_enlarging_agrees_with_pillow(shape):
    pixels = pictures.waves(*shape)
    # One level, as Pillow rounds after the rows and again after the columns.
    assert difference(photograph.to_square(pixels), resized(pixels, PIL.Image.Resampling.BICUBIC)) <= 1


@pytest.mark.parametrize("shape", [(256, 256), (256, 300), (1000, 256)])
def test_shorter_side_of_256_is_only_cropped(shape):
    pixels = pictures.noise(*shape)
    np.testing.assert_array_equal(photograph.to_square(pixels), central_square(pixels))


def test_one_pixel_fills_the_square():
    result = photograph.to_square(np.array([[[3, 200, 77]]], np.uint8))
    np.testing.assert_array_equal(result, np.broadcast_to(np.uint8([3, 200, 77]), [256, 256, 3]))


def test_aspect_ratio_is_kept():
    """A disc in the center stays as wide as high for any shape of the photograph."""
    y, x = np.mgrid[:400, :800]
    disc = ((y - 199.5) ** 2 + (x - 399.5) ** 2 < 150**2) * np.uint8(255)
    for picture in (disc, disc.T):
        inside = photograph.to_square(np.stack([picture] * 3, axis=-1)).numpy()[:, :, 0] > 127
        assert inside.any(axis=0).sum() == inside.any(axis=1).sum() == 192


@pytest.mark.parametrize("encoded", [pytest.param(file, id=name) for name, file in pictures.formats().items()])
def test_lossless_formats_give_pillows_pixels(encoded):
    np.testing.assert_array_equal(photograph.decode(encoded), pillow(encoded))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_give_pillows_pixels(mode):
    encoded = pictures.encode(PIL.Image.fromarray(pictures.waves(40, 60)).convert(mode), "JPEG", quality=95)
    # TensorFlow uses a fast inverse cosine transform and its own conversion from CMYK.
    assert difference(photograph.decode(encoded), pillow(encoded)) <= 3


def test_transparency_is_dropped():
    pixels, alpha = pictures.noise(40, 60), pictures.noise(40, 60, seed=1)[:, :, :1]
    encoded = pictures.encode(np.concatenate([pixels, alpha], axis=-1), "PNG")
    np.testing.assert_array_equal(photograph.decode(encoded), pixels)


def test_sixteen_bits_become_eight():
    levels = np.random.default_rng(0).integers(0, 2**16, [40, 60]).astype(np.uint16)
    decoded = photograph.decode(pictures.encode(levels, "PNG")).numpy()
    # The upper eight bits, or the nearest of 255 steps: less than one level apart.
    assert difference(decoded, levels[:, :, None] / 257) < 1
    assert (decoded == decoded[:, :, :1]).all()


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("value", range(1, 9))
def test_orientation_is_applied_as_pillow_does(value, endian):
    exif = PIL.Image.Exif()
    exif.endian = endian
    exif[ORIENTATION] = value
    # Tags before and after it.
    exif[0x010F] = "A maker of cameras"
    exif[0x0132] = "2012:12:03 12:00:00"
    encoded = pictures.encode(pictures.noise(24, 40), "JPEG", exif=exif)
    assert PIL.Image.open(io.BytesIO(encoded)).getexif()[ORIENTATION] == value
    assert orientation.declared(encoded) == value
    stored = PIL.Image.fromarray(tf.io.decode_jpeg(encoded).numpy())
    stored.getexif()[ORIENTATION] = value
    np.testing.assert_array_equal(photograph.decode(encoded), PIL.ImageOps.exif_transpose(stored))


def with_orientation(value, endian="<", maker=""):
    exif = PIL.Image.Exif()
    exif.endian = endian
    exif[ORIENTATION] = value
    if maker:
        exif[0x010F] = maker
    return exif


def test_wrong_byte_order_is_not_an_orientation():
    decoy = "\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06"
    assert (
        orientation.declared(pictures.encode(pictures.noise(8, 8), "JPEG", exif=with_orientation(3, "<", decoy))) == 3
    )


@pytest.mark.parametrize(
    "encoded",
    [
        pictures.encode(pictures.noise(8, 8), "JPEG"),
        pictures.encode(pictures.noise(8, 8), "JPEG", exif=with_orientation(0)),
        pictures.encode(pictures.noise(8, 8), "JPEG", exif=with_orientation(9)),
        pictures.encode(pictures.noise(8, 8), "JPEG", exif=with_orientation(6))[:30],
        pictures.encode(pictures.noise(8, 8), "PNG"),
        pictures.encode(pictures.noise(8, 8), "GIF"),
        pictures.encode(pictures.noise(8, 8), "BMP"),
        b"Exif\x00\x00II",
        b"\xff\xd8",
        b"\xff",
        b"",
    ],
    ids=["none", "0", "9", "cut", "png", "gif", "bmp", "no jpeg", "two bytes", "one byte", "empty"],
)
def test_file_without_orientation_is_upright(encoded):
    assert orientation.declared(encoded) == 1


def test_orientation_is_applied_before_cropping():
    encoded = pictures.encode(pictures.waves(300, 700), "JPEG", quality=95, exif=with_orientation(6))
    upright = np.rot90(tf.io.decode_jpeg(encoded).numpy(), -1)
    np.testing.assert_array_equal(photograph.decode_to_square(tf.constant(encoded)), photograph.to_square(upright))


def broken():
    whole = {kind: pictures.encode(pictures.noise(300, 300), kind) for kind in ("JPEG", "PNG", "GIF", "BMP")}
    return {
        "text": b"This is no photograph, whatever its name is.",
        "empty": b"",
        "jpeg begun": b"\xff\xd8\xff",
        "gif begun": b"GIF89a",
        "png begun": b"\x89PNG\r\n\x1a\n",
        "bmp begun": b"BM",
        "bmp palette missing": pictures.encode(PIL.Image.fromarray(pictures.noise(8, 8)).quantize(16), "BMP")[:54],
        "tiff": pictures.encode(pictures.noise(8, 8), "TIFF"),
        **{f"half a {kind}": file[: len(file) // 2] for kind, file in whole.items()},
    }


def test_not_a_photograph_is_an_invalid_argument():
    compiled = tf.function(photograph.decode_to_square, input_signature=[tf.TensorSpec([], tf.string)])
    for name, encoded in broken().items():
        for decode_to_square in (photograph.decode_to_square, compiled):
            try:
                decode_to_square(tf.constant(encoded))
            except tf.errors.InvalidArgumentError:
                continue
            pytest.fail(f"{name} is taken for a photograph")


def test_tf_data_gives_the_same_pixels():
    exif = with_orientation(8)
    files = [
        *pictures.formats().values(),
        pictures.encode(pictures.noise(300, 400), "JPEG", exif=exif),
        pictures.encode(pictures.noise(8, 900), "JPEG"),
    ]
    inside = tf.data.Dataset.from_tensor_slices(files).map(photograph.decode_to_square)
    assert inside.element_spec == tf.TensorSpec([256, 256, 3], tf.uint8)
    for file, image in zip(files, inside, strict=True):
        np.testing.assert_array_equal(image, photograph.decode_to_square(tf.constant(file)))


def test_decoded_pixels_are_not_decoded_again():
    pixels = pictures.waves(300, 400)
    np.testing.assert_array_equal(photograph.decode_to_square(tf.constant(pixels)), photograph.to_square(pixels))
    gray = photograph.decode_to_square(tf.constant(pixels[:, :, :1]))
    np.testing.assert_array_equal(gray, photograph.to_square(np.repeat(pixels[:, :, :1], 3, axis=-1)))


def test_cifar_10_images_are_unchanged_at_their_size():
    pixels = pictures.noise(32, 32)
    for file in (tf.constant(pictures.encode(pixels, "PNG")), tf.constant(pixels)):
        image = photograph.decode_to_square(file, 32)
        assert image.shape == [32, 32, 3]
        np.testing.assert_array_equal(image, pixels)
    gray = photograph.decode_to_square(tf.constant(pixels[:, :, :1]), 32)
    np.testing.assert_array_equal(gray, np.repeat(pixels[:, :, :1], 3, axis=-1))
