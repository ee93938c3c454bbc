"""Starts a data service, which makes training batches for other processes.

alexnet-tf data_service --port=5050
alexnet-tf train --data_service=grpc://localhost:5050 --data_dir=prepared --workdir=runs/one

Other machines can join at any time with --dispatcher=grpc://HOST:5050. The prepared data set must
have the same path on all of them. The service runs until it receives SIGINT (Ctrl-C), SIGHUP or
SIGTERM.
"""

import threading
from collections.abc import Sequence

from absl import flags

from alexnet_tf.commands import interruptions
from alexnet_tf.commands import program

FLAGS = flags.FlagValues()
_PORT = flags.DEFINE_integer(
    "port", 5050, "port of the service; 0 for any free one", lower_bound=0, upper_bound=65535, flag_values=FLAGS
)
_HOST = flags.DEFINE_string(
    "host", "localhost", "name of this machine for trainers and data workers", flag_values=FLAGS
)
_DISPATCHER = flags.DEFINE_string(
    "dispatcher", "", "grpc://HOST:PORT of a service to join; empty to start one", flag_values=FLAGS
)
_WORKER = flags.DEFINE_boolean(
    "worker", True, "make batches in this process; if false, only assign work to others", flag_values=FLAGS
)
_WORKER_PORT = flags.DEFINE_integer(
    "worker_port",
    0,
    "port from which batches are fetched; 0 for any free one",
    lower_bound=0,
    upper_bound=65535,
    flag_values=FLAGS,
)


def main(argv: Sequence[str]) -> None:
    program.run_plain(_serve, argv, __doc__, FLAGS)


def _serve(_):
    import tensorflow as tf

    from alexnet_tf.data import service

    # Decoding runs on CPUs, and training may need all memory of the GPUs.
    tf.config.set_visible_devices([], "GPU")
    ended = threading.Event()
    interruptions.handle(lambda *_: ended.set())
    with service.serving(
        host=_HOST.value,
        port=_PORT.value,
        dispatcher=_DISPATCHER.value,
        worker=_WORKER.value,
        worker_port=_WORKER_PORT.value,
    ) as address:
        print(f"{'data worker of' if _DISPATCHER.value else 'data service at'} {address}", flush=True)
        ended.wait()
