import { Buffer } from "node:buffer";
import { gunzipSync } from "node:zlib";
import { GrpcFailure, GrpcStatus } from "./grpc-status.js";

const headBytes = 5;
const trailerFlag = 0x80;
const compressedFlag = 0x01;

/** What a chunk contained: bytes to pass on as they are, and the trailers if they are complete now. */
export interface FramePieces {
  /** Heads and payloads of message frames, in order. */
  data: Buffer[];
  /** The trailers' lines, once the frame that carries them is complete. */
  trailers: Buffer | undefined;
}

/** How a reader of frames is bounded. */
export interface FrameReaderOptions {
  /** Largest message, in bytes; a larger one fails with RESOURCE_EXHAUSTED. */
  messageBytesMax: number;
  /** Largest frame of trailers, in bytes; undefined where the direction has none (requests). */
  trailerBytesMax: number | undefined;
  /** For error messages: "request" or "response". */
  direction: string;
}

/**
 * Reads the length-prefixed frames that gRPC and gRPC-web share, as they arrive and without holding a message: a message
 * goes on piece by piece, only trailers are collected.
 */
export class FrameReader {
  readonly #options: FrameReaderOptions;
  readonly #head = Buffer.alloc(headBytes);
  #headLength = 0;
  /** Bytes of the current payload that are still to come. */
  #remaining = 0;
  /** Parts of the frame of trailers; undefined outside of one. */
  #trailerParts: Buffer[] | undefined;
  #trailerCompressed = false;
  #ended = false;

  /** One reader per direction of a call. */
  constructor(options: FrameReaderOptions) {
    this.#options = options;
  }

  /** True between two frames, where a body may end. */
  get complete(): boolean {
    return this.#headLength === 0 && this.#remaining === 0 && this.#trailerParts === undefined;
  }

  /** Takes the next chunk of the body. Throws GrpcFailure on a message above its bound or bytes after the trailers. */
  push(chunk: Buffer): FramePieces {
    const pieces: FramePieces = { data: [], trailers: undefined };
    let offset = 0;
    while (offset < chunk.byteLength) {
      if (this.#ended) {
        throw new GrpcFailure(GrpcStatus.internal, "the response goes on after its trailers");
      }
      if (this.#remaining === 0) {
        offset += this.#readHead(chunk, offset, pieces);
      } else {
        offset += this.#readPayload(chunk, offset, pieces);
      }
    }
    return pieces;
  }

  #readHead(chunk: Buffer, offset: number, pieces: FramePieces): number {
    const length = Math.min(headBytes - this.#headLength, chunk.byteLength - offset);
    chunk.copy(this.#head, this.#headLength, offset, offset + length);
    this.#headLength += length;
    if (this.#headLength < headBytes) {
      return length;
    }
    this.#headLength = 0;
    this.#remaining = this.#head.readUInt32BE(1);
    const flags = this.#head.readUInt8(0);
    const { trailerBytesMax, messageBytesMax, direction } = this.#options;
    if (trailerBytesMax !== undefined && (flags & trailerFlag) !== 0) {
      if (this.#remaining > trailerBytesMax) {
        throw new GrpcFailure(
          GrpcStatus.internal,
          `trailers of ${this.#remaining} bytes are larger than the bound of ${trailerBytesMax}`,
        );
      }
      this.#trailerParts = [];
      this.#trailerCompressed = (flags & compressedFlag) !== 0;
      this.#endTrailersIfComplete(pieces);
    } else {
      if (this.#remaining > messageBytesMax) {
        throw new GrpcFailure(
          GrpcStatus.resourceExhausted,
          `${direction} message of ${this.#remaining} bytes is larger than the bound of ${messageBytesMax}`,
        );
      }
      pieces.data.push(Buffer.from(this.#head));
    }
    return length;
  }

  #readPayload(chunk: Buffer, offset: number, pieces: FramePieces): number {
    const length = Math.min(this.#remaining, chunk.byteLength - offset);
    const part = chunk.subarray(offset, offset + length);
    this.#remaining -= length;
    if (this.#trailerParts === undefined) {
      pieces.data.push(part);
    } else {
      this.#trailerParts.push(part);
      this.#endTrailersIfComplete(pieces);
    }
    return length;
  }

  #endTrailersIfComplete(pieces: FramePieces): void {
    if (this.#remaining > 0 || this.#trailerParts === undefined) {
      return;
    }
    const bytes = Buffer.concat(this.#trailerParts);
    pieces.trailers = this.#trailerCompressed ? this.#unzip(bytes) : bytes;
    this.#trailerParts = undefined;
    this.#ended = true;
  }

  #unzip(bytes: Buffer): Buffer {
    try {
      return gunzipSync(bytes, { maxOutputLength: this.#options.trailerBytesMax });
    } catch (cause) {
      throw new GrpcFailure(GrpcStatus.internal, "the trailers are not valid gzip", { cause });
    }
  }
}

/** Parses the lines of gRPC-web trailers. A name that comes twice keeps all its values. */
export function parseTrailers(lines: Buffer): Record<string, string[]> {
  const trailers: Record<string, string[]> = {};
  for (const line of lines.toString("latin1").split("\r\n")) {
    const colon = line.indexOf(":");
    if (colon > 0) {
      const name = line.slice(0, colon).trim().toLowerCase();
      (trailers[name] ??= []).push(line.slice(colon + 1).trim());
    }
  }
  return trailers;
}
