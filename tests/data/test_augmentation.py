"""Crops, mirroring, color noise and views against loops over rows, eager and compiled."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf.data import augmentation

# Six digits of 255, the largest value: the precision of float32 after a subtraction, an addition and a division.
TOLERANCE = 255e-6

COMPONENTS = np.float32([[70, 68, 66], [-26, -1, 25], [8, -16, 8]])


def photographs(count=3, seed=0, side=256):
    return np.random.default_rng(seed).integers(0, 256, [count, side, side, 3], dtype=np.uint8)


def mean_image(seed=1, side=256):
    return np.random.default_rng(seed).uniform(60, 190, [side, side, 3]).astype(np.float32)


def square(image, top, left, size):
    """Crops an image row by row."""
    columns = [left + column for column in range(size)]
    return np.stack([image[top + row, columns] for row in range(size)])


def mirrored(image, upended, left_to_right):
    """Mirrors an image row by row."""
    height, width = image.shape[:2]
    columns = [width - 1 - column if left_to_right else column for column in range(width)]
    return np.stack([image[height - 1 - row if upended else row, columns] for row in range(height)])


def shift_of(draw, components):
    """Returns the sum of p_i alpha_i sqrt(lambda_i), with separate directions p and deviations sqrt(lambda)."""
    total = np.zeros(3)
    for alpha, component in zip(draw, components.astype(np.float64), strict=True):
        deviation = np.linalg.norm(component)
        total += component / deviation * alpha * deviation
    return total


@pytest.mark.parametrize("height, width, size", [(256, 256, 224), (9, 6, 4), (8, 8, 8), (5, 8, 4)])
def test_central_crop(height, width, size):
    images = np.random.default_rng(0).integers(0, 256, [2, height, width, 3], dtype=np.uint8)
    expected = [square(image, (height - size) // 2, (width - size) // 2, size) for image in images]
    np.testing.assert_array_equal(augmentation.central_crop(images, size), expected)
    np.testing.assert_array_equal(augmentation.central_crop(images[0], size), expected[0])


def test_positions():
    found = augmentation.positions(np.int32([3, 3, 0]), np.array([False, True, True]), size=4)
    np.testing.assert_array_equal(found, [[3, 4, 5, 6], [6, 5, 4, 3], [3, 2, 1, 0]])


def test_mirror():
    images = np.random.default_rng(0).normal(size=[4, 5, 6, 3])
    flips = np.array([[False, False], [False, True], [True, False], [True, True]])
    expected = [mirrored(image, *flip) for image, flip in zip(images, flips, strict=True)]
    np.testing.assert_array_equal(augmentation.mirror(images, flips), expected)
    sideways = augmentation.mirror(images[:2], flips[:2], upside_down=False)
    np.testing.assert_array_equal(sideways, expected[:2])


def test_color_shift():
    draws = 0.1 * np.random.default_rng(0).standard_normal([5, 3]).astype(np.float32)
    shifts = augmentation.color_shift(draws, COMPONENTS)
    assert shifts.shape == [5, 1, 1, 3]
    expected = [shift_of(draw, COMPONENTS) for draw in draws]
    np.testing.assert_allclose(shifts[:, 0, 0], expected, atol=TOLERANCE)


def test_color_shifts_vary_by_a_tenth_of_the_standard_deviations():
    directions = np.linalg.qr(np.random.default_rng(1).normal(size=[3, 3]))[0]
    deviations = np.array([121.78, 37.09, 19.72])
    components = (directions * deviations[:, None]).astype(np.float32)
    count = 40_000
    draws = 0.1 * np.random.default_rng(0).standard_normal([count, 3]).astype(np.float32)
    along = augmentation.color_shift(draws, components).numpy()[:, 0, 0] @ directions.T
    # Five standard errors of a mean, a standard deviation and a correlation.
    reach = 5 / np.sqrt(count)
    assert (np.abs(along.mean(axis=0)) < reach * 0.1 * deviations).all()
    np.testing.assert_allclose(along.std(axis=0), 0.1 * deviations, rtol=reach)
    assert np.abs(np.corrcoef(along, rowvar=False) - np.eye(3)).max() < reach


def batch():
    generator = np.random.default_rng(3)
    images = photographs(4)
    offsets = np.int32([[0, 0], [32, 5], [16, 16], [9, 31]])
    return {
        "crops": np.stack([image[r : r + 224, c : c + 224] for image, (r, c) in zip(images, offsets, strict=True)]),
        "offsets": offsets,
        "flips": np.array([[False, False], [False, True], [True, False], [True, True]]),
        "draws": 0.1 * generator.standard_normal([4, 3]).astype(np.float32),
    }


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("mean_crop", ["aligned", "center"])
@pytest.mark.parametrize("side", [12, 15])
def test_padded_training_images_are_crops_of_larger_images(side, mean_crop, compiled):
    """With zeros around the mean-subtracted image, as if it had been padded before it was cropped."""
    pad, size = 4, 12
    images, mean = photographs(40, side=side), mean_image(side=side)
    generator = np.random.default_rng(3)
    offsets = generator.integers(-pad, side - size + pad + 1, [40, 2]).astype(np.int32)
    offsets[:4] = [[-pad, -pad], [-pad, side - size + pad], [side - size + pad, -pad], [side - size + pad] * 2]
    flips = generator.integers(0, 2, [40, 2]).astype(bool)
    draws = 0.1 * generator.standard_normal([40, 3]).astype(np.float32)
    nearest = offsets.clip(0, side - size)
    crops = np.stack([square(image, *offset, size) for image, offset in zip(images, nearest, strict=True)])
    function = functools.partial(
        augmentation.training_images,
        mean_image=tf.constant(mean),
        components=tf.constant(COMPONENTS),
        mean_crop=mean_crop,
        divisor=1.0,
        is_padded=True,
    )
    if compiled:
        function = tf.function(function, jit_compile=True)
    found = function(*map(tf.constant, (crops, offsets, flips, draws)))
    around = [(pad, pad), (pad, pad), (0, 0)]
    central = np.pad(square(mean, *[(side - size) // 2] * 2, size), [(side,) * 2, (side,) * 2, (0, 0)])
    for result, image, offset, flip, draw in zip(found.numpy(), images, offsets, flips, draws, strict=True):
        if mean_crop == "aligned":
            expected = square(np.pad(image - mean.astype(np.float64), around), *(offset + pad), size)
        else:
            inside = square(np.pad(np.ones([side, side, 3]), around), *(offset + pad), size)
            pixels = square(np.pad(image.astype(np.float64), around), *(offset + pad), size)
            expected = inside * (pixels - square(central, side, side, size))
        expected = mirrored(expected, *flip) + shift_of(draw, COMPONENTS)
        np.testing.assert_allclose(result, expected, atol=TOLERANCE)


def resized(image, size):
    """Interpolates linearly between centers of pixels, pixel by pixel."""

    def along(values):
        """Scales the first axis."""
        length = len(values)
        result = []
        for place in range(size):
            center = min(max((place + 0.5) * length / size - 0.5, 0), length - 1)
            below = int(center)
            above = min(below + 1, length - 1)
            result.append(values[below] + (center - below) * (values[above] - values[below]))
        return np.stack(result)

    return along(along(image).swapaxes(0, 1)).swapaxes(0, 1)


@pytest.mark.parametrize("compiled", [False, True])
def test_rectangles_are_scaled_to_squares(compiled):
    side, size = 20, 12
    images, mean = photographs(6, side=side), mean_image(side=side)
    sizes = np.array([[20, 20], [12, 12], [5, 9], [1, 1], [17, 6], [6, 20]], np.int32)
    offsets = np.array([[0, 0], [8, 3], [15, 11], [19, 19], [2, 14], [7, 0]], np.int32)
    flips = np.array([[False, False], [False, True], [True, False], [True, True], [False, True], [False, False]])
    draws = 0.1 * np.random.default_rng(5).standard_normal([6, 3]).astype(np.float32)
    function = functools.partial(
        augmentation.area_images,
        mean_image=tf.constant(mean),
        components=tf.constant(COMPONENTS),
        size=size,
        divisor=1.1,
        scale=0.5,
    )
    if compiled:
        function = tf.function(function, jit_compile=True)
    found = function(*map(tf.constant, (images, offsets, sizes, flips, draws)))
    assert found.shape == [6, size, size, 3] and found.dtype == tf.float32
    for result, image, (top, left), (height, width), flip, draw in zip(
        found.numpy(), images, offsets, sizes, flips, draws, strict=True
    ):
        part = (image - mean.astype(np.float64))[top : top + height, left : left + width]
        expected = (mirrored(resized(part, size), *flip) + shift_of(draw, COMPONENTS)) / 1.1 * 0.5
        np.testing.assert_allclose(result, expected, atol=TOLERANCE)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("divisor, scale", [(1.0, 1.0), (1.1, 1.0), (1.1, 0.25)])
@pytest.mark.parametrize("mean_crop", ["aligned", "center"])
def test_training_images(mean_crop, divisor, scale, compiled):
    function = functools.partial(
        augmentation.training_images,
        mean_image=tf.constant(mean_image()),
        components=tf.constant(COMPONENTS),
        mean_crop=mean_crop,
        divisor=divisor,
        scale=scale,
    )
    if compiled:
        function = tf.function(function, jit_compile=True)
    inputs = batch()
    result = function(**{name: tf.constant(value) for name, value in inputs.items()})
    assert result.dtype == tf.float32
    assert result.shape == [4, 224, 224, 3]
    for image, crop, offset, flip, draw in zip(result.numpy(), *inputs.values(), strict=True):
        mean = square(mean_image(), *(offset if mean_crop == "aligned" else (16, 16)), 224).astype(np.float64)
        expected = (mirrored(crop - mean, *flip) + shift_of(draw, COMPONENTS)) / divisor * scale
        np.testing.assert_allclose(image, expected, atol=TOLERANCE)


@pytest.mark.parametrize("compiled", [False, True])
def test_central_view(compiled):
    function = tf.function(augmentation.central_view, jit_compile=True) if compiled else augmentation.central_view
    images, mean = photographs(), mean_image()
    view = function(tf.constant(images), tf.constant(mean))
    assert view.dtype == tf.float32
    expected = [square(image, 16, 16, 224) - square(mean, 16, 16, 224).astype(np.float64) for image in images]
    np.testing.assert_allclose(view, expected, atol=TOLERANCE)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("mean_crop", ["aligned", "center"])
def test_ten_views_are_corners_and_center_then_the_five_mirrored(mean_crop, compiled):
    function = functools.partial(augmentation.ten_views, mean_crop=mean_crop)
    if compiled:
        function = tf.function(function, jit_compile=True)
    images, mean = photographs(2), mean_image()
    views = function(tf.constant(images), tf.constant(mean))
    assert len(views) == 10
    for number, (top, left) in enumerate([(0, 0), (0, 32), (32, 0), (32, 32), (16, 16)]):
        part = square(mean, *((top, left) if mean_crop == "aligned" else (16, 16)), 224).astype(np.float64)
        for view, other, image in zip(views[number].numpy(), views[number + 5].numpy(), images, strict=True):
            expected = square(image, top, left, 224) - part
            np.testing.assert_allclose(view, expected, atol=TOLERANCE)
            np.testing.assert_array_equal(other, mirrored(view, False, True))


# Crop and image of CIFAR-10, the entire image, and an odd margin.
each_size = pytest.mark.parametrize("size, side", [(24, 32), (32, 32), (24, 31)])


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("mean_crop", ["aligned", "center"])
@each_size
def test_training_images_of_other_sizes(size, side, mean_crop, compiled):
    margin = side - size
    offsets = np.int32([[0, 0], [margin, margin // 2], [margin // 2, margin], [margin, 0]])
    images = photographs(4, side=side)
    inputs = batch() | {
        "offsets": offsets,
        "crops": np.stack([square(image, *offset, size) for image, offset in zip(images, offsets, strict=True)]),
    }
    function = functools.partial(
        augmentation.training_images,
        mean_image=tf.constant(mean_image(side=side)),
        components=tf.constant(COMPONENTS),
        mean_crop=mean_crop,
        divisor=1.1,
    )
    function = tf.function(function, jit_compile=True) if compiled else function
    result = function(**{name: tf.constant(value) for name, value in inputs.items()})
    assert result.shape == [4, size, size, 3]
    for image, crop, offset, flip, draw in zip(result.numpy(), *inputs.values(), strict=True):
        mean = square(mean_image(side=side), *(offset if mean_crop == "aligned" else [margin // 2] * 2), size)
        expected = (mirrored(crop - mean.astype(np.float64), *flip) + shift_of(draw, COMPONENTS)) / 1.1
        np.testing.assert_allclose(image, expected, atol=TOLERANCE)


@pytest.mark.parametrize("compiled", [False, True])
@each_size
def test_central_view_of_other_sizes(size, side, compiled):
    function = functools.partial(augmentation.central_view, size=size, scale=0.25)
    function = tf.function(function, jit_compile=True) if compiled else function
    images, mean = photographs(side=side), mean_image(side=side)
    first = (side - size) // 2
    expected = [square(image, first, first, size) - square(mean, first, first, size) for image in images]
    np.testing.assert_allclose(
        function(tf.constant(images), tf.constant(mean)), 0.25 * np.array(expected), atol=TOLERANCE
    )


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("mean_crop", ["aligned", "center"])
@each_size
def test_ten_views_of_other_sizes(size, side, mean_crop, compiled):
    function = functools.partial(augmentation.ten_views, mean_crop=mean_crop, size=size, scale=0.25)
    function = tf.function(function, jit_compile=True) if compiled else function
    images, mean = photographs(2, side=side), mean_image(side=side)
    views = function(tf.constant(images), tf.constant(mean))
    last, middle = side - size, (side - size) // 2
    expected = []
    for top, left in [(0, 0), (0, last), (last, 0), (last, last), (middle, middle)]:
        part = square(mean, *((top, left) if mean_crop == "aligned" else (middle, middle)), size).astype(np.float64)
        expected.append([0.25 * (square(image, top, left, size) - part) for image in images])
    expected += [[mirrored(image, False, True) for image in view] for view in expected]
    np.testing.assert_allclose(views, expected, atol=TOLERANCE)


def test_views_are_scaled_like_training_images():
    images, mean = tf.constant(photographs(2)), tf.constant(mean_image())
    view = augmentation.central_view(images, mean)
    np.testing.assert_array_equal(augmentation.central_view(images, mean, scale=0.25), 0.25 * view)
    views = augmentation.ten_views(images, mean, mean_crop="aligned")
    scaled = augmentation.ten_views(images, mean, mean_crop="aligned", scale=0.25)
    np.testing.assert_array_equal(scaled, [0.25 * view for view in views])


@pytest.mark.parametrize("mean_crop", ["aligned", "center"])
def test_fifth_view_is_the_central_one(mean_crop):
    images, mean = tf.constant(photographs(2)), tf.constant(mean_image())
    views = augmentation.ten_views(images, mean, mean_crop=mean_crop)
    np.testing.assert_array_equal(views[4], augmentation.central_view(images, mean))


def test_mean_image_becomes_zero():
    """At any offset and with any mirroring, if the mean image is subtracted at the crop's position."""
    mean = photographs(1)[0]
    inputs = batch()
    inputs["crops"] = np.stack([mean[row : row + 224, column : column + 224] for row, column in inputs["offsets"]])
    images = augmentation.training_images(
        **{**inputs, "draws": np.zeros([4, 3], np.float32)},
        mean_image=mean.astype(np.float32),
        components=COMPONENTS,
        mean_crop="aligned",
        divisor=1.0,
    )
    assert (images.numpy() == 0).all()
