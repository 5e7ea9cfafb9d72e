import { Code, ConnectError } from "@connectrpc/connect";
import { base64Encode } from "@bufbuild/protobuf/wire";

const PAD = 0x3d; // "="
const INVALID = 0xff;
const values = buildValues();

function buildValues(): Uint8Array {
  const table = new Uint8Array(256).fill(INVALID);
  const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (let i = 0; i < alphabet.length; i++) {
    table[alphabet.charCodeAt(i)] = i;
  }
  return table;
}

/**
 * Encodes each chunk as base64 of its own, padding included, so that every chunk can be flushed at once: gRPC-web text
 * allows padding wherever a sender flushed.
 */
export async function* encodeBase64Chunks(
  chunks: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array, void, undefined> {
  const encoder = new TextEncoder();
  for await (const chunk of chunks) {
    if (chunk.byteLength > 0) {
      yield encoder.encode(base64Encode(chunk));
    }
  }
}

/**
 * Decodes base64 that arrives in chunks with arbitrary borders and with padding inside the stream.
 *
 * Throws INVALID_ARGUMENT on a byte outside the alphabet, on padding in the wrong place, and when the stream ends inside
 * a group of four.
 */
export async function* decodeBase64Chunks(
  chunks: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array, void, undefined> {
  const decoder = new Base64Decoder();
  for await (const chunk of chunks) {
    const bytes = decoder.decode(chunk);
    if (bytes.byteLength > 0) {
      yield bytes;
    }
  }
  decoder.finish();
}

/** The state between two chunks: at most three characters of a group of four. */
class Base64Decoder {
  /** The bits of the current group so far. */
  #bits = 0;
  /** Characters of the current group so far, padding included: 0 to 3. */
  #count = 0;
  /** How many of them are padding: 0 or 1. */
  #pads = 0;
  /** Characters before the current chunk, for error messages. */
  #position = 0;

  decode(chunk: Uint8Array): Uint8Array {
    const out = new Uint8Array(Math.ceil((chunk.byteLength * 3) / 4) + 3);
    let length = 0;
    for (const [i, char] of chunk.entries()) {
      if (char === PAD) {
        if (this.#count < 2) {
          throw this.#invalid(char, i);
        }
        this.#pads++;
        this.#bits <<= 6;
      } else {
        const value = values[char] ?? INVALID;
        if (value === INVALID || this.#pads > 0) {
          throw this.#invalid(char, i);
        }
        this.#bits = (this.#bits << 6) | value;
      }
      this.#count++;
      if (this.#count === 4) {
        out[length++] = this.#bits >> 16;
        if (this.#pads < 2) out[length++] = (this.#bits >> 8) & 0xff;
        if (this.#pads < 1) out[length++] = this.#bits & 0xff;
        this.#bits = 0;
        this.#count = 0;
        this.#pads = 0;
      }
    }
    this.#position += chunk.byteLength;
    return out.subarray(0, length);
  }

  finish(): void {
    if (this.#count !== 0) {
      throw new ConnectError(
        `base64 body of ${this.#position} characters ends inside a group of four`,
        Code.InvalidArgument,
      );
    }
  }

  #invalid(char: number, index: number): ConnectError {
    const position = this.#position + index;
    return new ConnectError(
      `invalid base64 byte 0x${char.toString(16).padStart(2, "0")} at position ${position}`,
      Code.InvalidArgument,
    );
  }
}
