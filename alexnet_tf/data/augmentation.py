"""Preprocessing of image batches on the device: mean subtraction, mirroring, color noise, views.

All functions are pure functions of tensors: uint8 images, and the training set's mean image and principal components
of the colors.
"""

import tensorflow as tf

CROP_SIZE = 224


def central_crop(images: tf.Tensor, size: int = CROP_SIZE) -> tf.Tensor:
    """Returns the central square of images or of a mean image.

    Args:
      images: ``[..., height, width, channels]``.
      size: int, the side of the square; an odd margin has its extra pixel at the bottom or right.

    Returns:
      ``[..., size, size, channels]``.
    """
    top = (images.shape[-3] - size) // 2
    left = (images.shape[-2] - size) // 2
    return images[..., top : top + size, left : left + size, :]


def positions(offsets: tf.Tensor, flips: tf.Tensor, size: int) -> tf.Tensor:
    """Returns the rows or columns of an image that a possibly mirrored crop consists of.

    Args:
      offsets: int32 ``[batch]``, the first row or column of each crop.
      flips: bool ``[batch]``, whether to reverse the order of its rows or columns.
      size: int, the crop's side.

    Returns:
      int32 ``[batch, size]``.
    """
    forward = tf.range(size)
    return offsets[:, None] + tf.where(flips[:, None], size - 1 - forward, forward)


def inside(offsets: tf.Tensor, margin: int) -> tf.Tensor:
    """Returns the offsets of the squares within an image that are nearest to crops, which may extend past its edges.

    Args:
      offsets: int32, of the crops.
      margin: int, the largest offset within the image.
    """
    return tf.clip_by_value(offsets, 0, margin)


def mirror(images: tf.Tensor, flips: tf.Tensor, *, upside_down: bool = True) -> tf.Tensor:
    """Mirrors some of the images.

    Gathering pixels by their indices is faster than choosing between each image and its mirror image.

    Args:
      images: ``[batch, height, width, channels]``.
      flips: bool ``[batch, 2]``: upside down, and left to right.
      upside_down: bool; False skips the first column of `flips`, which saves a pass over the images.

    Returns:
      A tensor of the shape and dtype of `images`.
    """
    start = tf.zeros_like(flips[:, 0], tf.int32)
    if upside_down:
        images = tf.gather(images, positions(start, flips[:, 0], images.shape[1]), axis=1, batch_dims=1)
    return tf.gather(images, positions(start, flips[:, 1], images.shape[2]), axis=2, batch_dims=1)


def color_shift(draws: tf.Tensor, components: tf.Tensor) -> tf.Tensor:
    """Computes the color noise of each image: ``sum of p_i alpha_i sqrt(lambda_i)``.

    The paper (section 4.1) multiplies by the eigenvalue lambda_i itself. With pixels in [0, 255] that would drown the
    image, so both recipes use its square root, the component's standard deviation, as original #145 does.

    Args:
      draws: float32 ``[batch, 3]``, alpha: normal with the configured standard deviation (paper: 0.1).
      components: float32 ``[3, 3]``, the principal components of the training set's colors in rows. The length of
        each is its standard deviation, in gray levels.

    Returns:
      float32 ``[batch, 1, 1, 3]``, the same shift for all pixels of an image.
    """
    return tf.reduce_sum(draws[:, :, None] * components, axis=1)[:, None, None, :]


def training_images(
    crops: tf.Tensor,
    offsets: tf.Tensor,
    flips: tf.Tensor,
    draws: tf.Tensor,
    *,
    mean_image: tf.Tensor,
    components: tf.Tensor,
    mean_crop: str,
    divisor: float,
    scale: float = 1.0,
    upside_down: bool = True,
    is_padded: bool = False,
) -> tf.Tensor:
    """Preprocesses a batch of crops for training.

    Args:
      crops: uint8 ``[batch, size, size, 3]``, for AlexNet with a size of 224.
      offsets: int32 ``[batch, 2]``, row and column of each crop's first pixel in its image.
      flips: bool ``[batch, 2]``, see `mirror`.
      draws: float32 ``[batch, 3]``, see `color_shift`.
      mean_image: float32 ``[height, width, 3]``, for AlexNet ``[256, 256, 3]``, in [0, 255].
      components: float32 ``[3, 3]``, see `color_shift`.
      mean_crop: "aligned" subtracts the part of the mean image at the crop's position, "center" always the
        central part (original #145).
      divisor: float that divides the result (original #145: 1.1).
      scale: float that multiplies the result, as it does the views in evaluation.
      upside_down: bool, as in `mirror`.
      is_padded: bool, whether crops may extend past the edges of the image; `crops` then has the pixels of the nearest
        square within (`inside`). Outside the image, mean-subtracted pixels are zero, before color noise.

    Returns:
      float32 ``[batch, size, size, 3]``, within about [-255, 255].
    """
    size = crops.shape[1]
    crop_offsets = offsets
    if mean_crop == "center":
        offsets = tf.zeros_like(offsets) + (mean_image.shape[0] - size) // 2
    if is_padded:
        images = _padded_images(crops, offsets, crop_offsets, flips, mean_image)
    else:
        images = tf.cast(mirror(crops, flips, upside_down=upside_down), tf.float32)
        images -= _mean_of_crops(mean_image, offsets, flips, size)
    return (images + color_shift(draws, components)) * (scale / divisor)


def area_images(
    images: tf.Tensor,
    offsets: tf.Tensor,
    sizes: tf.Tensor,
    flips: tf.Tensor,
    draws: tf.Tensor,
    *,
    mean_image: tf.Tensor,
    components: tf.Tensor,
    size: int,
    divisor: float,
    scale: float = 1.0,
) -> tf.Tensor:
    """Preprocesses a batch for training by scaling a rectangle of each image to the same square.

    Scaling interpolates linearly between the centers of pixels.

    Args:
      images: uint8 ``[batch, side, side, 3]``, entire images.
      offsets: int32 ``[batch, 2]``, row and column of each rectangle's first pixel.
      sizes: int32 ``[batch, 2]``, height and width of each rectangle.
      flips, draws, components, divisor, scale: as in `training_images`.
      mean_image: float32 ``[side, side, 3]``, in [0, 255]; the part at the rectangle's position is subtracted.
      size: int, the side of the square.

    Returns:
      float32 ``[batch, size, size, 3]``, within about [-255, 255].
    """
    centered = tf.cast(images, tf.float32) - mean_image
    for axis in (0, 1):
        centered = _scaled(centered, offsets[:, axis], sizes[:, axis], flips[:, axis], size, axis=1 + axis)
    return (centered + color_shift(draws, components)) * (scale / divisor)


def _scaled(images, offsets, lengths, flips, size, *, axis):
    """Scales a range of the rows or columns of each image to `size` of them, in reverse order where `flips` is True."""
    places = tf.cast(positions(tf.zeros_like(offsets), flips, size), tf.float32)
    first, length = (tf.cast(each, tf.float32)[:, None] for each in (offsets, lengths))
    # Centers of the new pixels among those of the old ones, none of them outside the range.
    centers = tf.clip_by_value((places + 0.5) * length / size - 0.5, 0.0, length - 1)
    below = tf.floor(centers)
    share = centers - below
    above = tf.minimum(below + 1, length - 1)
    at = lambda place: tf.gather(images, tf.cast(first + place, tf.int32), axis=axis, batch_dims=1)
    share = share[:, :, None, None] if axis == 1 else share[:, None, :, None]
    return at(below) * (1 - share) + at(above) * share


def _mean_of_crops(mean_image, offsets, flips, size):
    """Returns the parts of the mean image at the positions of mirrored crops; those nearest to positions outside."""
    limit = mean_image.shape[0] - 1
    rows, columns = (tf.clip_by_value(positions(offsets[:, axis], flips[:, axis], size), 0, limit) for axis in (0, 1))
    return tf.gather(tf.gather(mean_image, rows), columns, axis=2, batch_dims=1)


def _padded_images(crops, mean_offsets, offsets, flips, mean_image):
    """Returns mirrored crops that may extend past the edges of the image, with zeros there, mean subtracted.

    Args:
      crops: uint8 ``[batch, size, size, 3]``, the nearest squares within the image.
      mean_offsets: int32 ``[batch, 2]``, of the parts of the mean image.
      offsets: int32 ``[batch, 2]``, of the crops.
      flips, mean_image: as in `training_images`.
    """
    size = crops.shape[1]
    shifts = offsets - inside(offsets, mean_image.shape[0] - size)
    rows, columns = (positions(shifts[:, axis], flips[:, axis], size) for axis in (0, 1))
    is_inside = lambda places: (places >= 0) & (places < size)
    within = is_inside(rows)[:, :, None, None] & is_inside(columns)[:, None, :, None]
    nearest = lambda places: tf.clip_by_value(places, 0, size - 1)
    images = tf.gather(tf.gather(crops, nearest(rows), axis=1, batch_dims=1), nearest(columns), axis=2, batch_dims=1)
    mean = _mean_of_crops(mean_image, mean_offsets, flips, size)
    return tf.where(within, tf.cast(images, tf.float32) - mean, 0.0)


def central_view(images: tf.Tensor, mean_image: tf.Tensor, *, size: int = CROP_SIZE, scale: float = 1.0) -> tf.Tensor:
    """Returns the central crop of each image, mean subtracted.

    Args:
      images: uint8 ``[batch, height, width, 3]``.
      mean_image: float32 ``[height, width, 3]``.
      size: int, the view's side.
      scale: float that multiplies the result.

    Returns:
      float32 ``[batch, size, size, 3]``.
    """
    return (tf.cast(central_crop(images, size), tf.float32) - central_crop(mean_image, size)) * scale


def ten_views(
    images: tf.Tensor, mean_image: tf.Tensor, *, mean_crop: str, size: int = CROP_SIZE, scale: float = 1.0
) -> list[tf.Tensor]:
    """Returns the four corners and the center of each image, then these five mirrored (paper section 4.1).

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
