#!/usr/bin/env bash
# Fails if the protos break clients of an earlier commit: check-breaking.sh BIN
#
# The earlier commit is where this branch left origin/main; on origin/main itself, the previous one.
set -euo pipefail
bin=$1
cd "$(dirname "$0")/.."
head=$(git rev-parse --verify --quiet HEAD) || {
  echo "protos: no git repository with a commit, so there is nothing to compare with"
  exit 0
}
base=$(git merge-base HEAD origin/main 2>/dev/null || true)
if [ -z "$base" ] || [ "$base" = "$head" ]; then
  base=$(git rev-parse --verify --quiet 'HEAD~1') || {
    echo "protos: $head has no parent here (a shallow clone?), so there is nothing to compare with"
    exit 0
  }
fi
earlier=$(mktemp -d)
trap 'rm -rf "$earlier"' EXIT
git archive "$base" buf.yaml protos | tar -x -C "$earlier"
"$bin/buf" breaking --against "$earlier" || {
  echo "protos: these changes break clients of commit $base; add fields and methods instead" >&2
  exit 1
}
echo "protos are compatible with commit ${base:0:12}"
