/**
 * Which of the SIMD modules an environment can run. All of them compute the same bits; the relaxed
 * one is faster where engines have relaxed SIMD and where its products give the answers they should.
 */
import { wasmPagesInitial } from "./memory-pages.js";

/** A module that is valid only where relaxed SIMD is: one dot product of each kind that kernels use. */
const relaxedProbe = Uint8Array.of(
  ...[0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00],
  // One type: () -> v128. One function of that type.
  ...[0x01, 0x05, 0x01, 0x60, 0x00, 0x01, 0x7b],
  ...[0x03, 0x02, 0x01, 0x00],
  // Its body: i16x8.relaxed_dot_i8x16_i7x16_s and i32x4.relaxed_dot_i8x16_i7x16_add_s of zeros.
  ...[0x0a, 0x1a, 0x01, 0x18, 0x00],
  ...[0x41, 0x00, 0xfd, 0x0f, 0x41, 0x00, 0xfd, 0x0f, 0xfd, 0x92, 0x02],
  ...[0x41, 0x00, 0xfd, 0x0f, 0x41, 0x00, 0xfd, 0x0f, 0xfd, 0x93, 0x02, 0x0b],
);

/** Whether this environment knows relaxed SIMD. It compiles nothing, so a Worker may ask, too. */
export function hasRelaxedSimd(): boolean {
  return WebAssembly.validate(relaxedProbe);
}

/**
 * Whether the relaxed products of this environment give the answers that are known: some engines had
 * them wrong (Node 20 behind its flag). Costs one instance of the smallest memory, and microseconds.
 *
 * @param relaxed the relaxed module without threads
 */
export function relaxedIsRight(relaxed: WebAssembly.Module): boolean {
  const memory = new WebAssembly.Memory({ initial: wasmPagesInitial, maximum: wasmPagesInitial });
  const { exports } = new WebAssembly.Instance(relaxed, { env: { memory } });
  const { lew_probe: probe } = exports as { readonly lew_probe?: () => number };
  return probe !== undefined && probe() !== 0;
}

/**
 * The faster of two modules that this environment computes rightly.
 *
 * @param simd128 the plain module
 * @param relaxed the relaxed one, or undefined where it could not even be compiled
 */
export function chooseModule(
  simd128: WebAssembly.Module,
  relaxed: WebAssembly.Module | undefined,
): WebAssembly.Module {
  return relaxed !== undefined && hasRelaxedSimd() && relaxedIsRight(relaxed) ? relaxed : simd128;
}
