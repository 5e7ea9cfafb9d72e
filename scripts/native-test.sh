#!/bin/sh
# Builds the engine with its scalar reference natively, under the address and undefined-behaviour
# sanitizers, and runs its tests. Needs cmake, ninja or make, and a C++20 compiler (CXX chooses).
# The build folder is ignored by git and kept between runs; NATIVE_JOBS says how many files are compiled at once
# (default 2). Prints 'N passed, N failed'.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$root/engine/build"
build="$root/engine/build/native"
generator=
if command -v ninja >/dev/null 2>&1; then generator='-G Ninja'; fi
# shellcheck disable=SC2086  # the generator is two words or none
cmake -S "$root/engine" -B "$build" $generator -DCMAKE_BUILD_TYPE=RelWithDebInfo \
  -DLEANEDGE_SANITIZE=ON >"$root/engine/build/configure.log" 2>&1 ||
  { cat "$root/engine/build/configure.log"; exit 1; }
cmake --build "$build" --parallel "${NATIVE_JOBS:-2}" >"$root/engine/build/compile.log" 2>&1 ||
  { cat "$root/engine/build/compile.log"; exit 1; }
exec "$build/leanedge_engine_test" "$@"
