#!/bin/sh
# Serves the newest version here: gRPC on port 8500, REST on port 8501.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
exec docker run --rm -p 8500:8500 -p 8501:8501 -v "$here:/models/alexnet:ro" tensorflow/serving \
    --model_config_file=/models/alexnet/models.config \
    --enable_batching --batching_parameters_file=/models/alexnet/batching.config
