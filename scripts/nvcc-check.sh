#!/usr/bin/env bash
# Compiles every CUDA kernel for the GPUs that a worker runs on (sm_80, sm_90a), prints what each
# kernel takes on the one that they are tuned for (registers, spilled bytes), runs those tests of gpu-worker/ that need
# no GPU, and checks that the newest results in docs/results/ measured the kernels that are here. nvcc comes as
# NVIDIA's wheels, pinned, into a cached virtual environment; no GPU and no driver is needed.
# Ends with `N passed, N failed, N skipped`.
set -euo pipefail

cd "$(dirname "$0")/.."
readonly architectures=(80 90a)
# Objects of this one are linked, and their registers looked at. For the others it is enough that every instruction exists
# there: optimising, which is five sixths of the time, changes nothing about that.
readonly tuned=90a
# A kernel may spill this much: a few values around a merge, none in a loop over pages.
readonly spill_bytes_max=64

NVCC_HOME=$(scripts/fetch-nvcc.sh)
"$NVCC_HOME/bin/nvcc" --version | tail -n 1

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
passed=0
failed=0
skipped=0

# compile ARCHITECTURE SOURCE: to $out, the compiler's words beside it.
compile() {
  local name=$out/$(basename "$2" .cu).$1
  local how=(--optimize 3 -Xptxas=-v --compiler-options -fPIC --compile)
  if [[ $1 != "$tuned" ]]; then how=(-Xcicc=-O0 -Xptxas=-O0 --cubin); fi
  "$NVCC_HOME/bin/nvcc" --std=c++20 --expt-relaxed-constexpr -Werror=all-warnings "${how[@]}" \
    --include-path engine/include --include-path gpu-worker/include \
    --generate-code="arch=compute_$1,code=sm_$1" --output-file "$name.o" "$2" >"$name.log" 2>&1 && touch "$name.ok"
}
export -f compile
export out NVCC_HOME tuned

mapfile -t kernels < <(find gpu-worker/src -name '*.cu' | sort)
for architecture in "${architectures[@]}"; do
  printf "$architecture %s\n" "${kernels[@]}"
done | xargs --max-procs="${NVCC_JOBS:-2}" --max-args=2 bash -c 'compile "$0" "$1" || true'

for kernel in "${kernels[@]}"; do
  for architecture in "${architectures[@]}"; do
    name=$out/$(basename "$kernel" .cu).$architecture
    if [[ ! -f $name.ok ]]; then
      echo "FAIL $kernel sm_$architecture"
      cat "$name.log"
      failed=$((failed + 1))
      continue
    fi
    if [[ $architecture != "$tuned" ]]; then
      echo "ok   $kernel sm_$architecture"
      passed=$((passed + 1))
      continue
    fi
    report=$(awk -v limit="$spill_bytes_max" '
      /spill stores/ { spill = $5; if (spill > most) most = spill }
      /Used [0-9]+ registers/ { for (i = 1; i < NF; ++i) if ($i == "Used") { n = $(i + 1); if (n > registers) registers = n }; ++count }
      END { printf "%d kernels, at most %d registers, %d bytes spilled", count, registers, most; exit most > limit }
    ' "$name.log") && verdict=ok || verdict=FAIL
    echo "$verdict   $kernel sm_$architecture: $report"
    if [[ $verdict == ok ]]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
  done
done

# What is plain C++: the launchers compile without warnings, the division of work is tested.
for source in gpu-worker/src/*/*.cpp gpu-worker/test/*harness.cpp; do
  if g++ -std=c++20 -O2 -fPIC -ffp-contract=off -Wall -Wextra -Wconversion -Wshadow -Werror -fno-exceptions \
    -fno-rtti -I engine/include -I engine/src -I gpu-worker/include -isystem "$NVCC_HOME/include" \
    -c "$source" -o "$out/$(basename "$(dirname "$source")")-$(basename "$source").o"; then
    echo "ok   $source"
    passed=$((passed + 1))
  else
    echo "FAIL $source"
    failed=$((failed + 1))
  fi
done
for source in gpu-worker/test/*_test.cpp; do
  test=$out/$(basename "$source" .cpp)
  if g++ -std=c++20 -O1 -g -Wall -Wextra -Wconversion -Wshadow -Werror -fsanitize=address,undefined \
    -fno-sanitize-recover=all -I engine/include -I gpu-worker/include -isystem "$NVCC_HOME/include" \
    "$source" -o "$test" && "$test"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
  fi
done

# The engine links: every kernel that it launches is there. scripts/build-cuda.sh compiles what is new; here it finds
# all objects of one target.
mkdir "$out/objects"
echo "$tuned" >"$out/objects/architectures"
for kernel in "${kernels[@]}"; do
  mv "$out/$(basename "$kernel" .cu).$tuned.o" "$out/objects/${kernel//\//-}.o" || true
done
for source in gpu-worker/src/*/*.cpp gpu-worker/test/*harness.cpp; do
  mv "$out/$(basename "$(dirname "$source")")-$(basename "$source").o" "$out/objects/${source//\//-}.o" || true
done
if scripts/build-cuda.sh --architectures "$tuned" --objects "$out/objects" --harness "$out" >"$out/link.log" 2>&1 &&
  ! nm --dynamic --undefined-only "$out/libleanedge_cuda.so" | grep -q leanedge; then
  echo "ok   $(grep -c '' "$out/link.log") lines of build-cuda, libleanedge_cuda.so links ($(stat -c %s "$out/libleanedge_cuda.so") bytes)"
  passed=$((passed + 1))
else
  echo "FAIL libleanedge_cuda.so does not link"
  tail -n 20 "$out/link.log"
  failed=$((failed + 1))
fi
# Engines share a device: what waits for all of it, or for its default stream, ends another engine's capture of a graph.
if nm --undefined-only --print-file-name "$out"/objects/gpu-worker-src-*.o |
  grep -wE 'cudaDeviceSynchronize|cudaMemcpy|cudaMemset|cudaMemcpyToSymbol'; then
  echo "FAIL a call that waits for all streams of the device"
  failed=$((failed + 1))
else
  echo "ok   no call waits for all streams of the device"
  passed=$((passed + 1))
fi
for test in cuda-host-test cuda-kernel-test; do
  if NVCC_HOME=$NVCC_HOME "scripts/$test.sh"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
  fi
done

# The benchmarks of a device run to their ends at a tiny shape over the reference engine. torch is the training
# package's (scripts/train-test.sh).
python=$PWD/train/.venv/bin/python
if "$python" -c 'import torch' 2>/dev/null; then
  if OUT=$out/dry LEANEDGE_PYTHON=$python gpu-worker/device/run.sh --dry --minutes 4 --families "" \
    --steps "bench-engine sessions latency serving" >"$out/dry.log" 2>&1; then
    echo "ok   gpu-worker/device/run.sh --dry"
    passed=$((passed + 1))
  else
    echo "FAIL gpu-worker/device/run.sh --dry"
    tail -n 40 "$out/dry.log"
    failed=$((failed + 1))
  fi
elif [[ ${LEANEDGE_CI-} == 1 ]]; then
  echo "FAIL gpu-worker/device/run.sh --dry needs torch: scripts/train-test.sh installs it"
  failed=$((failed + 1))
else
  echo "skip gpu-worker/device/run.sh --dry (needs torch: scripts/train-test.sh)"
  skipped=$((skipped + 1))
fi

# checkout COMMIT: gpu-worker as it was then, in $out/then; fails where this copy has no such history.
checkout() {
  git cat-file -e "${1:-none}^{commit}" 2>/dev/null || return 1
  rm -rf "$out/then" && mkdir "$out/then"
  git archive "$1" gpu-worker | tar x -C "$out/then"
}

# variants FOLDER [CHANGES]: the forms that kernels in FOLDER take (src/kernels/variants.h), a line each, with
# `name=value,...` in the place of the values that stand there.
variants() {
  local values change
  values=$(sed -n 's/^ *int32_t \([a-z_]*\) = \(-*[0-9]*\);.*/\1=\2/p' "$1/src/kernels/variants.h" 2>/dev/null)
  for change in $(tr , " " <<<"${2-}"); do values=$(sed "s/^${change%%=*}=.*/$change/" <<<"$values"); done
  sort <<<"$values"
}

# field NAME FILE: what a result says.
field() { sed -n "s/.*\"$1\": \"\([^\"]*\)\".*/\1/p" "$2" | head -n 1; }

# The newest result of a family measured the sources that are here, and the forms that are chosen here. The hash that
# it names belongs to the list of files of its day: where there is history, today's list is applied to its commit.
# A family that changed since and waits for a GPU is listed in docs/results/README.md as "- `family` due: why".
due=docs/results/README.md
for family in decode-attention matrix prefill-attention page-selection rows engine; do
  results=$(find docs/results -name "*-$family.json" | sort | tail -n 1)
  [[ -z $results ]] && continue
  measured=$(field kernels "$results")
  here=$(gpu-worker/device/kernels-hash.sh "$family")
  forms=same
  if checkout "$(field commit "$results")"; then
    measured=$(gpu-worker/device/kernels-hash.sh "$family" "$out/then/gpu-worker" 2>/dev/null || echo "$measured")
    # A command ends in "with name=value,...".
    changes=$(field command "$results" | sed -n 's/.* with \([a-z_]*=[a-z0-9_=,]*\)$/\1/p')
    if [[ -f $out/then/gpu-worker/src/kernels/variants.h ]]; then
      # A form that one side does not know is in the sources of its family, which the hash tells.
      forms=$(join -t = <(variants "$out/then/gpu-worker" "$changes") <(variants gpu-worker) |
        awk -F = '$2 != $3 { printf "%s was %s, is %s ", $1, $2, $3 }')
      forms=${forms:-same}
    fi
  fi
  if [[ $measured == "$here" && $forms == same ]]; then
    if grep -q "^- \`$family\` due: " "$due"; then
      echo "FAIL $due lists $family as due, but $results measured these kernels ($here)"
      failed=$((failed + 1))
    else
      echo "ok   $results measured these kernels ($here)"
      passed=$((passed + 1))
    fi
  elif grep "^- \`$family\` due: " "$due"; then
    echo "skip $results measured kernels $measured, here are $here, forms: $forms: not measured yet"
    skipped=$((skipped + 1))
  else
    echo "FAIL $results measured kernels $measured, here are $here, forms: $forms: run gpu-worker/device/run.sh on a GPU"
    failed=$((failed + 1))
  fi
done

# Every result, the old ones too: the commit that it names has the kernels that it names. An archive without
# history cannot say.
for results in $(find docs/results -name '*.json' | sort); do
  family=$(basename "$results" .json | sed 's/^[0-9-]*-[a-z0-9]*-//')
  case $family in
    peers-flashinfer | attention-few-forms | merge-forms) family=decode-attention ;;
    sessions | serving | peers | peers-llama-cpp | node | profile | *-forms) family=engine ;;
  esac
  commit=$(field commit "$results")
  measured=$(field kernels "$results")
  if ! checkout "$commit"; then
    echo "skip $results: commit ${commit:-none} is not in this copy's history"
    skipped=$((skipped + 1))
    continue
  fi
  # By the list of files of today, or by that of then.
  now=$(gpu-worker/device/kernels-hash.sh "$family" "$out/then/gpu-worker" 2>/dev/null || true)
  then=$("$out/then/gpu-worker/device/kernels-hash.sh" "$family" 2>/dev/null || true)
  if [[ $measured == "$now" || $measured == "$then" ]]; then
    echo "ok   $results names a commit with its kernels"
    passed=$((passed + 1))
  else
    echo "FAIL $results names commit $commit, whose kernels of $family are $now, not $measured"
    failed=$((failed + 1))
  fi
done

echo "$passed passed, $failed failed, $skipped skipped"
((failed == 0))
