#!/bin/sh
# Builds the engine's WebAssembly modules from one source (wasm/README.md):
#
#   scripts/build-wasm.sh            wasm/prebuilt/leanedge-*.wasm and BUILD.json
#   scripts/build-wasm.sh --check    builds into a temporary folder and compares with wasm/prebuilt
#
# Needs Debian's clang-19, lld-19 and wasi-libc (headers only). The output depends on the sources
# and the tools' versions alone: no paths, no times, no order of directory entries.
set -eu
export LC_ALL=C

root=$(cd "$(dirname "$0")/.." && pwd)
prebuilt="$root/wasm/prebuilt"
bytes_max=409600      # ceiling of one module
initial_bytes=1048576 # statics and stack; src/engine/wasm/memory-pages.ts has the same number
stack_bytes=262144

check=no
case "${1-}" in
  "") ;;
  --check) check=yes ;;
  *)
    echo "usage: scripts/build-wasm.sh [--check]" >&2
    exit 2
    ;;
esac

for tool in clang++-19 wasm-ld-19; do
  command -v "$tool" >/dev/null || {
    echo "build-wasm: $tool is missing; Debian: apt-get install clang-19 lld-19 wasi-libc" >&2
    exit 3
  }
done
headers=/usr/include/wasm32-wasi
test -d "$headers" || {
  echo "build-wasm: $headers is missing; Debian: apt-get install wasi-libc" >&2
  exit 3
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
out="$work/out"
mkdir -p "$out"

flags="--target=wasm32 -std=c++20 -O3 -fno-exceptions -fno-rtti -ffp-contract=off
  -fno-math-errno -fno-threadsafe-statics -fvisibility=hidden -ffunction-sections -fdata-sections
  -mbulk-memory -mnontrapping-fptoint -msign-ext -mmutable-globals
  -Wall -Wextra -Werror -nostdlibinc -isystem $headers
  -ffile-prefix-map=$root=. -I$root/engine/include -I$root/engine/src -I$root/wasm/src"

# build NAME BACKEND EXTRA_FLAGS KERNEL_FOLDERS LINK_FLAGS EXPORT_LISTS
build() {
  objects=""
  sources="$root/engine/src/*.cpp $root/wasm/src/*.cpp"
  for folder in $4; do sources="$sources $root/$folder/*.cpp"; done
  # shellcheck disable=SC2086
  for source in $(ls $sources); do
    case "$source" in */platform_native.cpp) continue ;; esac
    object="$work/$1-$(echo "${source#"$root"/}" | tr / -).o"
    # shellcheck disable=SC2086
    clang++-19 $flags $3 "-DLEANEDGE_BACKEND=$2" -c "$source" -o "$object"
    objects="$objects $object"
  done
  exports=$(for list in $6; do sed 's/^/--export=/' "$root/wasm/$list.txt"; done)
  # wasm-ld directly: the clang driver would run whatever wasm-opt is in PATH over the result.
  # shellcheck disable=SC2086
  wasm-ld-19 --no-entry --import-memory --initial-memory=$initial_bytes --stack-first \
    -z stack-size=$stack_bytes --gc-sections --strip-all -O2 $5 $exports \
    $objects -o "$out/leanedge-$1.wasm"
  size=$(wc -c <"$out/leanedge-$1.wasm")
  if [ "$size" -gt "$bytes_max" ]; then
    echo "build-wasm: leanedge-$1.wasm has $size bytes, at most $bytes_max are allowed" >&2
    exit 1
  fi
}

simd=wasm/src/simd128
relaxed_flags="-msimd128 -mrelaxed-simd"
# Without -mthread-model, clang makes plain accesses of atomic ones. The memory's maximum is the
# host's: the module takes any.
threads=wasm/src/threads
thread_flags="-matomics -mthread-model posix -DLEANEDGE_THREADS"
thread_link="--shared-memory --max-memory=4294967296"
modules="reference simd128 relaxed simd128-threads relaxed-threads"
build reference 1 "" engine/src/kernels_ref "" exports
build simd128 2 -msimd128 $simd "" exports
build relaxed 2 "$relaxed_flags" $simd "" "exports exports-relaxed"
build simd128-threads 2 "-msimd128 $thread_flags" "$simd $threads" "$thread_link" \
  "exports exports-threads"
build relaxed-threads 2 "$relaxed_flags $thread_flags" "$simd $threads" "$thread_link" \
  "exports exports-relaxed exports-threads"

digest() { sha256sum "$1" | cut -d ' ' -f 1; }

{
  printf '{\n  "clang": "%s",\n' "$(clang++-19 --version | sed -n 's/.*clang version //p')"
  printf '  "lld": "%s",\n' "$(wasm-ld-19 --version | sed 's/^[^0-9]*//')"
  printf '  "wasiLibc": "%s",\n' \
    "$(dpkg-query --show --showformat '${Version}' wasi-libc 2>/dev/null || echo unknown)"
  printf '  "modules": {'
  separator=""
  for name in $modules; do
    file="leanedge-$name.wasm"
    printf '%s\n    "%s": {\n      "bytes": %s,\n      "sha256": "%s"\n    }' \
      "$separator" "$file" "$(wc -c <"$out/$file")" "$(digest "$out/$file")"
    separator=","
  done
  printf '\n  }\n}\n'
} >"$out/BUILD.json"

files="BUILD.json"
for name in $modules; do files="$files leanedge-$name.wasm"; done
if [ "$check" = yes ]; then
  status=0
  for file in $files; do
    cmp "$out/$file" "$prebuilt/$file" || status=1
  done
  if [ "$status" -ne 0 ]; then
    echo "build-wasm: wasm/prebuilt is not what the sources build; run scripts/build-wasm.sh" >&2
    diff "$prebuilt/BUILD.json" "$out/BUILD.json" >&2 || true
  fi
  exit "$status"
fi

mkdir -p "$prebuilt"
# The linker marks its output executable, which only scripts are here.
for file in $files; do install -m 644 "$out/$file" "$prebuilt/$file"; done
cat "$prebuilt/BUILD.json"
