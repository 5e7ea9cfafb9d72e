#!/usr/bin/env bash
# Checks and measures the CUDA backend on a machine with a GPU, one call, step after step, each under a limit.
#   OUT=<folder> gpu-worker/device/run.sh [--families "<family> ..."] [--steps "<step> ..."] [--minutes N]
#     [--pack <folder>] [--build <folder>] [--masks <folder>] [--commit <hash>] [--dry]
#     [--eval <folder>] [--model <file>] [--plans <folder>] [--peers <folder>]
# --families: for each of decode-attention, matrix, prefill-attention, page-selection, rows, engine (default: all)
#   its checks, and where they pass its benchmark: `check-FAMILY` and `bench-FAMILY`.
# --steps: further steps, or the only ones where --families is "": sanitize-FAMILY (memcheck over the small checks),
#   racecheck-FAMILY, check-forms, sanitize-forms, sessions, serving-model, serving, serving-gateway, node, eval, peers-warm,
#   peers, variants, attention-few, latency, profile, tune, and any of the above. STEP+STEP+...: these run side by side. device/plan.md says what each takes and gives.
# --minutes: no step begins later, and none runs beyond (default 30; may be a fraction).
# --pack: what pack.sh has packed: libraries, Node, masks. Without it the libraries are built here (--build: or taken from
#   that folder), with nvcc 13.0, cmake and ninja; steps in Node are left out.
# --eval: what the step eval does: a folder with `stages`, a line each: SAMPLES METHODS [WINDOW], as eval-run.ts has them, and the
#   samples (default: gpu-worker/device/eval; or SAMPLES.xz in the pack's folder `eval`, where eval-NAME.jsonl.xz of an earlier
#   call is gone on with). --model and --plans: what answers them, instead of the embedded model and its plans.
# --peers: where the pieces of pack-peers.sh lie (default gpu-worker/build/peers-*).
# --masks: the published channel masks (default: of the pack, else ../shared/plans); --commit: what the results name where
#   the tree has no git.
# --dry: no GPU: the steps that can run at a tiny shape over the reference engine do, and the others are named.
# Needs Python with torch, and transformers for check-engine and peers. Writes FAMILY.json and .md as figures come, a
# log a step and summary.txt, all of them in $OUT/results.tar.gz after each step: a run that is cut off has lost nothing.
# LEANEDGE_PYTHON: another python3.
set -euo pipefail

cd "$(dirname "$0")/../.."
root=$PWD
all="decode-attention matrix prefill-attention page-selection rows engine"
families=$all
steps=
minutes=30
masks=
commit=$(git rev-parse HEAD 2>/dev/null || echo unknown)
build=
pack=
dry=
eval=$root/gpu-worker/device/eval
model=$root/models/leanedge-29m-q4_0.gguf
plans=$root/models
peers=
python=${LEANEDGE_PYTHON:-python3}
command="gpu-worker/device/run.sh $*"
while (($# > 0)); do
  case $1 in
    --families) families=$2 ;;
    --steps) steps=$2 ;;
    --minutes) minutes=$2 ;;
    --masks) masks=$(realpath "$2") ;;
    --commit) commit=$2 ;;
    --build) build=$(realpath "$2") ;;
    --pack) pack=$(realpath "$2") ;;
    --eval) eval=$(realpath "$2") ;;
    --model) model=$(realpath "$2") ;;
    --plans) plans=$(realpath "$2") ;;
    --peers) peers=$(realpath "$2") ;;
    --dry)
      dry=1
      shift
      continue
      ;;
    *)
      echo "unknown argument $1" >&2
      exit 2
      ;;
  esac
  shift 2
done

# limit STEP: the most seconds that it may take; fails for what is no step.
limit() {
  case $1 in
    check-decode-attention | check-prefill-attention | check-page-selection | check-rows) echo 75 ;;
    check-matrix) echo 90 ;;
    check-engine) echo 150 ;;
    check-forms) echo 75 ;;
    sanitize-forms) echo 150 ;;
    bench-decode-attention | bench-matrix) echo 130 ;;
    bench-prefill-attention) echo 90 ;;
    bench-page-selection | bench-rows) echo 60 ;;
    bench-engine) echo 200 ;;
    sanitize-prefill-attention) echo 220 ;;
    sanitize-*) echo 90 ;;
    racecheck-*) echo 220 ;;
    sessions) echo 190 ;;
    serving-model) echo 60 ;;
    serving | serving-gateway) echo 200 ;;
    node) echo 60 ;;
    eval) echo 560 ;;
    peers-warm | peers) echo 200 ;;
    peers-flashinfer) echo 90 ;;
    peers-llama-cpp) echo 130 ;;
    variants) echo 150 ;;
    attention-few) echo 120 ;;
    latency) echo 150 ;;
    profile) echo 120 ;;
    tune) echo 75 ;;
    *) return 1 ;;
  esac
}

list=()
for family in $families; do list+=("check-$family" "bench-$family"); done
list+=($steps)
for step in ${list[*]//+/ }; do
  family=${step#*-}
  if ! limit "$step" >/dev/null || [[ $step =~ ^(check|bench|sanitize|racecheck)- && " $all forms " != *" $family "* ]]; then
    echo "run.sh: there is no step $step" >&2
    exit 2
  fi
done

out=${OUT:-$root/gpu-worker/build/results}
work=$out
# Few files may come back from where this runs: results gather beside, and go into one archive.
[[ -n ${OUT-} ]] && work=$(mktemp -d)
mkdir -p "$out" "$work"
summary=$work/summary.txt
{ date -u '+%F %H:%M UTC' && echo "$command" && echo "commit $commit"; } >"$summary"
save() { [[ $work == "$out" ]] || tar czf "$out/results.tar.gz" -C "$work" .; }
say() { echo "$*" | tee -a "$summary"; }

if [[ -n $pack ]]; then
  build=$(mktemp -d)
  cp "$pack/leanedge.node" "$build/"
  for library in "$pack"/*.so.xz; do xz --decompress --stdout "$library" >"$build/$(basename "$library" .xz)"; done
  [[ -d $pack/plans && -z $masks ]] && masks=$pack/plans
  if [[ -f $pack/commit ]]; then commit=$(cat "$pack/commit"); fi
  for family in $all; do
    packed=$(sed -n "s/^$family //p" "$pack/kernels" 2>/dev/null || true)
    if [[ -n $packed && $packed != "$(gpu-worker/device/kernels-hash.sh "$family")" ]]; then
      say "the pack has other kernels of $family than this tree: run pack.sh again"
      exit 3
    fi
  done
fi
masks=${masks:-$root/../shared/plans}
if [[ -z $build && -z $dry ]]; then
  build=$root/gpu-worker/build/device
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
  [[ $capability == 90 ]] && capability=90a
  cmake -S gpu-worker -B "$build" -G Ninja -DCMAKE_CUDA_ARCHITECTURES="$capability-real" >"$work/build.log"
  cmake --build "$build" >>"$work/build.log" || { tail -n 40 "$work/build.log" && exit 1; }
fi
export LEANEDGE_MASKS=$masks LEANEDGE_COMMIT=$commit OUT=$work LEANEDGE_COMMAND=$command
export LEANEDGE_REFERENCE_LIBRARY=$build/libleanedge_reference.so
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

# The engine loads cuBLASLt, which Python's torch has loaded already and Node has not: wherever CUDA lies here.
if [[ -z $dry ]]; then
  for folder in "$(dirname "$(command -v nvcc || echo /none/none)")/../lib64" /usr/local/cuda/lib64 /usr/local/cuda*/targets/*/lib \
    "$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])' 2>/dev/null || true)"/nvidia/cu13/lib; do
    if [[ -e $folder/libcublasLt.so.13 ]]; then
      LD_LIBRARY_PATH=$(realpath "$folder")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
      export LD_LIBRARY_PATH
      break
    fi
  done
fi

# has_node: Node of the pack, unpacked where it may be written.
node=
has_node() {
  if [[ -n $dry ]]; then
    node=$(command -v node)
    return
  fi
  [[ -n $pack ]] || return 1
  node=$build/node
  [[ -x $node ]] && return
  xz --decompress --stdout "$pack/node.xz" >"$node" && chmod +x "$node"
}

# has_gateway: the gateway's bundle and workerd, of the pack, or of bench/gateway/device/pack.sh where that has run here.
gateway_folder=
workerd=
has_gateway() {
  local from=$pack
  [[ -n $from && -d $from/gateway ]] || from=$root/bench/gateway/device/build
  [[ -d $from/gateway && -n $(find "$from" -name 'workerd.xz*') ]] || return 1
  gateway_folder=$from/gateway
  workerd=$build/workerd
  [[ -x $workerd ]] && return
  cat "$from"/workerd.xz* | xz --decompress >"$workerd" && chmod +x "$workerd"
}

# has_peer NAME: what pack-peers.sh has packed of it, unpacked to $build/NAME.
has_peer() {
  local from=${peers:-$root/gpu-worker/build/peers-$1}
  compgen -G "$from/$1.tar.xz.*" >/dev/null || return 1
  [[ -d $build/$1 ]] && return
  mkdir "$build/$1" && cat "$from/$1".tar.xz.* | tar xJ -C "$build/$1"
}

# models_folder GB: where models of that size are written: in memory where that has room.
models_folder() {
  local at=/dev/shm/leanedge free
  free=$(df --output=avail -B 1G /dev/shm 2>/dev/null | tail -n 1)
  ((${free:-0} >= $1)) || [[ -d $at ]] || at=$build/models
  echo "$at"
}

# script FAMILY: the name that its scripts end in.
script() { if [[ $1 == decode-attention ]]; then echo ""; else echo "_${1//-/_}"; fi; }

# command_of STEP: fills `run`; fails where the step cannot run here.
command_of() {
  local family=${1#*-} small=(--small)
  export LEANEDGE_CUDA_LIBRARY=$build/libleanedge_cuda_harness.so
  LEANEDGE_KERNELS=$("$root/gpu-worker/device/kernels-hash.sh" engine)
  case $1 in
    *-engine | sessions | peers-warm | peers | peers-llama-cpp | latency | profile | tune) export LEANEDGE_CUDA_LIBRARY=$build/libleanedge_cuda.so ;;
    *-forms | serving-model | serving-gateway) ;;
    attention-few | peers-flashinfer) LEANEDGE_KERNELS=$("$root/gpu-worker/device/kernels-hash.sh" decode-attention) ;;
    *-*) LEANEDGE_KERNELS=$("$root/gpu-worker/device/kernels-hash.sh" "$family") ;;
  esac
  export LEANEDGE_KERNELS
  [[ $family == engine ]] && small=(--quick --only "plan f16")
  # Limits of their own end before the step's, so that a case under way is written.
  local seconds=$(($2 * 3 / 4))
  # Forms of decode attention that are off, wherever they serve; wide blocks get small shares of few pages.
  local wide=wide_pairs=65536,share_min=64,share_wide=64
  case $1 in
    check-forms)
      run=(bash -c "LEANEDGE_CUDA_VARIANTS=cluster_pages=65536 $python check.py & a=\$!
        LEANEDGE_CUDA_VARIANTS=$wide $python check.py & b=\$!
        export LEANEDGE_CUDA_VARIANTS=cluster_pages=65536 LEANEDGE_CUDA_LIBRARY=$build/libleanedge_cuda.so
        $python check_engine.py --quick --part 0/2 & c=\$!
        $python check_engine.py --quick --part 1/2; d=\$?
        wait \$a; a=\$?; wait \$b; b=\$?; wait \$c; c=\$?
        rm -f \$OUT/wrong-forms
        if ((a + c + d)); then echo cluster_pages >>\$OUT/wrong-forms; fi
        if ((b)); then echo wide_pairs >>\$OUT/wrong-forms; fi
        echo clusters \$a, wide blocks \$b, engine with clusters \$c \$d; exit \$((a + b + c + d))")
      ;;
    sanitize-forms)
      run=(bash -c "LEANEDGE_CUDA_VARIANTS=cluster_pages=65536 compute-sanitizer --tool memcheck --error-exitcode 9 $python check.py --small &
        LEANEDGE_CUDA_VARIANTS=$wide compute-sanitizer --tool memcheck --error-exitcode 9 $python check.py --small
        b=\$?; wait \$!; a=\$?; echo clusters \$a, wide blocks \$b; exit \$((a + b))")
      ;;
    check-engine)
      # Most of it waits for the reference engine, on one processor: in three parts at once.
      run=(bash -c "for part in 0/3 1/3 2/3; do $python check_engine.py --part \$part & all+=(\$!); done
        failed=0; for one in \"\${all[@]}\"; do wait \$one || failed=1; done; exit \$failed")
      ;;
    check-*) run=("$python" "check$(script "$family").py") ;;
    bench-engine) run=("$python" bench_engine.py --masks "$masks" --seconds "$seconds" ${dry:+--forms bf16,q4_0}) ;;
    bench-*) run=("$python" "bench$(script "$family").py") ;;
    sanitize-* | racecheck-*)
      local tool=memcheck
      [[ $1 == racecheck-* ]] && tool=racecheck
      run=(compute-sanitizer --tool "$tool" --error-exitcode 9 "$python" "check$(script "$family").py" "${small[@]}")
      ;;
    sessions) run=("$python" bench_sessions.py --masks "$masks" --seconds "$seconds" ${dry:+--batches 2}) ;;
    profile) run=("$python" profile_engine.py --masks "$masks" --seconds "$seconds") ;;
    tune)
      # Attention alone first, then whole steps; without a GPU the second alone.
      local first="LEANEDGE_CUDA_LIBRARY=$build/libleanedge_cuda_harness.so $python bench_variants.py tune-attention"
      run=(bash -c "${dry:+: }$first; a=\$?; $python bench_variants.py tune ${dry:+--forms q4_0}; exit \$((a + \$?))")
      ;;
    latency) run=("$python" bench_variants.py engine --seconds "$seconds") ;;
    variants)
      # Small shares first, merged in groups of two, then in larger ones: whether every merge is right.
      run=(bash -c "check() { LEANEDGE_CUDA_VARIANTS=share_min=64,share_wide=64,\$1 timeout 25 $python check.py --small; }
        check merge_group=2; a=\$?; check merge_group=1; b=\$?
        $python bench_variants.py attention --seconds $((seconds / 2)); c=\$?
        $python bench_variants.py matrix --seconds $((seconds / 4)); d=\$?
        echo checks \$a \$b, benchmarks \$c \$d; exit \$((a + b + c + d))")
      ;;
    attention-few)
      # The forms for few long sequences: whether they are right, how fast they are, and when blocks do what.
      run=(bash -c "check() { LEANEDGE_CUDA_VARIANTS=share_min=64,\$1 timeout 25 $python check.py --small; }
        check merge_group=2; a=\$?
        $python bench_variants.py attention-few --seconds $((seconds * 2 / 3)); c=\$?
        LEANEDGE_CUDA_LIBRARY=$build/libleanedge_cuda_marks.so $python decode_marks.py --seconds $((seconds / 4)); d=\$?
        echo checks \$a, benchmark \$c, marks \$d; exit \$((a + c + d))")
      ;;
    # What torch has compiled once on a machine it finds again.
    peers-warm) run=(env OUT="$build" "$python" bench_peers.py --steps 1 --seconds "$seconds") ;;
    peers) run=("$python" bench_peers.py --seconds "$seconds") ;;
    peers-flashinfer)
      has_peer flashinfer || return 1
      # What is not compiled ahead of time is compiled here.
      run=(env PYTHONPATH="$build/flashinfer" PATH="$build/flashinfer/bin:$PATH" FLASHINFER_WORKSPACE_BASE="$build"
        FLASHINFER_CUDA_ARCH_LIST=9.0a "$python" bench_flashinfer.py --seconds "$seconds")
      ;;
    peers-llama-cpp)
      has_node && has_peer llama-cpp || return 1
      # Models of both forms are written side by side; one that is there stays.
      run=(bash -c "at=\$1; shift
        for type in Q4_0 BF16; do \"\$@\" --folder \"\$at\" --type \$type --role model & done; wait
        exec $python bench_peers_llama.py --libraries $build/llama-cpp --models \"\$at\" --seconds $seconds"
        - "$(models_folder 24)" "$node" "$pack/worker-bench.mjs")
      ;;
    serving | serving-model | serving-gateway)
      has_node || return 1
      local gateway=()
      if [[ $1 == serving-gateway ]]; then
        has_gateway || return 1
        gateway=(--gateway "$gateway_folder" --workerd "$workerd")
      fi
      if [[ -n $dry ]]; then
        run=("$node" --import tsx worker-bench.ts --addon "$dry_library/leanedge.node" --folder "$dry_library/models"
          --shape tiny --sessions 4 --prompt 60 --generate 30 --memory 512 --rounds 1 "${gateway[@]}")
        return
      fi
      run=("$node" "$pack/worker-bench.mjs" --addon "$build/leanedge.node" --folder "$(models_folder 20)" --seconds "$seconds" "${gateway[@]}")
      if [[ $1 == serving-model ]]; then run+=(--role model); fi
      ;;
    node)
      has_node && [[ -z $dry ]] || return 1
      local models=$root/models/leanedge-29m
      run=("$node" "$pack/node-check.mjs" --addon "$build/leanedge.node" --library "$build/libleanedge_cuda.so"
        --wasm "$root/wasm/prebuilt/leanedge-simd128.wasm" --model "$models-q4_0.gguf" --memory 4096
        --plan "$models.leank-50.json" --plan "$models.leank-70-int4.json")
      ;;
    eval)
      has_node || return 1
      local program=("$node" "$pack/eval-run.mjs" --addon "$build/leanedge.node")
      local folder=$eval samples methods window
      if [[ -n $dry ]]; then
        program=("$node" --import tsx eval-run.ts --addon "$dry_library/leanedge.node" --memory 512 --batch 4)
        folder=$dry_library/eval
        mkdir -p "$folder"
        echo '{"tasks": ["single-1"], "lengths": [256], "count": 2}' >"$folder/dry.json"
        echo "dry.json leank-70+k4+v4,think-70" >"$folder/stages"
      fi
      # Lines go where they are kept, as they come; the program ends by itself before it is ended.
      run=("${program[@]}" --model "$model" --plans "$root/docs/evaluation/plans" --plans "$plans"
        --out "$work" --seconds $(($2 > 60 ? $2 - 20 : $2 * 3 / 4)))
      local before
      for before in "$pack"/eval/eval-*.jsonl.xz; do
        if [[ -f $before ]]; then xz --decompress --stdout "$before" >"$work/$(basename "$before" .xz)"; fi
      done
      while read -r samples methods window; do
        local from=$folder/$samples
        if [[ ! -f $from && -f $pack/eval/$samples.xz ]]; then
          from=$build/$samples
          xz --decompress --stdout "$pack/eval/$samples.xz" >"$from"
        fi
        run+=(--stage "$from $methods $window")
      done < <(grep -v '^#' "$folder/stages")
      ;;
  esac
}

if [[ -n $dry ]]; then
  # The addon, and the reference under the name of the engine.
  dry_library=$root/gpu-worker/build/dry
  scripts/build-addon.sh "$dry_library"
  cp "$dry_library/libleanedge_reference.so" "$dry_library/libleanedge_cuda.so"
  build=$dry_library
  export LEANEDGE_REFERENCE_LIBRARY=$build/libleanedge_reference.so
fi

cd gpu-worker/device
failed=0
passed=0
skipped=0
declare -A broken pid_of start_of
begun=$SECONDS
seconds_all=$(awk -v minutes="$minutes" 'BEGIN { print int(60 * minutes) }')

# leave_out STEP WHY
leave_out() {
  say "left out $1: $2"
  skipped=$((skipped + 1))
}

# begin STEP COUNT: starts it, of COUNT side by side, or says why not.
begin() {
  local step=$1 family=${1#*-} left=$((seconds_all - (SECONDS - begun)))
  local threads=$(($(nproc) / $2))
  local seconds
  seconds=$(limit "$step")
  if ((seconds > left)); then seconds=$left; fi
  if ((left < 15)); then
    leave_out "$step" "$minutes minutes are over"
  elif [[ $step == bench-* && -n ${broken[$family]-} ]]; then
    leave_out "$step" "its checks fail"
  elif [[ -n $dry && ! $step =~ ^(bench-engine|sessions|serving|serving-gateway|latency|profile|tune|eval)$ ]] || ! command_of "$step" "$seconds"; then
    leave_out "$step" "it cannot run here"
  else
    start_of[$step]=$SECONDS
    # Processes side by side share the processors: each with threads for all of them would wait for the others.
    ((threads > 0)) || threads=1
    OMP_NUM_THREADS=${OMP_NUM_THREADS-$threads} timeout --kill-after=5 "$seconds" "${run[@]}" >"$work/$step.log" 2>&1 &
    pid_of[$step]=$!
  fi
}

# finish STEP: waits for it and says how it went.
finish() {
  local step=$1 status=0
  wait "${pid_of[$step]}" || status=$?
  say "$step: $([[ $status == 0 ]] && echo ok || echo "FAIL ($status)"), $((SECONDS - start_of[$step])) s of at most $(limit "$step")"
  unset "pid_of[$step]"
  if ((status == 0)); then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    broken[${step#*-}]=1
  fi
  # What `tune` has found to be faster counts for all steps behind it.
  if [[ $step == tune && $status == 0 && -s $work/tuned ]]; then
    LEANEDGE_CUDA_VARIANTS=$(cat "$work/tuned")
    export LEANEDGE_CUDA_VARIANTS
    say "from here on: ${LEANEDGE_CUDA_VARIANTS:-kernels as they are}"
  fi
  # Of checks what failed and the sum, of benchmarks their last figures.
  if [[ $step == check-* ]]; then
    { grep -v '^ok' "$work/$step.log" || true; } | tail -n 12
  else
    tail -n 25 "$work/$step.log"
  fi | cut -c1-240
  save
}

for together in "${list[@]}"; do
  beside=(${together//+/ })
  for step in "${beside[@]}"; do begin "$step" "${#beside[@]}"; done
  for step in ${together//+/ }; do
    if [[ -n ${pid_of[$step]-} ]]; then finish "$step"; fi
  done
done
say "$passed passed, $failed failed, $skipped skipped"
save
((failed == 0))
