#!/usr/bin/env bash
# Packs what a machine with a GPU needs that has neither Node nor npm nor network, for `run.sh --pack`:
#   gpu-worker/device/pack.sh [--masks FOLDER] [FOLDER]      default: gpu-worker/build/pack
# Into it go the engine, the harness of the kernels and the reference as libraries (for sm_90a, by the pinned
# compiler of scripts/nvcc-check.sh, or that of NVCC_HOME), the addon, Node, stripped (node.xz, 26 MB), the
# programs that run in it as one file each, and the published masks (default ../shared/plans) where they are.
# What is newer than its sources is kept: compiling everything takes some ten minutes on one slow core.
set -euo pipefail

cd "$(dirname "$0")/../.."
masks=../shared/plans
if [[ ${1-} == --masks ]]; then
  masks=$2
  shift 2
fi
out=${1:-gpu-worker/build/pack}
objects=gpu-worker/build/objects
home=${NVCC_HOME:-$(echo "$PWD"/.cache/nvcc-13.0/lib/python3*/site-packages/nvidia/cu13)}
[[ -x $home/bin/nvcc ]] || { echo "pack: no nvcc in $home: run scripts/nvcc-check.sh, or set NVCC_HOME" >&2 && exit 3; }
mkdir -p "$out" "$objects"

# newer TARGET FOLDER...: whether a file is newer than all that lies in the folders.
newer() {
  local target=$1
  shift
  [[ -f $target && -z $(find "$@" -newer "$target" -print -quit) ]]
}
headers=(engine/include engine/src gpu-worker/include)

# object SOURCE: compiles to $objects, where that is older than the source's folder or any header.
object() {
  local source=$1 to=$objects/${1//\//-}.o
  newer "$to" "$(dirname "$source")" gpu-worker/src/kernels gpu-worker/src/cuda_status.h "${headers[@]}" && return
  echo "compiling $source"
  if [[ $source == *.cu ]]; then
    "$home/bin/nvcc" --std=c++20 --expt-relaxed-constexpr --optimize 3 --compiler-options -fPIC \
      --include-path engine/include --include-path gpu-worker/include \
      --generate-code=arch=compute_90a,code=sm_90a --compile --output-file "$to.new" "$source"
  else
    g++ -std=c++20 -O2 -fPIC -ffp-contract=off -fno-exceptions -fno-rtti -I engine/include -I engine/src \
      -I gpu-worker/include -isystem "$home/include" -c "$source" -o "$to.new"
  fi
  mv "$to.new" "$to"
}
# library NAME OBJECT...: the loader finds cuBLASLt on the machine with the GPU.
library() {
  local name=$1
  shift
  g++ -shared -Wl,-Bsymbolic -Wl,--strip-all "$@" -L "$home/lib" -lcudart_static -L "$objects" \
    -Wl,--no-as-needed -lcublasLt -Wl,--as-needed -lpthread -ldl -lrt -Wl,--exclude-libs,ALL -o "$out/$name"
}

# Files of engine/src in whose place the device has its own (gpu-worker/CMakeLists.txt).
replaced='/(platform_native|memory_host|weights|scratch|pass|cache_push|prefill_states|draw)\.cpp$'
mapfile -t kernels < <(find gpu-worker/src -name '*.cu' -o -name '*.cpp' | grep -v /src/engine/ | sort)
mapfile -t engine < <(find gpu-worker/src/engine -name '*.cu' -o -name '*.cpp' | sort
  find engine/src -maxdepth 1 -name '*.cpp' | grep -Ev "$replaced" | sort)
mapfile -t harness < <(find gpu-worker/test -maxdepth 1 -name '*harness.cpp' | sort
  printf '%s\n' engine/src/{page_layout,plan,page_pack_ref,page_choose,sampler,numeric,rope_table}.cpp \
    engine/src/kernels_ref/attention.cpp)
for source in "${kernels[@]}" "${engine[@]}" "${harness[@]}"; do object "$source"; done
of() { printf "$objects/%s.o\n" "${@//\//-}"; }
echo | gcc -shared -Wl,-soname,libcublasLt.so.13 -x c - -o "$objects/libcublasLt.so"
mapfile -t parts < <(of "${kernels[@]}" "${engine[@]}")
library libleanedge_cuda.so "${parts[@]}"
mapfile -t parts < <(of "${kernels[@]}" "${harness[@]}")
library libleanedge_cuda_harness.so "${parts[@]}"
scripts/build-addon.sh "$out"

for program in node-check worker-bench; do
  # Connect's packages have parts that ask for `require`.
  node_modules/.bin/esbuild "gpu-worker/device/$program.ts" --bundle --platform=node --format=esm --log-level=warning \
    --banner:js='import { createRequire as r } from "node:module"; const require = r(import.meta.url);' \
    --outfile="$out/$program.mjs"
done
if [[ -d $masks ]]; then
  mkdir -p "$out/plans"
  cp "$masks"/*.json "$out/plans/"
fi
if [[ ! -f $out/node.xz ]]; then
  cp --dereference node_modules/node/bin/node "$out/node"
  strip "$out/node"
  xz --force "$out/node"
fi
# What run.sh compares with the tree that it runs in, and what results name.
git rev-parse HEAD >"$out/commit"
if [[ -n $(git status --porcelain engine/include engine/src gpu-worker/include gpu-worker/src) ]]; then
  echo "pack: sources differ from the last commit: results will name a commit that has other ones" >&2
fi
for family in decode-attention matrix prefill-attention page-selection rows engine; do
  echo "$family $(gpu-worker/device/kernels-hash.sh "$family")"
done >"$out/kernels"
du -ch "$out"/* | sort -h
