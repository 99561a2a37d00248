#!/usr/bin/env bash
# Generates the Python stubs and their types: generate-stubs.sh BIN OUT
set -euo pipefail
bin=$1 out=$2
cd "$(dirname "$0")/.."
"$bin/python" -m grpc_tools.protoc -I protos \
  --plugin=protoc-gen-mypy="$bin/protoc-gen-mypy" \
  --plugin=protoc-gen-mypy_grpc="$bin/protoc-gen-mypy_grpc" \
  --python_out="$out" --mypy_out=quiet:"$out" protos/magface/v1/*.proto
"$bin/python" -m grpc_tools.protoc -I protos \
  --plugin=protoc-gen-mypy_grpc="$bin/protoc-gen-mypy_grpc" \
  --grpc_python_out="$out" --mypy_grpc_out=quiet:"$out" \
  protos/magface/v1/{embedder,feedback,trainer}.proto
