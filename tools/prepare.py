"""Writes photographs as 256 x 256 images in shards with their statistics: a TFDS data set, made once, read fast.

python tools/prepare.py --source=folder:photographs --data_dir=prepared

The same command goes on where it was stopped. --verify reads a finished data set again and compares it with its
manifest.
"""

import program
from absl import flags

flags.DEFINE_string("storage", "jpeg", "jpeg, or raw: the pixels, five times as large and cheaper to read")
flags.DEFINE_integer("jpeg_quality", 95, "1 to 100")
flags.DEFINE_integer("shard_examples", 4096, "photographs a shard")
flags.DEFINE_boolean("verify", False, "read the data set in data_dir from end to end instead")


def main(config):
    import rich.console

    from alexnet_tf.data import prepare
    from alexnet_tf.runs import dataset

    console = rich.console.Console(soft_wrap=True, highlight=False)
    if flags.FLAGS.verify:
        dataset.verify_data_dir(program.require("data_dir"), console)
        return
    own = flags.FLAGS
    options = prepare.Options(own.storage, own.jpeg_quality, own.shard_examples, config.seed)
    dataset.prepare_data_dir(config, options, console)


if __name__ == "__main__":
    program.run(main, __doc__, ["storage", "jpeg_quality", "shard_examples", "verify"])
