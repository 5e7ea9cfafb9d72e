#!/usr/bin/env bash
# Trains a model on the GPU machine, learns its plans and looks at both, in one command of under ten
# minutes. A longer run is several commands on the same warm machine (the checkpoint lies in WORK, and
# a copy of the corpus): all but the last with `--finish 0`, which only train.
#
#   train/device/run.sh --minutes 6.7 --total-minutes 6.6 --corpus FOLDER --out FOLDER [--wheel FILE]
#
# corpus: books-*.txt.xz, stories.txt.xz, smalltalk.jsonl.xz. wheel: gguf's, where it is not installed.
# Leaves in OUT: the model in F16 as part.aa, part.ab ... (`cat part.* > model.gguf`), and logs.tgz
# with the log, the plans, the factors, the report and the scores.
set -uo pipefail
cd "$(dirname "$0")/../.."

minutes=7 total=7 corpus= out= wheel= work=/tmp/leanedge-train name=leanedge-29m python=python3
steps=150 text=0.3 finish=1 config=embedded workers=12
lengths=0:1024,0.2:4096,0.88:8192 train_options= plan_options=
while (($#)); do
  case $1 in
    --minutes) minutes=$2 ;;
    --total-minutes) total=$2 ;;
    --corpus) corpus=$2 ;;
    --out) out=$2 ;;
    --wheel) wheel=$2 ;;
    --work) work=$2 ;;
    --name) name=$2 ;;
    --python) python=$2 ;;
    --leank-steps) steps=$2 ;;
    --text-share) text=$2 ;;
    --finish) finish=$2 ;;
    --config) config=$2 ;;
    --workers) workers=$2 ;;
    --lengths) lengths=$2 ;;
    --train-options) train_options=$2 ;;
    --plan-options) plan_options=$2 ;;
    *) echo "unknown option $1" >&2 && exit 2 ;;
  esac
  shift 2
done
[[ -n $corpus && -n $out ]] || { echo "--corpus and --out are needed" >&2 && exit 2; }
export PYTHONPATH=$PWD/train${wheel:+:$wheel} PYTHONUNBUFFERED=1
readonly part_bytes=15000000
mkdir -p "$work" "$out"
if [[ -d $corpus && ! -d $work/corpus ]]; then cp -r "$corpus" "$work/corpus"; fi
corpus=$work/corpus
run() { timeout --kill-after=5 "$1" "$python" -m "leanedge_train.${@:2}"; }

began=$SECONDS
always=()
if ((finish)); then always=(--export-always); fi
# Options are lists of words.
# shellcheck disable=SC2086
run 575 train_model --corpus "$corpus" --out "$work/run" --minutes "$minutes" --config "$config" \
  --total-minutes "$total" --text-share "$text" --lengths "$lengths" --workers "$workers" \
  --probe-every 200 "${always[@]}" $train_options 2>&1 | tail -n 400
echo "trained after $((SECONDS - began)) s"
if ((!finish)); then
  cp "$work/run/log.jsonl" "$out/"
  exit 0
fi

run 60 export --model "$work/run/model.pt" --out "$work/export" --name "$name" --storages q4_0 f16
split --bytes=$part_bytes "$work/export/$name-f16.gguf" "$out/part." && ls -l "$out"
echo "exported after $((SECONDS - began)) s"

# shellcheck disable=SC2086
train/device/plans.sh --model "$work/export/$name-q4_0.gguf" --corpus "$corpus" --out "$work/plans" \
  --python "$python" --workers "$workers" ${wheel:+--wheel "$wheel"} --lengths "1024 2048 4096" \
  --kinds "session single multi-key multi-value multi-query key-value tracking facts perplexity" \
  --steps "$steps" --samples 10 --max-tokens 4000 --bytes 820 --batch-tokens 131072 \
  --learn-seconds 120 --eval-seconds 90 --methods "full k4+v4 leank-70 leank-80 leank-70+k4+v4 \
leank-80+k4+v4 duo-50 think-70 magnitude-70 low-50 random-70 sink" $plan_options
echo "plans after $((SECONDS - began)) s"
# The same tasks with the weights that Q4_0 was rounded from.
run 60 reference_eval --model "$work/export/$name-f16.gguf" --tasks "$work/plans/tasks.jsonl" \
  --out "$work/scores-f16.jsonl" --methods full 2>&1 | tail -n 3
tar --create --gzip --file "$out/logs.tgz" --ignore-failed-read --directory "$work" \
  run/log.jsonl plans scores-f16.jsonl "export/$name.md" 2>&1
echo "all after $((SECONDS - began)) s"
