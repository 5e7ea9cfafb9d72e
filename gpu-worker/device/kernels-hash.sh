#!/usr/bin/env bash
# Prints a hash of the kernels' sources without comments and white space: results name it, so that it can
# be told whether they still measure the kernels that are here.
#   gpu-worker/device/kernels-hash.sh [folder with include/ and src/]
set -euo pipefail
cd "${1:-$(dirname "$0")/..}"
find include src -type f | LC_ALL=C sort | xargs cat | sed 's://.*::' | tr -d '[:space:]' |
  sha256sum | cut -c1-16
