"""Writes the files next to an export: server settings, commands that start and query a server, and the model card."""

import os
import textwrap
from collections.abc import Mapping
from typing import Any

from alexnet_tf.serving import protocol
from alexnet_tf.utils import escaping
from alexnet_tf.utils import files

_MODELS = """\
model_config_list {
  config {
    name: "NAME"
    base_path: "/models/NAME"
    model_platform: "tensorflow"
  }
}
"""

# No allowed_batch_sizes: the network takes any batch size, and each image of padding would have to be decoded.
_BATCHING = """\
# Concurrent requests are merged into batches of at most this many images. A request waits for others at most this long.
max_batch_size { value: 32 }
batch_timeout_micros { value: 2000 }
# Requests are rejected while this many batches are waiting.
max_enqueued_batches { value: 100 }
"""

_SERVE = """\
#!/bin/sh
# Serves the newest version in this directory: gRPC on port GRPC_PORT, REST on port REST_PORT.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
exec docker run --rm -p GRPC_PORT:GRPC_PORT -p REST_PORT:REST_PORT -v "$here:/models/NAME:ro" tensorflow/serving \\
    --model_config_file=/models/NAME/models.config \\
    --enable_batching --batching_parameters_file=/models/NAME/batching.config
"""

_REQUEST_SHELL = """\
#!/bin/sh
# Classifies an image over REST: sh request.sh image.jpg [host:port]
set -eu
[ -r "${1:-}" ] || { echo "Expected the path of a readable image. Received: ${1:-none}" >&2; exit 1; }
printf '{"inputs": {"image_bytes": [{"b64": "%s"}]}}' "$(base64 < "$1" | tr -d '\\n')" |
    curl --silent --show-error --data @- "http://${2:-localhost:REST_PORT}/v1/models/NAME:predict"
"""

_REQUEST_PYTHON = '''\
"""Classifies an image over gRPC: python request.py image.jpg [host:port]

Requires tensorflow-serving-api, which depends on the package tensorflow. If tensorflow-cpu is installed instead, use
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
        sys.exit(f"The request to {server} failed: {error.code().name} ({error.details()})")
classes, scores, errors = (tf.make_ndarray(response.outputs[name])[0] for name in ("classes", "scores", "errors"))
if errors:
    sys.exit(f"{path}: {errors.decode()}")
for name, score in zip(classes, scores):
    print(f"{100 * score:6.2f}%  {name.decode()}")
'''

_README = """\
# Serving NAME

Each numbered directory is a version of the model, described by its `model_card.md`. The server loads the newest one.

- `sh serve.sh` starts TensorFlow Serving with `models.config` and `batching.config`. It requires Docker, which
  downloads the image `tensorflow/serving` on first use.
- `sh request.sh image.jpg` classifies an image over REST.
- `python request.py image.jpg` classifies an image over gRPC. It requires the package `tensorflow-serving-api`.

## Signatures

| name | input | outputs |
|---|---|---|
| `serving_default` | `image_bytes`: image files of any size | `probabilities`, `classes`, `scores`, `errors` |
| `images` | `images`: uint8 RGB pixels, cropped to a square and resized | `probabilities`, `classes`, `scores` |
| `images_float` | `images`: the same as float32 | `probabilities`, `classes`, `scores`, `errors` |
| `probabilities` | `images`: the same as float32 | `probabilities`; converts to OpenVINO and LiteRT |
| `frames` | `frames`: decoded uint8 RGB images of any size | `probabilities`, `classes`, `scores` |
| `features` | `image_bytes` | `features` (the last layer's input), `errors` |

`classes` and `scores` are the names and probabilities of the most probable classes, in descending order.

`errors` contains an empty string for each image that was read, and otherwise the reason, such as a damaged file or NaN
among the pixels. Such an image does not fail the request, because the server merges requests of several clients into
one batch: check `errors`.
"""

_FILES = {
    "models.config": _MODELS,
    "batching.config": _BATCHING,
    "serve.sh": _SERVE,
    "request.sh": _REQUEST_SHELL,
    "request.py": _REQUEST_PYTHON,
    "README.md": _README,
}


def write(export_dir: str | os.PathLike, name: str) -> list[str]:
    """Writes the settings of a server and the commands that start and query it.

    Args:
      export_dir: directory of the versions.
      name: the server's name for the model.

    Returns:
      The paths of the files.
    """
    values = {"NAME": name, "GRPC_PORT": str(protocol.GRPC_PORT), "REST_PORT": str(protocol.REST_PORT)}
    paths = []
    for file_name, text in _FILES.items():
        for placeholder, value in values.items():
            text = text.replace(placeholder, value)
        paths.append(os.path.join(export_dir, file_name))
        with files.atomic_write(paths[-1]) as file:
            file.write(text)
    return paths


def write_card(card: Mapping[str, Any], directory: str | os.PathLike) -> None:
    """Writes the model card, ``model_card.json`` and ``model_card.md``.

    Args:
      card: JSON-serializable values by name. Dicts, lists and multi-line strings become sections of the Markdown file;
        values of None are written to the JSON file only.
      directory: directory of the version.
    """
    files.write_json(os.path.join(directory, "model_card.json"), card)
    with files.atomic_write(os.path.join(directory, "model_card.md")) as file:
        file.write(_markdown(card))


def _markdown(card):
    """Formats a card: first its plain values, then a section for each dict, list and multi-line string."""
    plain = {key: value for key, value in card.items() if not _is_section(value)}
    lines = [f"# {escaping.for_markdown(plain.pop('name', 'Model'))}", "", *_items(plain)]
    for key, value in card.items():
        if _is_section(value):
            lines += ["", f"## {_words(key).capitalize()}", ""]
        if isinstance(value, dict):
            lines += _items(value) if value else ["none recorded"]
        elif isinstance(value, list):
            lines += textwrap.wrap(", ".join(map(escaping.for_markdown, value)), 120)
        elif _is_section(value):
            lines.append(escaping.markdown_listing(value))
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
            shown = f"{value:.4g}" if isinstance(value, float) else escaping.for_markdown(value)
            yield f"{indent}- {_words(key)}: {shown}"


def _words(key):
    return escaping.for_markdown(key.replace("_", " "))
