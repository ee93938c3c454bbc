"""Builds the parts of a run from its configuration: network, preprocessing, training step and checkpoints."""

import functools
import os

import numpy as np
import tensorflow as tf

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

# Keras's names of the ways to calculate.
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def build_model(config, num_classes, **changes):
    """The network of a configuration; `changes` are other arguments of it."""
    network = registry.find(config.network)
    arguments = {
        "num_classes": num_classes,
        "image_size": config.crop_size,
        "dtype": PRECISIONS[config.precision],
        "seed": config.seed,
        **network.arguments,
        **{name: getattr(config, name) for name in network.options},
        "devices": home_devices(config) if registry.is_split(config.network, config.towers) else None,
        **changes,
    }
    if not network.has_towers:
        del arguments["devices"]
    return registry.load_class(network)(**arguments)


def home_devices(config):
    """The homes of the two towers; None for one device, which every replica of several has.

    Raises:
      ValueError: as `placement.choose_devices`.
    """
    return placement.choose_devices(config.devices) if config.distribute == "none" else None


def check_start(config, workdir):
    """Checks that the run that a new one begins with has a checkpoint; for a new one only.

    Raises:
      FileNotFoundError: if there is none.
      checkpoints.DamagedError: if there are some and none can be read.
    """
    if config.initialize_from and not checkpoints.paths(os.path.join(workdir, "checkpoints")):
        checkpoints.newest_checkpoint(os.path.join(config.initialize_from, "checkpoints"))


def initialize_weights(config, model):
    """Takes up the weights of the run that the configuration names, but for those of its new layers.

    Args:
      config: a `config.Config` with ``initialize_from``.
      model: the network; also of another number of classes than that run's, where its last layer is new.

    Returns:
      The checkpoint's path.

    Raises:
      FileNotFoundError: if that run has no checkpoint.
      ValueError: for a new layer that the network does not have, or another one that is not in the checkpoint or of
        another shape there.
    """
    names = {parameter_groups.layer_of(layer.name) for layer in model.layers if layer.trainable_weights}
    for new in config.new_layers:
        if new not in names:
            raise ValueError(f"Expected new_layers among {', '.join(sorted(names))}. Received: {new}")
    # What dropout has drawn so far is no weight.
    kept = {
        variable.path: variable.value
        for variable in model.variables
        if parameter_groups.layer_of(variable.path) not in config.new_layers and not variable.path.startswith("dropout")
    }
    try:
        return checkpoints.load_weights(os.path.join(config.initialize_from, "checkpoints"), kept)
    except ValueError as error:
        raise ValueError(f"{error}. Layers that shall start anew are named by new_layers") from None


def build_optimizer(config, model):
    """The optimizer of a model's variables, which takes the learning rates that `learning_rates` returns."""
    rules = parameter_groups.assign_groups(parameter_group_options(config), model.trainable_variables)
    variables = [variable.value for variable in model.trainable_variables]
    return optimizer.MomentumSGD(variables, rules, momentum=config.momentum)


def build_schedule(config):
    """The learning rate schedule of the weights."""
    if config.schedule == "plateau":
        return schedules.Plateau(factor=config.drop_factor, patience=config.patience, max_drops=config.max_drops)
    if config.schedule == "epochs":
        return schedules.Epochs(config.drop_epochs, factor=config.drop_factor)
    if config.schedule == "exponential_steps":
        return schedules.ExponentialSteps(config.epochs, steps=config.rate_steps, span=config.rate_span)
    return schedules.Linear(config.epochs)


def parameter_group_options(config):
    """The `parameter_groups.Options` of a configuration."""
    bias_schedule = None
    if config.schedule == "exponential_steps":
        bias_schedule = schedules.ExponentialSteps(
            config.epochs, steps=config.bias_rate_steps, span=config.bias_rate_span
        )
    return parameter_groups.Options(
        learning_rate=parameter_groups.scale_to_batch_size(
            config.learning_rate, config.batch_size, config.base_batch_size, config.learning_rate_scaling
        ),
        bias_factor=config.bias_learning_rate_factor,
        bias_schedule=bias_schedule,
        max_bias_drops=config.max_bias_drops,
        conv1_slow_epoch=config.conv1_slow_epoch,
        conv1_frozen_epoch=config.conv1_frozen_epoch,
        new_layers=config.new_layers if config.initialize_from else (),
        new_layers_factor=config.new_layers_rate_factor,
        new_layers_epochs=config.new_layers_rate_epochs,
        weight_decay=config.weight_decay,
        dense_weight_decay=config.dense_weight_decay,
        bias_weight_decay=config.bias_weight_decay,
    )


def learning_rates(config, schedule, progress):
    """The `parameter_groups.LearningRates` after `progress` epochs."""
    return parameter_groups.learning_rates(parameter_group_options(config), schedule, progress)


def initial_rates(config):
    """The learning rates of the first step, float32 ``[6]``."""
    return tf.constant(learning_rates(config, build_schedule(config), 0.0), tf.float32)


def build_preprocessing(config, image_statistics):
    """The function from a batch of `pipeline.training_batches` to (images, labels), compiled for the device."""
    prepare = functools.partial(
        augmentation.training_images,
        mean_image=tf.constant(image_statistics.mean_image),
        components=tf.constant(image_statistics.components),
        mean_crop=config.mean_crop,
        divisor=config.input_divisor,
        scale=config.input_scale,
        upside_down=config.flips == "both",
    )

    @tf.function(jit_compile=True, autograph=False)
    def compiled(batch):
        draws = config.color_noise * batch["noise"]
        return prepare(batch["crops"], batch["offsets"], batch["flips"], draws)

    return lambda batch: (compiled(batch), batch["labels"])


def build_sampling(config, *, first_step, steps, worker=(0, 1)):
    """Returns the `sampling.Sampling` of a configuration: how its training batches are drawn.

    Args:
      config: a resolved `config.Config`.
      first_step, steps, worker: as in `sampling.Sampling`.
    """
    return sampling.Sampling(
        batch_size=config.batch_size,
        seed=config.seed,
        first_step=first_step,
        steps=steps,
        crop_size=config.crop_size,
        crops=config.crops,
        flips=config.flips,
        images_per_draw=config.images_per_draw,
        reshuffle=config.reshuffle,
        noise_epochs=config.color_noise_epochs or None,
        worker=worker,
    )


def blank_statistics(config=None):
    """Statistics for made-up images: no mean, components of length one."""
    size = config.image_size if config else photograph.IMAGE_SIZE
    mean_image = np.zeros([size, size, 3], np.float32)
    return statistics.Statistics(mean_image, np.eye(3, dtype=np.float32), np.ones(3, np.float32), 0)


def build_trainer(config, model, image_statistics, strategy=None):
    """The training step of a configuration; with a ``tf.distribute.Strategy``, in whose scope this is called, of each
    of its replicas."""
    return trainer.Trainer(
        model,
        build_optimizer(config, model),
        build_preprocessing(config, image_statistics),
        strategy,
        None if config.reduce_precision == "float32" else tf.dtypes.as_dtype(config.reduce_precision),
    )


def build_checkpoints(config, model, momentum_sgd, schedule, class_names, workdir):
    """The checkpoints of a work directory: weights, dropout's state and, with an optimiser, velocities."""
    variables = {variable.path: variable.value for variable in model.variables}
    if momentum_sgd:
        names = [variable.path for variable in model.trainable_variables]
        variables |= {f"{name}/velocity": value for name, value in zip(names, momentum_sgd.velocities)}
    metadata = {"network": config.network, "recipe": config.recipe, "classes": list(class_names)}
    return checkpoints.Checkpoints(
        os.path.join(workdir, "checkpoints"),
        variables,
        schedule,
        metadata,
        every=config.checkpoint_steps,
        keep=config.keep_checkpoints,
    )
