#!/usr/bin/env bash
# Fails if the checked-in stubs differ from newly generated ones: check-stubs.sh BIN
set -euo pipefail
bin=$1
cd "$(dirname "$0")/.."
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
deploy/generate-stubs.sh "$bin" "$fresh"
for file in "$fresh"/magface/v1/*; do
  cmp -s "$file" "protos/magface/v1/$(basename "$file")" || {
    echo "protos/magface/v1/$(basename "$file") is stale: run 'make protos' and commit it" >&2
    exit 1
  }
done
echo "stubs are up to date"
