#!/usr/bin/env bash
# Brings what a detached run (train/device/run.sh --detach) has left so far, and says how it goes.
#
#   train/device/collect.sh --out FOLDER [--work FOLDER] [--wait SECONDS]
#
# Waits for the end of the run, SECONDS at most (0: not at all). Copies into OUT what is there: log.jsonl of
# the training, run.log of the whole, logs.tgz, and the model as part.aa, part.ab ... Exits with the run's own status once it has
# ended, and with 75 while it goes on.
set -uo pipefail

work=/tmp/leanedge-train out= wait=0
while (($#)); do
  case $1 in
    --work) work=$2 ;;
    --out) out=$2 ;;
    --wait) wait=$2 ;;
    *) echo "unknown option $1" >&2 && exit 2 ;;
  esac
  shift 2
done
[[ -n $out ]] || { echo "--out is needed" >&2 && exit 2; }
[[ -d $work/out ]] || { echo "no run under $work" >&2 && exit 2; }

readonly still_running=75
status=$still_running
while :; do
  if [[ -e $work/out/status ]]; then
    status=$(cat "$work/out/status")
    break
  fi
  ((SECONDS < wait)) || break
  sleep 1
done
mkdir -p "$out"
for file in "$work/run/log.jsonl" "$work"/out/{run.log,logs.tgz} "$work"/out/part.*; do
  if [[ -e $file ]]; then cp "$file" "$out/" || status=1; fi
done
tail -n 4 "$out/log.jsonl" 2>/dev/null
tail -n 30 "$out/run.log" | cut -c 1-300
if ((status == still_running)); then echo "still running"; else echo "ended ($status)"; fi
exit "$status"
