#!/usr/bin/env bash
# Fails when the protos break what clients of an earlier commit rely on: check-breaking.sh BIN
#
# The earlier commit is where this branch left origin/main, or, on origin/main itself, the one before.
set -euo pipefail
bin=$1
cd "$(dirname "$0")/.."
head=$(git rev-parse --verify --quiet HEAD) || {
  echo "protos: this is no git repository with a commit, so there is nothing to compare with"
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
  echo "protos: the above breaks clients of commit $base; add fields and methods instead" >&2
  exit 1
}
echo "protos break nothing of commit ${base:0:12}"
