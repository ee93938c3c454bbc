"""Writes images as 256 x 256 pixels in shards: a TFDS data set that is fast to read.

alexnet-tf prepare --source=folder:photographs --data_dir=prepared

The statistics that training needs are written as well. If it is interrupted, the same command
resumes. With --verify it reads a finished data set again and compares it with its manifest.
"""

from collections.abc import Sequence

from absl import flags

from alexnet_tf.commands import program
from alexnet_tf.training import stopping

FLAGS = flags.FlagValues()
_STORAGE = flags.DEFINE_string(
    "storage", "jpeg", "jpeg; or raw: pixels, five times as large but faster to read", flag_values=FLAGS
)
_JPEG_QUALITY = flags.DEFINE_integer("jpeg_quality", 95, "quality of JPEG images, 1 to 100", flag_values=FLAGS)
_SHARD_EXAMPLES = flags.DEFINE_integer("shard_examples", 4096, "number of images per shard", flag_values=FLAGS)
_VERIFY = flags.DEFINE_boolean("verify", False, "check the data set in --data_dir instead", flag_values=FLAGS)

# What is prepared; everything else of a configuration applies to training.
FIELDS = (
    "source",
    "nested_folders",
    "data_dir",
    "validation_fraction",
    "split_seed",
    "split_rule",
    "seed",
    *program.PROCESS_FIELDS,
)


def main(argv: Sequence[str]) -> None:
    stop = stopping.Stop("stopped; nothing half-written remains, and the same command resumes from the last shard")
    program.run(_prepare, argv, __doc__, FLAGS, fields=FIELDS, stop=stop)


def _prepare(run_config):
    from alexnet_tf.data import prepare
    from alexnet_tf.runs import dataset
    from alexnet_tf.utils import output

    console = output.Console()
    if _VERIFY.value:
        if not run_config.data_dir:
            raise program.UsageError("Expected --data_dir. Received: none")
        program.report_unused([_STORAGE, _JPEG_QUALITY, _SHARD_EXAMPLES], "with --verify")
        dataset.verify_data_dir(run_config.data_dir, console)
        return
    if _STORAGE.value == "raw":
        program.report_unused([_JPEG_QUALITY], "with --storage=raw")
    options = prepare.Options(_STORAGE.value, _JPEG_QUALITY.value, _SHARD_EXAMPLES.value, run_config.seed)
    dataset.prepare_data_dir(run_config, options, console)
