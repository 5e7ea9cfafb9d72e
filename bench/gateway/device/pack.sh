#!/usr/bin/env bash
# Packs what a machine without npm and network needs for run.sh beside this file:
#   bench/gateway/device/pack.sh [FOLDER]      default: bench/gateway/device/build
# Into it go the benchmark, the gateway's bundle with workerd's configuration, Portkey's gateway (where `npm run peers` has installed
# it), Node and workerd, stripped and compressed, in parts of at most 28 MB each. Both programs want glibc 2.35 and x86-64.
# What is newer than its sources is kept. LEANEDGE_NODE=none: without Node, for machines that have it.
set -euo pipefail

cd "$(dirname "$0")/../../.."
out=${1:-bench/gateway/device/build}
part_bytes=28000000
# As main.ts beside this file has it.
processes=4
mkdir -p "$out"
out=$(realpath "$out")
PATH=$PWD/node_modules/.bin:$PATH

# compressed NAME FILE: NAME.xz, or NAME.xz.aa and so on, unless they are there.
compressed() {
  [[ -z $(find "$out" -name "$1.xz*" -newer "$2") ]] || return 0
  local work
  work=$(mktemp -d)
  cp --dereference "$2" "$work/$1"
  strip "$work/$1"
  xz "$work/$1"
  rm -f "$out/$1".xz*
  if (($(stat --format=%s "$work/$1.xz") > part_bytes)); then
    split --bytes=$part_bytes "$work/$1.xz" "$out/$1.xz."
  else
    mv "$work/$1.xz" "$out/"
  fi
  rm -r "$work"
}

# bundled NAME SOURCE: packages have parts that ask for `require`.
bundled() {
  esbuild "$2" --bundle --platform=node --format=esm --log-level=warning --outfile="$out/$1.mjs" \
    --banner:js='import { createRequire as requireOf } from "node:module"; const require = requireOf(import.meta.url);'
}

bundled gateway bench/gateway/device/main.ts
bundled run-stub bench/gateway/run-stub.ts
bundled run-clients bench/gateway/run-clients.ts
portkey=bench/peers/node_modules/@portkey-ai/gateway/build/start-server.js
if [[ -e $portkey ]]; then
  bundled portkey "$portkey"
else
  echo "pack: without Portkey's gateway, which needs \`npm run peers\`" >&2
fi
node --import tsx bench/gateway/device/write-gateway.ts "$out/gateway" 1 "$processes"
compressed workerd "$(node -p 'require("workerd").default')"
if [[ ${LEANEDGE_NODE-} != none ]]; then compressed node node_modules/node/bin/node; fi
git rev-parse HEAD >"$out/commit"
if [[ -n $(git status --porcelain src bench/gateway bench/support) ]]; then
  echo "pack: sources differ from the last commit: results will name a commit that has other ones" >&2
fi
du -ch "$out"/* | sort -h
