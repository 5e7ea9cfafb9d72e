#!/usr/bin/env bash
# Prints a hash of the sources of one family of kernels, without comments and white space: results name
# it, so that it can be told whether they still measure the kernels that are here. Each family has its
# own list, so that a change of one does not age the results of the others. Which forms are chosen (src/kernels/variants.h, and variants.cpp, which reads others in their place)
# is in none: results name the forms that they were measured with, and scripts/nvcc-check.sh compares these.
#   gpu-worker/device/kernels-hash.sh FAMILY [folder with include/ and src/]
# Families: decode-attention, matrix, prefill-attention, page-selection, rows, engine (what drives them all).
set -euo pipefail
family=${1?a family of kernels}
cd "${2:-$(dirname "$0")/..}"
case $family in
  decode-attention)
    files=(
      include/leanedge_cuda/{decode_attention,page_flush}.h src/{cuda_status,launch}.h src/kernels
    )
    ;;
  matrix) files=(include/leanedge_cuda/matrix.h src/launch.h src/matrix) ;;
  prefill-attention) files=(include/leanedge_cuda/prefill_attention.h src/prefill) ;;
  page-selection) files=(include/leanedge_cuda/page_selection.h src/selection) ;;
  rows) files=(include/leanedge_cuda/{rows,sampling}.h src/rows) ;;
  engine) files=(src/engine) ;;
  *)
    echo "unknown family $family: decode-attention, matrix, prefill-attention, page-selection, rows, engine" >&2
    exit 2
    ;;
esac
find "${files[@]}" -type f ! -name "variants.*" | LC_ALL=C sort | xargs cat | sed 's://.*::' | tr -d '[:space:]' |
  sha256sum | cut -c1-16
