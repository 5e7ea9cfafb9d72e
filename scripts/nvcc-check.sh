#!/usr/bin/env bash
# Compiles every CUDA kernel for the GPUs that a worker runs on, without linking or running it.
# Without kernels there is nothing to compile and no need for nvcc.
set -euo pipefail

cd "$(dirname "$0")/.."
kernels=()
if [[ -d gpu-worker ]]; then
  mapfile -t kernels < <(find gpu-worker -name '*.cu' -not -path '*/build/*' | sort)
fi
if ((${#kernels[@]} == 0)); then
  echo "no CUDA kernel yet: nothing to compile"
  exit 0
fi
if ! command -v nvcc >/dev/null; then
  echo "${#kernels[@]} CUDA kernels and no nvcc in PATH" >&2
  exit 1
fi
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
for kernel in "${kernels[@]}"; do
  echo "$kernel"
  nvcc --std=c++20 --include-path engine/include --include-path gpu-worker \
    --gpu-architecture=sm_80 --compile --output-file "$out/kernel.o" "$kernel"
done
echo "${#kernels[@]} CUDA kernels compile"
