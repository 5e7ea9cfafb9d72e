#!/usr/bin/env bash
# Tests of the training package (train/) on a CPU, a short training run among them, and one line at
# the end: `N passed, N failed, N skipped`.
#
# torch comes from Debian (python3-torch 1.13, 40 MB): PyPI's wheel for Linux brings gigabytes of CUDA
# libraries. Where neither is there, the tests are skipped by name; with LEANEDGE_CI=1 the packages are
# installed, and with --install nothing else is done. What needs a GPU or transformers is no test: train/device/.
set -euo pipefail
cd "$(dirname "$0")/../train"

# Another Python than Debian's cannot import Debian's torch.
python=${TRAIN_PYTHON:-/usr/bin/python3}
if ! "$python" -c 'import torch' 2>/dev/null; then
  if [[ ${LEANEDGE_CI:-} != 1 ]]; then
    echo "skipped: training package (needs torch: apt-get install python3-torch, or TRAIN_PYTHON)"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get update --quiet --quiet
  # OpenBLAS: with the reference BLAS matrix products are ten times slower.
  apt-get install --quiet --quiet --yes --no-install-recommends \
    python3-torch python3-venv libopenblas0-pthread >/dev/null
fi
[[ -x .venv/bin/python ]] || "$python" -m venv --system-site-packages .venv
if ! .venv/bin/python -c 'import gguf, pytest, ruff, safetensors, tokenizers' 2>/dev/null; then
  .venv/bin/pip install --quiet --disable-pip-version-check \
    gguf==0.19.0 tokenizers==0.23.3 safetensors==0.8.0 pytest==9.2.0 ruff==0.14.0
fi

if [[ ${1-} == --install ]]; then exit 0; fi

# Lint and format count as one test.
tidy=0
.venv/bin/ruff check . && .venv/bin/ruff format --check . || tidy=1

log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
PYTHONPATH=$PWD TOKENIZERS_PARALLELISM=false timeout 600 \
  .venv/bin/python -m pytest -p no:cacheprovider --tb=short -rs "$@" 2>&1 | tee "$log" || status=$?
# pytest ends with `1 failed, 60 passed, 2 skipped in 30.1s`; errors are failures.
count() {
  grep --only-matching --extended-regexp "[0-9]+ $1" "$log" | tail -n 1 | cut -d ' ' -f 1 || true
}
passed=$(count passed) failed=$(count failed) errors=$(count 'errors?') skipped=$(count skipped)
failed=$((${failed:-0} + ${errors:-0}))
# A run that ended without a word, by its time limit for example, has failed.
if ((status != 0 && failed == 0)); then failed=1; fi
echo "$((${passed:-0} + 1 - tidy)) passed, $((failed + tidy)) failed, ${skipped:-0} skipped"
((failed + tidy == 0))
