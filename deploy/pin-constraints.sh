#!/usr/bin/env bash
# Prints the installed versions as pip constraints: pin-constraints.sh BIN
set -euo pipefail
echo "# Versions that were tested together; \`make setup\` installs these. Regenerate with \`make constraints\`."
# torch pins the CUDA wheels itself, and they exist on Linux only.
"$1/pip" list --format=freeze | grep -viE '^(nvidia-|cuda-|triton|pip=|setuptools=|magface)'
