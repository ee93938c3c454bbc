"""Parameter groups: the learning rate and weight decay of each variable."""

import dataclasses
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from typing import NamedTuple
from typing import Protocol

from alexnet_tf.training import optimizer
from alexnet_tf.training import schedules

# Original #145 trains conv1's weights slower than the others by this factor from some epoch on.
_CONV1_SLOW_FACTOR = 0.1


class LearningRates(NamedTuple):
    """The learning rate of each parameter group, in the order in which a training step takes them.

    "Biases" stands for all variables that are not kernels: biases and the parameters of normalization layers.
    """

    weights: float
    biases: float
    conv1_weights: float
    conv1_biases: float
    new_weights: float
    new_biases: float


GROUPS = LearningRates._fields


class Variable(Protocol):
    """The attributes of a ``keras.Variable`` that decide on its group."""

    path: str
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Options:
    """What the learning rates and weight decays of the groups depend on besides the schedule.

    Attributes:
      learning_rate: initial learning rate of the weights, above 0.
      bias_factor: initial learning rate of the biases relative to that of the weights.
      bias_schedule: schedule of the biases; None uses that of the weights, with at most `max_bias_drops` drops.
      max_bias_drops: maximum number of drops of the biases' rate.
      conv1_slow_epoch: epochs after which conv1's weights train at a tenth of the rate; 0 for never.
      conv1_frozen_epoch: epochs after which conv1's weights and biases are frozen; 0 for never.
      new_layers: names of the layers, without tower suffix, that start from random weights in a run that starts from
        another run's weights.
      new_layers_factor: learning rate of the new layers' weights relative to that of the other weights.
      new_layers_epochs: epochs after which that factor no longer applies; 0 for never.
      layer_factors: factors of the learning rates of layers, by name without tower suffix, at all times and in addition
        to those above.
      weight_decay: coefficient of the decay of kernels.
      dense_weight_decay: coefficient of the decay of fully connected layers' kernels; None uses `weight_decay`.
      bias_weight_decay: coefficient of the decay of the biases.
    """

    learning_rate: float
    bias_factor: float = 1.0
    bias_schedule: schedules.Schedule | None = None
    max_bias_drops: int = 3
    conv1_slow_epoch: float = 0.0
    conv1_frozen_epoch: float = 0.0
    new_layers: tuple[str, ...] = ()
    new_layers_factor: float = 1.0
    new_layers_epochs: float = 0.0
    layer_factors: Mapping[str, float] = dataclasses.field(default_factory=dict)
    weight_decay: float = 0.0005
    dense_weight_decay: float | None = None
    bias_weight_decay: float = 0.0005


def scale_to_batch_size(learning_rate: float, batch_size: int, base_batch_size: int, scaling: str) -> float:
    """Scales a learning rate, tuned at `base_batch_size`, to another batch size.

    Args:
      learning_rate: the rate at `base_batch_size`.
      batch_size: the batch size to use.
      base_batch_size: the batch size that the rate was tuned at.
      scaling: "none", "linear" or "square_root" in the ratio of the batch sizes.
    """
    ratio = batch_size / base_batch_size
    return learning_rate * {"none": 1.0, "linear": ratio, "square_root": ratio**0.5}[scaling]


def learning_rates(options: Options, schedule: schedules.Schedule, progress: float) -> LearningRates:
    """Returns the learning rate of every group.

    Args:
      options: the values that do not change during training.
      schedule: the schedule of the weights.
      progress: epochs completed, including the fraction of the current one.
    """
    weights = options.learning_rate * schedule.multiplier(progress)
    if options.bias_schedule is None:
        multiplier = schedule.multiplier(progress, options.max_bias_drops)
    else:
        multiplier = options.bias_schedule.multiplier(progress)
    biases = multiplier * options.learning_rate * options.bias_factor
    is_slow = _is_reached(options.conv1_slow_epoch, progress)
    # Original #145 slows only conv1's weights, but freezes its weights and biases.
    conv1_weights, conv1_biases = weights * (_CONV1_SLOW_FACTOR if is_slow else 1.0), biases
    if _is_reached(options.conv1_frozen_epoch, progress):
        conv1_weights = conv1_biases = 0.0
    new_factor = 1.0 if _is_reached(options.new_layers_epochs, progress) else options.new_layers_factor
    return LearningRates(weights, biases, conv1_weights, conv1_biases, weights * new_factor, biases)


def _is_reached(epoch, progress):
    return 0 < epoch <= progress


def group_of(path: str, new_layers: Iterable[str] = ()) -> str:
    """Returns the group, one of `GROUPS`, of the variable with a path such as "conv1_a/kernel"."""
    layer = layer_of(path)
    prefix = "new_" if layer in new_layers else "conv1_" if layer == "conv1" else ""
    return prefix + ("weights" if path.endswith("kernel") else "biases")


def layer_of(path: str) -> str:
    """Returns the layer's name in the paper, without a tower's suffix: "conv1" for "conv1_a/kernel"."""
    return path.split("/")[0].removesuffix("_a").removesuffix("_b")


def find_layer(path: str, names: Collection[str]) -> str | None:
    """Returns the one of `names` that a variable belongs to, or None.

    Args:
      path: of a variable or a layer, such as "conv1_a/kernel".
      names: names of layers, without a tower's suffix. A layer's normalization belongs to it, so "norm1_a/gamma"
        belongs to "norm1" or else to "conv1".
    """
    layer = layer_of(path)
    owner = "conv" + layer.removeprefix("norm") if layer.startswith("norm") else layer
    return next((name for name in (layer, owner) if name in names), None)


def assign_groups(options: Options, variables: Iterable[Variable]) -> list[optimizer.Rule]:
    """Assigns each variable to its group.

    Args:
      options: the values that do not change during training.
      variables: the trainable variables of a network.

    Returns:
      A rule for each variable: the index of its group into `LearningRates`, its weight decay, and the factor of its
      learning rate.
    """
    return [
        optimizer.Rule(
            GROUPS.index(group_of(variable.path, options.new_layers)),
            _weight_decay(options, variable),
            options.layer_factors.get(find_layer(variable.path, options.layer_factors), 1.0),
        )
        for variable in variables
    ]


def _weight_decay(options, variable):
    if not variable.path.endswith("kernel"):
        return options.bias_weight_decay
    is_dense = len(variable.shape) == 2
    return options.dense_weight_decay if is_dense and options.dense_weight_decay is not None else options.weight_decay
