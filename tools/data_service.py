"""Makes training batches for other processes: a data service, for training that waits for its input.

python tools/data_service.py --port=5050
python tools/train.py --data_service=grpc://localhost:5050 --data_dir=prepared --workdir=runs/one

More machines join with --dispatcher=grpc://HOST:5050, at any time. The prepared data set must have the same name on
all of them. It ends at a signal (Ctrl-C).
"""

import signal
import threading

import program
from absl import flags

flags.DEFINE_integer("port", 5050, "where trainers ask; 0 for any that is free", lower_bound=0, upper_bound=65535)
flags.DEFINE_string("host", "localhost", "the name under which trainers and data workers reach this machine")
flags.DEFINE_string("dispatcher", "", "grpc://HOST:PORT of a service to work for; empty begins one")
flags.DEFINE_boolean("worker", True, "make batches here too; without, only tell which data worker makes which")
flags.DEFINE_integer("worker_port", 0, "where batches are fetched; 0: any", lower_bound=0, upper_bound=65535)

OWN_FLAGS = ["port", "host", "dispatcher", "worker", "worker_port"]


def main(rest):
    import tensorflow as tf

    from alexnet_tf.data import service

    # Decoding needs none, and training may need all of its memory.
    tf.config.set_visible_devices([], "GPU")
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    own = flags.FLAGS
    with service.serving(
        host=own.host, port=own.port, dispatcher=own.dispatcher, worker=own.worker, worker_port=own.worker_port
    ) as address:
        print(f"{'data worker of' if own.dispatcher else 'data service at'} {address}", flush=True)
        ended.wait()


if __name__ == "__main__":
    program.run_plain(main, __doc__, OWN_FLAGS)
