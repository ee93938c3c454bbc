"""A second implementation of AlexNet's forward pass in float64 NumPy, written from the published description.

It is deliberately slow and plain, and shares no code with the package. Weights are a dictionary from a layer's name to
``(kernel, bias)``, with kernels ``[height, width, in, out]`` or ``[in, out]``. For a trainable normalization they are
``(scale, shift)``, followed by the mean and variance of batch normalization.
"""

import numpy as np

# Differs between the text and the original code.
ALPHA = {"paper": 1e-4, "original": 2e-5}


def large_weights(shapes, seed, activation="relu"):
    """Returns random weights with which every nonlinearity matters: activations near 100, half of them negative.

    With the initial weights (standard deviation 0.01) the normalizations hardly change anything, and a bias of 1 opens
    most ReLUs. For tanh, activations are near 1, so that it is not just a sign.

    Args:
      shapes: a dictionary from a layer name to the shape of its kernel.
      seed: int.
      activation: "relu" or "tanh".
    """
    generator = np.random.default_rng(seed)
    weights = {}
    for name, shape in shapes.items():
        deviation = 1.2 * np.sqrt(2 / np.prod(shape[:-1]))
        # The first layer reads images, whose standard deviation is 60.
        if activation == "tanh" and name.startswith("conv1"):
            deviation /= 60
        kernel = generator.standard_normal(shape, np.float32) * np.float32(deviation)
        bias = (5 if activation == "relu" else 0.3) * generator.standard_normal(shape[-1])
        weights[name] = kernel, bias.astype(np.float32)
    return weights


def large_normalization(channels, count, seed, activation="relu"):
    """Returns the variables of a normalization for activations as in `large_weights`.

    Args:
      channels: int.
      count: int, 2 for scale and shift; 4 to add mean and variance, of the size of the outputs of conv1 and conv2.
      seed: int.
      activation: "relu" or "tanh".
    """
    generator = np.random.default_rng(seed)
    size = 50 if activation == "relu" else 1
    scale, shift = size * generator.uniform(0.5, 1.5, channels), 0.5 * size * generator.standard_normal(channels)
    mean, variance = 0.5 * size * generator.standard_normal(channels), size**2 * generator.uniform(0.5, 4, channels)
    return [value.astype(np.float32) for value in (scale, shift, mean, variance)[:count]]


def random_images(batch, seed, size=224):
    """Returns float32 ``[batch, size, size, 3]`` with the standard deviation of photographs, mean subtracted."""
    generator = np.random.default_rng(seed)
    return (60 * generator.standard_normal([batch, size, size, 3])).astype(np.float32)


def pad(x, before, after):
    return np.pad(x, [(0, 0), (before, after), (before, after), (0, 0)])


def convolution(x, kernel, bias, stride=1):
    """Correlation at the positions where the kernel is entirely inside `x`."""
    height, width, _, _ = kernel.shape
    windows = np.lib.stride_tricks.sliding_window_view(x, (height, width), axis=(1, 2))
    windows = windows[:, ::stride, ::stride]  # batch, y, x, channels, height, width
    return np.tensordot(windows, kernel.astype(np.float64), axes=([4, 5, 3], [0, 1, 2])) + bias


def max_pooling(x, size):
    """Max pooling with stride 2; windows of 2 x 2 extend past the edge if the side is odd."""
    if size == 2 and x.shape[1] % 2:
        x = np.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)], constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
    return windows[:, ::2, ::2].max(axis=(4, 5))


def local_response_normalization(x, alpha):
    """LRN with k = 2, n = 5, beta = 0.75; maps before the first and after the last count as zero."""
    squares = np.pad(x**2, [(0, 0), (0, 0), (0, 0), (2, 2)])
    sums = np.lib.stride_tricks.sliding_window_view(squares, 5, axis=3).sum(axis=-1)
    return x / (2 + alpha * sums) ** 0.75


def same_map_normalization(x):
    """Normalization over 5 x 5 positions of the map; those outside count as zero."""
    sums = np.lib.stride_tricks.sliding_window_view(pad(x**2, 2, 2), (5, 5), axis=(1, 2)).sum(axis=(4, 5))
    return x / (1 + 4e-5 * sums) ** 0.75


def batch_normalization(x, scale, shift, mean, variance):
    """Batch normalization in inference, with Keras's epsilon."""
    return scale * (x - mean) / np.sqrt(variance.astype(np.float64) + 1e-3) + shift


def group_normalization(x, channels, scale, shift):
    """Group normalization over `channels` adjacent maps of each image, with Keras's epsilon."""
    groups = []
    for first in range(0, x.shape[-1], channels):
        group = x[..., first : first + channels]
        mean, variance = (moment(group, axis=(1, 2, 3), keepdims=True) for moment in (np.mean, np.var))
        groups.append((group - mean) / np.sqrt(variance + 1e-3))
    return scale * np.concatenate(groups, axis=-1) + shift


def relu(x):
    return np.maximum(x, 0)


def forward(
    weights,
    images,
    recipe,
    *,
    towers="two",
    communication="paper",
    activation="relu",
    normalization="response",
    pooling="overlapping",
    removed_layer="none",
    sixth_convolution=False,
    bottleneck=0,
):
    """Computes the outputs of the network in inference, where dropout halves outputs.

    Args:
      weights, images: as returned by `large_weights` and `random_images`. conv1 has stride 1 for images
        of 32 x 32, and 3 for those of 56 x 56.
      recipe, towers, ...: as in `AlexNet`. The weights determine the widths.

    Returns:
      A dictionary from a stage to its output. Stages are named as the package's layers; the logits are ``"fc8"``.
    """
    stages = {}
    images = images.astype(np.float64)
    is_small = images.shape[1] == 56
    names = ["_a", "_b"] if towers == "two" else [""]
    activate = {"relu": relu, "tanh": np.tanh}[activation]
    window = {"overlapping": 3, "nonoverlapping": 2}[pooling]

    def keep(name, value):
        stages[name] = value
        return value

    def convolve(number, tower, x, padding, stride=1):
        name = f"conv{number}{tower}"
        return keep(name, convolution(pad(x, padding, padding), *weights[name], stride=stride))

    def multiply(name, x):
        kernel, bias = weights[name]
        return keep(name, x @ kernel.astype(np.float64) + bias)

    def normalize(number, tower, x):
        name = f"norm{number}{tower}"
        if normalization == "none" or (normalization == "first" and number == 2):
            return x
        if normalization == "batch":
            return keep(name, batch_normalization(x, *weights[name]))
        if normalization == "group":
            return keep(name, group_normalization(x, 16, *weights[name]))
        if normalization == "layer":
            return keep(name, group_normalization(x, x.shape[-1], *weights[name]))
        x = keep(name, local_response_normalization(x, ALPHA[recipe]))
        if recipe == "original" and number == 2:
            x = keep(f"samemap2{tower}", same_map_normalization(x))
        return x

    def exchange(outputs):
        """Returns the input of each tower: the outputs of both, or its own."""
        if communication == "fc8":
            return outputs
        return [np.concatenate(outputs, axis=-1)] * len(outputs)

    outputs = []
    for tower in names:
        if images.shape[1] == 32:
            x = convolve(1, tower, images, 2)
        else:
            x = convolve(1, tower, pad(images, 0, 5 if is_small else 3), 0, stride=3 if is_small else 4)
        if recipe == "paper":
            x = keep(f"{activation}1{tower}", activate(x))
        x = normalize(1, tower, x)
        x = keep(f"pool1{tower}", max_pooling(x, window))
        if recipe == "original":
            x = keep(f"{activation}1{tower}", activate(x))
        x = convolve(2, tower, x, 2 if pooling == "overlapping" else 1)
        x = keep(f"{activation}2{tower}", activate(x))
        x = normalize(2, tower, x)
        outputs.append(keep(f"pool2{tower}", max_pooling(x, window)))

    inputs, outputs = exchange(outputs), []
    for tower, x in zip(names, inputs):
        if removed_layer != "conv3":
            x = keep(f"{activation}3{tower}", activate(convolve(3, tower, x, 1)))
        if removed_layer != "conv4":
            x = keep(f"{activation}4{tower}", activate(convolve(4, tower, x, 1)))
        if removed_layer != "conv5":
            # Activation and pooling commute, so only the stage after both is compared.
            x = activate(convolve(5, tower, x, 1 if pooling == "overlapping" or is_small else 0))
        # The last window of 3 x 3 of 4 x 4 positions extends past the edge.
        x = np.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)], constant_values=-np.inf) if is_small and window == 3 else x
        outputs.append(max_pooling(x, window))

    if sixth_convolution:
        outputs = [activate(convolve(6, tower, x, 1)) for tower, x in zip(names, exchange(outputs))]

    # By convention, fully connected layers read the outputs of tower a first.
    outputs = [keep(f"flatten5{tower}", x.reshape(len(images), -1)) for tower, x in zip(names, outputs)]
    for number in (6, 7):
        inputs, outputs = exchange(outputs), []
        for tower, x in zip(names, inputs):
            x = multiply(f"fc{number}{tower}", x)
            outputs.append(keep(f"dropout{number}{tower}", 0.5 * activate(x)))
    if bottleneck:
        outputs = [multiply(f"bottleneck{tower}", x) for tower, x in zip(names, exchange(outputs))]
    multiply("fc8", np.concatenate(outputs, axis=-1))
    return stages
