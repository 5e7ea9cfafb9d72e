/** WebAssembly memory in pages: what a module begins with, and how far it can grow. */

/** Bytes of a page of WebAssembly memory. */
export const wasmPageBytes = 65536;
/** Pages of a module's statics and stack: what its memory begins with (scripts/build-wasm.sh). */
export const wasmPagesInitial = 16;
/** Pages that 32-bit addresses reach. */
export const wasmPagesMax = 65536;
