"""Trains AlexNet, and goes on where a work directory stands.

python tools/train.py --flagfile=flags/quickstart.flags --workdir=runs/quickstart
"""

import os
import signal

import program
from absl import flags

from alexnet_tf.training import stopping

flags.DEFINE_list("workers", [], "with --distribute=multiworker: HOST:PORT of all processes; else TF_CONFIG tells")
flags.DEFINE_integer("worker_index", None, "this process's place among the workers, from 0", lower_bound=0)
flags.DEFINE_string("workdir", "", "the run's directory: configuration, checkpoints, logs, figures")
flags.DEFINE_list(
    "profile_steps",
    [],
    "profile these steps, the first and the last, such as 10,20, counted from 1 at the start of the run, also in a run "
    "that is resumed; for TensorBoard and tools/profile_report.py",
)


def main(config):
    from alexnet_tf.runs import train
    from alexnet_tf.training import distribution

    workdir, profile_steps = program.require("workdir"), _numbers(flags.FLAGS.profile_steps)
    stop = stopping.Stop()
    # While it waits for other workers; and again behind the start, in which TensorFlow takes the signal for itself.
    signal.signal(signal.SIGTERM, stop.request)
    processes = distribution.start(config.distribute, _cluster(config), lambda line: print(line, flush=True))
    signal.signal(signal.SIGTERM, stop.request)
    train.train(config, workdir, profile_steps, processes=processes, stop=stop)


def _cluster(config):
    from alexnet_tf.training import distribution

    workers, index = flags.FLAGS.workers, flags.FLAGS.worker_index
    if config.distribute == "multiworker":
        return distribution.read_cluster(workers, index, os.environ.get("TF_CONFIG", ""))
    if workers or index is not None:
        raise ValueError(f"Expected --distribute=multiworker with workers. Received: {config.distribute}")
    return None


def _numbers(texts):
    try:
        return tuple(int(text) for text in texts)
    except ValueError:
        raise ValueError(f"Expected profile_steps such as 10,20. Received: {','.join(texts)}") from None


if __name__ == "__main__":
    program.run(main, __doc__, ["workdir", "profile_steps", "workers", "worker_index"])
