/**
 * The name of a model file's content. Caches, prefixes and snapshots are only valid for the exact
 * weights that made them, so every byte counts, and yet a loader must be able to check as it streams,
 * in a browser too, where SHA-256 exists for whole buffers only. Hence two levels:
 *
 *   fingerprint = SHA-256("leanedge model 1\n" || u64 size || SHA-256(block 0) || SHA-256(block 1) ...)
 *
 * as lower-case hexadecimal. Blocks are fileBlockBytes long, the last one shorter; the size is little
 * endian. An asset shard is exactly one block, so a manifest's shard hashes are the inner hashes,
 * and a loader of files and a loader of shards find the same name.
 */
import { sha256, toHex } from "../sha256.js";
import { fileBlockBytes } from "./limits.js";
import type { ModelSource } from "./source.js";

const domain = new TextEncoder().encode("leanedge model 1\n");

/** The fingerprint from the file's size and the hashes of its blocks, in order. */
export async function fingerprintOfBlocks(
  sizeBytes: number,
  blockHashes: readonly Uint8Array[],
): Promise<string> {
  const bytes = new Uint8Array(domain.length + 8 + 32 * blockHashes.length);
  bytes.set(domain);
  new DataView(bytes.buffer).setBigUint64(domain.length, BigInt(sizeBytes), true);
  for (const [index, hash] of blockHashes.entries())
    bytes.set(hash, domain.length + 8 + 32 * index);
  return toHex(await sha256(bytes));
}

/** Computes a fingerprint while a file streams by, in order, from its first byte to its last. */
export class FingerprintHasher {
  readonly #block = new Uint8Array(fileBlockBytes);
  readonly #hashes: Uint8Array[] = [];
  #filled = 0;
  #sizeBytes = 0;

  /** Takes the next bytes; waits for the hash of each block that they complete. */
  async update(bytes: Uint8Array): Promise<void> {
    let at = 0;
    while (at < bytes.length) {
      const count = Math.min(bytes.length - at, fileBlockBytes - this.#filled);
      this.#block.set(bytes.subarray(at, at + count), this.#filled);
      this.#filled += count;
      at += count;
      if (this.#filled === fileBlockBytes) await this.#endBlock();
    }
    this.#sizeBytes += bytes.length;
  }

  /** The fingerprint of all bytes taken. Ends the hasher. */
  async digest(): Promise<string> {
    if (this.#filled > 0) await this.#endBlock();
    return fingerprintOfBlocks(this.#sizeBytes, this.#hashes);
  }

  async #endBlock(): Promise<void> {
    this.#hashes.push(await sha256(this.#block.subarray(0, this.#filled)));
    this.#filled = 0;
  }
}

/** The fingerprint of a whole file; reads all of it once. */
export async function fingerprintSource(source: ModelSource): Promise<string> {
  const hasher = new FingerprintHasher();
  const reader = source.stream(0, source.sizeBytes).getReader();
  for (;;) {
    const next = await reader.read();
    if (next.done) return hasher.digest();
    await hasher.update(next.value);
  }
}
