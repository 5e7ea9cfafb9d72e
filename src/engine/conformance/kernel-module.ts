/**
 * One WASM module as the kernel suite drives it: single operations of the kernel contract, over
 * regions with guards around them. Outputs begin as NaN, so that what a kernel leaves out shows.
 */
import type { Dtype } from "../gguf/dtype.js";
import { dtypeLayouts } from "../gguf/dtype.js";
import { wasmPagesInitial } from "../wasm/memory-pages.js";
import {
  isThreaded,
  startHelpers,
  type HelperThreads,
  type ThreadExports,
} from "../wasm/threads.js";

/** Exports of wasm/src/kernel_exports.cpp. Addresses and sizes are bytes unless said otherwise. */
export interface KernelExports {
  le_backend(): number;
  lek_alloc(bytes: number): number;
  lek_reset(): void;
  lek_packed_bytes(dtype: number, rows: number, cols: number): number;
  lek_pack_row(
    dtype: number,
    rows: number,
    cols: number,
    data: number,
    row: number,
    src: number,
  ): void;
  lek_unpack_row(
    dtype: number,
    rows: number,
    cols: number,
    data: number,
    row: number,
    out: number,
  ): void;
  lek_activations_bytes(rows: number, cols: number): number;
  lek_prepare_activations(x: number, prepared: number, rows: number, cols: number): void;
  lek_matmul(
    dtype: number,
    rows: number,
    cols: number,
    data: number,
    x: number,
    prepared: number,
    xRows: number,
    y: number,
  ): void;
  lek_rmsnorm(x: number, weight: number, eps: number, rows: number, dim: number, y: number): void;
  lek_add(x: number, y: number, rows: number, dim: number): void;
  lek_add_bias(x: number, bias: number, rows: number, dim: number): void;
  lek_swiglu(gate: number, up: number, rows: number, dim: number): void;
  lek_rope(
    x: number,
    cos: number,
    sin: number,
    rows: number,
    heads: number,
    headDim: number,
    ropeDim: number,
  ): void;
  lek_to_f16(x: number, count: number, out: number): void;
  lek_plan_bytes(layers: number, kvHeads: number, channels: number): number;
  lek_plan_identity(
    memory: number,
    layers: number,
    kvHeads: number,
    headDim: number,
    sink: number,
    recent: number,
  ): void;
  lek_page_layer_bytes(plan: number, layer: number): number;
  lek_page_flush(
    plan: number,
    layer: number,
    k: number,
    v: number,
    stride: number,
    row: number,
    page: number,
  ): void;
  lek_page_pack_ref(
    plan: number,
    layer: number,
    head: number,
    k: number,
    v: number,
    rowStride: number,
    block: number,
  ): number;
  lek_attention_scratch_bytes(
    rowsMax: number,
    heads: number,
    headDim: number,
    pagesMax: number,
  ): number;
  lek_attention(
    plan: number,
    layer: number,
    heads: number,
    tasks: number,
    taskCount: number,
    scratch: number,
  ): void;
}

/** Threads of a threaded module's suite: no power of two, so that pieces are uneven. */
const suiteThreads = 3;

/** Bytes of a guard on each side of a region; a multiple of the 64 that regions are aligned to. */
const guardBytes = 64;
/** What guards are filled with: a NaN in f32, f16 and bf16. */
const guardByte = 0xff;
/** Most memory of a suite's module, in pages: far more than any case takes. */
const pagesMax = 4096;

interface Region {
  readonly address: number;
  readonly bytes: number;
}

/** See the head of this file. */
export class KernelModule {
  #regions: Region[] = [];

  private constructor(
    private readonly memory: WebAssembly.Memory,
    /** The module's functions. */
    readonly call: KernelExports,
    private readonly helpers: HelperThreads | undefined,
  ) {}

  /** Instantiates a module of wasm/prebuilt; a threaded one starts with helpers. */
  static async create(module: WebAssembly.Module): Promise<KernelModule> {
    const shared = isThreaded(module);
    const memory = new WebAssembly.Memory({ initial: wasmPagesInitial, maximum: pagesMax, shared });
    const { exports } = await WebAssembly.instantiate(module, { env: { memory } });
    const helpers = shared
      ? await startHelpers(module, memory, exports as unknown as ThreadExports, suiteThreads)
      : undefined;
    return new KernelModule(memory, exports as unknown as KernelExports, helpers);
  }

  /** Ends the helper threads of a threaded module. */
  close(): void {
    this.helpers?.stop();
  }

  /** Bytes of memory that the module has now. */
  get memoryBytes(): number {
    return this.memory.buffer.byteLength;
  }

  /** Forgets all regions; their memory is used again. */
  reset(): void {
    this.#regions = [];
    this.call.lek_reset();
  }

  /** A guarded region of NaNs, 64-byte aligned. */
  output(bytes: number): number {
    const begin = this.call.lek_alloc(bytes + 2 * guardBytes);
    if (begin === 0) throw new RangeError(`no memory for ${bytes} bytes`);
    new Uint8Array(this.memory.buffer, begin, bytes + 2 * guardBytes).fill(guardByte);
    const region = { address: begin + guardBytes, bytes };
    this.#regions.push(region);
    return region.address;
  }

  /** A guarded region of zeros. */
  zeros(bytes: number): number {
    const address = this.output(bytes);
    new Uint8Array(this.memory.buffer, address, bytes).fill(0);
    return address;
  }

  /** A guarded region that holds a copy of `values`. */
  input(values: Float32Array | Uint8Array | Uint16Array | Uint32Array): number {
    const address = this.output(values.byteLength);
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    new Uint8Array(this.memory.buffer, address, values.byteLength).set(bytes);
    return address;
  }

  /** A copy of `count` f32 values. */
  floats(address: number, count: number): Float32Array {
    return new Float32Array(this.memory.buffer, address, count).slice();
  }

  /** A copy of `count` f32 values as their bits, to compare NaNs and signs of zeros too. */
  floatBits(address: number, count: number): Uint32Array {
    return new Uint32Array(this.memory.buffer, address, count).slice();
  }

  /** A copy of `count` 16-bit values. */
  halves(address: number, count: number): Uint16Array {
    return new Uint16Array(this.memory.buffer, address, count).slice();
  }

  /** A copy of bytes. */
  bytes(address: number, count: number): Uint8Array {
    return new Uint8Array(this.memory.buffer, address, count).slice();
  }

  /** Addresses of the regions whose guards were written to; empty when all is well. */
  brokenGuards(): number[] {
    return this.#regions
      .filter(({ address, bytes }) =>
        [address - guardBytes, address + bytes].some((begin) =>
          new Uint8Array(this.memory.buffer, begin, guardBytes).some((byte) => byte !== guardByte),
        ),
      )
      .map(({ address }) => address);
  }
}

/** A matrix in a module's own layout. */
export interface ModuleMatrix {
  readonly dtype: number;
  readonly rows: number;
  readonly cols: number;
  readonly data: number;
}

/** Packs a tensor's bytes, rows in a scrambled order: any order must do. */
export function packMatrix(
  kernels: KernelModule,
  dtype: Dtype,
  rows: number,
  cols: number,
  tensor: Uint8Array,
): ModuleMatrix {
  const { id } = dtypeLayouts[dtype];
  const data = kernels.zeros(kernels.call.lek_packed_bytes(id, rows, cols));
  const rowBytes = tensor.length / rows;
  for (let i = 0; i < rows; i++) {
    // 7 and 11 have no common factor with most row counts; where they do, rows are packed in order.
    const row = rows % 7 === 0 ? i : (i * 7) % rows;
    // One byte off alignment: rows of a file lie anywhere.
    const bytes = new Uint8Array(rowBytes + 1);
    bytes.set(tensor.subarray(row * rowBytes, (row + 1) * rowBytes), 1);
    kernels.call.lek_pack_row(id, rows, cols, data, row, kernels.input(bytes) + 1);
  }
  return { dtype: id, rows, cols, data };
}

/** y (xRows, matrix.rows) as f32 bits, for x (xRows, matrix.cols). */
export function multiply(
  kernels: KernelModule,
  matrix: ModuleMatrix,
  x: Float32Array,
  xRows: number,
): Uint32Array {
  const { call } = kernels;
  const { dtype, rows, cols, data } = matrix;
  const at = kernels.input(x);
  const prepared = kernels.output(call.lek_activations_bytes(xRows, cols));
  const y = kernels.output(xRows * rows * 4);
  call.lek_prepare_activations(at, prepared, xRows, cols);
  call.lek_matmul(dtype, rows, cols, data, at, prepared, xRows, y);
  return kernels.floatBits(y, xRows * rows);
}
