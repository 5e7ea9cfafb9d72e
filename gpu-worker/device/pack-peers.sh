#!/usr/bin/env bash
# Packs what this repository is compared with on a machine with a GPU and no network, for the steps peers-flashinfer and
# peers-llama-cpp of `run.sh --peers`:
#   gpu-worker/device/pack-peers.sh [flashinfer] [llama-cpp]
# FlashInfer with its decode kernels compiled for sm_90a, to gpu-worker/build/peers-flashinfer; llama.cpp's libraries
# from node-llama-cpp's package with their PTX compiled for sm_90, and a program that times them, to
# gpu-worker/build/peers-llama-cpp: archives in pieces of at most 32 MB. Packages come from PyPI and npm, pinned, into
# .cache/peers, where what is compiled is kept, too. No GPU and no driver is needed; torch takes 5 GB there.
# LEANEDGE_PYTHON312: Python 3.12, which the machine with the GPU has (default python3.12).
set -euo pipefail

cd "$(dirname "$0")/../.."
readonly cache=$PWD/.cache/peers
readonly piece_bytes=32000000
readonly torch=torch==2.11.0
readonly flashinfer=flashinfer-python==0.6.7
# What FlashInfer imports, without the compilers of kernels for other GPUs that it asks for, too.
readonly wheels=(
  apache-tvm-ffi==0.1.15.post2 click==8.5.1 einops==0.8.2 ninja==1.13.2 nvidia-ml-py==13.615.71 packaging==26.3 requests==2.34.2
  tabulate==0.10.0 tqdm==4.70.1 urllib3==2.8.0 idna==3.20 certifi==2026.10.18 charset-normalizer==3.5.2
)
readonly node_llama=3.22.1
# The compiler that llama.cpp's libraries were made with, whose PTX older ones do not read, and its runtime.
readonly cuda=(nvidia-cuda-nvcc==13.1.115 nvidia-cuda-runtime==13.1.80)
readonly cuobjdump=nvidia-cuda-cuobjdump==13.5.37
# Kernels that neither Q4_0 nor bf16 at head_dim 128 and four query heads a K/V head need keep their PTX.
readonly other_kernels='mul_mat_qIL9ggml_type(?!2E)|flash_attn_tile|flash_attn_ext_vecI.*ggml_type(?!1E)|flash_attn_ext_f16ILi64ELi64ELi\d+ELi(?!4E)|mul_mat_f_idsI\w+Li32ELi(?!16E)\d+ELi1E|init_indices|lightning_indexer|solve_tri|topk_moe|ssm_|rwkv'
# Processors of machines with such GPUs: the best that runs is taken.
readonly processors=(haswell skylakex sapphirerapids)
jobs=${NVCC_JOBS:-2}
mkdir -p "$cache"

# pack FOLDER NAME: FOLDER as NAME.tar.xz in pieces, in gpu-worker/build/peers-NAME.
pack() {
  local out=gpu-worker/build/peers-$2
  rm -rf "$out" && mkdir -p "$out"
  tar c -C "$1" --exclude __pycache__ . | xz -T "$jobs" -6 | split --bytes=$piece_bytes - "$out/$2.tar.xz."
  du -b "$out"/*
}

flashinfer() {
  local python=${LEANEDGE_PYTHON312:-python3.12} site=$cache/flashinfer nvcc home=$cache/cuda
  if [[ ! -x $cache/venv/bin/python ]]; then
    "$python" -m venv "$cache/venv"
    "$cache/venv/bin/pip" install --quiet "$torch" numpy==2.5.5
  fi
  if [[ ! -f $site/complete ]]; then
    rm -rf "$site"
    "$cache/venv/bin/pip" install --quiet --no-deps --target "$site" "$flashinfer" "${wheels[@]}"
    touch "$site/complete"
  fi
  # A compiler's folder as FlashInfer looks for it; libcuda is only linked with.
  nvcc=$(scripts/fetch-nvcc.sh)
  rm -rf "$home" && mkdir -p "$home/lib64/stubs"
  ln -s "$nvcc"/{bin,include,nvvm} "$home/"
  ln -s "$nvcc"/lib/* "$home/lib64/"
  ln -s libcudart.so.13 "$home/lib64/libcudart.so"
  gcc -shared -fPIC -x c /dev/null -Wl,-soname,libcuda.so.1 -o "$home/lib64/stubs/libcuda.so"
  FLASHINFER_WORKSPACE_BASE=$cache FLASHINFER_CUDA_ARCH_LIST=9.0a CUDA_HOME=$home MAX_JOBS=$jobs \
    PYTHONPATH=$site PATH=$site/bin:$PATH "$cache/venv/bin/python" gpu-worker/device/build_flashinfer.py "$site"
  find "$site/flashinfer/data/aot" -name '*.so' -exec strip --strip-unneeded {} +
  pack "$site" flashinfer
}

# package NAME VERSION: what an npm package contains, into $cache/NAME.
package() {
  local folder=$cache/${1//[@\/]/_}
  if [[ ! -d $folder ]]; then
    (cd "$cache" && tar xz --one-top-level="$folder.part" --strip-components=1 -f "$(npm pack --silent "$1@$2" | tail -n 1)")
    mv "$folder.part" "$folder"
  fi
  echo "$folder"
}

llama_cpp() {
  local source libraries tools=$cache/tools out=$cache/llama-cpp name
  source=$(package node-llama-cpp "$node_llama")
  libraries=$(package @node-llama-cpp/linux-x64-cuda "$node_llama")/bins/linux-x64-cuda
  # Its sources come as a bundle of git; the program needs their headers.
  [[ -d $cache/llama.cpp ]] || git -c advice.detachedHead=false clone --quiet "$source/llama/gitRelease.bundle" "$cache/llama.cpp"
  if [[ ! -f $tools/complete ]]; then
    rm -rf "$tools"
    python3 -m venv "$cache/pip"
    "$cache/pip/bin/pip" install --quiet --no-deps --target "$tools" "${cuda[@]}" "$cuobjdump"
    chmod +x "$tools"/nvidia/cu13/bin/*
    touch "$tools/complete"
  fi
  rm -rf "$out" && mkdir -p "$out"
  cp "$libraries"/libggml-base.so "$libraries"/libggml.cuda.*.so "$libraries"/libllama.cuda.*.so "$out/"
  for name in "${processors[@]}"; do cp "$libraries/libggml-cpu-$name.so" "$out/"; done
  cp "$tools/nvidia/cu13/lib/libcudart.so.13" "$out/"
  python3 gpu-worker/device/compile_fatbins.py "$libraries/libggml-cuda.so" "$out/libggml-cuda.so" \
    --tools "$tools/nvidia/cu13/bin" --cache "$cache/cubins" --jobs "$jobs" --leave "$other_kernels"
  sed -n 's/.*"tag": "\(.*\)".*/\1/p' "$source/llama/llama.cpp.info.json" >"$out/release"
  g++ -std=c++20 -O2 -Wall -Wextra -Wconversion -Wshadow -Werror -isystem "$cache/llama.cpp/include" \
    -isystem "$cache/llama.cpp/ggml/include" gpu-worker/device/peers_llama.cpp -o "$out/peers_llama" \
    "$out"/libllama.cuda.*.so "$out"/libggml.cuda.*.so "$out/libggml-base.so" -Wl,-rpath,'$ORIGIN'
  pack "$out" llama-cpp
}

(($# > 0)) || set -- flashinfer llama-cpp
for peer; do
  case $peer in
    flashinfer) flashinfer ;;
    llama-cpp) llama_cpp ;;
    *)
      echo "pack-peers: there is no peer $peer" >&2
      exit 2
      ;;
  esac
done
