#!/usr/bin/env bash
# Runs kernels of decode attention and of products with few rows on the host (gpu-worker/test/host_kernel), under the address
# and undefined-behaviour sanitizers, against the scalar reference and float64. Needs g++ and the headers of CUDA
# (scripts/cuda-headers.sh); no GPU. Prints `N passed, N failed` for each.
set -euo pipefail
cd "$(dirname "$0")/.."
home=$(scripts/cuda-headers.sh)
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
# The kernels as they are, but for the instructions that they are made of, and for how shared memory is declared.
mkdir "$out/src"
cp -r gpu-worker/src/kernels gpu-worker/src/matrix gpu-worker/src/*.h "$out/src"
cp gpu-worker/test/host_kernel/{warp_ops,cluster_ops}.cuh "$out/src/kernels"
cp gpu-worker/test/host_kernel/matrix_ops.cuh "$out/src/matrix"
sed -i -e 's/extern __shared__ __align__(128) uint8_t \([a-z]*\)\[\];/uint8_t* \1 = host::dynamic_shared();/' \
  -e 's/^  __shared__ \(.*\) \([a-z]*\);/  auto\& \2 = host::shared_variable<\1>();/' "$out"/src/kernels/decode_*.cuh \
  "$out/src/matrix/vector_product.cuh"
flags=(-std=c++20 -O1 -g1 -ffp-contract=off -Wall -Wextra -Wno-unknown-pragmas -Wno-attributes -Wno-clobbered -Werror
  -I "$out/src/kernels" -I "$out/src/matrix" -I gpu-worker/test/host_kernel -I engine/include -I engine/src -I engine/test
  -I gpu-worker/include -isystem "$home/include")
sanitize=(-fsanitize=address,undefined -fno-sanitize-recover=all)
# build TEST SOURCE...
build() {
  local test=$1
  shift
  g++ "${flags[@]}" "${sanitize[@]}" gpu-worker/test/host_kernel/{"$test",host_threads,host_runtime}.cpp \
    "$out/src/kernels/variants.cpp" "$@" -o "$out/$test"
}
export ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0
failed=0
build vector_test "$out/src/matrix/vector_launch.cpp"
"$out/vector_test" || failed=1
build decode_test "$out"/src/kernels/decode_{launch,form}.cpp engine/src/{page_layout,plan,page_pack_ref,page_choose,numeric}.cpp \
  engine/src/kernels_ref/attention.cpp
"$out/decode_test" || failed=1
exit "$failed"
