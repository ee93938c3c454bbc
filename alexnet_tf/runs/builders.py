"""Builds the parts of a run from its configuration: network, preprocessing, training step and checkpoints."""

import functools
import os
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Container
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from alexnet_tf import config
from alexnet_tf.data import augmentation
from alexnet_tf.data import photograph
from alexnet_tf.data import sampling
from alexnet_tf.data import statistics
from alexnet_tf.models import layers
from alexnet_tf.models import placement
from alexnet_tf.models import pooling
from alexnet_tf.models import registry
from alexnet_tf.training import checkpoint_files
from alexnet_tf.training import checkpoints
from alexnet_tf.training import optimizer
from alexnet_tf.training import parameter_groups
from alexnet_tf.training import schedules
from alexnet_tf.training import trainer

# Keras's dtype policy of each precision.
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def build_model(run_config: config.Config, num_classes: int, **changes: Any) -> keras.Model:
    """Builds the network of a configuration.

    Args:
      run_config: the resolved configuration.
      num_classes: number of classes.
      **changes: arguments of the network that differ from the configuration.

    Returns:
      The network, in which the layers of ``freeze`` are not trainable.

    Raises:
      ValueError: if ``freeze`` or ``layer_rates`` names a layer that the network does not have, or ``freeze`` all.
    """
    network = registry.find(run_config.network)
    arguments = {
        "num_classes": num_classes,
        "image_size": run_config.crop_size,
        "dtype": PRECISIONS[run_config.precision],
        "seed": run_config.seed,
        **network.arguments,
        **{name: getattr(run_config, name) for name in network.options},
        "devices": tower_devices(run_config) if registry.is_split(run_config.network, run_config.towers) else None,
        **changes,
    }
    if not network.has_towers:
        del arguments["devices"]
    model = registry.load_class(network)(**arguments)
    freeze_layers(model, run_config.freeze)
    check_layers("layer_rates", run_config.layer_rate_factors(), model)
    return model


def build_training_model(run_config: config.Config, num_classes: int, **changes: Any) -> keras.Model:
    """Builds the network of a configuration as `build_model` does, with its auxiliary heads, if it has any."""
    has_heads = registry.find(run_config.network).auxiliary_weight > 0
    return build_model(run_config, num_classes, **({"auxiliary_heads": True} if has_heads else {}), **changes)


def tower_devices(run_config: config.Config) -> tuple[str, str] | None:
    """Returns the devices of the two towers; None for one device, such as that of each replica.

    Raises:
      ValueError: as `placement.choose_devices`.
    """
    return placement.choose_devices(run_config.devices) if run_config.distribute == "none" else None


def check_layers(option: str, names: Iterable[str], model: keras.Model, *, include_heads: bool = False) -> None:
    """Checks that a network has the layers that an option names.

    Args:
      option: name of the option, for messages.
      names: names of layers, without a tower's suffix.
      model: the network.
      include_heads: whether the layers of auxiliary heads may be named, which only training has.

    Raises:
      ValueError: naming those that it does not have.
    """
    layers = [layer.name for layer in model.layers if layer.weights]
    if include_heads:
        layers += [variable.path for variable in model.weights]
    present = dict.fromkeys(map(parameter_groups.layer_of, layers))
    unknown = [name for name in names if name not in present]
    if unknown:
        raise ValueError(f"Expected {option} to name layers among {', '.join(present)}. Received: {', '.join(unknown)}")


def freeze_layers(model: keras.Model, names: Collection[str]) -> None:
    """Freezes layers of a network with their normalizations; batch normalization then uses its averages in training.

    Args:
      model: the network.
      names: names of layers, without a tower's suffix.

    Raises:
      ValueError: if the network has no such layer, or all of its layers are named.
    """
    check_layers("freeze", names, model)
    for layer in model.layers:
        if layer.weights and parameter_groups.find_layer(layer.name, names):
            layer.trainable = False
    if not model.trainable_variables:
        raise ValueError(f"Expected freeze to leave a layer to train. Received: all layers, {', '.join(names)}")


def describe_frozen(model: keras.Model) -> str:
    """Returns a sentence about the frozen layers of a network, and how many of its weights they have."""
    frozen = [layer for layer in model.layers if layer.weights and not layer.trainable]
    names = dict.fromkeys(parameter_groups.layer_of(layer.name) for layer in frozen)
    count = sum(layer.count_params() for layer in frozen)
    return f"Frozen: {', '.join(names)}, with {count:,} of the {model.count_params():,} weights."


def build_optimizer(run_config: config.Config, model: keras.Model) -> optimizer.MomentumSGD:
    """Builds the optimizer of a model's trainable variables, for the learning rates that `learning_rates` returns."""
    rules = parameter_groups.assign_groups(parameter_group_options(run_config), model.trainable_variables)
    variables = [variable.value for variable in model.trainable_variables]
    averaging = run_config.averaging == "polyak"
    return optimizer.MomentumSGD(variables, rules, momentum=run_config.momentum, averaging=averaging)


def build_schedule(run_config: config.Config, steps_per_epoch: int = 1) -> schedules.Schedule:
    """Builds the learning rate schedule of the weights.

    Args:
      run_config: the configuration.
      steps_per_epoch: only matters for ``drop_steps``.
    """
    return _warmed_up(run_config, _schedule(run_config, steps_per_epoch))


def _warmed_up(run_config, schedule):
    if not run_config.warmup_epochs:
        return schedule
    return schedules.WarmUp(schedule, run_config.warmup_epochs, start=run_config.warmup_start)


def _schedule(run_config, steps_per_epoch):
    if run_config.schedule == "plateau":
        return schedules.Plateau(
            factor=run_config.drop_factor, patience=run_config.patience, max_drops=run_config.max_drops
        )
    if run_config.schedule == "epochs":
        return schedules.Epochs(run_config.drop_epochs, factor=run_config.drop_factor)
    if run_config.schedule == "steps":
        # The progress at a step is the same quotient, so the rate drops at exactly that step.
        epochs = [step / steps_per_epoch for step in run_config.drop_steps]
        return schedules.Epochs(epochs, factor=run_config.drop_factor)
    if run_config.schedule == "exponential_steps":
        return schedules.ExponentialSteps(run_config.epochs, steps=run_config.rate_steps, span=run_config.rate_span)
    return schedules.Linear(run_config.epochs)


def parameter_group_options(run_config: config.Config) -> parameter_groups.Options:
    """Returns the options of the parameter groups."""
    bias_schedule = None
    if run_config.schedule == "exponential_steps":
        bias_schedule = schedules.ExponentialSteps(
            run_config.epochs, steps=run_config.bias_rate_steps, span=run_config.bias_rate_span
        )
        bias_schedule = _warmed_up(run_config, bias_schedule)
    return parameter_groups.Options(
        learning_rate=parameter_groups.scale_to_batch_size(
            run_config.learning_rate,
            run_config.batch_size,
            run_config.base_batch_size,
            run_config.learning_rate_scaling,
        ),
        bias_factor=run_config.bias_learning_rate_factor,
        bias_schedule=bias_schedule,
        max_bias_drops=run_config.max_bias_drops,
        conv1_slow_epoch=run_config.conv1_slow_epoch,
        conv1_frozen_epoch=run_config.conv1_frozen_epoch,
        new_layers=run_config.new_layers if run_config.initialize_from else (),
        new_layers_factor=run_config.new_layers_rate_factor,
        new_layers_epochs=run_config.new_layers_rate_epochs,
        layer_factors=run_config.layer_rate_factors(),
        weight_decay=run_config.weight_decay,
        dense_weight_decay=run_config.dense_weight_decay,
        bias_weight_decay=run_config.bias_weight_decay,
    )


def learning_rates(
    run_config: config.Config, schedule: schedules.Schedule, progress: float
) -> parameter_groups.LearningRates:
    """Returns the learning rates after `progress` epochs."""
    return parameter_groups.learning_rates(parameter_group_options(run_config), schedule, progress)


def step_rates(
    run_config: config.Config, schedule: schedules.Schedule, progress: float, steps_per_epoch: int
) -> tuple[float, ...]:
    """Returns what the update of the step after `progress` epochs takes: learning rates, and the averages' share."""
    rates = tuple(learning_rates(run_config, schedule, progress))
    if run_config.averaging == "none":
        return rates
    step = 1 + round(progress * steps_per_epoch)
    return (*rates, optimizer.average_share(step, run_config.averaging_steps))


def initial_rates(run_config: config.Config) -> tf.Tensor:
    """Returns what the update of the first step takes, float32 ``[6]``, or ``[7]`` with averages."""
    return tf.constant(step_rates(run_config, build_schedule(run_config), 0.0, 1), tf.float32)


def build_preprocessing(
    run_config: config.Config, image_statistics: statistics.Statistics
) -> Callable[[dict[str, tf.Tensor]], tuple[tf.Tensor, tf.Tensor]]:
    """Returns the compiled function from a batch of `pipeline.training_batches` to images and labels.

    Args:
      run_config: the resolved configuration.
      image_statistics: of the training images.

    Returns:
      A function to float32 ``[batch, crop_size, crop_size, 3]`` and int64 ``[batch]``.
    """
    shared = {
        "mean_image": tf.constant(image_statistics.mean_image),
        "components": tf.constant(image_statistics.components),
        "divisor": run_config.input_divisor,
        "scale": run_config.input_scale,
    }

    @tf.function(jit_compile=True, autograph=False)
    def compiled(batch):
        draws = run_config.color_noise * batch["noise"]
        places = batch["crops"], batch["offsets"]
        if run_config.crops == "area":
            size = run_config.crop_size
            return augmentation.area_images(*places, batch["sizes"], batch["flips"], draws, size=size, **shared)
        return augmentation.training_images(
            *places,
            batch["flips"],
            draws,
            mean_crop=run_config.mean_crop,
            upside_down=run_config.flips == "both",
            is_padded=run_config.pad > 0,
            **shared,
        )

    return lambda batch: (compiled(batch), batch["labels"])


def central_view(
    run_config: config.Config, image_statistics: statistics.Statistics
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the function from images to their center crops, as a run evaluates them.

    Args:
      run_config: the resolved configuration.
      image_statistics: of the training images.

    Returns:
      A function from uint8 ``[batch, image_size, image_size, 3]`` to float32 ``[batch, crop_size, crop_size, 3]``.
    """
    return functools.partial(
        augmentation.central_view,
        mean_image=image_statistics.mean_image,
        size=run_config.crop_size,
        scale=run_config.input_scale,
    )


def ten_views(
    run_config: config.Config, image_statistics: statistics.Statistics
) -> Callable[[tf.Tensor], list[tf.Tensor]]:
    """Returns the function from images to a list of their ten views, each as from `central_view`."""
    return functools.partial(
        augmentation.ten_views,
        mean_image=image_statistics.mean_image,
        mean_crop=run_config.mean_crop,
        size=run_config.crop_size,
        scale=run_config.input_scale,
    )


def build_sampling(
    run_config: config.Config, *, first_step: int, steps: int, worker: tuple[int, int] = (0, 1)
) -> sampling.Sampling:
    """Returns how the training batches of a configuration are drawn.

    Args:
      run_config: the resolved configuration.
      first_step, steps, worker: as in `sampling.Sampling`.
    """
    return sampling.Sampling(
        batch_size=run_config.batch_size,
        seed=run_config.seed,
        first_step=first_step,
        steps=steps,
        crop_size=run_config.crop_size,
        pad=run_config.pad,
        crops=run_config.crops,
        flips=run_config.flips,
        images_per_draw=run_config.images_per_draw,
        reshuffle=run_config.reshuffle,
        balanced=run_config.sampling == "balanced",
        noise_epochs=run_config.color_noise_epochs or None,
        worker=worker,
    )


def blank_statistics(run_config: config.Config | None = None) -> statistics.Statistics:
    """Returns statistics for synthetic images: a mean image of zeros, and unit vectors as principal components."""
    size = run_config.image_size if run_config else photograph.IMAGE_SIZE
    mean_image = np.zeros([size, size, 3], np.float32)
    return statistics.Statistics(mean_image, np.eye(3, dtype=np.float32), np.ones(3, np.float32), 0)


def build_trainer(
    run_config: config.Config,
    model: keras.Model,
    image_statistics: statistics.Statistics,
    strategy: tf.distribute.Strategy | None = None,
    class_weights: np.ndarray | None = None,
) -> trainer.Trainer:
    """Builds the training step of a configuration.

    Args:
      run_config: the resolved configuration.
      model: the network.
      image_statistics: of the training images.
      strategy: if given, each of its replicas takes the step. This function must be called in its scope.
      class_weights: as in `trainer.Trainer`.

    Raises:
      ValueError: if the step is to be compiled as one program, but the towers are on two devices.
    """
    jit_compile = compiles_step(run_config)
    # A benchmark may train another model than a network of the package.
    for layer in getattr(model, "training_layers", model.layers):
        if isinstance(layer, (layers.Dropout, pooling.MaxPooling2D)):
            layer.in_compiled_step = jit_compile
    return trainer.Trainer(
        model,
        build_optimizer(run_config, model),
        build_preprocessing(run_config, image_statistics),
        strategy,
        None if run_config.reduce_precision == "float32" else tf.dtypes.as_dtype(run_config.reduce_precision),
        class_weights,
        registry.find(run_config.network).auxiliary_weight,
        moving_statistics(model),
        jit_compile,
    )


def compiles_step(run_config: config.Config) -> bool:
    """Returns whether XLA compiles the training step of a configuration as one program.

    Raises:
      ValueError: if it is to be compiled, but the towers are on two devices.
    """
    if run_config.compile == "islands" or run_config.distribute != "none":
        return False
    is_split = registry.is_split(run_config.network, run_config.towers) and tower_devices(run_config)
    if run_config.compile == "auto":
        return not is_split and len(tf.config.list_logical_devices("GPU")) == 1
    if is_split:
        raise ValueError("Expected one device for compile=step, such as --devices=. Received: two GPUs for the towers")
    return True


def moving_statistics(model: keras.Model) -> list[tf.Variable]:
    """Returns the statistics that a network updates itself in training: those of batch normalizations."""
    return [
        variable.value
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
        for variable in layer.non_trainable_variables
    ]


def build_checkpoints(
    run_config: config.Config,
    model: keras.Model,
    momentum_sgd: optimizer.MomentumSGD | None,
    schedule: schedules.Schedule,
    class_names: Sequence[str],
    workdir: str | os.PathLike,
    only: Container[str] | None = None,
) -> checkpoints.Checkpoints:
    """Returns the checkpoints of a work directory.

    Args:
      run_config: the resolved configuration.
      model: the network, whose weights and dropout state are saved.
      momentum_sgd: its optimizer, whose velocities and averages are saved (frozen layers have none); None for
        evaluation, where the network's weights are the averages that a run of ``averaging`` has saved.
      schedule: the learning rate schedule.
      class_names: names of the classes, which must be the same to resume.
      workdir: the run's directory.
      only: paths of the variables to save; None for all.
    """
    variables = {variable.path: variable.value for variable in model.variables if only is None or variable.path in only}
    names = [variable.path for variable in model.trainable_variables]
    if momentum_sgd:
        variables |= {f"{name}/velocity": value for name, value in zip(names, momentum_sgd.velocities)}
        variables |= {checkpoint_files.average_name(name): value for name, value in zip(names, momentum_sgd.averages)}
    elif run_config.averaging == "polyak":
        variables |= {checkpoint_files.average_name(name): variables.pop(name) for name in names if name in variables}
    metadata = {"network": run_config.network, "recipe": run_config.recipe, "classes": list(class_names)}
    return checkpoints.Checkpoints(
        os.path.join(workdir, "checkpoints"),
        variables,
        schedule,
        metadata,
        every=run_config.checkpoint_steps,
        keep=run_config.keep_checkpoints,
    )
