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

minutes=7 total=7 corpus= out= wheel= work=/tmp/leanedge-train name=leanedge-29m
steps=150 text=0.4 finish=1
while (($#)); do
  case $1 in
    --minutes) minutes=$2 ;;
    --total-minutes) total=$2 ;;
    --corpus) corpus=$2 ;;
    --out) out=$2 ;;
    --wheel) wheel=$2 ;;
    --work) work=$2 ;;
    --name) name=$2 ;;
    --leank-steps) steps=$2 ;;
    --text-share) text=$2 ;;
    --finish) finish=$2 ;;
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
python() { timeout --kill-after=5 "$1" python3 -m "leanedge_train.${@:2}"; }

began=$SECONDS
tasks=
if ((finish)); then
  python 120 make_tasks --corpus "$corpus" --out "$work/tasks.jsonl" --count 12 >"$work/tasks.log" 2>&1 &
  tasks=$!
fi
always=()
if ((finish)); then always=(--export-always); fi
python 575 train_model --corpus "$corpus" --out "$work/run" --minutes "$minutes" \
  --total-minutes "$total" --text-share "$text" --lengths 0:1024,0.2:4096,0.88:8192 \
  --probe-every 200 "${always[@]}" 2>&1 | tail -n 400
echo "trained after $((SECONDS - began)) s"
if ((!finish)); then
  cp "$work/run/log.jsonl" "$out/"
  exit 0
fi

python 60 export --model "$work/run/model.pt" --out "$work/export" --name "$name" --storages q4_0 f16
split --bytes=$part_bytes "$work/export/$name-f16.gguf" "$out/part." && ls -l "$out"
wait "$tasks"
cat "$work/tasks.log"
echo "exported after $((SECONDS - began)) s"

python 60 reference_eval --model "$work/export/$name-f16.gguf" --tasks "$work/tasks.jsonl" \
  --out "$work/scores-f16.jsonl" --methods full >"$work/f16.log" 2>&1 &
f16=$!
python 95 learn_plan --model "$work/export/$name-q4_0.gguf" --corpus "$corpus" --out "$work/plans" \
  --steps "$steps" --samples 10 --min-tokens 512 --max-tokens 4000 --workers 12 --books 30 \
  --shares 0.5 0.6 0.7 0.8 0.9 --bytes 820 >"$work/plans.log" 2>&1
tail -n 12 "$work/plans.log" | cut -c1-400
wait "$f16"
tail -n 4 "$work/f16.log"
echo "plans after $((SECONDS - began)) s"

python 50 reference_eval --model "$work/export/$name-q4_0.gguf" --tasks "$work/tasks.jsonl" \
  --out "$work/scores-q4_0.jsonl" --factors "$work/plans/factors.pt" --methods full full+k4+v4 \
  leank-70 leank-80 leank-70+k4+v4 think-70 magnitude-70 sink >"$work/q4_0.log" 2>&1
tail -n 12 "$work/q4_0.log"
tar --create --gzip --file "$out/logs.tgz" --ignore-failed-read --directory "$work" \
  run/log.jsonl plans plans.log f16.log q4_0.log scores-f16.jsonl scores-q4_0.jsonl \
  "export/$name.md" 2>&1
echo "all after $((SECONDS - began)) s"
