"""Prints where the time of profiled training steps went, and what to fix first.

python tools/train.py --flagfile=flags/quickstart.flags --workdir=runs/quickstart --profile_steps=10,20
python tools/profile_report.py --workdir=runs/quickstart

The same profile in a browser: tensorboard --logdir=runs/quickstart/tensorboard, page Profile. Both need '.[profile]'.
"""

import program
from absl import flags

flags.DEFINE_string("workdir", "", "the run's directory, of whose profiles the newest counts; or one *.xplane.pb")
flags.DEFINE_string("json", "", "also write the figures to this file")


def main(rest):
    del rest
    from alexnet_tf.profiling import bottlenecks
    from alexnet_tf.profiling import trace
    from alexnet_tf.utils import files

    found = bottlenecks.measure(trace.read(trace.newest(program.require("workdir"))))
    if flags.FLAGS.json:
        files.write_json(flags.FLAGS.json, found)
    print(bottlenecks.to_text(found))


if __name__ == "__main__":
    program.run_plain(main, __doc__, ["workdir", "json"])
