#!/usr/bin/env bash
# Runs the gateway's benchmark from a pack (pack.sh beside this file), on a machine that has neither npm nor network:
#   bench/gateway/device/run.sh --pack FOLDER [--node NODE] --out FOLDER [--seconds S] [--cores LIST] [--variants NAME,...]
# --node: another Node than the pack's. --seconds: it ends within (default 240), unpacking included, with the rounds that fit; the
# first one needs about 110. --cores: as taskset takes them (default all); from six on gateway, stub and clients have some to
# themselves. Writes gateway.json and gateway.md after each round of a variant: a run that is cut off has lost nothing.
set -euo pipefail

begun=$SECONDS
command="bench/gateway/device/run.sh $*"
pack=
node=
out=
seconds=240
cores=0-$(($(nproc --all) - 1))
variants=()
while (($# > 0)); do
  case $1 in
    --pack) pack=$(realpath "$2") ;;
    --node) node=$(realpath "$2") ;;
    --out) mkdir -p "$2" && out=$(realpath "$2") ;;
    --seconds) seconds=$2 ;;
    --cores) cores=$2 ;;
    --variants) variants=(--variants "$2") ;;
    *)
      echo "unknown argument $1" >&2
      exit 2
      ;;
  esac
  shift 2
done
if [[ -z $pack || -z $out ]]; then
  echo "run.sh: --pack and --out are needed" >&2
  exit 2
fi

# What is packed may lie where nothing can be written.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r "$pack"/*.mjs "$pack/gateway" "$work/"
unpack() { cat "$pack/$1".xz* | xz --decompress >"$work/$1" && chmod +x "$work/$1"; }
unpack workerd &
unpacking=$!
if [[ -z $node ]]; then
  unpack node
  node=$work/node
fi
wait "$unpacking"
LEANEDGE_COMMIT=$(cat "$pack/commit")
export LEANEDGE_COMMIT LEANEDGE_COMMAND=$command
# The whole run keeps to the cores; its programs to parts of them. What is left at the end is for writing.
left=$((seconds - (SECONDS - begun)))
timeout --kill-after=5 $((left - 5)) taskset --cpu-list "$cores" "$node" "$work/gateway.mjs" \
  --pack "$work" --cores "$cores" --seconds $((left - 10)) --out "$out" "${variants[@]}"
