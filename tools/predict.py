"""Names what is on photographs: by an exported network, or by a server that has one.

python tools/predict.py --saved_model=exports/quickstart cat.jpg dog.png
python tools/predict.py --server=localhost:8500 cat.jpg dog.png
"""

import json
import sys

import program
from absl import flags

flags.DEFINE_string("saved_model", "", "an export, or one version of it: asked in this process")
flags.DEFINE_string("server", "", "HOST:PORT of TensorFlow Serving, or http://HOST:PORT for REST")
flags.DEFINE_enum(
    "protocol", "auto", ["auto", "grpc", "rest"], "of --server; auto: rest for http:// and port 8501, else grpc"
)
flags.DEFINE_string("model_name", "alexnet", "under which --server has the network")
flags.DEFINE_float("timeout", 10.0, "seconds to wait for an answer of --server")
flags.DEFINE_integer("top", 5, "how many classes to show of each image", lower_bound=1)
flags.DEFINE_integer("batch_size", 32, "images in a request at most", lower_bound=1)
flags.DEFINE_boolean("json", False, "print a list in JSON instead")


def main(paths):
    from alexnet_tf.serving import classify

    if bool(flags.FLAGS.saved_model) == bool(flags.FLAGS.server):
        received = "both" if flags.FLAGS.server else "neither"
        program.fail(ValueError(f"Expected --saved_model or --server. Received: {received}"), program.USAGE_ERROR)
    # What the terminal cannot show of a bar or a name costs that character, not the answer.
    sys.stdout.reconfigure(errors="replace")
    with _backend() as backend:
        failed = _show(classify.classify_files(backend, paths, flags.FLAGS.batch_size))
    if failed:
        first = f"{failed[0].path}: {failed[0].error}"
        program.fail(ValueError(f"{len(failed)} of {len(paths)} images got no answer, the first {first}"), 1)


def _backend():
    from alexnet_tf.serving import client

    if flags.FLAGS.saved_model:
        return client.SavedModel(flags.FLAGS.saved_model)
    return client.open_server(flags.FLAGS.server, flags.FLAGS.protocol, flags.FLAGS.model_name, flags.FLAGS.timeout)


def _show(predictions):
    """Prints predictions, as text each when it comes; returns those without an answer."""
    from alexnet_tf.serving import classify

    shown = []
    for prediction in predictions:
        shown.append(prediction.top(flags.FLAGS.top))
        if not flags.FLAGS.json:
            print(classify.format_table(shown[-1:], flags.FLAGS.top), flush=True)
    if flags.FLAGS.json:
        print(json.dumps([prediction.as_dict() for prediction in shown], indent=2))
    return [prediction for prediction in shown if prediction.error]


if __name__ == "__main__":
    own = ["saved_model", "server", "protocol", "model_name", "timeout", "top", "batch_size", "json"]
    program.run_plain(main, __doc__, own, arguments="IMAGE...")
