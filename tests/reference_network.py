"""AlexNet's forward pass, a second time: float64 NumPy, from the published description and nothing else.

Slow and plain on purpose; it shares no code with the package. Weights are a dictionary of layer name to
``(kernel, bias)``, kernels ``[height, width, in, out]`` or ``[in, out]``, layer names as in the package.
"""

import numpy as np

# What differs between the text and the original code.
ALPHA = {"paper": 1e-4, "original": 2e-5}


def large_weights(shapes, seed):
    """Random weights under which every nonlinearity counts: activities near 100, half of them negative.

    With the initial ones (deviation 0.01) the normalisations do next to nothing and bias 1 opens most ReLUs.

    Args:
      shapes: dictionary of layer name to the shape of its kernel.
      seed: int.
    """
    generator = np.random.default_rng(seed)
    weights = {}
    for name, shape in shapes.items():
        deviation = 1.2 * np.sqrt(2 / np.prod(shape[:-1]))
        kernel = generator.standard_normal(shape, np.float32) * np.float32(deviation)
        weights[name] = kernel, (5 * generator.standard_normal(shape[-1])).astype(np.float32)
    return weights


def random_images(batch, seed):
    """float32 ``[batch, 224, 224, 3]``, of the spread of photographs with their mean subtracted."""
    generator = np.random.default_rng(seed)
    return (60 * generator.standard_normal([batch, 224, 224, 3])).astype(np.float32)


def pad(x, before, after):
    return np.pad(x, [(0, 0), (before, after), (before, after), (0, 0)])


def convolution(x, kernel, bias, stride=1):
    """Correlation at the positions where the kernel lies inside `x` entirely."""
    height, width, _, _ = kernel.shape
    windows = np.lib.stride_tricks.sliding_window_view(x, (height, width), axis=(1, 2))
    windows = windows[:, ::stride, ::stride]  # batch, y, x, channels, height, width
    return np.tensordot(windows, kernel.astype(np.float64), axes=([4, 5, 3], [0, 1, 2])) + bias


def max_pooling(x):
    """Windows of 3 x 3, 2 apart."""
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    return windows[:, ::2, ::2].max(axis=(4, 5))


def local_response_normalization(x, alpha):
    """k = 2, n = 5, beta = 0.75; maps before the first and after the last count as zero."""
    squares = np.pad(x**2, [(0, 0), (0, 0), (0, 0), (2, 2)])
    sums = np.lib.stride_tricks.sliding_window_view(squares, 5, axis=3).sum(axis=-1)
    return x / (2 + alpha * sums) ** 0.75


def same_map_normalization(x):
    """Over 5 x 5 positions of the map, those outside counting as zero."""
    sums = np.lib.stride_tricks.sliding_window_view(pad(x**2, 2, 2), (5, 5), axis=(1, 2)).sum(axis=(4, 5))
    return x / (1 + 4e-5 * sums) ** 0.75


def relu(x):
    return np.maximum(x, 0)


def forward(weights, images, recipe):
    """The network in use (dropout halves the outputs).

    Returns:
      Dictionary of stage to its output, the stages named as the package's layers; the logits are ``"fc8"``.
    """
    stages = {}
    images = images.astype(np.float64)

    def keep(name, value):
        stages[name] = value
        return value

    for tower in "ab":
        x = keep(f"conv1_{tower}", convolution(pad(images, 0, 3), *weights[f"conv1_{tower}"], stride=4))
        if recipe == "paper":
            x = keep(f"relu1_{tower}", relu(x))
        x = keep(f"norm1_{tower}", local_response_normalization(x, ALPHA[recipe]))
        x = keep(f"pool1_{tower}", max_pooling(x))
        if recipe == "original":
            x = keep(f"relu1_{tower}", relu(x))

        x = keep(f"conv2_{tower}", convolution(pad(x, 2, 2), *weights[f"conv2_{tower}"]))
        x = keep(f"relu2_{tower}", relu(x))
        x = keep(f"norm2_{tower}", local_response_normalization(x, ALPHA[recipe]))
        if recipe == "original":
            x = keep(f"samemap2_{tower}", same_map_normalization(x))
        keep(f"pool2_{tower}", max_pooling(x))

    both = np.concatenate([stages["pool2_a"], stages["pool2_b"]], axis=-1)
    for tower in "ab":
        x = keep(f"conv3_{tower}", convolution(pad(both, 1, 1), *weights[f"conv3_{tower}"]))
        x = keep(f"relu3_{tower}", relu(x))
        x = keep(f"conv4_{tower}", convolution(pad(x, 1, 1), *weights[f"conv4_{tower}"]))
        x = keep(f"relu4_{tower}", relu(x))
        x = keep(f"conv5_{tower}", convolution(pad(x, 1, 1), *weights[f"conv5_{tower}"]))
        x = relu(x)
        # The same values in either order of ReLU and pooling: the stage after both is the one to compare.
        keep(f"flatten5_{tower}", max_pooling(x).reshape(len(images), -1))

    # The order of the inputs of a fully connected layer is a convention: tower a's, then tower b's.
    both = np.concatenate([stages["flatten5_a"], stages["flatten5_b"]], axis=-1)
    for number in (6, 7):
        halves = []
        for tower in "ab":
            kernel, bias = weights[f"fc{number}_{tower}"]
            x = keep(f"fc{number}_{tower}", both @ kernel.astype(np.float64) + bias)
            halves.append(keep(f"dropout{number}_{tower}", 0.5 * relu(x)))
        both = np.concatenate(halves, axis=-1)
    kernel, bias = weights["fc8"]
    keep("fc8", both @ kernel.astype(np.float64) + bias)
    return stages
