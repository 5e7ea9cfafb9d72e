#!/usr/bin/env bash
# Learns the plans of a model that is there, makes those of all other methods, and scores them, in one
# command: on a GPU, or in miniature on a CPU (train/device/README.md has both).
#
#   train/device/plans.sh --model FILE.gguf --corpus FOLDER --out FOLDER [--wheel FILE] [options]
#
# Leaves in OUT: plans/ (plan files, factors.pt, scores.json, report.json), tasks.jsonl, scores.jsonl (the
# result file that `leanedge eval report` reads), and the logs of each step. A step that fails or runs
# out of time does not stop the next ones; the command fails at the end then. --seconds is what the whole
# command may take, the other seconds what a step may. --dry goes through all steps at the smallest sizes;
# options behind it count.
set -uo pipefail
cd "$(dirname "$0")/../.."

model= corpus= out= wheel= python=python3
workers=12 books=30
# Tasks.
lengths="2048 4096 7900" count=8 kinds="single multi-key multi-value multi-query perplexity"
# Stage 1, DuoAttention's gates, stages 2 and 3.
steps=150 gate_steps=60 refine_steps=0 exchange_rounds=0 exchange_seconds=30 stage1_seconds=inf loss=hidden start= measured=6
text_share=0.25 samples=4 min_tokens=512 max_tokens=7000 l1="0.02 0.06 0.2"
shares="0.5 0.6 0.7 0.8 0.9" bytes= storage=f16 recent=112
prompts=8 prompt_tokens=1000
seconds=540 learn_seconds=200 plans_seconds=90 eval_seconds=200 batch_tokens=262144
methods="full leank-60 leank-70 leank-70+k4+v4 think-60 think-70 magnitude-60 magnitude-70"
while (($#)); do
  if [[ $1 == --dry ]]; then
    workers=2 books=4 lengths=400 count=1 kinds="session single key-value perplexity"
    steps=3 gate_steps=2 refine_steps=1 exchange_rounds=1 samples=1 min_tokens=180 max_tokens=250 shares="0.5 0.7"
    prompts=1 prompt_tokens=200 methods="full leank-70 leank-70+k4+v4 duo-50 think-50 quest-2"
    shift
    continue
  fi
  case $1 in
    --model) model=$2 ;;
    --corpus) corpus=$2 ;;
    --out) out=$2 ;;
    --wheel) wheel=$2 ;;
    --python) python=$2 ;;
    --workers) workers=$2 ;;
    --books) books=$2 ;;
    --lengths) lengths=$2 ;;
    --count) count=$2 ;;
    --kinds) kinds=$2 ;;
    --steps) steps=$2 ;;
    --gate-steps) gate_steps=$2 ;;
    --refine-steps) refine_steps=$2 ;;
    --samples) samples=$2 ;;
    --exchange-rounds) exchange_rounds=$2 ;;
    --exchange-seconds) exchange_seconds=$2 ;;
    --stage1-seconds) stage1_seconds=$2 ;;
    --measured) measured=$2 ;;
    --loss) loss=$2 ;;
    --start) start=$2 ;;
    --text-share) text_share=$2 ;;
    --min-tokens) min_tokens=$2 ;;
    --max-tokens) max_tokens=$2 ;;
    --l1) l1=$2 ;;
    --shares) shares=$2 ;;
    --bytes) bytes=$2 ;;
    --storage) storage=$2 ;;
    --recent) recent=$2 ;;
    --prompts) prompts=$2 ;;
    --prompt-tokens) prompt_tokens=$2 ;;
    --seconds) seconds=$2 ;;
    --learn-seconds) learn_seconds=$2 ;;
    --plans-seconds) plans_seconds=$2 ;;
    --eval-seconds) eval_seconds=$2 ;;
    --batch-tokens) batch_tokens=$2 ;;
    --methods) methods=$2 ;;
    *) echo "unknown option $1" >&2 && exit 2 ;;
  esac
  shift 2
done
[[ -n $model && -n $corpus && -n $out ]] || {
  echo "--model, --corpus and --out are needed" >&2
  exit 2
}
export PYTHONPATH=$PWD/train${wheel:+:$wheel} PYTHONUNBUFFERED=1
mkdir -p "$out/plans"

failed=0 began=$SECONDS
# step SECONDS MODULE ARGUMENTS...: a command of the package in what time is left, its output in a log
# of its name.
step() {
  local limit=$1 rest=$((seconds - (SECONDS - began))) status=124
  ((limit < rest)) || limit=$rest
  if ((limit > 0)); then
    timeout --kill-after=5 "$limit" "$python" -m "leanedge_train.$2" "${@:3}" >"$out/$2.log" 2>&1
    status=$?
  else
    echo "no time left" >"$out/$2.log"
  fi
  if ((status != 0)); then
    failed=1
    echo "$2 failed ($status):" && tail -n 5 "$out/$2.log"
  fi
  echo "$2 after $((SECONDS - began)) s"
  return "$status"
}

# Lists of words are meant to be split.
# shellcheck disable=SC2086
step 120 make_tasks --model "$model" --corpus "$corpus" --out "$out/tasks.jsonl" --count "$count" \
  --lengths $lengths --kinds $kinds &
tasks=$!
# shellcheck disable=SC2086
step "$learn_seconds" learn_plan --model "$model" --corpus "$corpus" --out "$out/plans" \
  --workers "$workers" --books "$books" --steps "$steps" --gate-steps "$gate_steps" \
  --refine-steps "$refine_steps" --exchange-rounds "$exchange_rounds" \
  --exchange-seconds "$exchange_seconds" --stage1-seconds "$stage1_seconds" --measured "$measured" \
  --loss "$loss" ${start:+--start "$start"} --text-share "$text_share" --samples "$samples" \
  --min-tokens "$min_tokens" --max-tokens "$max_tokens" --l1 $l1 --shares $shares --bytes $bytes --storage-k "$storage" \
  --storage-v "$storage" --recent "$recent"
tail -n 12 "$out/learn_plan.log" | cut -c 1-300
wait "$tasks" || failed=1
# Whatever stage 1 left: other methods need no factors.
factors=()
if [[ -e $out/plans/factors.pt ]]; then
  factors=(--factors "$out/plans/factors.pt" --factor-set $(($(wc -w <<<"$l1") / 2)))
fi
step "$plans_seconds" make_plans --model "$model" --corpus "$corpus" --out "$out/plans" \
  --books "$books" --prompts "$prompts" --tokens "$prompt_tokens" "${factors[@]}"
# shellcheck disable=SC2086
step "$eval_seconds" reference_eval --model "$model" --tasks "$out/tasks.jsonl" \
  --out "$out/scores.jsonl" --plans "$out/plans" --batch-tokens "$batch_tokens" --skip-missing \
  --methods $methods
tail -n 24 "$out/reference_eval.log"
exit "$failed"
