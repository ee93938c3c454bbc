"""Work directories like those of finished runs, with untrained networks."""

import dataclasses
import os
import pathlib

import numpy as np

from alexnet_tf import config
from alexnet_tf import flagfiles
from alexnet_tf.data import statistics
from alexnet_tf.runs import builders

CLASS_NAMES = ["defective", "sound"]
# With He initialization, predictions differ between images even without training.
CONFIG = config.Config(initialization="he", input_scale=0.02, seed=3, source="elpv").resolved()
SMALL = dataclasses.replace(CONFIG, network="cifar10_18", image_size=36, crop_size=32)


def make_run(workdir, run_config, class_names=CLASS_NAMES, step=7):
    """Writes a work directory like that of a finished run."""
    pathlib.Path(workdir).mkdir(parents=True, exist_ok=True)
    (pathlib.Path(workdir) / "config.flags").write_text(flagfiles.to_text(run_config))
    generator = np.random.default_rng(1)
    mean_image = generator.uniform(60, 140, [run_config.image_size, run_config.image_size, 3]).astype(np.float32)
    image_statistics = statistics.Statistics(mean_image, np.eye(3, dtype=np.float32), np.ones(3, np.float32), 123)
    statistics.save(image_statistics, os.path.join(workdir, "statistics.npz"))
    model = builders.build_model(run_config, len(class_names))
    schedule = builders.build_schedule(run_config)
    builders.build_checkpoints(run_config, model, None, schedule, class_names, workdir).save(step)
    return str(workdir)
