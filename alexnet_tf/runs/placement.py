"""Measures what each device does in one training step of a configuration, and what is transferred between devices."""

import dataclasses
import os

import tensorflow as tf

from alexnet_tf import config
from alexnet_tf.profiling import placement_report
from alexnet_tf.runs import builders
from alexnet_tf.utils import files


def placement_account(run_config: config.Config, num_classes: int, json_path: str | os.PathLike = "") -> str:
    """Returns the placement report of one training step on blank images.

    Args:
      run_config: the configuration; its data set is not read.
      num_classes: number of classes of the network.
      json_path: also write the report to this file as JSON; empty for no file.

    Returns:
      The report as text, from `placement_report.table`.

    Raises:
      ValueError: for an invalid configuration or a device that does not exist.
    """
    # Within one program of XLA, there are no operations to observe.
    run_config = dataclasses.replace(run_config.resolved(), compile="islands")
    model = builders.build_model(run_config, num_classes)
    trainer = builders.build_trainer(run_config, model, builders.blank_statistics(run_config))
    rates = builders.initial_rates(run_config)
    report = placement_report.placement_report(trainer.step, _blank_batch(run_config), rates)
    if json_path:
        files.write_json(json_path, placement_report.as_dict(report))
    return placement_report.table(report)


def _blank_batch(run_config):
    """A batch as `pipeline.training_batches` yields it, of zeros."""
    size, crop = run_config.batch_size, run_config.crop_size
    return {
        "crops": tf.zeros([size, crop, crop, 3], tf.uint8),
        "offsets": tf.zeros([size, 2], tf.int32),
        "flips": tf.zeros([size, 2], tf.bool),
        "labels": tf.zeros([size], tf.int64),
        "noise": tf.zeros([size, 3], tf.float32),
    }
