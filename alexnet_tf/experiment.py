"""From a configuration to the parts of a run: network, data, learning and their account."""

import functools
import os

import numpy as np
import tensorflow as tf

from alexnet_tf import dataset
from alexnet_tf import files
from alexnet_tf import model as network
from alexnet_tf import placement
from alexnet_tf.data import augmentation
from alexnet_tf.data import pipeline
from alexnet_tf.data import statistics
from alexnet_tf.evaluation import errors
from alexnet_tf.training import account as step_account
from alexnet_tf.training import actions
from alexnet_tf.training import optimization
from alexnet_tf.training import trainer as training

# Examples a step of evaluation; ten views make ten times as many crops.
EVALUATION_BATCH = 64
# Keras's names of the ways to calculate.
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def build_model(config, num_classes, **changes):
    """The network of a configuration; `changes` are other arguments of `AlexNet`."""
    arguments = {
        "recipe": config.recipe,
        "devices": placement.choose_devices(config.devices),
        "dtype": PRECISIONS[config.precision],
        "dropout": config.dropout,
        "initialization": config.initialization,
        "seed": config.seed,
        **changes,
    }
    return network.AlexNet(num_classes, **arguments)


def build_optimizer(config, model):
    """The update rule for a model's variables: learning rate 0 is the weights', 1 the biases'."""
    rules = [
        optimization.Rule(1, config.bias_weight_decay)
        if variable.path.endswith("bias")
        else optimization.Rule(0, config.weight_decay)
        for variable in model.trainable_variables
    ]
    variables = [variable.value for variable in model.trainable_variables]
    return optimization.MomentumSGD(variables, rules, momentum=config.momentum)


def build_schedule(config):
    """The schedule of the learning rate."""
    if config.schedule == "plateau":
        return optimization.Plateau(factor=config.drop_factor, patience=config.patience, most_drops=config.most_drops)
    if config.schedule == "epochs":
        return optimization.Epochs(config.drop_epochs, factor=config.drop_factor)
    return optimization.Linear(config.epochs)


def learning_rates(config, schedule, progress):
    """The rates of weights and biases after `progress` epochs."""
    weights = config.learning_rate * schedule.multiplier(progress)
    biases = config.learning_rate * schedule.multiplier(progress, config.most_bias_drops)
    return [weights, biases * config.bias_learning_rate_factor]


def initial_rates(config):
    """The rates of weights and biases at the start, as a step takes them: float32 ``[2]``."""
    return tf.constant(learning_rates(config, build_schedule(config), 0.0), tf.float32)


def build_preparation(config, facts):
    """The function from a batch of `pipeline.training_batches` to (images, labels), compiled for the device."""
    prepare = functools.partial(
        augmentation.training_images,
        mean_image=tf.constant(facts.mean_image),
        components=tf.constant(facts.components),
        mean_crop=config.mean_crop,
        divisor=config.input_divisor,
        scale=config.input_scale,
        upside_down=config.flips == "both",
    )

    @tf.function(jit_compile=True)
    def compiled(batch):
        draws = config.color_noise * batch["noise"]
        return prepare(batch["crops"], batch["offsets"], batch["flips"], draws)

    return lambda batch: (compiled(batch), batch["labels"])


def blank_statistics():
    """Statistics for made-up images: no mean, components of length one."""
    mean_image = np.zeros([pipeline.IMAGE_SIZE, pipeline.IMAGE_SIZE, 3], np.float32)
    return statistics.Statistics(mean_image, np.eye(3, dtype=np.float32), np.ones(3, np.float32), 0)


def build_trainer(config, model, facts):
    """The training step of a configuration."""
    return training.Trainer(model, build_optimizer(config, model), build_preparation(config, facts))


def build_checkpoints(config, model, optimizer, schedule, source, workdir):
    """The checkpoints of a work directory: weights, dropout's state and, with an optimiser, velocities."""
    variables = {variable.path: variable.value for variable in model.variables}
    if optimizer:
        names = [variable.path for variable in model.trainable_variables]
        variables |= {f"{name}/velocity": value for name, value in zip(names, optimizer.velocities)}
    facts = {"network": "alexnet", "recipe": config.recipe, "classes": source.class_names}
    return actions.Checkpoints(
        os.path.join(workdir, "checkpoints"),
        variables,
        schedule,
        facts,
        every=config.checkpoint_steps,
        keep=config.keep_checkpoints,
    )


def evaluate_split(probabilities, data, split, ways, console=None):
    """`errors.evaluate` over a split of the data, with a progress bar if there is a console."""
    examples = data.examples[split]
    batches = pipeline.evaluation_batches(examples, batch_size=EVALUATION_BATCH)
    with dataset.progress_bar(console) as bar:
        task = bar.add_task(f"evaluating {len(examples)} {split} images", total=len(examples))
        return errors.evaluate(
            probabilities,
            batches,
            ways=ways,
            num_classes=len(data.source.class_names),
            num_examples=len(examples),
            progress=lambda done: bar.update(task, completed=done),
        )


def placement_account(config, num_classes, json_path=""):
    """What each device does in one training step of a configuration, and what crosses.

    Args:
      config: a `config.Config`.
      num_classes: int.
      json_path: where to write the account for machines; empty for nowhere.

    Returns:
      The account as text, from `training.account`.

    Raises:
      ValueError: for a bad configuration or a device that is not there.
    """
    config = config.resolved()
    trainer = build_trainer(config, build_model(config, num_classes), blank_statistics())
    size = config.batch_size
    batch = {
        "crops": tf.zeros([size, pipeline.CROP_SIZE, pipeline.CROP_SIZE, 3], tf.uint8),
        "offsets": tf.zeros([size, 2], tf.int32),
        "flips": tf.zeros([size, 2], tf.bool),
        "labels": tf.zeros([size], tf.int64),
        "noise": tf.zeros([size, 3], tf.float32),
    }
    rates = initial_rates(config)
    found = step_account.account(trainer.step, batch, rates)
    if json_path:
        files.write_json(json_path, step_account.as_dict(found))
    return step_account.table(found)
