#!/usr/bin/env bash
# Fails if the checked-in stubs differ from newly generated ones: check-stubs.sh BIN
set -euo pipefail
bin=$1
cd "$(dirname "$0")/.."
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
mkdir "$fresh/server" "$fresh/client"
deploy/generate-stubs.sh "$bin" "$fresh/server"
clients/python/generate-stubs.sh "$bin" "$fresh/client"
check() { # FOLDER OF NEW STUBS, FOLDER OF CHECKED-IN STUBS
  for file in "$1"/*; do
    cmp -s "$file" "$2/$(basename "$file")" || {
      echo "$2/$(basename "$file") is stale: run 'make protos' and commit it" >&2
      exit 1
    }
  done
}
check "$fresh/server/magface/v1" protos/magface/v1
check "$fresh/client" clients/python/magface_client/stubs
echo "stubs are up to date"
