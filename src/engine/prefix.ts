/** Names of a log's first tokens (PrefixName in proto/leanedge/worker/v1). */
import { sha256 } from "@noble/hashes/sha2.js";

/** Packs ids as u32, little endian: what a prefix is hashed over. */
export function packIds(ids: ArrayLike<number>): Uint8Array<ArrayBuffer> {
  // Byte by byte: a view of a short array makes a buffer of its own for it first, which takes ten times as long.
  const bytes = new Uint8Array(ids.length * 4);
  for (let i = 0, at = 0; i < ids.length; i++) {
    const id = ids[i] ?? 0;
    bytes[at++] = id;
    bytes[at++] = id >>> 8;
    bytes[at++] = id >>> 16;
    bytes[at++] = id >>> 24;
  }
  return bytes;
}

/** SHA-256 over token ids, u32 little endian each; 32 bytes. */
export function prefixHash(ids: ArrayLike<number>): Uint8Array {
  return sha256(packIds(ids));
}
