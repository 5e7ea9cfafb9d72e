#!/bin/sh
# Builds the engine's two WebAssembly modules from one source (wasm/README.md):
#
#   scripts/build-wasm.sh            wasm/prebuilt/leanedge-{reference,simd128}.wasm and BUILD.json
#   scripts/build-wasm.sh --check    builds into a temporary folder and compares with wasm/prebuilt
#
# Needs Debian's clang-19, lld-19 and wasi-libc (headers only). The output depends on the sources
# and the tools' versions alone: no paths, no times, no order of directory entries.
set -eu
export LC_ALL=C

root=$(cd "$(dirname "$0")/.." && pwd)
prebuilt="$root/wasm/prebuilt"
bytes_max=409600      # ceiling of one module
initial_bytes=1048576 # statics and stack; src/engine/wasm/abi.ts has the same number
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

# build NAME BACKEND EXTRA_FLAGS KERNELS_FOLDER
build() {
  objects=""
  for source in $(ls "$root"/engine/src/*.cpp "$root/$4"/*.cpp "$root"/wasm/src/*.cpp); do
    case "$source" in */platform_native.cpp) continue ;; esac
    object="$work/$1-$(echo "${source#"$root"/}" | tr / -).o"
    # shellcheck disable=SC2086
    clang++-19 $flags $3 "-DLEANEDGE_BACKEND=$2" -c "$source" -o "$object"
    objects="$objects $object"
  done
  exports=$(sed 's/^/--export=/' "$root/wasm/exports.txt")
  # wasm-ld directly: the clang driver would run whatever wasm-opt is in PATH over the result.
  # shellcheck disable=SC2086
  wasm-ld-19 --no-entry --import-memory --initial-memory=$initial_bytes --stack-first \
    -z stack-size=$stack_bytes --gc-sections --strip-all -O2 $exports \
    $objects -o "$out/leanedge-$1.wasm"
  size=$(wc -c <"$out/leanedge-$1.wasm")
  if [ "$size" -gt "$bytes_max" ]; then
    echo "build-wasm: leanedge-$1.wasm has $size bytes, at most $bytes_max are allowed" >&2
    exit 1
  fi
}

build reference 1 "" engine/src/kernels_ref
build simd128 2 -msimd128 wasm/src/simd128

digest() { sha256sum "$1" | cut -d ' ' -f 1; }

cat >"$out/BUILD.json" <<EOF
{
  "clang": "$(clang++-19 --version | sed -n 's/.*clang version //p')",
  "lld": "$(wasm-ld-19 --version | sed 's/^[^0-9]*//')",
  "wasiLibc": "$(dpkg-query --show --showformat '${Version}' wasi-libc 2>/dev/null || echo unknown)",
  "modules": {
    "leanedge-reference.wasm": {
      "bytes": $(wc -c <"$out/leanedge-reference.wasm"),
      "sha256": "$(digest "$out/leanedge-reference.wasm")"
    },
    "leanedge-simd128.wasm": {
      "bytes": $(wc -c <"$out/leanedge-simd128.wasm"),
      "sha256": "$(digest "$out/leanedge-simd128.wasm")"
    }
  }
}
EOF

files="leanedge-reference.wasm leanedge-simd128.wasm BUILD.json"
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
