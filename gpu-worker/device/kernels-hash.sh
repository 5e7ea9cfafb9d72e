#!/usr/bin/env bash
# Prints a hash of the kernels' sources: results name it, so that it can be told whether they still
# measure the kernels that are here.
set -euo pipefail
cd "$(dirname "$0")/.."
find include src -type f | LC_ALL=C sort | xargs sha256sum | sha256sum | cut -c1-16
