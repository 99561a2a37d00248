#!/usr/bin/env bash
# Generates the stubs of the Python client and their types: generate-stubs.sh BIN OUT
#
# They import each other from magface_client.stubs and register their messages in its own
# descriptor pool, because the default pool refuses a second file with the same names.
set -euo pipefail
bin=$1 out=$2
cd "$(dirname "$0")/../.."
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
"$bin/python" -m grpc_tools.protoc -I protos --plugin=protoc-gen-mypy="$bin/protoc-gen-mypy" \
  --python_out="$made" --mypy_out=quiet:"$made" protos/magface/v1/*.proto
sed -i \
  -e 's/^from magface\.v1 import/from magface_client.stubs import/' \
  -e "s/'magface\.v1\.\([a-z]*_pb2\)', _globals/'magface_client.stubs.\1', _globals/" \
  -e 's/^from google\.protobuf import descriptor_pool as _descriptor_pool$/from magface_client.stubs import pool as _pool/' \
  -e 's/_descriptor_pool\.Default()/_pool.POOL/' \
  "$made"/magface/v1/*
cp "$made"/magface/v1/* "$out"
