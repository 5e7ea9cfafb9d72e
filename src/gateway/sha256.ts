/** SHA-256 by the runtime's own code, synchronous. */
import { createHash, hash } from "node:crypto";

const encoder = new TextEncoder();

/** SHA-256 of all parts, one after the other; a string counts as UTF-8. 32 bytes. */
export function sha256(...parts: readonly (string | Uint8Array)[]): Uint8Array {
  // One call for what lies in one piece: a hash that is fed is a stream of Node's, five objects and three calls more.
  const [first = "", ...others] = parts;
  return new Uint8Array(hash("sha256", others.length === 0 ? first : joined(parts), "buffer"));
}

function joined(parts: readonly (string | Uint8Array)[]): string | Uint8Array {
  if (parts.every((part) => typeof part === "string")) {
    return parts.join("");
  }
  const pieces = parts.map((part) => (typeof part === "string" ? encoder.encode(part) : part));
  const all = new Uint8Array(pieces.reduce((sum, { byteLength }) => sum + byteLength, 0));
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.byteLength;
  }
  return all;
}

/** SHA-256 of a text that grows, which may be asked for at any time. */
export class TextSha256 {
  readonly #hash = createHash("sha256");

  /** The text goes on. */
  add(text: string): void {
    this.#hash.update(text);
  }

  /** The hash of all of it so far. 32 bytes. */
  get value(): Uint8Array {
    return new Uint8Array(this.#hash.copy().digest());
  }
}
