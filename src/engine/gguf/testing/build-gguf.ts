/** Writes GGUF files for tests: good ones, and ones that are wrong in any way that bytes can be. */
import { dtypeLayouts } from "../dtype.js";
import type { Dtype } from "../dtype.js";

/** A metadata value as it is written. */
export type TestValue =
  | { type: "u32" | "f32"; value: number }
  | { type: "bool"; value: boolean }
  | { type: "string"; value: string }
  | { type: "strings"; value: readonly string[] }
  | { type: "i32s" | "f32s"; value: readonly number[] };

/** A tensor of zeros as it is written. */
export interface TestTensor {
  name: string;
  shape: readonly number[];
  /** A known type, or any type id. */
  dtype: Dtype | number;
  /** Written instead of the offset that follows from the tensors before it. */
  offset?: number;
}

/** A file to write. */
export interface TestFile {
  magic: string;
  version: number;
  /** Written instead of the true counts. */
  tensorCount?: number;
  keyCount?: number;
  metadata: (readonly [string, TestValue])[];
  tensors: TestTensor[];
  /** Bytes cut off the end. */
  cut?: number;
}

const scalars = { u32: 4, i32: 5, f32: 6, bool: 7, string: 8, array: 9 } as const;

class Sink {
  #bytes: number[] = [];

  get length(): number {
    return this.#bytes.length;
  }

  raw(bytes: Iterable<number>): void {
    for (const byte of bytes) this.#bytes.push(byte);
  }

  number(type: "u32" | "i32" | "f32" | "u64", value: number): void {
    const view = new DataView(new ArrayBuffer(8));
    if (type === "u32") view.setUint32(0, value, true);
    else if (type === "i32") view.setInt32(0, value, true);
    else if (type === "f32") view.setFloat32(0, value, true);
    else view.setBigUint64(0, BigInt(value), true);
    this.raw(new Uint8Array(view.buffer, 0, type === "u64" ? 8 : 4));
  }

  text(text: string): void {
    const bytes = new TextEncoder().encode(text);
    this.number("u64", bytes.length);
    this.raw(bytes);
  }

  pad(alignment: number): void {
    while (this.#bytes.length % alignment !== 0) this.#bytes.push(0);
  }

  take(): Uint8Array<ArrayBuffer> {
    return Uint8Array.from(this.#bytes);
  }
}

function writeValue(sink: Sink, entry: TestValue): void {
  switch (entry.type) {
    case "u32":
    case "f32":
      sink.number("u32", scalars[entry.type]);
      sink.number(entry.type, entry.value);
      return;
    case "bool":
      sink.number("u32", scalars.bool);
      sink.raw([entry.value ? 1 : 0]);
      return;
    case "string":
      sink.number("u32", scalars.string);
      sink.text(entry.value);
      return;
    case "strings":
      sink.number("u32", scalars.array);
      sink.number("u32", scalars.string);
      sink.number("u64", entry.value.length);
      for (const text of entry.value) sink.text(text);
      return;
    case "i32s":
    case "f32s": {
      const type = entry.type === "i32s" ? "i32" : "f32";
      sink.number("u32", scalars.array);
      sink.number("u32", scalars[type]);
      sink.number("u64", entry.value.length);
      for (const value of entry.value) sink.number(type, value);
    }
  }
}

/** Bytes of zeros that a tensor gets; one with an absurd shape gets few. */
function tensorBytes(tensor: TestTensor): number {
  const weights = Math.min(
    tensor.shape.reduce((product, size) => product * size, 1),
    1 << 16,
  );
  if (typeof tensor.dtype === "number") return weights;
  const { blockWeights, blockBytes } = dtypeLayouts[tensor.dtype];
  return Math.ceil(weights / blockWeights) * blockBytes;
}

/** The bytes of a file. */
export function buildGguf(file: TestFile): Uint8Array<ArrayBuffer> {
  const sink = new Sink();
  sink.raw(new TextEncoder().encode(file.magic));
  sink.number("u32", file.version);
  sink.number("u64", file.tensorCount ?? file.tensors.length);
  sink.number("u64", file.keyCount ?? file.metadata.length);
  for (const [key, value] of file.metadata) {
    sink.text(key);
    writeValue(sink, value);
  }
  let offset = 0;
  for (const tensor of file.tensors) {
    sink.text(tensor.name);
    sink.number("u32", tensor.shape.length);
    for (const size of tensor.shape) sink.number("u64", size);
    sink.number(
      "u32",
      typeof tensor.dtype === "number" ? tensor.dtype : dtypeLayouts[tensor.dtype].id,
    );
    sink.number("u64", tensor.offset ?? offset);
    offset += Math.ceil(tensorBytes(tensor) / 32) * 32;
  }
  sink.pad(32);
  sink.raw(new Uint8Array(offset));
  const bytes = sink.take();
  return bytes.slice(0, bytes.length - (file.cut ?? 0));
}

const u32 = (value: number): TestValue => ({ type: "u32", value });
const f32 = (value: number): TestValue => ({ type: "f32", value });

/** A good file: one layer of a model with a SentencePiece-style vocabulary of eight tokens. */
export function tinyModel(architecture: "llama" | "qwen2" | "qwen3" = "llama"): TestFile {
  const key = (name: string) => `${architecture}.${name}`;
  const layer = (name: string, shape: number[], dtype: Dtype = "F32"): TestTensor => ({
    name: `blk.0.${name}`,
    shape,
    dtype,
  });
  const tensors: TestTensor[] = [
    { name: "token_embd.weight", shape: [32, 8], dtype: "Q8_0" },
    { name: "output_norm.weight", shape: [32], dtype: "F32" },
    layer("attn_norm.weight", [32]),
    layer("attn_q.weight", [32, 32], "Q4_0"),
    layer("attn_k.weight", [32, 16], "Q4_1"),
    layer("attn_v.weight", [32, 16], "F16"),
    layer("attn_output.weight", [32, 32], "BF16"),
    layer("ffn_norm.weight", [32]),
    layer("ffn_gate.weight", [32, 64]),
    layer("ffn_up.weight", [32, 64]),
    layer("ffn_down.weight", [64, 32]),
  ];
  if (architecture === "qwen2") {
    tensors.push(
      layer("attn_q.bias", [32]),
      layer("attn_k.bias", [16]),
      layer("attn_v.bias", [16]),
    );
  }
  if (architecture === "qwen3") {
    tensors.push(layer("attn_q_norm.weight", [16]), layer("attn_k_norm.weight", [16]));
  }
  return {
    magic: "GGUF",
    version: 3,
    metadata: [
      ["general.architecture", { type: "string", value: architecture }],
      ["general.name", { type: "string", value: "tiny" }],
      [key("context_length"), u32(128)],
      [key("embedding_length"), u32(32)],
      [key("block_count"), u32(1)],
      [key("feed_forward_length"), u32(64)],
      [key("attention.head_count"), u32(2)],
      [key("attention.head_count_kv"), u32(1)],
      [key("attention.layer_norm_rms_epsilon"), f32(1e-5)],
      [key("rope.freq_base"), f32(10_000)],
      ["tokenizer.ggml.model", { type: "string", value: "llama" }],
      [
        "tokenizer.ggml.tokens",
        { type: "strings", value: ["<unk>", "<s>", "</s>", "▁a", "a", "b", "\uFEFF", "▁"] },
      ],
      ["tokenizer.ggml.scores", { type: "f32s", value: [0, 0, 0, -1, -2, -3, -4, -5] }],
      ["tokenizer.ggml.token_type", { type: "i32s", value: [2, 3, 3, 1, 1, 1, 1, 1] }],
      ["tokenizer.ggml.bos_token_id", u32(1)],
      ["tokenizer.ggml.eos_token_id", u32(2)],
      ["tokenizer.ggml.eot_token_id", u32(0xffffffff)],
    ],
    tensors,
  };
}

/** Sets or removes a metadata value of a file. */
export function setMetadata(file: TestFile, key: string, value: TestValue | undefined): TestFile {
  const rest = file.metadata.filter(([name]) => name !== key);
  return { ...file, metadata: value === undefined ? rest : [...rest, [key, value]] };
}

/** Changes one tensor of a file. */
export function setTensor(file: TestFile, name: string, change: Partial<TestTensor>): TestFile {
  return {
    ...file,
    tensors: file.tensors.map((t) => (t.name === name ? { ...t, ...change } : t)),
  };
}
