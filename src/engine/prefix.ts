/** Names of a log's first tokens (PrefixName in proto/leanedge/worker/v1). */
import { sha256 } from "./sha256.js";

/** SHA-256 over token ids, u32 little endian each; 32 bytes. */
export function prefixHash(ids: ArrayLike<number>): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(ids.length * 4);
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < ids.length; i++) view.setUint32(i * 4, ids[i] ?? 0, true);
  return sha256(bytes);
}
