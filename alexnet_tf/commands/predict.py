"""Classifies images with a trained network, in this process or on a server.

alexnet-tf predict --model=pretrained:tiny_imagenet_small cat.jpg dog.png
alexnet-tf predict --saved_model=served/quickstart cat.jpg dog.png
alexnet-tf predict --server=localhost:8500 cat.jpg dog.png
alexnet-tf predict --saved_model=served/quickstart --csv=predictions.csv photographs

An IMAGE is an image file; a folder, which is searched with all folders below it; a pattern such as
'photographs/*.jpg'; or a text file (*.txt) with a path on each line. --csv writes a row for each
image, with a progress bar, whatever their number. Unreadable images are listed (status 1).
"""

import json
import sys
from collections.abc import Sequence

from absl import flags

from alexnet_tf import flagfiles
from alexnet_tf.commands import program
from alexnet_tf.utils import escaping
from alexnet_tf.utils import pathnames

FLAGS = flags.FlagValues()
_SAVED_MODEL = flagfiles.define_path(
    "saved_model", "", "an export, or one version of it, to run in this process", flag_values=FLAGS
)
_MODEL = flagfiles.define_path(
    "model", "", "a trained run, or pretrained:NAME, to run in this process", flag_values=FLAGS
)
_CHECKPOINT = program.define_checkpoint(FLAGS)
_SERVER = flags.DEFINE_string(
    "server", "", "HOST:PORT of TensorFlow Serving, or http://HOST:PORT for REST", flag_values=FLAGS
)
_PROTOCOL = flags.DEFINE_enum(
    "protocol",
    "auto",
    ["auto", "grpc", "rest"],
    "protocol of --server; auto: rest for http:// and port 8501, otherwise grpc",
    flag_values=FLAGS,
)
_MODEL_NAME = flags.DEFINE_string("model_name", "alexnet", "name of the model on --server", flag_values=FLAGS)
_TIMEOUT = flags.DEFINE_float("timeout", 10.0, "seconds to wait for an answer of --server", flag_values=FLAGS)
_TOP = flags.DEFINE_integer("top", 5, "number of classes to print per image", lower_bound=1, flag_values=FLAGS)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 32, "maximum number of images per request", lower_bound=1, flag_values=FLAGS
)
_JSON = flags.DEFINE_boolean("json", False, "print a JSON list instead of a table", flag_values=FLAGS)
_CSV = flagfiles.define_path(
    "csv",
    "",
    "write a table of the most probable classes of each image to this file, instead of printing them",
    flag_values=FLAGS,
)


def main(argv: Sequence[str]) -> None:
    program.run_plain(_predict, argv, __doc__, FLAGS, arguments="IMAGE...")


def _predict(paths):
    from alexnet_tf.data import image_files
    from alexnet_tf.serving import classify

    given = [f"--{holder.name}" for holder in (_MODEL, _SAVED_MODEL, _SERVER) if holder.value]
    if len(given) != 1:
        raise program.UsageError(
            f"Expected exactly one of --model, --saved_model and --server. Received: {' and '.join(given) or 'none'}"
        )
    if _CSV.value and _JSON.value:
        raise program.UsageError("Expected at most one of --csv and --json. Received: both")
    found = image_files.find_or_keep([pathnames.expand(path) for path in paths])
    for note in found.notes:
        print(escaping.one_line(f"warning: {note}"), file=sys.stderr)
    if _CSV.value:
        _write_csv(found.paths)
        return
    paths = found.paths
    # A character that the terminal cannot show is replaced instead of ending the program.
    sys.stdout.reconfigure(errors="replace")
    with _open_backend() as backend:
        failed = _print(classify.classify_files(backend, paths, _BATCH_SIZE.value))
    if failed:
        first = f"{failed[0].path}: {failed[0].error}"
        raise ValueError(f"{len(failed)} of {len(paths)} images could not be classified, the first {first}")


def _write_csv(paths):
    from alexnet_tf.runs import predictions
    from alexnet_tf.utils import csv_files

    csv_files.check(_CSV.value)
    with _open_backend() as backend:
        failures = predictions.write_classified(
            _CSV.value, backend, paths, top=_TOP.value, batch_size=_BATCH_SIZE.value
        )
    if failures.count:
        raise ValueError(f"{failures.count} of {len(paths)} images could not be classified, the first {failures.first}")


def _open_backend():
    from alexnet_tf.serving import client

    if not _SERVER.value:
        program.report_unused([_PROTOCOL, _MODEL_NAME, _TIMEOUT], "without --server")
        if _MODEL.value:
            return _open_run()
        program.report_unused([_CHECKPOINT], "without --model")
        return client.SavedModel(_SAVED_MODEL.value)
    program.report_unused([_CHECKPOINT], "without --model")
    return client.open_server(_SERVER.value, _PROTOCOL.value, _MODEL_NAME.value, _TIMEOUT.value)


def _open_run():
    from alexnet_tf.runs import backend
    from alexnet_tf.runs import pretrained

    run = backend.Run(_MODEL.value, _CHECKPOINT.value)
    if not _MODEL.value.startswith(pretrained.PREFIX):
        print(escaping.one_line(f"checkpoint {run.checkpoint}"), file=sys.stderr)
    return run


def _print(predictions):
    """Prints predictions, text as each arrives; returns those that failed."""
    from alexnet_tf.serving import classify

    shown = []
    for prediction in predictions:
        shown.append(prediction.top(_TOP.value))
        if not _JSON.value:
            print(classify.format_table(shown[-1:], _TOP.value), flush=True)
    if _JSON.value:
        print(json.dumps([prediction.as_dict() for prediction in shown], indent=2))
    return [prediction for prediction in shown if prediction.error]
