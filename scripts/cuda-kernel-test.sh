#!/usr/bin/env bash
# Runs kernels of decode attention on the host (gpu-worker/test/host_kernel), under the address and undefined-behaviour
# sanitizers, against the scalar reference. Needs g++ and the headers of CUDA (NVCC_HOME: a CUDA 13.0 folder, or what
# scripts/nvcc-check.sh has fetched); no GPU. Prints `N passed, N failed`.
set -euo pipefail
cd "$(dirname "$0")/.."
home=${NVCC_HOME:-$(echo .cache/nvcc-13.0/lib/python3*/site-packages/nvidia/cu13)}
if [[ ! -f $home/include/cuda_runtime_api.h ]]; then
  echo "cuda-kernel-test: no headers of CUDA in $home: run scripts/nvcc-check.sh, or set NVCC_HOME" >&2
  exit 3
fi
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
# The kernels as they are, but for the instructions that they are made of, and for how shared memory is declared.
mkdir "$out/src"
cp -r gpu-worker/src/kernels gpu-worker/src/*.h "$out/src"
cp gpu-worker/test/host_kernel/*.cuh "$out/src/kernels"
sed -i -e 's/extern __shared__ __align__(128) uint8_t rings\[\];/uint8_t* rings = host::dynamic_shared();/' \
  -e 's/^  __shared__ \(.*\) \([a-z]*\);/  auto\& \2 = host::shared_variable<\1>();/' "$out"/src/kernels/decode_*.cuh
flags=(-std=c++20 -O1 -g1 -ffp-contract=off -Wall -Wextra -Wno-unknown-pragmas -Wno-attributes -Wno-clobbered -Werror
  -I "$out/src/kernels" -I gpu-worker/test/host_kernel -I engine/include -I engine/src -I engine/test -I gpu-worker/include
  -isystem "$home/include")
sanitize=(-fsanitize=address,undefined -fno-sanitize-recover=all)
g++ "${flags[@]}" "${sanitize[@]}" gpu-worker/test/host_kernel/*.cpp "$out"/src/kernels/decode_{launch,form}.cpp \
  "$out/src/kernels/variants.cpp" engine/src/{page_layout,plan,page_pack_ref,page_choose,numeric}.cpp \
  engine/src/kernels_ref/attention.cpp -o "$out/decode_test"
ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0 "$out/decode_test"
