"""Pictures of noise and of waves, encoded in every format."""

import io

import numpy as np
import PIL.Image


def waves(height, width):
    """A smooth picture whose rows, columns and channels all differ, of at most 4 grey levels from pixel to pixel."""
    y, x = np.mgrid[:height, :width]
    planes = [128 + 60 * np.sin(y / 31 + c) + 55 * np.cos(x / 23 + 2 * c) for c in range(3)]
    return np.round(np.stack(planes, axis=-1)).astype(np.uint8)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, [height, width, 3], dtype=np.uint8)


def encode(image, kind, **options):
    """The file, as bytes, of an array or a Pillow image."""
    if isinstance(image, np.ndarray):
        image = PIL.Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def formats():
    pixels = waves(40, 60)
    alpha = noise(40, 60)[:, :, :1]
    picture = PIL.Image.fromarray(pixels)
    return {
        "png": encode(picture, "PNG"),
        "png grey": encode(picture.convert("L"), "PNG"),
        "png grey and alpha": encode(picture.convert("LA"), "PNG"),
        "png one bit": encode(picture.convert("1"), "PNG"),
        "png palette": encode(picture.quantize(16), "PNG"),
        "gif": encode(picture, "GIF"),
        "gif of two": encode(picture, "GIF", save_all=True, append_images=[PIL.Image.fromarray(255 - pixels)]),
        "bmp": encode(picture, "BMP"),
        "bmp grey": encode(picture.convert("L"), "BMP"),
        "bmp palette": encode(picture.quantize(16), "BMP"),
        "bmp 32 bits": encode(np.concatenate([pixels, alpha], axis=-1), "BMP"),
        "webp": encode(picture, "WEBP", lossless=True),
    }
