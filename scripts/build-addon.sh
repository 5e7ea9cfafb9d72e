#!/bin/sh
# Builds the Node addon, and beside it the engine with its scalar reference as a library that the addon
# can load: what shows on a machine without a GPU that the whole way from TypeScript down works.
#
#   scripts/build-addon.sh [FOLDER]     default: gpu-worker/build/addon
#
# Writes leanedge.node and libleanedge_reference.so; several runs at once do no harm. Needs a C++20 compiler (CXX chooses) and the npm
# package node-api-headers. Nothing is done where everything is newer than the sources.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-$root/gpu-worker/build/addon}
headers=$root/node_modules/node-api-headers/include
test -d "$headers" || {
  echo "build-addon: $headers is missing; npm ci" >&2
  exit 3
}
mkdir -p "$out"
cxx=${CXX:-g++}
flags="-std=c++20 -O2 -fPIC -fno-exceptions -fno-rtti -ffp-contract=off -Wall -Wextra -Wconversion -Wshadow -Werror
  -I$root/engine/include -isystem $headers"

# newer TARGET SOURCE...: whether the target is newer than all sources.
newer() {
  target=$1
  shift
  test -f "$target" && test -z "$(find "$@" -newer "$target" -print -quit)"
}

if ! newer "$out/leanedge.node" "$root/gpu-worker/addon" "$root/engine/include" "$0"; then
  # shellcheck disable=SC2086
  $cxx $flags -fvisibility=hidden -shared -o "$out/leanedge.node.$$" "$root"/gpu-worker/addon/*.cpp -lpthread -ldl
  mv "$out/leanedge.node.$$" "$out/leanedge.node"
fi
if ! newer "$out/libleanedge_reference.so" "$root/engine/src" "$root/engine/include" "$0"; then
  # shellcheck disable=SC2086
  $cxx $flags -shared -Wl,-Bsymbolic -o "$out/libleanedge_reference.so.$$" \
    "$root"/engine/src/*.cpp "$root"/engine/src/kernels_ref/*.cpp
  mv "$out/libleanedge_reference.so.$$" "$out/libleanedge_reference.so"
fi
