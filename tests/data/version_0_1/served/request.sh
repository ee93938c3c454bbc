#!/bin/sh
# Asks the server by REST: sh request.sh photograph.jpg [host:port]
set -eu
[ -r "${1:-}" ] || { echo "Expected a photograph that can be read. Received: ${1:-none}" >&2; exit 1; }
printf '{"inputs": {"image_bytes": [{"b64": "%s"}]}}' "$(base64 < "$1" | tr -d '\n')" |
    curl --silent --show-error --data @- "http://${2:-localhost:8501}/v1/models/alexnet:predict"
