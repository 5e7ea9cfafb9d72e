#!/usr/bin/env bash
# Builds the CUDA engine's host code over a device that is the host (gpu-worker/test/host_device), under the
# address and undefined-behaviour sanitizers, and runs it against the reference engine. Needs g++ and the
# headers of CUDA (scripts/cuda-headers.sh); no GPU. Prints `N passed, N failed`.
set -euo pipefail
cd "$(dirname "$0")/.."
home=$(scripts/cuda-headers.sh)
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
# A library needs its own copy of the sanitizers' runtime to be the program's: the test links it first.
flags=(-std=c++20 -O1 -g -fPIC -ffp-contract=off -fsanitize=address,undefined -fno-sanitize-recover=all
  -I engine/include -I engine/src -I gpu-worker/include -I gpu-worker/src/engine -isystem "$home/include")
# Files of engine/src in whose place the device has its own (gpu-worker/CMakeLists.txt).
readonly replaced='/(platform_native|memory_host|weights|scratch|pass|cache_push|prefill_states|draw)\.cpp$'
mapfile -t shared < <(find engine/src -maxdepth 1 -name '*.cpp' | grep -Ev "$replaced" | sort)
g++ "${flags[@]}" -Wall -Wextra -Wconversion -Wshadow -Werror -shared -Wl,-Bsymbolic "${shared[@]}" \
  gpu-worker/src/engine/*.cpp gpu-worker/src/kernels/{variants,decode_form}.cpp gpu-worker/test/host_device/host_*.cpp -o "$out/libleanedge_host.so"
# The reference has its own tests under sanitizers.
g++ -std=c++20 -O1 -fPIC -ffp-contract=off -I engine/include -shared -Wl,-Bsymbolic engine/src/*.cpp \
  engine/src/kernels_ref/*.cpp -o "$out/libleanedge_reference.so"
g++ "${flags[@]}" -Wall -Wextra -Wconversion -Wshadow -Werror gpu-worker/test/host_device/engine_test.cpp \
  engine/src/page_layout.cpp engine/src/plan.cpp -ldl -o "$out/engine_test"
ASAN_OPTIONS=detect_leaks=0:detect_odr_violation=0 "$out/engine_test" "$out/libleanedge_host.so" \
  "$out/libleanedge_reference.so"
