#!/usr/bin/env bash
# Prints the folder that holds include/cuda_runtime_api.h: NVCC_HOME (a CUDA 13.0 folder), or what scripts/fetch-nvcc.sh
# has fetched. Exit code 3 where there is none.
set -euo pipefail
cd "$(dirname "$0")/.."
home=${NVCC_HOME:-$(echo .cache/nvcc-13.0/lib/python3*/site-packages/nvidia/cu13)}
if [[ ! -f $home/include/cuda_runtime_api.h ]]; then
  echo "no headers of CUDA in $home: run scripts/nvcc-check.sh, or set NVCC_HOME" >&2
  exit 3
fi
echo "$home"
