#!/usr/bin/env bash
# Prints the folder of a CUDA 13.0 compiler: NVCC_HOME where that is set, else NVIDIA's wheels, pinned, which it fetches
# once into a cached virtual environment. No GPU and no driver is needed. Of cuBLAS (400 MB) the headers are kept, and
# with --cublas FOLDER the library that programs load goes there.
set -euo pipefail

cd "$(dirname "$0")/.."
readonly cache=.cache/nvcc-13.0
readonly wheels=(
  nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88
  nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85
)
readonly cublas=nvidia-cublas==13.0.2.14
libraries=
if [[ ${1-} == --cublas ]]; then
  libraries=$(realpath "$2")
fi

if [[ -z ${NVCC_HOME-} && ! -f $cache/complete ]]; then
  echo "fetching ${wheels[*]}" >&2
  rm -rf "$cache"
  python3 -m venv "$cache"
  "$cache/bin/pip" install --quiet --disable-pip-version-check --no-deps "${wheels[@]}"
  touch "$cache/complete"
fi
if [[ -z ${NVCC_HOME-} && (! -f $cache/cublas-complete || -n $libraries) ]]; then
  echo "fetching $cublas" >&2
  "$cache/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$cache/cublas" "$cublas"
  for wheel in "$cache"/cublas/*.whl; do
    "$cache/bin/python" -c 'import os, sys, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
wheel.extractall(sys.argv[2], [name for name in wheel.namelist() if "/include/" in name])
if sys.argv[3]:
    for name in wheel.namelist():
        if "libcublasLt.so" in name:
            with open(os.path.join(sys.argv[3], os.path.basename(name)), "wb") as out:
                out.write(wheel.read(name))' \
      "$wheel" "$(echo "$cache"/lib/python3*/site-packages)" "$libraries"
  done
  rm -rf "$cache/cublas"
  touch "$cache/cublas-complete"
fi
echo "${NVCC_HOME:-$(echo "$PWD/$cache"/lib/python3*/site-packages/nvidia/cu13)}"
