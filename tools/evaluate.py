"""Evaluates a run, or several as an ensemble: top-1 and top-5 error of the central crop and of ten views.

python tools/evaluate.py --workdir=runs/quickstart
python tools/evaluate.py --workdir=runs/first,runs/second,runs/third

The runs' own configurations count; of the flags below only --source and --data_dir, where the data set has moved.
"""

import program
from absl import flags

flags.DEFINE_list("workdir", [], "directories in which tools/train.py ran; of several, the ensemble's errors too")
flags.DEFINE_string(
    "split", "", "validation, test or train; empty for what training watched: validation, or test where there is none"
)
flags.DEFINE_float("search_fraction", 0.5, "share of each class that an ensemble's weights are searched on")
flags.DEFINE_integer("search_seed", 0, "seed of that draw", lower_bound=0)


def main(config):
    from alexnet_tf.runs import evaluate

    evaluate.evaluate(
        program.require("workdir"),
        flags.FLAGS.split,
        source=config.source,
        data_dir=config.data_dir,
        search_fraction=flags.FLAGS.search_fraction,
        search_seed=flags.FLAGS.search_seed,
    )


if __name__ == "__main__":
    program.run(main, __doc__, ["workdir", "split", "search_fraction", "search_seed"])
