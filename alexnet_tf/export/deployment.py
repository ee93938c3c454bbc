"""What lies beside an export, ready to use: a server's settings, commands that start and ask it, a model's card."""

import os
import textwrap

from alexnet_tf.serving import client
from alexnet_tf.utils import files

GRPC_PORT = 8500

_MODELS = """\
model_config_list {
  config {
    name: "NAME"
    base_path: "/models/NAME"
    model_platform: "tensorflow"
  }
}
"""

# Sizes need no rounding up (allowed_batch_sizes): the network takes any, and a photograph that fills up costs its
# decoding.
_BATCHING = """\
# As many requests as wait are answered together, at most so many photographs; the first of them waits at most so long.
max_batch_size { value: 32 }
batch_timeout_micros { value: 2000 }
# Beyond so many batches in waiting a request is refused at once.
max_enqueued_batches { value: 100 }
"""

_SERVE = """\
#!/bin/sh
# Serves the newest version here: gRPC on port GRPC_PORT, REST on port REST_PORT.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
exec docker run --rm -p GRPC_PORT:GRPC_PORT -p REST_PORT:REST_PORT -v "$here:/models/NAME:ro" tensorflow/serving \\
    --model_config_file=/models/NAME/models.config \\
    --enable_batching --batching_parameters_file=/models/NAME/batching.config
"""

_REQUEST_SHELL = """\
#!/bin/sh
# Asks the server by REST: sh request.sh photograph.jpg [host:port]
set -eu
[ -r "${1:-}" ] || { echo "Expected a photograph that can be read. Received: ${1:-none}" >&2; exit 1; }
printf '{"inputs": {"image_bytes": [{"b64": "%s"}]}}' "$(base64 < "$1" | tr -d '\\n')" |
    curl --silent --show-error --data @- "http://${2:-localhost:REST_PORT}/v1/models/NAME:predict"
"""

_REQUEST_PYTHON = '''\
"""Asks the server by gRPC: python request.py photograph.jpg [host:port]

It needs tensorflow-serving-api, which requires the package tensorflow; beside tensorflow-cpu install it by
pip install --no-deps tensorflow-serving-api
"""

import sys

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.apis import prediction_service_pb2_grpc

path, server = (sys.argv[1:] + ["localhost:GRPC_PORT"])[:2]
request = predict_pb2.PredictRequest()
request.model_spec.name = "NAME"
request.model_spec.signature_name = "serving_default"
with open(path, "rb") as file:
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([file.read()]))
with grpc.insecure_channel(server) as channel:
    try:
        response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=10)
    except grpc.RpcError as error:
        sys.exit(f"Expected an answer of {server}. Received: {error.code().name} ({error.details()})")
classes, scores, errors = (tf.make_ndarray(response.outputs[name])[0] for name in ("classes", "scores", "errors"))
if errors:
    sys.exit(f"{path}: {errors.decode()}")
for name, score in zip(classes, scores):
    print(f"{100 * score:6.2f} %  {name.decode()}")
'''

_README = """\
# NAME, served

Each number is a version of the model, with a `model_card.md` of its own; the server takes the newest.

- `sh serve.sh` starts TensorFlow Serving with `models.config` and `batching.config` (needs Docker and the image
  `tensorflow/serving`).
- `sh request.sh photograph.jpg` asks it by REST, `python request.py photograph.jpg` by gRPC.

Signatures: `serving_default` takes files (`image_bytes`, JPEG or PNG of any size) and answers with `probabilities`,
`classes` and `scores` (the most probable first), and `errors`: empty, or why a photograph could not be read. A bad file
never fails a call, as a server answers several requests in one; look at `errors`. `images` and `images_float` take
prepared pixels, `frames` decoded pictures of any size, `features` answers with what the last layer reads.
"""

_FILES = {
    "models.config": _MODELS,
    "batching.config": _BATCHING,
    "serve.sh": _SERVE,
    "request.sh": _REQUEST_SHELL,
    "request.py": _REQUEST_PYTHON,
    "README.md": _README,
}


def write(export_dir, name):
    """Writes a server's settings and the commands that start and ask it.

    Args:
      export_dir: where the versions are.
      name: of the model.

    Returns:
      The list of the files' paths.
    """
    paths = []
    for file_name, text in _FILES.items():
        for word, value in (("NAME", name), ("GRPC_PORT", str(GRPC_PORT)), ("REST_PORT", str(client.REST_PORT))):
            text = text.replace(word, value)
        paths.append(os.path.join(export_dir, file_name))
        with files.atomic_write(paths[-1]) as file:
            file.write(text)
    return paths


def write_card(card, directory):
    """Writes a model's card, ``model_card.json`` and ``model_card.md``.

    Args:
      card: dict of values for JSON; dicts in it become sections. What is None stands in the JSON alone.
      directory: of the version.
    """
    files.write_json(os.path.join(directory, "model_card.json"), card)
    with files.atomic_write(os.path.join(directory, "model_card.md")) as file:
        file.write(_markdown(card))


def _markdown(card):
    """A card as text: first its plain values, then a section for each dict, list, and text of several lines."""
    plain = {key: value for key, value in card.items() if not _is_section(value)}
    lines = [f"# {plain.pop('name', 'Model')}", "", *_items(plain)]
    for key, value in card.items():
        if _is_section(value):
            lines += ["", f"## {_words(key).capitalize()}", ""]
        if isinstance(value, dict):
            lines += _items(value) if value else ["none recorded"]
        elif isinstance(value, list):
            lines += textwrap.wrap(", ".join(map(str, value)), 120)
        elif _is_section(value):
            lines += ["```", value.rstrip(), "```"]
    return "\n".join(lines) + "\n"


def _is_section(value):
    return isinstance(value, (dict, list)) or "\n" in str(value)


def _items(values, indent=""):
    for key, value in values.items():
        if value is None:
            continue
        if isinstance(value, dict):
            yield f"{indent}- {_words(key)}:"
            yield from _items(value, f"{indent}  ")
        else:
            yield f"{indent}- {_words(key)}: {f'{value:.4g}' if isinstance(value, float) else value}"


def _words(key):
    return key.replace("_", " ")
