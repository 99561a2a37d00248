#!/usr/bin/env bash
# Prints the versions installed now as pip constraints: pin-constraints.sh BIN
set -euo pipefail
echo "# Versions that were tested together; \`make setup\` installs these. Regenerate with \`make constraints\`."
# CUDA's wheels follow torch's own pins and exist on Linux only.
"$1/pip" list --format=freeze | grep -viE '^(nvidia-|cuda-|triton|pip=|setuptools=|magface)'
