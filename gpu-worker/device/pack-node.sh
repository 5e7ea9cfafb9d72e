#!/usr/bin/env bash
# Packs what node-check.ts needs on a machine with a GPU that has neither Node nor npm, for `run.sh --node`:
#   gpu-worker/device/pack-node.sh [FOLDER]      default: gpu-worker/build/node
# Writes the Node of node_modules, stripped (node.xz, 26 MB), the addon (leanedge.node) and the check as
# one file (node-check.mjs). Compressing takes a minute; a Node that is there already is kept.
set -euo pipefail

cd "$(dirname "$0")/../.."
out=${1:-gpu-worker/build/node}
mkdir -p "$out"
scripts/build-addon.sh "$out"
rm -f "$out/libleanedge_reference.so"
node_modules/.bin/esbuild gpu-worker/device/node-check.ts --bundle --platform=node --format=esm \
  --log-level=warning --outfile="$out/node-check.mjs"
if [[ ! -f $out/node.xz ]]; then
  cp --dereference node_modules/node/bin/node "$out/node"
  strip "$out/node"
  xz --force "$out/node"
fi
ls -l "$out"
