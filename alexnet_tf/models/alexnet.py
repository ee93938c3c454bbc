"""AlexNet: eight layers in two towers, which exchange outputs where the paper's do.

Sizes and parameter counts follow Figure 2 of the paper. `variants.RECIPES` holds the differences between its text and
the authors' released code.
"""

from collections.abc import Sequence

import keras

from alexnet_tf.models import network
from alexnet_tf.models import placement
from alexnet_tf.models import tower_layers
from alexnet_tf.models import variants


def _layer1(tower, images):
    """Applies 48 kernels of 11 x 11 x 3 with stride 4 to the whole image; smaller ones to small images."""
    shape = tower.geometry
    if shape.edge:
        images = tower.zero_padding(((0, shape.edge), (0, shape.edge)), "edge1")(images)  # 227
    x = tower.convolution(1, shape.kernel, strides=shape.strides, padding=shape.padding, bias=0)(images)  # 55
    return tower.activation(1)(x) if tower.recipe.activation == "before" else x


def _layer2(tower, x):
    """Applies 128 kernels of 5 x 5 x 48 to the tower's own maps."""
    bias = tower.recipe.initial_bias
    if tower.variant.pooling == "nonoverlapping":
        # 28 positions become 26, which pooling reduces to 13 (original #147).
        x = tower.zero_padding(1, "edge2")(x)
        x = tower.convolution(2, 5, padding="valid", bias=bias)(x)
    else:
        x = tower.convolution(2, 5, bias=bias)(x)  # 27
    return tower.activation(2)(x)


def _normalize_and_pool(towers, number, outputs):
    """Applies the normalization and the pooling of layer 1 or 2, in the order of the recipe."""
    if towers[0].recipe.normalization == "before":
        outputs = _normalize(towers, number, outputs)
    outputs = [tower.pooling(number)(x) for tower, x in zip(towers, outputs)]
    if towers[0].recipe.normalization == "after":
        outputs = _normalize(towers, number, outputs)
    if number == 1 and towers[0].recipe.activation == "after":
        outputs = [tower.activation(1)(x) for tower, x in zip(towers, outputs)]
    return outputs


def _normalize(towers, number, outputs):
    """Normalizes layer 1 or 2. If windows extend into the other tower, each lends the other two of its maps."""
    first = towers[0]
    if len(towers) == 1 or not first.normalization_crosses_towers(number):
        return [tower.normalize(number, x) for tower, x in zip(towers, outputs)]
    radius, channels = tower_layers.RADIUS, outputs[0].shape[-1]
    # Of each tower: the maps that it lends, and those that it keeps of the normalized ones.
    lent = ((channels - radius, channels), (0, radius))
    kept = ((0, channels), (radius, channels + radius))
    own, loans = [], []
    for tower, x, maps in zip(towers, outputs, lent):
        copy, source = tower.layer(tower_layers.FanOut, 2, name=f"fanout_norm{number}")(x)
        own.append(copy)
        loans.append(tower.layer(tower_layers.ChannelRange, *maps, name=f"border{number}")(source))
    parts = ([own[0], loans[1]], [loans[0], own[1]])
    results = []
    for tower, part, maps in zip(towers, parts, kept):
        x = tower.layer(tower_layers.Concatenate, name=f"join_norm{number}")(part)
        x = tower.normalize(number, x)
        results.append(tower.layer(tower_layers.ChannelRange, *maps, name=f"inner{number}")(x))
    return results


def _layer3(tower, x):
    """Applies 192 kernels of 3 x 3 x 256 to the maps of both towers."""
    if tower.variant.removed_layer == "conv3":
        return x
    x = tower.convolution(3, 3, stddev=tower.recipe.middle_stddev, bias=0)(x)  # 13
    return tower.activation(3)(x)


def _layer4(tower, x):
    """Applies 192 kernels of 3 x 3 x 192 to the tower's own maps."""
    if tower.variant.removed_layer == "conv4":
        return x
    x = tower.convolution(4, 3, stddev=tower.recipe.middle_stddev, bias=tower.recipe.initial_bias)(x)  # 13
    return tower.activation(4)(x)


def _layer5(tower, x):
    """Applies 128 kernels of 3 x 3 x 192 to the tower's own maps."""
    if tower.variant.removed_layer == "conv5":
        return tower.pooling(5)(x)
    # 13 positions become 11, which pooling without overlap reduces to 6 (original #147).
    is_reduced = tower.variant.pooling == "nonoverlapping" and tower.geometry.pool5 == "valid"
    padding = "valid" if is_reduced else "same"
    options = {"stddev": tower.recipe.middle_stddev, "bias": tower.recipe.initial_bias}
    x = tower.convolution(5, 3, padding=padding, **options)(x)  # 13
    if tower.recipe.activation == "before":
        x = tower.activation(5)(x)
    x = tower.pooling(5)(x)  # 6
    if tower.recipe.activation == "after":
        x = tower.activation(5)(x)
    return x


def _sixth_convolution(tower, x):
    """Applies one more convolution to the pooled maps of both towers (original #146)."""
    # Seed number 6 belongs to fc6.
    x = tower.convolution(6, 3, stddev=tower.recipe.middle_stddev, bias=tower.recipe.initial_bias, seed_number=9)(
        x
    )  # 6
    return tower.layer(tower_layers.Activation, tower.variant.activation, name=f"{tower.variant.activation}_conv6")(x)


def _fully_connected(tower, number, x):
    """Applies layer 6 or 7: 2048 units, each reading all outputs of both towers, with dropout (paper, section 4.2)."""
    units = getattr(tower.widths, f"fc{number}")
    initializers = tower.initializers(number, tower.recipe.dense_stddev, tower.recipe.initial_bias)
    x = tower.layer(tower_layers.Dense, units, name=f"fc{number}", **initializers)(x)
    x = tower.activation(number)(x)
    return tower.dropout(number)(x)


def _bottleneck(tower, units, x):
    """Applies a linear layer without dropout (original #146 of 2009 and 2011)."""
    return tower.layer(tower_layers.Dense, units, name="bottleneck", **tower.initializers(20, 0.01, 0))(x)


def _exchange(towers, outputs, name):
    """Gives each tower the outputs of both, concatenated along the last axis.

    Both towers concatenate even if they share a device, where one concatenation would do: Keras numbers the layers in
    checkpoints, which must not depend on the devices. TensorFlow merges the identical operations.
    """
    if len(towers) == 1 or towers[0].variant.communication == "fc8":
        return outputs
    fan_out = tower_layers.FanOut
    copies = [tower.layer(fan_out, len(towers), name=f"fanout{name}")(x) for tower, x in zip(towers, outputs)]
    return [tower.layer(tower_layers.Concatenate, name=f"join{name}")(parts) for tower, *parts in zip(towers, *copies)]


def _join(towers, outputs, name):
    """Concatenates the outputs of all towers on the device of the first."""
    if len(towers) == 1:
        return outputs[0]
    return tower_layers.Concatenate(name=f"join{name}", device=towers[0].device, dtype=towers[0].dtype)(outputs)


def _layers_1_to_7(towers, images):
    """Applies all layers before fc8. Sizes in comments are those of one of the paper's towers."""
    x = [_layer1(tower, images) for tower in towers]  # 55 x 55 x 48
    x = _normalize_and_pool(towers, 1, x)  # 27 x 27 x 48
    x = [_layer2(tower, own) for tower, own in zip(towers, x)]  # 27 x 27 x 128
    x = _normalize_and_pool(towers, 2, x)  # 13 x 13 x 128
    x = _exchange(towers, x, 2)  # 13 x 13 x 256
    x = [_layer3(tower, both) for tower, both in zip(towers, x)]  # 13 x 13 x 192
    x = [_layer4(tower, own) for tower, own in zip(towers, x)]  # 13 x 13 x 192
    x = [_layer5(tower, own) for tower, own in zip(towers, x)]  # 6 x 6 x 128
    if towers[0].variant.sixth_convolution:
        x = _exchange(towers, x, "_conv6")  # 6 x 6 x 256
        x = [_sixth_convolution(tower, both) for tower, both in zip(towers, x)]  # 6 x 6 x 128
    x = [tower.flatten(5)(own) for tower, own in zip(towers, x)]  # 4608
    x = _exchange(towers, x, 5)  # 9216
    x = [_fully_connected(tower, 6, both) for tower, both in zip(towers, x)]  # 2048
    x = _exchange(towers, x, 6)  # 4096
    x = [_fully_connected(tower, 7, both) for tower, both in zip(towers, x)]  # 2048
    if units := towers[0].variant.bottleneck:
        x = _exchange(towers, x, 7)  # 4096
        x = [_bottleneck(tower, units // len(towers), both) for tower, both in zip(towers, x)]
        return _join(towers, x, "_bottleneck")
    return _join(towers, x, 7)  # 4096


def _head(tower, num_classes, x):
    """Applies fc8 on the device of a tower, and returns float32 logits."""
    initializers = tower.initializers(8, 0.01, 0)
    x = tower_layers.Dense(num_classes, name="fc8", device=tower.device, dtype=tower.dtype, **initializers)(x)
    return keras.layers.Activation("linear", dtype="float32", name="logits")(x)


@keras.saving.register_keras_serializable(package="alexnet_tf")
class AlexNet(network.Network):
    """The network of Krizhevsky, Sutskever and Hinton (2012), as a Keras functional model.

    It has 60,965,224 parameters for 1,000 classes. Every layer of the two towers is a pair of Keras layers, from
    ``conv1_a`` and ``conv1_b`` to ``fc7_a`` and ``fc7_b``. The towers exchange outputs before layer 3 and before each
    fully connected layer. ``fc8`` is on the device of tower a. Variables, their names, results and checkpoints do not
    depend on `devices`.

    Example:

    >>> model = alexnet_tf.AlexNet(num_classes=1000)
    >>> model(tf.zeros([1, 224, 224, 3])).shape
    TensorShape([1, 1000])

    On two GPUs, as in the paper: ``alexnet_tf.AlexNet(devices=("/GPU:0", "/GPU:1"))``.

    Args:
      num_classes: int, at least 2.
      recipe: "paper" to follow the paper's text; "original" to follow the authors' released code (net #145), which
        applies layer 1's ReLU after normalization and pooling, uses an LRN alpha of 2e-5, adds a same-map
        normalization to layer 2, and initializes layers 3 to 5 with standard deviation 0.03; "caffe" or "caffenet" for
        Caffe's bvlc_alexnet and bvlc_reference_caffenet, whose LRN has k = 1 and alpha = 2e-5 and extends into the
        other tower, and whose images have a side of 227. "caffenet" pools before it normalizes.
      devices: two TensorFlow device names, one for each tower; or None to leave placement to TensorFlow. The
        variables, forward operations and backward operations of each tower are placed by explicit ``tf.device``
        scopes.
      dropout: float in [0, 1), the dropout rate of layers 6 and 7.
      towers: "two"; "one" for a single tower as wide as both, with layers ``conv1`` to ``fc8`` (62,378,344 parameters);
        or "half" for one of the two towers alone, with conv5, fc6 and fc7 as wide as both (original #145-half,
        59,798,312 parameters).
      communication: "paper" for towers that exchange outputs before layers 3, 6, 7 and 8; "fc8" for an exchange there
        only, with 160 kernels per tower in conv2 and 4096 units in fc6 (original #150, 60,714,408 parameters).
      activation: "relu", "tanh" (paper, section 3.1) or "sigmoid".
      normalization: "response"; "first" after layer 1 only (original #167); "none" (#148); or "batch", "group" or
        "layer" to replace both.
      pooling: "overlapping" for windows of 3 x 3 (paper, section 3.4); "nonoverlapping" for 2 x 2, with less padding
        in conv2 and conv5 so that the pooled sizes stay the same (original #147).
      removed_layer: "none", or "conv3", "conv4" or "conv5" to remove that layer (paper, section 7). The next layer
        takes over its input; without conv5, fc6 has 6 x 6 x 384 inputs.
      sixth_convolution: bool, whether to add a layer of 128 kernels of 3 x 3 per tower before fc6, over the pooled maps
        of both towers (original #146).
      bottleneck: even int, the number of units of a linear layer before fc8, half in each tower, for a very
        large number of classes (original #146: 2048); 0 for no such layer.
      image_size: 224; 227 for images that need no zeros at the edge; None for the side that the recipe has; or 56 or 32
        for a smaller network of the same layers, to test the paper's claims on small images. They are ours. For 56: 24,
        48, 64, 64 and 48 kernels and 768 units per tower (64 in conv2 and 1536 in fc6 with ``communication="fc8"``),
        and 7 x 7 kernels with stride 3 in conv1; 3,564,360 parameters for 200 classes. For 32: 16, 32, 48, 48 and 32
        kernels and 256 units per tower (48 in conv2 and 512 in fc6 with ``communication="fc8"``), and 5 x 5 kernels
        with stride 1 in conv1.
      initialization: "recipe" for the recipe's initial weights; "he" for weights N(0, 2 / inputs) and biases 0, for few
        classes and few images; "zeros", for weights that are assigned afterwards.
      seed: int, the seed of the initial weights and of dropout; None for a random one.
      jit_compile: bool, whether to compile the normalizations with XLA. Set it to False for a model to be exported.
      dtype: a Keras dtype or dtype policy for the layers, such as "mixed_bfloat16"; None for the global policy, which a
        saved model keeps.
      name: str, the name of the model.
      conv1_stddev: float above 0, the standard deviation of conv1's initial kernels; None to follow `recipe` and
        `initialization`.
      left_out: the former name of `removed_layer`, accepted for saved models.
      **kwargs: arguments of ``keras.Model``.

    Input: float32 ``[batch, image_size, image_size, 3]``, RGB in [0, 255] minus the mean of the training set, thus
    within [-255, 255].

    Output: float32 logits ``[batch, num_classes]``.

    Raises:
      ValueError: If an argument is outside its range, or a device is not present (the message lists those that are).

    References:

    - [ImageNet Classification with Deep Convolutional Neural Networks](
      https://papers.nips.cc/paper/4824-imagenet-classification-with-deep-convolutional-neural-networks), NIPS 2012
    - [The authors' released code](https://github.com/computerhistory/AlexNet-Source-Code), "original" with the number
      of a net
    - [Caffe's models](https://github.com/BVLC/caffe/tree/master/models), for the recipes "caffe" and "caffenet"
    - [Delving Deep into Rectifiers](https://arxiv.org/abs/1502.01852), He et al., 2015, for ``initialization="he"``
    """

    def __init__(
        self,
        num_classes: int = 1000,
        recipe: str = "paper",
        devices: Sequence[str] | None = None,
        *,
        dropout: float = 0.5,
        towers: str = "two",
        communication: str = "paper",
        activation: str = "relu",
        normalization: str = "response",
        pooling: str = "overlapping",
        removed_layer: str = "none",
        sixth_convolution: bool = False,
        bottleneck: int = 0,
        image_size: int | None = None,
        initialization: str = "recipe",
        conv1_stddev: float | None = None,
        seed: int | None = None,
        jit_compile: bool = True,
        dtype=None,
        name: str = "alexnet",
        left_out: str | None = None,
        **kwargs,
    ):
        image_size = variants.default_image_size(recipe) if image_size is None else image_size
        variant = variants.Variant(
            towers=towers,
            communication=communication,
            activation=activation,
            normalization=normalization,
            pooling=pooling,
            removed_layer=removed_layer if left_out is None else left_out,
            sixth_convolution=sixth_convolution,
            bottleneck=bottleneck,
            dropout=dropout,
            image_size=image_size,
            conv1_stddev=conv1_stddev,
        )
        dtype = network.resolve_dtype(dtype)
        shared = {"initialization": initialization, "seed": seed, "jit_compile": jit_compile, "dtype": dtype}
        variants.check(variant, num_classes=num_classes, recipe=recipe, initialization=initialization, devices=devices)
        devices = placement.check_devices(devices) if devices else None
        parts = tower_layers.towers(variant, devices, recipe=variants.RECIPES[recipe], **shared)
        images = keras.Input([image_size, image_size, 3], dtype="float32", name="images")
        logits = _head(parts[0], num_classes, _layers_1_to_7(parts, images))
        super().__init__(inputs=images, outputs=logits, name=name, **kwargs)
        own = {"num_classes": num_classes, "recipe": recipe, "devices": devices and list(devices), "name": name}
        self._arguments = {**own, **variant._asdict(), **shared}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        devices = config.get("devices")
        if devices and None in [placement.present_device(device) for device in devices]:
            devices = None
        return super().from_config({**config, "devices": devices}, custom_objects)
