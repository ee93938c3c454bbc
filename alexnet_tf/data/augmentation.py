"""What happens to batches of images on the device: mean, mirror images, colour noise, views.

Pure functions of tensors, each with the same few arguments: uint8 images, and the training set's mean image and
colour components.
"""

import tensorflow as tf

CROP_SIZE = 224


def central_crop(images, size=CROP_SIZE):
    """The central square of images or of a mean image.

    Args:
      images: ``[..., height, width, channels]``.
      size: int, the side; the margins are even.

    Returns:
      ``[..., size, size, channels]``.
    """
    top = (images.shape[-3] - size) // 2
    left = (images.shape[-2] - size) // 2
    return images[..., top : top + size, left : left + size, :]


def positions(offsets, flips, size):
    """Where the pixels of crops that may be mirrored come from.

    Args:
      offsets: int32 ``[batch]``, the first row or column of each crop.
      flips: bool ``[batch]``, whether its rows or columns are in reverse order.
      size: int, the crop's side.

    Returns:
      int32 ``[batch, size]``.
    """
    forward = tf.range(size)
    return offsets[:, None] + tf.where(flips[:, None], size - 1 - forward, forward)


def mirror(images, flips, *, upside_down=True):
    """Mirrors some of the images.

    Pixels are taken by their places, which costs less than choosing between each image and its mirror image.

    Args:
      images: ``[batch, height, width, channels]``.
      flips: bool ``[batch, 2]``: upside down, and left to right.
      upside_down: bool; False if it is known that none is to be upside down, which saves a pass.

    Returns:
      Images like `images`.
    """
    start = tf.zeros_like(flips[:, 0], tf.int32)
    if upside_down:
        images = tf.gather(images, positions(start, flips[:, 0], images.shape[1]), axis=1, batch_dims=1)
    return tf.gather(images, positions(start, flips[:, 1], images.shape[2]), axis=2, batch_dims=1)


def color_shift(draws, components):
    """The colour noise of each image: ``sum of p_i alpha_i sqrt(lambda_i)`` (paper section 4.1, original #145).

    The text multiplies by the eigenvalue itself; on 0 to 255 that would drown the picture, so both recipes take its
    root, the component's standard deviation, as the original did.

    Args:
      draws: float32 ``[batch, 3]``, alpha: normal with the chosen standard deviation (paper: 0.1).
      components: float32 ``[3, 3]``, the principal components of the training set's colours in rows, each of the length
        of its standard deviation, in grey levels.

    Returns:
      float32 ``[batch, 1, 1, 3]``, one shift for every pixel of an image.
    """
    return tf.reduce_sum(draws[:, :, None] * components, axis=1)[:, None, None, :]


def training_images(
    crops, offsets, flips, draws, *, mean_image, components, mean_crop, divisor, scale=1.0, upside_down=True
):
    """A batch of crops as the network sees it in training.

    Args:
      crops: uint8 ``[batch, size, size, 3]``, AlexNet's size 224.
      offsets: int32 ``[batch, 2]``, where each was cut out.
      flips: bool ``[batch, 2]``, see `mirror`.
      draws: float32 ``[batch, 3]``, see `color_shift`.
      mean_image: float32 ``[height, width, 3]``, AlexNet's ``[256, 256, 3]``, in [0, 255].
      components: float32 ``[3, 3]``, see `color_shift`.
      mean_crop: "aligned" subtracts the part of the mean image that the crop was cut from, "center" always the
        central one (original #145).
      divisor: float, of the result (original #145: 1.1).
      scale: float, of the result; that of the views in evaluation is the same.
      upside_down: bool, as in `mirror`.

    Returns:
      float32 ``[batch, size, size, 3]``, within about [-255, 255].
    """
    size = crops.shape[1]
    if mean_crop == "center":
        offsets = tf.zeros_like(offsets) + (mean_image.shape[0] - size) // 2
    rows, columns = (positions(offsets[:, axis], flips[:, axis], size) for axis in (0, 1))
    mean = tf.gather(tf.gather(mean_image, rows), columns, axis=2, batch_dims=1)
    images = tf.cast(mirror(crops, flips, upside_down=upside_down), tf.float32) - mean
    return (images + color_shift(draws, components)) * (scale / divisor)


def central_view(images, mean_image, *, size=CROP_SIZE, scale=1.0):
    """The central crop of each image, mean subtracted.

    Args:
      images: uint8 ``[batch, height, width, 3]``.
      mean_image: float32 ``[height, width, 3]``.
      size: int, the view's side.
      scale: float, of the result.

    Returns:
      float32 ``[batch, size, size, 3]``.
    """
    return (tf.cast(central_crop(images, size), tf.float32) - central_crop(mean_image, size)) * scale


def ten_views(images, mean_image, *, mean_crop, size=CROP_SIZE, scale=1.0):
    """Four corners and the centre of each image, then the five mirrored (paper section 4.1).

    Args:
      images: uint8 ``[batch, height, width, 3]``.
      mean_image: float32 ``[height, width, 3]``.
      mean_crop, scale: as in `training_images`.
      size: int, a view's side.

    Returns:
      A list of ten float32 tensors ``[batch, size, size, 3]``.
    """
    margin = images.shape[1] - size
    corners = [(0, 0), (0, margin), (margin, 0), (margin, margin), (margin // 2, margin // 2)]
    views = []
    for top, left in corners:
        part = (slice(None), slice(top, top + size), slice(left, left + size))
        mean = central_crop(mean_image, size) if mean_crop == "center" else mean_image[part[1:]]
        views.append((tf.cast(images[part], tf.float32) - mean) * scale)
    return views + [tf.reverse(view, [2]) for view in views]
