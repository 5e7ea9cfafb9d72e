#!/usr/bin/env bash
# Brings what a detached run (train/device/run.sh --detach) has left so far, and says how it goes.
#
#   train/device/collect.sh --out FOLDER [--work FOLDER] [--wait SECONDS]
#
# Waits for the end of the run, SECONDS at most (0: not at all). Brings into OUT what is there: log.jsonl of
# the training, run.log of the whole, logs.tgz with plans and scores as far as they are written, and the
# model as part.aa, part.ab ... once it is trained. Where a machine may go back between two commands, every
# one of them brings home: what it has not brought is lost with the machine. Exits with the run's own status
# once it has ended, and with 75 while it goes on.
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
for file in "$work/run/log.jsonl" "$work/out/run.log" "$work"/out/part.*; do
  if [[ -e $file ]]; then cp "$file" "$out/" || status=1; fi
done
files=()
for file in run/log.jsonl plans scores-f16.jsonl export/*.md; do
  for found in "$work"/$file; do
    if [[ -e $found ]]; then files+=("${found#"$work/"}"); fi
  done
done
if ((${#files[@]} > 0)); then
  # 1: a file grew while it was read.
  tar --create --gzip --file "$out/logs.tgz" --directory "$work" "${files[@]}" 2>/dev/null ||
    (($? == 1)) || status=1
fi
tail -n 4 "$out/log.jsonl" 2>/dev/null
tail -n 30 "$out/run.log" | cut -c 1-300
if ((status == still_running)); then echo "still running"; else echo "ended ($status)"; fi
exit "$status"
