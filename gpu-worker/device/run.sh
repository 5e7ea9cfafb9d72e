#!/usr/bin/env bash
# Builds the kernels on a machine with a GPU, checks them, and measures them: one call, everything.
#   OUT=<folder> gpu-worker/device/run.sh [--masks <folder>] [--commit <hash>] [--library <file>]
#     [--sanitizer <tools>]
# Needs nvcc 13.0, cmake, ninja, g++, Python with torch. --masks: the published channel masks (default
# ../shared/plans); --commit: what the results name where the tree has no git; --library: an already
# built libleanedge_cuda_harness.so; --sanitizer: tools of compute-sanitizer to run the small checks
# under (default "memcheck racecheck", 25 s and 200 s; "" for none). Nothing is measured unless every check has passed. Writes into
# $OUT (default: gpu-worker/build/results): the logs of checks, sanitizer.log, and decode-attention,
# prefill-attention and page-selection as .json and .md.
set -euo pipefail

cd "$(dirname "$0")/../.."
root=$PWD
masks=$root/../shared/plans
commit=$(git rev-parse HEAD 2>/dev/null || echo unknown)
library=
sanitizer="memcheck racecheck"
command="gpu-worker/device/run.sh $*"
while (($# > 0)); do
  case $1 in
    --masks) masks=$(realpath "$2") ;;
    --commit) commit=$2 ;;
    --sanitizer) sanitizer=$2 ;;
    --library) library=$(realpath "$2") ;;
    *)
      echo "unknown argument $1" >&2
      exit 2
      ;;
  esac
  shift 2
done
out=${OUT:-$root/gpu-worker/build/results}
mkdir -p "$out"

if [[ -z $library ]]; then
  build=$root/gpu-worker/build/device
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
  [[ $capability == 90 ]] && capability=90a
  cmake -S gpu-worker -B "$build" -G Ninja -DCMAKE_CUDA_ARCHITECTURES="$capability-real" >"$out/build.log"
  cmake --build "$build" >>"$out/build.log" || { tail -n 40 "$out/build.log" && exit 1; }
  library=$build/libleanedge_cuda_harness.so
fi
export LEANEDGE_CUDA_LIBRARY=$library LEANEDGE_MASKS=$masks LEANEDGE_COMMIT=$commit OUT=$out
LEANEDGE_COMMAND=$command LEANEDGE_KERNELS=$(gpu-worker/device/kernels-hash.sh decode-attention)
export LEANEDGE_COMMAND LEANEDGE_KERNELS PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

cd gpu-worker/device
echo "== checks"
checks=(check check_prefill_attention check_page_selection)
for check in "${checks[@]}"; do
  python3 "$check.py" >"$out/$check.log" 2>&1 || { grep -v '^ok' "$out/$check.log" && exit 1; }
  echo "$check: $(tail -n 1 "$out/$check.log")"
done
echo "== compute-sanitizer"
: >"$out/sanitizer.log"
for tool in $sanitizer; do
  for check in "${checks[@]}"; do
    compute-sanitizer --tool "$tool" --error-exitcode 9 python3 "$check.py" --small \
      >"$out/$tool.log" 2>&1 || { tail -n 30 "$out/$tool.log" && exit 1; }
    { echo "$tool $check" && tail -n 2 "$out/$tool.log"; } | tee -a "$out/sanitizer.log"
    rm "$out/$tool.log"
  done
done
echo "== measurements"
python3 bench.py
LEANEDGE_KERNELS=$(./kernels-hash.sh prefill-attention)
python3 bench_prefill_attention.py
python3 bench_page_selection.py
