#!/usr/bin/env bash
# Builds the CUDA engine as a library without a GPU, with the compiler of scripts/fetch-nvcc.sh:
#   scripts/build-cuda.sh [--architectures "80 90a"] [--objects FOLDER] [--harness] [--marks] [FOLDER]
# Writes libleanedge_cuda.so to FOLDER (default: gpu-worker/build/cuda), with --harness libleanedge_cuda_harness.so too, through
# which the checks of gpu-worker/device call single kernels, and with --marks a second harness, libleanedge_cuda_marks.so, whose
# decode attention writes down when its blocks do what (gpu-worker/src/kernels/clock_marks.h). Objects stay in --objects (default: gpu-worker/build/objects);
# what is newer there than all that it was made of is kept. Compiling everything takes some ten minutes on one slow core; NVCC_JOBS
# says how many files at once (default 1). cuBLASLt is not linked: the loader finds it on the machine with the GPU.
set -euo pipefail

cd "$(dirname "$0")/.."
architectures="80 90a"
objects=gpu-worker/build/objects
harness=
marks=
while [[ ${1-} == --* ]]; do
  case $1 in
    --architectures) architectures=$2 && shift 2 ;;
    --objects) objects=$2 && shift 2 ;;
    --harness) harness=1 && shift ;;
    --marks) harness=1 marks=1 && shift ;;
    *) echo "build-cuda: unknown argument $1" >&2 && exit 2 ;;
  esac
done
out=${1:-gpu-worker/build/cuda}
home=$(scripts/fetch-nvcc.sh)
mkdir -p "$out" "$objects"
targets=
for architecture in $architectures; do
  targets+=" --generate-code=arch=compute_$architecture,code=sm_$architecture"
done
# Objects for other GPUs are no use.
if [[ "$(cat "$objects/architectures" 2>/dev/null)" != "$architectures" ]]; then
  rm -f "$objects"/*.o
  echo "$architectures" >"$objects/architectures"
fi

# Files of engine/src in whose place the device has its own (gpu-worker/CMakeLists.txt).
readonly replaced='/(platform_native|memory_host|weights|scratch|pass|cache_push|prefill_states|draw)\.cpp$'
mapfile -t kernels < <(find gpu-worker/src -name '*.cu' -o -name '*.cpp' | grep -v /src/engine/ | sort)
mapfile -t engine < <(find gpu-worker/src/engine -name '*.cu' -o -name '*.cpp' | sort
  find engine/src -maxdepth 1 -name '*.cpp' | grep -Ev "$replaced" | sort)
tests=()
if [[ -n $harness ]]; then
  mapfile -t tests < <(find gpu-worker/test -maxdepth 1 -name '*harness.cpp' | sort
    printf '%s\n' engine/src/{page_layout,plan,page_pack_ref,page_choose,sampler,numeric,rope_table}.cpp \
      engine/src/kernels_ref/attention.cpp)
fi

# fresh SOURCE OBJECT: whether the object is newer than all that the compiler has read for it, or, where it has not said
# what that was, than the source's folder and all headers.
fresh() {
  [[ -f $2 ]] || return 1
  local read=("$(dirname "$1")" gpu-worker/src/kernels gpu-worker/src/cuda_status.h engine/include engine/src gpu-worker/include)
  if [[ -f $2.d ]]; then
    # OBJECT : FILE FILE ..., lines end in backslashes; of the compiler's own headers nobody writes.
    mapfile -t read < <(sed -e 's/^[^:]*: *//' -e 's/\\$//' "$2.d" | tr ' ' '\n' | grep -v '^/' | grep .)
  fi
  [[ -z $(find "${read[@]}" -newer "$2" -type f -print -quit 2>/dev/null || echo gone) ]]
}

# compile SOURCE [marks]: to its object, where that is not fresh; or to its object with clock marks.
compile() {
  local to=$objects/${1//\//-}${2:+.marks}.o
  fresh "$1" "$to" && return
  echo "compiling $1${2:+ with marks}"
  if [[ $1 == *.cu ]]; then
    # shellcheck disable=SC2086  # one word a target
    "$home/bin/nvcc" --std=c++20 --expt-relaxed-constexpr --optimize 3 --compiler-options -fPIC \
      --include-path engine/include --include-path gpu-worker/include $targets --compile --output-file "$to.new" "$1" \
      ${2:+-DLEANEDGE_CLOCK_MARKS} -MD -MF "$to.d.new"
  else
    g++ -std=c++20 -O2 -fPIC -ffp-contract=off -fno-exceptions -fno-rtti -I engine/include -I engine/src \
      -I gpu-worker/include -isystem "$home/include" -MMD -MF "$to.d.new" ${2:+-DLEANEDGE_CLOCK_MARKS} -c "$1" -o "$to.new"
  fi
  mv "$to.d.new" "$to.d"
  mv "$to.new" "$to"
}
export -f fresh compile
export objects home targets
printf '%s\n' "${kernels[@]}" "${engine[@]}" "${tests[@]}" | grep . |
  xargs --max-procs="${NVCC_JOBS:-2}" --max-args=1 bash -euc 'compile "$0"'
# Sources that know of clock marks.
readonly marked='^gpu-worker/(src/kernels/decode_|test/harness)'
if [[ -n $marks ]]; then
  printf '%s\n' "${kernels[@]}" "${tests[@]}" | grep -E "$marked" |
    xargs --max-procs="${NVCC_JOBS:-2}" --max-args=1 bash -euc 'compile "$0" marks'
fi

# library NAME SOURCE...
library() {
  local name=$1
  shift
  local parts=()
  local suffix
  for source in "$@"; do
    suffix=
    if [[ $name == *_marks.so && $source =~ $marked ]]; then suffix=.marks; fi
    parts+=("$objects/${source//\//-}$suffix.o")
  done
  g++ -shared -Wl,-Bsymbolic -Wl,--strip-all "${parts[@]}" -L "$home/lib" -lcudart_static -L "$objects" \
    -Wl,--no-as-needed -lcublasLt -Wl,--as-needed -lpthread -ldl -lrt -Wl,--exclude-libs,ALL -o "$out/$name"
  echo "$out/$name: $(stat -c %s "$out/$name") bytes"
}
# A file with cuBLASLt's name stands for the library.
gcc -shared -Wl,-soname,libcublasLt.so.13 -x c /dev/null -o "$objects/libcublasLt.so"
library libleanedge_cuda.so "${kernels[@]}" "${engine[@]}"
if [[ -n $harness ]]; then library libleanedge_cuda_harness.so "${kernels[@]}" "${tests[@]}"; fi
if [[ -n $marks ]]; then library libleanedge_cuda_marks.so "${kernels[@]}" "${tests[@]}"; fi
