/**
 * A first walk over the bytes of a GGUF header: lengths, counts, types and names, nothing kept of
 * the values. After it the header is known to be whole and of bounded size, so that the parser
 * behind it (`@huggingface/gguf`, which reads past the end as zeros) can be given exactly its bytes.
 * Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 */
import { ModelFileError, quote } from "./errors.js";
import {
  arrayElementsMax,
  arrayElementsTotalMax,
  fileBytesMax,
  headerBytesMax,
  headerReadBytes,
  metadataKeysMax,
  nameBytesMax,
  stringBytesMax,
  tensorsMax,
  tensorDimensionsMax,
} from "./limits.js";
import type { ModelSource } from "./source.js";

/** What the walk found. */
export interface ScannedHeader {
  /** The header's bytes, from the file's first to the end of the tensor table. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /**
   * Elements of string arrays that begin with U+FEFF, by key: the parser's decoder takes it for a
   * byte order mark and drops it.
   */
  readonly byteOrderMarks: ReadonlyMap<string, readonly number[]>;
}

const ggufMagic = 0x46554747; // "GGUF", little endian
const stringType = 8;
const arrayType = 9;
/** Bytes of a value by GGUF type; strings and arrays have none. */
const scalarBytes: readonly (number | undefined)[] = [
  1,
  1,
  2,
  2,
  4,
  4,
  4,
  1,
  undefined,
  undefined,
  8,
  8,
  8,
];

/** The walk came to the end of the bytes at hand while it read `thing`. */
class EndOfBytes extends Error {
  constructor(readonly thing: string) {
    super(thing);
  }
}

class Cursor {
  readonly #view: DataView;
  readonly #bytes: Uint8Array;
  at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  skip(count: number, thing: string): number {
    const at = this.at;
    if (count > this.#bytes.length - at) throw new EndOfBytes(thing);
    this.at = at + count;
    return at;
  }

  u32(thing: string): number {
    return this.#view.getUint32(this.skip(4, thing), true);
  }

  /** A 64-bit count; above `max` it is refused, so the result is exact. */
  count(thing: string, max: number): number {
    const at = this.skip(8, thing);
    const value = this.#view.getUint32(at + 4, true) * 2 ** 32 + this.#view.getUint32(at, true);
    if (value > max) throw new ModelFileError("limit", `${thing} is ${value}, at most ${max}`);
    return value;
  }

  text(thing: string, max: number): string {
    const length = this.count(`length of ${thing}`, max);
    const at = this.skip(length, thing);
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: false }).decode(
        this.#bytes.subarray(at, at + length),
      );
    } catch {
      throw new ModelFileError("metadata", `${thing} is not UTF-8`);
    }
  }

  startsWithByteOrderMark(at: number): boolean {
    return this.#bytes[at] === 0xef && this.#bytes[at + 1] === 0xbb && this.#bytes[at + 2] === 0xbf;
  }
}

function scanArray(cursor: Cursor, thing: string, budget: { left: number }): number[] {
  const marks: number[] = [];
  const type = cursor.u32(`element type of ${thing}`);
  const count = cursor.count(`length of ${thing}`, arrayElementsMax);
  budget.left -= count;
  if (budget.left < 0) {
    throw new ModelFileError(
      "limit",
      `metadata arrays hold more than ${arrayElementsTotalMax} elements`,
    );
  }
  const bytes = scalarBytes[type];
  if (bytes !== undefined) {
    cursor.skip(bytes * count, thing);
    return marks;
  }
  // Arrays of arrays are legal GGUF, but no key that is read here has one.
  if (type !== stringType) {
    throw new ModelFileError(
      "metadata",
      `${thing} has elements of type ${type}, which is not read`,
    );
  }
  for (let i = 0; i < count; i++) {
    const length = cursor.count(`length of an element of ${thing}`, stringBytesMax);
    const at = cursor.skip(length, thing);
    if (length >= 3 && cursor.startsWithByteOrderMark(at)) marks.push(i);
  }
  return marks;
}

function scanMetadata(cursor: Cursor, count: number): Map<string, readonly number[]> {
  const keys = new Set<string>();
  const marks = new Map<string, readonly number[]>();
  const budget = { left: arrayElementsTotalMax };
  for (let i = 0; i < count; i++) {
    const key = cursor.text(`metadata key ${i}`, nameBytesMax);
    const thing = `metadata ${quote(key)}`;
    if (keys.has(key)) throw new ModelFileError("metadata", `${thing} stands there twice`);
    keys.add(key);
    const type = cursor.u32(`type of ${thing}`);
    const bytes = scalarBytes[type];
    if (bytes !== undefined) {
      cursor.skip(bytes, thing);
    } else if (type === stringType) {
      cursor.skip(cursor.count(`length of ${thing}`, stringBytesMax), thing);
    } else if (type === arrayType) {
      const found = scanArray(cursor, thing, budget);
      if (found.length > 0) marks.set(key, found);
    } else {
      throw new ModelFileError("metadata", `${thing} has type ${type}, GGUF has types 0 to 12`);
    }
  }
  return marks;
}

function scanTensors(cursor: Cursor, count: number): void {
  const names = new Set<string>();
  for (let i = 0; i < count; i++) {
    const name = cursor.text(`name of tensor ${i}`, nameBytesMax);
    const thing = `tensor ${quote(name)}`;
    if (names.has(name)) throw new ModelFileError("tensor", `${thing} stands there twice`);
    names.add(name);
    const dimensions = cursor.u32(`dimensions of ${thing}`);
    if (dimensions < 1 || dimensions > tensorDimensionsMax) {
      throw new ModelFileError(
        "tensor",
        `${thing} has ${dimensions} dimensions, 1 to ${tensorDimensionsMax} allowed`,
      );
    }
    for (let d = 0; d < dimensions; d++) cursor.count(`dimension ${d} of ${thing}`, 2 ** 32 - 1);
    cursor.u32(`type of ${thing}`);
    cursor.count(`offset of ${thing}`, fileBytesMax);
  }
}

/** Walks a whole header. Throws EndOfBytes where `bytes` end inside it. */
function scan(bytes: Uint8Array<ArrayBuffer>): ScannedHeader {
  const cursor = new Cursor(bytes);
  const magic = cursor.u32("magic number");
  if (magic !== ggufMagic) {
    throw new ModelFileError(
      "magic",
      `not a GGUF file: it begins with 0x${magic.toString(16).padStart(8, "0")}, not 0x${ggufMagic.toString(16)}`,
    );
  }
  const version = cursor.u32("version");
  if (version !== 2 && version !== 3) {
    throw new ModelFileError(
      "version",
      (version & 0xffff) === 0 && version !== 0
        ? "GGUF files in big-endian byte order are not read"
        : `GGUF version ${version}, only 2 and 3 are read`,
    );
  }
  const tensors = cursor.count("number of tensors", tensorsMax);
  const keys = cursor.count("number of metadata keys", metadataKeysMax);
  const byteOrderMarks = scanMetadata(cursor, keys);
  scanTensors(cursor, tensors);
  return { bytes: bytes.subarray(0, cursor.at), byteOrderMarks };
}

/** Reads and walks the header of a file: headerBytesMax at most are ever held. */
export async function scanHeader(source: ModelSource): Promise<ScannedHeader> {
  const limit = Math.min(source.sizeBytes, headerBytesMax);
  for (let length = Math.min(headerReadBytes, limit); ; length = Math.min(2 * length, limit)) {
    const bytes = await source.read(0, length);
    try {
      return scan(bytes);
    } catch (error) {
      if (!(error instanceof EndOfBytes)) throw error;
      if (length < limit) continue;
      if (limit === source.sizeBytes) {
        throw new ModelFileError(
          "truncated",
          `the file ends at byte ${limit}, inside ${error.thing}`,
        );
      }
      throw new ModelFileError(
        "limit",
        `the header is longer than ${headerBytesMax} bytes (at ${error.thing})`,
      );
    }
  }
}
