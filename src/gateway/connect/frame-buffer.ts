/**
 * Frames of a byte stream: one byte of kind, four bytes of length (big endian), and the payload. Connect's streams and the
 * answers of a SessionObject are made of them. Chunks go in as they arrive; whole frames come out without a step of their
 * own each.
 */

/** One frame. */
export interface Frame {
  /** Its first byte. */
  readonly kind: number;
  /** Its bytes; a view of the chunk that brought them, which is not written again. */
  readonly payload: Uint8Array;
}

/** Bytes of a frame before its payload. */
export const frameHeadBytes = 5;

/** See the head of this file. */
export class FrameBuffer {
  readonly #payloadBytesMax: number;
  readonly #tooLarge: (bytes: number, bytesMax: number) => Error;
  /** Where frames are read; `#at` bytes of it are done. */
  #bytes: Uint8Array = new Uint8Array(0);
  #at = 0;
  /** Chunks that arrived behind it. */
  #later: Uint8Array[] = [];
  #length = 0;

  /**
   * @param payloadBytesMax largest payload of a frame, bytes
   * @param tooLarge the error for one that claims to be larger
   */
  constructor(payloadBytesMax: number, tooLarge: (bytes: number, bytesMax: number) => Error) {
    this.#payloadBytesMax = payloadBytesMax;
    this.#tooLarge = tooLarge;
  }

  /** Bytes that are no whole frame yet, or were not taken. */
  get byteLength(): number {
    return this.#length;
  }

  /** Takes a chunk over. */
  add(chunk: Uint8Array): void {
    if (this.#length === 0) {
      // Empty ones may have gathered.
      this.#later = [];
      this.#bytes = chunk;
      this.#at = 0;
    } else {
      this.#later.push(chunk);
    }
    this.#length += chunk.byteLength;
  }

  /** Whether `take` has something to give or to throw. */
  get hasFrame(): boolean {
    const length = this.#payloadBytes();
    return (
      length !== undefined &&
      (length > this.#payloadBytesMax || this.#length >= frameHeadBytes + length)
    );
  }

  /** The next frame; undefined while it is not whole. Throws what `tooLarge` makes. */
  take(): Frame | undefined {
    const length = this.#payloadBytes();
    if (length === undefined) {
      return undefined;
    }
    if (length > this.#payloadBytesMax) {
      throw this.#tooLarge(length, this.#payloadBytesMax);
    }
    if (this.#length < frameHeadBytes + length) {
      return undefined;
    }
    if (this.#bytes.byteLength - this.#at < frameHeadBytes + length) {
      this.#join();
    }
    const at = this.#at;
    const end = at + frameHeadBytes + length;
    this.#at = end;
    this.#length -= frameHeadBytes + length;
    return { kind: this.#bytes[at] ?? 0, payload: this.#bytes.subarray(at + frameHeadBytes, end) };
  }

  /** What the head says; undefined while it is not whole. */
  #payloadBytes(): number | undefined {
    if (this.#length < frameHeadBytes) {
      return undefined;
    }
    if (this.#bytes.byteLength - this.#at < frameHeadBytes) {
      this.#join();
    }
    return uint32(this.#bytes, this.#at + 1);
  }

  /** Makes one run of bytes of all that is here. Done once a frame is whole, so that a large one is copied once. */
  #join(): void {
    const all = new Uint8Array(this.#length);
    const first = this.#bytes.subarray(this.#at);
    all.set(first, 0);
    let position = first.byteLength;
    for (const chunk of this.#later) {
      all.set(chunk, position);
      position += chunk.byteLength;
    }
    this.#bytes = all;
    this.#at = 0;
    this.#later = [];
  }
}

function uint32(bytes: Uint8Array, at: number): number {
  return (
    (bytes[at] ?? 0) * 0x1000000 +
    ((bytes[at + 1] ?? 0) << 16) +
    ((bytes[at + 2] ?? 0) << 8) +
    (bytes[at + 3] ?? 0)
  );
}

/** Writes a frame. */
export function encodeFrame(kind: number, payload: Uint8Array): Uint8Array<ArrayBuffer> {
  return encodeFrames([{ kind, payload }]);
}

/** Writes frames into one run of bytes, so that they travel together. */
export function encodeFrames(frames: readonly Frame[]): Uint8Array<ArrayBuffer> {
  let length = 0;
  for (const { payload } of frames) {
    length += frameHeadBytes + payload.byteLength;
  }
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const { kind, payload } of frames) {
    const size = payload.byteLength;
    bytes[at] = kind;
    bytes[at + 1] = size >>> 24;
    bytes[at + 2] = size >>> 16;
    bytes[at + 3] = size >>> 8;
    bytes[at + 4] = size;
    bytes.set(payload, at + frameHeadBytes);
    at += frameHeadBytes + size;
  }
  return bytes;
}
