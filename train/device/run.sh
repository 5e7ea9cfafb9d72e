#!/usr/bin/env bash
# Trains a model on the GPU machine, learns its plans and looks at both. Where commands have a time limit,
# a longer run goes on behind them (--detach), or is cut into several on the same warm machine (the
# checkpoint lies in WORK, and a copy of the corpus): all but the last with `--finish 0`, which only train.
#
#   train/device/run.sh --minutes 6.7 --total-minutes 6.6 --corpus FOLDER --out FOLDER [--wheel FILE]
#   train/device/run.sh --detach --minutes 16.5 --total-minutes 16 --seconds 1300 --corpus FOLDER
#   train/device/run.sh --dry --corpus FOLDER --out FOLDER
#
# --detach copies all it needs to WORK, starts the run as a session of its own and returns at once;
# train/device/collect.sh says how it goes, waits for it, and brings what it left.
# --ranks N trains on N GPUs at once; plans and scores take the first of them.
# corpus: books-*.txt.xz, stories.txt.xz, smalltalk.jsonl.xz. wheel: gguf's, where it is not installed.
# Leaves in OUT: the model in F16 as part.aa, part.ab ... (`cat part.* > model.gguf`), and logs.tgz
# with the log, the plans, the factors, the report and the scores; both are there as soon as their step
# has ended. A step that fails or runs out of time does not stop the next ones; the command fails at the
# end then. --seconds is what the whole command may take, however long its steps would.
#
# --dry goes through all of it with a tiny model and little of the corpus, in less than three minutes
# on any machine: before a run that counts, and in the tests. It leaves nothing but OUT.
set -uo pipefail
cd "$(dirname "$0")/../.."

arguments=("$@") detach=0
minutes=7 total=7 corpus= out= wheel= work= name=leanedge-29m python=python3 seconds=585
steps=150 text=0.3 finish=1 config=embedded workers=16 ranks=1 probe_every=200 dry=0
lengths=0:1024,0.2:4096,0.88:8192 train_options= plan_options=
bytes=820 learn_seconds=150 eval_seconds=180
while (($#)); do
  if [[ $1 == --dry ]]; then
    dry=1 minutes=3 total=0.2 steps=3 config=tiny workers=2 probe_every=10 lengths=0:128,0.5:256
    train_options="--batch-tokens 512 --steps 20 --probe-rows 1" plan_options=--dry bytes=100
    shift
    continue
  fi
  if [[ $1 == --detach ]]; then
    detach=1
    shift
    continue
  fi
  case $1 in
    --minutes) minutes=$2 ;;
    --total-minutes) total=$2 ;;
    --corpus) corpus=$2 ;;
    --out) out=$2 ;;
    --wheel) wheel=$2 ;;
    --work) work=$2 ;;
    --name) name=$2 ;;
    --python) python=$2 ;;
    --seconds) seconds=$2 ;;
    --leank-steps) steps=$2 ;;
    --text-share) text=$2 ;;
    --finish) finish=$2 ;;
    --config) config=$2 ;;
    --workers) workers=$2 ;;
    --ranks) ranks=$2 ;;
    --lengths) lengths=$2 ;;
    --train-options) train_options=$2 ;;
    --plan-options) plan_options=$2 ;;
    *) echo "unknown option $1" >&2 && exit 2 ;;
  esac
  shift 2
done
if ((detach)); then
  work=${work:-/tmp/leanedge-train}
  out=$work/out
fi
[[ -n $corpus && -n $out ]] || { echo "--corpus and --out are needed" >&2 && exit 2; }
export PYTHONPATH=$PWD/train${wheel:+:$wheel} PYTHONUNBUFFERED=1
readonly part_bytes=15000000
# A dry run's checkpoint is of another model.
if ((dry)) && [[ -z $work ]]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
fi
work=${work:-/tmp/leanedge-train}
mkdir -p "$work" "$out"
if [[ -d $corpus && ! -d $work/corpus ]]; then
  mkdir "$work/corpus"
  for file in "$corpus"/*; do
    # The first part of the books has some that are held out.
    if ((!dry)) || [[ $file != */books-[1-9]* ]]; then cp "$file" "$work/corpus/"; fi
  done
fi
corpus=$work/corpus

if ((detach)); then
  # The tree may change while the run goes on.
  mkdir -p "$work/tree/train" && rm -f "$out/status" "$out/run.log"
  cp -r train/device train/leanedge_train "$work/tree/train/" || exit 1
  options=()
  for word in "${arguments[@]}"; do [[ $word == --detach ]] || options+=("$word"); done
  options+=(--work "$work" --corpus "$corpus" --out "$out")
  if [[ -n $wheel ]]; then
    cp "$wheel" "$work/" || exit 1
    options+=(--wheel "$work/$(basename "$wheel")")
  fi
  # shellcheck disable=SC2016
  setsid --fork bash -c '"$@" >"$0/run.log" 2>&1; echo $? >"$0/status.tmp"; mv "$0/status.tmp" "$0/status"' \
    "$out" "$work/tree/train/device/run.sh" "${options[@]}" </dev/null >/dev/null 2>&1
  echo "runs on behind; its log: $out/run.log"
  exit 0
fi

failed=0 began=$SECONDS
left() { echo $((seconds - (SECONDS - began))); }
# run SECONDS MODULE ARGUMENTS...: a command of the package, in what time is left.
run() {
  local limit=$1 rest
  rest=$(left)
  ((limit < rest)) || limit=$rest
  ((limit > 0)) || { echo "$2: no time left" && return 124; }
  timeout --kill-after=5 "$limit" "$python" -m "leanedge_train.${@:2}"
}
# ended WHAT STATUS: says when a step ended, and keeps in mind that it failed.
ended() {
  if (($2 != 0)); then
    failed=1
    echo "$1 failed ($2)"
  fi
  echo "$1 after $((SECONDS - began)) s"
}
# All that is there so far but the model.
pack() {
  local files=()
  for file in run/log.jsonl plans scores-f16.jsonl "export/$name.md"; do
    if [[ -e $work/$file ]]; then files+=("$file"); fi
  done
  tar --create --gzip --file "$out/logs.tmp" --directory "$work" "${files[@]}" &&
    mv "$out/logs.tmp" "$out/logs.tgz"
}

always=()
if ((finish)); then always=(--export-always); fi
# Options are lists of words.
# shellcheck disable=SC2086
run "$seconds" train_model --corpus "$corpus" --out "$work/run" --minutes "$minutes" --config "$config" \
  --total-minutes "$total" --text-share "$text" --lengths "$lengths" --workers "$workers" \
  --ranks "$ranks" --probe-every "$probe_every" "${always[@]}" $train_options 2>&1 | tail -n 400
ended training $?
if ((!finish)); then
  cp "$work/run/log.jsonl" "$out/" || failed=1
  exit "$failed"
fi

# Q4_0 is made from the rounded F16 weights: the same file comes of the parts that are taken back.
run 60 export --model "$work/run/model.pt" --out "$work/export" --name "$name" --storages f16 q4_0 &&
  rm -f "$out"/part.* && split --bytes=$part_bytes "$work/export/$name-f16.gguf" "$out/part."
ended export $?
ls -l "$out"
pack

# shellcheck disable=SC2086
train/device/plans.sh --model "$work/export/$name-q4_0.gguf" --corpus "$corpus" --out "$work/plans" \
  --python "$python" --workers "$workers" ${wheel:+--wheel "$wheel"} --lengths "1024 2048 4096" \
  --kinds "session single multi-key multi-value multi-query key-value tracking facts perplexity" \
  --steps "$steps" --samples 10 --max-tokens 4000 --batch-tokens 393216 --seconds "$(left)" \
  --learn-seconds "$learn_seconds" --eval-seconds "$eval_seconds" --count 12 --methods \
  "full leank-70 leank-80 bytes-$bytes leank-80+k4+v2 think-70 magnitude-70" \
  $plan_options --bytes "$bytes"
ended plans $?
pack
# The same tasks with the weights that Q4_0 was rounded from.
run 60 reference_eval --model "$work/export/$name-f16.gguf" --tasks "$work/plans/tasks.jsonl" \
  --out "$work/scores-f16.jsonl" --methods full 2>&1 | tail -n 3
ended "scores of F16" $?
pack || failed=1
exit "$failed"
