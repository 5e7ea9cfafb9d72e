#!/usr/bin/env bash
# Packs what a machine with a GPU needs that has neither Node nor npm nor network, for `run.sh --pack`:
#   gpu-worker/device/pack.sh [--masks FOLDER] [FOLDER]      default: gpu-worker/build/pack
# Into it go the engine, the harness of the kernels, with and without clock marks, and the reference as libraries (scripts/build-cuda.sh, for
# sm_90a), the addon, Node, stripped (node.xz, 26 MB), the programs that run in it as one file each, and the
# published masks (default ../shared/plans) where they are. What is newer than its sources is kept.
set -euo pipefail

cd "$(dirname "$0")/../.."
masks=../shared/plans
if [[ ${1-} == --masks ]]; then
  masks=$2
  shift 2
fi
out=${1:-gpu-worker/build/pack}
mkdir -p "$out"
built=gpu-worker/build/cuda-90a
scripts/build-cuda.sh --architectures 90a --marks "$built"
scripts/build-addon.sh "$built"
cp "$built/leanedge.node" "$out/"
for library in "$built"/*.so; do xz --stdout "$library" >"$out/$(basename "$library").xz"; done

for program in node-check worker-bench eval-run; do
  # Connect's packages have parts that ask for `require`.
  node_modules/.bin/esbuild "gpu-worker/device/$program.ts" --bundle --platform=node --format=esm --log-level=warning \
    --banner:js='import { createRequire as r } from "node:module"; const require = r(import.meta.url);' \
    --outfile="$out/$program.mjs"
done
if [[ -d $masks ]]; then
  mkdir -p "$out/plans"
  cp "$masks"/*.json "$out/plans/"
fi
if [[ ! -f $out/node.xz ]]; then
  cp --dereference node_modules/node/bin/node "$out/node"
  strip "$out/node"
  xz --force "$out/node"
fi
# What run.sh compares with the tree that it runs in, and what results name.
git rev-parse HEAD >"$out/commit"
if [[ -n $(git status --porcelain engine/include engine/src gpu-worker/include gpu-worker/src) ]]; then
  echo "pack: sources differ from the last commit: results will name a commit that has other ones" >&2
fi
for family in decode-attention matrix prefill-attention page-selection rows engine; do
  echo "$family $(gpu-worker/device/kernels-hash.sh "$family")"
done >"$out/kernels"
du -ch "$out"/* | sort -h
