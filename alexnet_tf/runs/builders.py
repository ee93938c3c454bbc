"""Builds the parts of a run from its configuration: network, preprocessing, training step and checkpoints."""

import functools
import os
from collections.abc import Callable
from collections.abc import Container
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
from alexnet_tf.models import placement
from alexnet_tf.models import registry
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
    return registry.load_class(network)(**arguments)


def tower_devices(run_config: config.Config) -> tuple[str, str] | None:
    """Returns the devices of the two towers; None for one device, such as that of each replica.

    Raises:
      ValueError: as `placement.choose_devices`.
    """
    return placement.choose_devices(run_config.devices) if run_config.distribute == "none" else None


def check_initialization(run_config: config.Config, workdir: str | os.PathLike) -> None:
    """Checks that ``initialize_from`` has a checkpoint, unless the work directory already has one to resume from.

    Raises:
      FileNotFoundError: if there is no checkpoint.
      checkpoints.DamagedError: if there are checkpoints, but none can be read.
    """
    if run_config.initialize_from and not checkpoints.paths(os.path.join(workdir, "checkpoints")):
        checkpoints.newest_checkpoint(os.path.join(run_config.initialize_from, "checkpoints"))


def initialize_weights(run_config: config.Config, model: keras.Model) -> str:
    """Initializes a network with the weights of another run, except for the new layers.

    Args:
      run_config: with ``initialize_from`` and ``new_layers``.
      model: the network. It may have a different number of classes than the other run if its last layer is new.

    Returns:
      The path of the other run's checkpoint.

    Raises:
      FileNotFoundError: if the other run has no checkpoint.
      ValueError: if the network has no such new layer, or if another layer is not in the checkpoint or has a different
        shape there.
    """
    names = {parameter_groups.layer_of(layer.name) for layer in model.layers if layer.trainable_weights}
    for new in run_config.new_layers:
        if new not in names:
            raise ValueError(f"Expected new_layers among {', '.join(sorted(names))}. Received: {new}")
    # The random state of dropout is not a weight.
    kept = {
        variable.path: variable.value
        for variable in model.variables
        if parameter_groups.layer_of(variable.path) not in run_config.new_layers
        and not variable.path.startswith("dropout")
    }
    try:
        return checkpoints.load_weights(os.path.join(run_config.initialize_from, "checkpoints"), kept)
    except ValueError as error:
        raise ValueError(f"{error}. Name layers to initialize at random in new_layers") from None


def build_optimizer(run_config: config.Config, model: keras.Model) -> optimizer.MomentumSGD:
    """Builds the optimizer of a model's variables. It takes the learning rates that `learning_rates` returns."""
    rules = parameter_groups.assign_groups(parameter_group_options(run_config), model.trainable_variables)
    variables = [variable.value for variable in model.trainable_variables]
    return optimizer.MomentumSGD(variables, rules, momentum=run_config.momentum)


def build_schedule(run_config: config.Config) -> schedules.Schedule:
    """Builds the learning rate schedule of the weights."""
    if run_config.schedule == "plateau":
        return schedules.Plateau(
            factor=run_config.drop_factor, patience=run_config.patience, max_drops=run_config.max_drops
        )
    if run_config.schedule == "epochs":
        return schedules.Epochs(run_config.drop_epochs, factor=run_config.drop_factor)
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
        weight_decay=run_config.weight_decay,
        dense_weight_decay=run_config.dense_weight_decay,
        bias_weight_decay=run_config.bias_weight_decay,
    )


def learning_rates(
    run_config: config.Config, schedule: schedules.Schedule, progress: float
) -> parameter_groups.LearningRates:
    """Returns the learning rates after `progress` epochs."""
    return parameter_groups.learning_rates(parameter_group_options(run_config), schedule, progress)


def initial_rates(run_config: config.Config) -> tf.Tensor:
    """Returns the learning rates of the first step, float32 ``[6]``."""
    return tf.constant(learning_rates(run_config, build_schedule(run_config), 0.0), tf.float32)


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
    augment = functools.partial(
        augmentation.training_images,
        mean_image=tf.constant(image_statistics.mean_image),
        components=tf.constant(image_statistics.components),
        mean_crop=run_config.mean_crop,
        divisor=run_config.input_divisor,
        scale=run_config.input_scale,
        upside_down=run_config.flips == "both",
    )

    @tf.function(jit_compile=True, autograph=False)
    def compiled(batch):
        draws = run_config.color_noise * batch["noise"]
        return augment(batch["crops"], batch["offsets"], batch["flips"], draws)

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
        crops=run_config.crops,
        flips=run_config.flips,
        images_per_draw=run_config.images_per_draw,
        reshuffle=run_config.reshuffle,
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
) -> trainer.Trainer:
    """Builds the training step of a configuration.

    Args:
      run_config: the resolved configuration.
      model: the network.
      image_statistics: of the training images.
      strategy: if given, each of its replicas takes the step. This function must be called in its scope.
    """
    return trainer.Trainer(
        model,
        build_optimizer(run_config, model),
        build_preprocessing(run_config, image_statistics),
        strategy,
        None if run_config.reduce_precision == "float32" else tf.dtypes.as_dtype(run_config.reduce_precision),
    )


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
      momentum_sgd: its optimizer, whose velocities are saved; None for evaluation.
      schedule: the learning rate schedule.
      class_names: names of the classes, which must be the same to resume.
      workdir: the run's directory.
      only: paths of the variables to save; None for all.
    """
    variables = {variable.path: variable.value for variable in model.variables if only is None or variable.path in only}
    if momentum_sgd:
        names = [variable.path for variable in model.trainable_variables]
        variables |= {f"{name}/velocity": value for name, value in zip(names, momentum_sgd.velocities)}
    metadata = {"network": run_config.network, "recipe": run_config.recipe, "classes": list(class_names)}
    return checkpoints.Checkpoints(
        os.path.join(workdir, "checkpoints"),
        variables,
        schedule,
        metadata,
        every=run_config.checkpoint_steps,
        keep=run_config.keep_checkpoints,
    )
