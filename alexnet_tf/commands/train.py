"""Trains a network, or resumes a run.

alexnet-tf train --flagfile=quickstart --workdir=runs/quickstart
"""

import os
from collections.abc import Sequence

from absl import flags

from alexnet_tf import config
from alexnet_tf import flagfiles
from alexnet_tf.commands import interruptions
from alexnet_tf.commands import program
from alexnet_tf.training import stopping

FLAGS = flags.FlagValues()
_WORKDIR = flagfiles.define_path(
    "workdir", "", "directory of the run: configuration, checkpoints, logs, figures", flag_values=FLAGS
)
_PROFILE_STEPS = flags.DEFINE_list(
    "profile_steps",
    [],
    "first and last step to profile, such as 10,20, counted from the start of the run, even if it is resumed; for "
    "TensorBoard and profile_report",
    flag_values=FLAGS,
)
_WORKERS = flags.DEFINE_list(
    "workers",
    [],
    "HOST:PORT of every process, for distribute=multiworker; defaults to the addresses in TF_CONFIG",
    flag_values=FLAGS,
)
_WORKER_INDEX = flags.DEFINE_integer(
    "worker_index", None, "index of this process among the workers, from 0", lower_bound=0, flag_values=FLAGS
)


def main(argv: Sequence[str]) -> None:
    stop = stopping.Stop()
    train = lambda run_config: _train(run_config, stop)
    program.run(train, argv, __doc__, FLAGS, required=[_WORKDIR], stop=stop, for_process=_with_network)


def _with_network(run_config):
    """Returns the configuration with the network that ``initialize_from=auto`` takes, which decides about threads."""
    if run_config.initialize_from == config.AUTO:
        for directory in (_WORKDIR.value, config.IMPORTED_CONVOLUTIONS):
            path = os.path.join(directory, "config.flags")
            if os.path.isfile(path):
                return run_config.with_record(flagfiles.read_flagfile(path))
    return run_config


def _train(run_config, stop):
    from alexnet_tf.runs import train
    from alexnet_tf.training import distribution

    profile_steps = program.integers(_PROFILE_STEPS, "10,20")
    processes = distribution.start(
        run_config.distribute,
        _cluster(run_config),
        lambda line: print(line, flush=True),
        flagfiles.fixed_values(run_config.resolved(before_start=True)),
    )
    # TensorFlow's start replaces a handler.
    interruptions.handle(stop.request)
    train.train(run_config, _WORKDIR.value, profile_steps, processes=processes, stop=stop)


def _cluster(run_config):
    from alexnet_tf.training import distribution

    workers, index = _WORKERS.value, _WORKER_INDEX.value
    if run_config.distribute == "multiworker":
        return distribution.read_cluster(workers, index, os.environ.get("TF_CONFIG", ""))
    if workers or index is not None:
        raise ValueError(
            f"Expected distribute=multiworker with --workers and --worker_index. Received: {run_config.distribute}"
        )
    return None
