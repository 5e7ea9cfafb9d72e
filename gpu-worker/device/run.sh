#!/usr/bin/env bash
# Builds the CUDA backend on a machine with a GPU, checks it, and measures it: one call, everything.
#   OUT=<folder> gpu-worker/device/run.sh [--families "<family> ..."] [--masks <folder>] [--commit <hash>]
#     [--build <folder>] [--sanitizer "<tool> ..."] [--node <folder>]
# Needs nvcc 13.0, cmake, ninja, g++, Python with torch and transformers. --families: which of
# decode-attention, matrix, prefill-attention, page-selection, rows, engine (default: all); --masks: the
# published channel masks (default ../shared/plans); --commit: what the results name where the tree has no
# git; --build: a folder with the three libraries already built; --sanitizer: tools of compute-sanitizer to
# run the small checks of decode attention under (default "memcheck racecheck", 25 s and 200 s; "" for none);
# --node: what pack-node.sh has packed, to check the engine in Node beside the WASM module.
# A family is measured only if its checks have passed. Writes into $OUT (default: gpu-worker/build/results):
# a check log a family, sanitizer.log, and for each measured family FAMILY.json and .md.
set -euo pipefail

cd "$(dirname "$0")/../.."
root=$PWD
families="decode-attention matrix prefill-attention page-selection rows engine"
masks=$root/../shared/plans
commit=$(git rev-parse HEAD 2>/dev/null || echo unknown)
build=
sanitizer="memcheck racecheck"
node=
command="gpu-worker/device/run.sh $*"
while (($# > 0)); do
  case $1 in
    --families) families=$2 ;;
    --masks) masks=$(realpath "$2") ;;
    --commit) commit=$2 ;;
    --sanitizer) sanitizer=$2 ;;
    --build) build=$(realpath "$2") ;;
    --node) node=$(realpath "$2") ;;
    *)
      echo "unknown argument $1" >&2
      exit 2
      ;;
  esac
  shift 2
done
out=${OUT:-$root/gpu-worker/build/results}
mkdir -p "$out"

if [[ -z $build ]]; then
  build=$root/gpu-worker/build/device
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
  [[ $capability == 90 ]] && capability=90a
  cmake -S gpu-worker -B "$build" -G Ninja -DCMAKE_CUDA_ARCHITECTURES="$capability-real" >"$out/build.log"
  cmake --build "$build" >>"$out/build.log" || { tail -n 40 "$out/build.log" && exit 1; }
fi
export LEANEDGE_MASKS=$masks LEANEDGE_COMMIT=$commit OUT=$out LEANEDGE_COMMAND=$command
export LEANEDGE_REFERENCE_LIBRARY=$build/libleanedge_reference.so
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

# scripts FAMILY: sets check and bench, and the library that they load.
scripts() {
  export LEANEDGE_CUDA_LIBRARY=$build/libleanedge_cuda_harness.so
  case $1 in
    decode-attention) check=(check.py) bench=(bench.py) ;;
    engine)
      check=(check_engine.py) bench=(bench_engine.py --masks "$masks")
      export LEANEDGE_CUDA_LIBRARY=$build/libleanedge_cuda.so
      ;;
    *) check=("check_${1//-/_}.py") bench=("bench_${1//-/_}.py") ;;
  esac
}

cd gpu-worker/device
failed=0
for family in $families; do
  scripts "$family"
  LEANEDGE_KERNELS=$(./kernels-hash.sh "$family")
  export LEANEDGE_KERNELS
  echo "== $family"
  if ! python3 "${check[@]}" >"$out/$family-check.log" 2>&1; then
    grep -v '^ok' "$out/$family-check.log" || true
    failed=1
    continue
  fi
  tail -n 1 "$out/$family-check.log"
  if [[ $family == decode-attention ]]; then
    : >"$out/sanitizer.log"
    for tool in $sanitizer; do
      compute-sanitizer --tool "$tool" --error-exitcode 9 python3 check.py --small \
        >"$out/$tool.log" 2>&1 || { tail -n 30 "$out/$tool.log" && exit 1; }
      { echo "$tool" && tail -n 2 "$out/$tool.log"; } | tee -a "$out/sanitizer.log"
      rm "$out/$tool.log"
    done
  fi
  if ((${#bench[@]} > 0)); then python3 "${bench[@]}"; fi
done
if [[ -n $node ]]; then
  echo "== Node"
  [[ -f $node/node ]] || xz --decompress --keep "$node/node.xz"
  chmod +x "$node/node"
  LEANEDGE_KERNELS=$(./kernels-hash.sh engine)
  models=$root/models/leanedge-seed-29m
  "$node/node" "$node/node-check.mjs" --addon "$node/leanedge.node" --library "$build/libleanedge_cuda.so" \
    --wasm "$root/wasm/prebuilt/leanedge-simd128.wasm" --model "$models-q4_0.gguf" --memory 4096 \
    --plan "$models.leank-50.json" --plan "$models.leank-70-int4.json" 2>&1 |
    tee "$out/node-check.log" || failed=1
fi
exit "$failed"
