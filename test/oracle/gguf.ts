/**
 * A plain writer and reader of GGUF v3 files, for tests and benchmarks: the writer streams tensors
 * of any size, the reader is independent of the one in `src/engine` that it helps to judge.
 * Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 */
import { closeSync, fstatSync, openSync, readSync, writeSync } from "node:fs";
import { encodedBytes, tensorTypes } from "./tensor-types.js";
import type { TensorType } from "./tensor-types.js";

/** GGUF pads tensor data to this many bytes unless a file says otherwise; ours never does. */
const alignment = 32;

/** Header bytes that the reader takes in at most: the vocabulary of a real model is 2 to 10 MB. */
const headerBytesMax = 64 * 1024 * 1024;

/** A metadata value with its GGUF type. */
export type MetadataValue =
  | { type: "u32" | "i32" | "f32"; value: number }
  | { type: "bool"; value: boolean }
  | { type: "string"; value: string }
  | { type: "strings"; value: readonly string[] }
  | { type: "f32s" | "i32s"; value: readonly number[] };

/** A tensor to write. */
export type TensorSource = {
  /** GGUF name. */
  name: string;
  /** Sizes, the fastest changing first, as GGUF stores them. */
  shape: readonly number[];
  /** How values are stored. */
  type: TensorType;
  /** Makes the encoded bytes; called once, when the tensor is written. */
  bytes: () => Uint8Array;
};

/** A file to write: metadata in order, then tensors in order. */
export type GgufSource = {
  metadata: ReadonlyMap<string, MetadataValue>;
  tensors: readonly TensorSource[];
};

class ByteSink {
  #bytes = new Uint8Array(1 << 16);
  #view = new DataView(this.#bytes.buffer);
  #length = 0;

  #room(count: number): number {
    const at = this.#length;
    this.#length += count;
    if (this.#length > this.#bytes.length) {
      const larger = new Uint8Array(Math.max(this.#length, 2 * this.#bytes.length));
      larger.set(this.#bytes);
      this.#bytes = larger;
      this.#view = new DataView(larger.buffer);
    }
    return at;
  }

  u32(value: number): void {
    const at = this.#room(4);
    this.#view.setUint32(at, value, true);
  }

  i32(value: number): void {
    const at = this.#room(4);
    this.#view.setInt32(at, value, true);
  }

  f32(value: number): void {
    const at = this.#room(4);
    this.#view.setFloat32(at, value, true);
  }

  u64(value: number): void {
    const at = this.#room(8);
    this.#view.setBigUint64(at, BigInt(value), true);
  }

  u8(value: number): void {
    const at = this.#room(1);
    this.#view.setUint8(at, value);
  }

  raw(bytes: Uint8Array): void {
    const at = this.#room(bytes.length);
    this.#bytes.set(bytes, at);
  }

  string(text: string): void {
    const bytes = new TextEncoder().encode(text);
    this.u64(bytes.length);
    this.raw(bytes);
  }

  pad(): void {
    while (this.#length % alignment !== 0) this.u8(0);
  }

  take(): Uint8Array {
    return this.#bytes.slice(0, this.#length);
  }
}

const valueTypeIds = { u32: 4, i32: 5, f32: 6, bool: 7, string: 8, array: 9 } as const;

function writeValue(sink: ByteSink, entry: MetadataValue): void {
  switch (entry.type) {
    case "u32":
    case "i32":
    case "f32":
      sink.u32(valueTypeIds[entry.type]);
      sink[entry.type](entry.value);
      return;
    case "bool":
      sink.u32(valueTypeIds.bool);
      sink.u8(entry.value ? 1 : 0);
      return;
    case "string":
      sink.u32(valueTypeIds.string);
      sink.string(entry.value);
      return;
    case "strings":
      sink.u32(valueTypeIds.array);
      sink.u32(valueTypeIds.string);
      sink.u64(entry.value.length);
      for (const text of entry.value) sink.string(text);
      return;
    case "f32s":
    case "i32s": {
      const element = entry.type === "f32s" ? "f32" : "i32";
      sink.u32(valueTypeIds.array);
      sink.u32(valueTypeIds[element]);
      sink.u64(entry.value.length);
      for (const value of entry.value) sink[element](value);
    }
  }
}

function elements(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/** The bytes of a file, in pieces: the header, then one piece per tensor, padding included. */
export function* ggufChunks(source: GgufSource): Generator<Uint8Array> {
  const sink = new ByteSink();
  sink.raw(new TextEncoder().encode("GGUF"));
  sink.u32(3);
  sink.u64(source.tensors.length);
  sink.u64(source.metadata.size);
  for (const [key, value] of source.metadata) {
    sink.string(key);
    writeValue(sink, value);
  }
  let offset = 0;
  for (const tensor of source.tensors) {
    sink.string(tensor.name);
    sink.u32(tensor.shape.length);
    for (const size of tensor.shape) sink.u64(size);
    sink.u32(tensorTypes[tensor.type].id);
    sink.u64(offset);
    offset += encodedBytes(tensor.type, elements(tensor.shape));
    offset += (alignment - (offset % alignment)) % alignment;
  }
  sink.pad();
  yield sink.take();
  for (const tensor of source.tensors) {
    const expected = encodedBytes(tensor.type, elements(tensor.shape));
    const bytes = tensor.bytes();
    if (bytes.length !== expected) {
      throw new Error(`tensor ${tensor.name} has ${bytes.length} bytes, its shape ${expected}`);
    }
    yield bytes;
    const rest = expected % alignment;
    if (rest !== 0) yield new Uint8Array(alignment - rest);
  }
}

/** The whole file in memory: for small models. */
export function ggufBytes(source: GgufSource): Uint8Array {
  const chunks = [...ggufChunks(source)];
  const bytes = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.length, 0));
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return bytes;
}

/** Writes the file tensor by tensor. Returns its size in bytes. */
export function writeGguf(path: string, source: GgufSource): number {
  const file = openSync(path, "w");
  try {
    let total = 0;
    for (const chunk of ggufChunks(source)) {
      for (let at = 0; at < chunk.length;) at += writeSync(file, chunk, at);
      total += chunk.length;
    }
    return total;
  } finally {
    closeSync(file);
  }
}

/** A metadata value as read: GGUF's integer widths are all numbers here. */
export type ReadValue = number | boolean | string | readonly ReadValue[];

/** Where a tensor lies in a file. */
export type TensorInfo = {
  name: string;
  shape: readonly number[];
  type: TensorType;
  /** Bytes from the start of the file. */
  offset: number;
  /** Bytes that the tensor takes. */
  bytes: number;
};

/** A parsed header. */
export type GgufHeader = {
  metadata: ReadonlyMap<string, ReadValue>;
  tensors: ReadonlyMap<string, TensorInfo>;
};

class ByteSource {
  #at = 0;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get position(): number {
    return this.#at;
  }

  #step(count: number): number {
    const at = this.#at;
    this.#at += count;
    return at;
  }

  u32(): number {
    return this.#view.getUint32(this.#step(4), true);
  }

  u64(): number {
    return Number(this.#view.getBigUint64(this.#step(8), true));
  }

  string(): string {
    const length = this.u64();
    const at = this.#step(length);
    return new TextDecoder().decode(this.#bytes.subarray(at, at + length));
  }

  value(type: number): ReadValue {
    switch (type) {
      case 0:
        return this.#view.getUint8(this.#step(1));
      case 1:
        return this.#view.getInt8(this.#step(1));
      case 2:
        return this.#view.getUint16(this.#step(2), true);
      case 3:
        return this.#view.getInt16(this.#step(2), true);
      case 4:
        return this.u32();
      case 5:
        return this.#view.getInt32(this.#step(4), true);
      case 6:
        return this.#view.getFloat32(this.#step(4), true);
      case 7:
        return this.#view.getUint8(this.#step(1)) !== 0;
      case 8:
        return this.string();
      case 9: {
        const element = this.u32();
        const count = this.u64();
        return Array.from({ length: count }, () => this.value(element));
      }
      case 10:
        return this.u64();
      case 11:
        return Number(this.#view.getBigInt64(this.#step(8), true));
      case 12:
        return this.#view.getFloat64(this.#step(8), true);
      default:
        throw new Error(`GGUF value type ${type} is unknown`);
    }
  }
}

/** Parses the header at the start of `bytes`, which must hold all of it. */
export function parseGguf(bytes: Uint8Array): GgufHeader {
  const source = new ByteSource(bytes);
  const magic = source.u32();
  const version = source.u32();
  if (magic !== 0x46554747 || version !== 3) {
    throw new Error(`not a GGUF v3 file: magic ${magic.toString(16)}, version ${version}`);
  }
  const tensorCount = source.u64();
  const metadataCount = source.u64();
  const metadata = new Map<string, ReadValue>();
  for (let i = 0; i < metadataCount; i++) {
    const key = source.string();
    metadata.set(key, source.value(source.u32()));
  }
  const relative: TensorInfo[] = [];
  for (let i = 0; i < tensorCount; i++) {
    const name = source.string();
    const shape = Array.from({ length: source.u32() }, () => source.u64());
    const id = source.u32();
    const offset = source.u64();
    const type = (Object.keys(tensorTypes) as TensorType[]).find((t) => tensorTypes[t].id === id);
    if (type === undefined) throw new Error(`tensor ${name} has type ${id}, which is not read`);
    relative.push({ name, shape, type, offset, bytes: encodedBytes(type, elements(shape)) });
  }
  const start = Math.ceil(source.position / alignment) * alignment;
  return {
    metadata,
    tensors: new Map(relative.map((info) => [info.name, { ...info, offset: start + info.offset }])),
  };
}

/** A file on disk: its header, and its tensors' bytes on demand. */
export class GgufFile {
  readonly header: GgufHeader;
  readonly #path: string;

  /** @param path a GGUF v3 file. Throws when its header cannot be read. */
  constructor(path: string) {
    this.#path = path;
    const file = openSync(path, "r");
    try {
      const size = Math.min(fstatSync(file).size, headerBytesMax);
      const bytes = new Uint8Array(size);
      readFully(file, bytes, 0);
      this.header = parseGguf(bytes);
    } finally {
      closeSync(file);
    }
  }

  /** The bytes of one tensor. */
  tensorBytes(info: TensorInfo): Uint8Array {
    const file = openSync(this.#path, "r");
    try {
      const bytes = new Uint8Array(info.bytes);
      readFully(file, bytes, info.offset);
      return bytes;
    } finally {
      closeSync(file);
    }
  }
}

function readFully(file: number, bytes: Uint8Array, position: number): void {
  for (let at = 0; at < bytes.length;) {
    const count = readSync(file, bytes, at, bytes.length - at, position + at);
    if (count === 0) throw new Error(`file ends at byte ${position + at}`);
    at += count;
  }
}
