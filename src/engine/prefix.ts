/** Names of a log's first tokens (PrefixName in proto/leanedge/worker/v1). */
import { sha256 } from "@noble/hashes/sha2.js";

/** Packs ids as u32, little endian: what a prefix is hashed over. */
export function packIds(ids: ArrayLike<number>): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(ids.length * 4);
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < ids.length; i++) view.setUint32(i * 4, ids[i] ?? 0, true);
  return bytes;
}

/** SHA-256 over token ids, u32 little endian each; 32 bytes. */
export function prefixHash(ids: ArrayLike<number>): Uint8Array {
  return sha256(packIds(ids));
}
