/** Model files cut into assets: one block a shard, named by a manifest. */
import { fingerprintBytes, sha256, sha256Hex, toHex } from "../sha256.js";
import { ModelFileError } from "./errors.js";
import { fingerprintOfBlocks } from "./fingerprint.js";
import { fileBlockBytes, fileBytesMax, shardsMax } from "./limits.js";
import { checkRange, streamOf } from "./source.js";
import type { ModelSource } from "./source.js";

/** One asset of a sharded model file. */
export interface ModelShard {
  /** Where it lies, as the fetcher understands it; usually relative to the manifest. */
  readonly path: string;
  /** fileBlockBytes, the last shard 1 to fileBlockBytes. */
  readonly sizeBytes: number;
  /** SHA-256 of the shard, lower-case hexadecimal. */
  readonly sha256: string;
}

/** What a model file was cut into. */
export interface ShardManifest {
  /** Fingerprint of the whole file (fingerprint.ts). */
  readonly fingerprint: string;
  /** Size of the whole file, in bytes. */
  readonly sizeBytes: number;
  /** In order; every shard but the last holds fileBlockBytes. */
  readonly shards: readonly ModelShard[];
}

/** Gets one shard. May be called again for the same shard; must not be called for two at once by one source. */
export type ShardFetcher = (shard: ModelShard) => Promise<Response>;

const hashPattern = /^[0-9a-f]{64}$/;

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function manifestError(message: string): ModelFileError {
  return new ModelFileError("source", `shard manifest: ${message}`);
}

function checkShard(value: unknown, index: number, expectedBytes: number): ModelShard {
  if (!isRecord(value)) throw manifestError(`shard ${index} is not an object`);
  const { path, sizeBytes, sha256: hash } = value;
  if (typeof path !== "string" || path.length === 0 || path.length > 1024) {
    throw manifestError(`shard ${index} needs a path of 1 to 1024 characters`);
  }
  if (sizeBytes !== expectedBytes) {
    throw manifestError(`shard ${index} has ${String(sizeBytes)} bytes, ${expectedBytes} expected`);
  }
  if (typeof hash !== "string" || !hashPattern.test(hash)) {
    throw manifestError(`shard ${index} needs a sha256 of 64 hexadecimal digits`);
  }
  return { path, sizeBytes: expectedBytes, sha256: hash };
}

/**
 * Checks parsed JSON as a manifest: sizes that add up, hashes that give the fingerprint. Throws
 * ModelFileError `source` or `integrity`.
 */
export async function checkShardManifest(value: unknown): Promise<ShardManifest> {
  if (!isRecord(value)) throw manifestError("not an object");
  const { fingerprint, sizeBytes, shards } = value;
  if (typeof fingerprint !== "string" || !hashPattern.test(fingerprint)) {
    throw manifestError("fingerprint is not 64 hexadecimal digits");
  }
  if (
    typeof sizeBytes !== "number" ||
    !Number.isSafeInteger(sizeBytes) ||
    sizeBytes < 1 ||
    sizeBytes > fileBytesMax
  ) {
    throw manifestError(`sizeBytes ${String(sizeBytes)} is outside 1 to ${fileBytesMax}`);
  }
  const count = Math.ceil(sizeBytes / fileBlockBytes);
  if (!Array.isArray(shards) || shards.length !== count || count > shardsMax) {
    throw manifestError(
      `${Array.isArray(shards) ? shards.length : "no"} shards, ${count} expected, at most ${shardsMax}`,
    );
  }
  const checked = shards.map((shard: unknown, index) =>
    checkShard(shard, index, Math.min(fileBlockBytes, sizeBytes - index * fileBlockBytes)),
  );
  const named = await fingerprintOfBlocks(
    sizeBytes,
    checked.map((shard) => fingerprintBytes(shard.sha256)),
  );
  if (named !== fingerprint) {
    throw new ModelFileError(
      "integrity",
      `shard manifest: fingerprint ${fingerprint}, its shards give ${named}`,
    );
  }
  return { fingerprint, sizeBytes, shards: checked };
}

/** Makes the manifest of a file; `pathOf` names shard `index`. Reads the file once, a block at a time. */
export async function makeShardManifest(
  source: ModelSource,
  pathOf: (index: number) => string,
): Promise<ShardManifest> {
  const shards: ModelShard[] = [];
  const hashes: Uint8Array[] = [];
  for (let offset = 0; offset < source.sizeBytes; offset += fileBlockBytes) {
    const sizeBytes = Math.min(fileBlockBytes, source.sizeBytes - offset);
    const hash = await sha256(await source.read(offset, sizeBytes));
    hashes.push(hash);
    shards.push({ path: pathOf(shards.length), sizeBytes, sha256: toHex(hash) });
  }
  const fingerprint = await fingerprintOfBlocks(source.sizeBytes, hashes);
  return { fingerprint, sizeBytes: source.sizeBytes, shards };
}

/** Reads a body into one buffer of exactly the shard's size. */
async function readBody(shard: ModelShard, response: Response): Promise<Uint8Array<ArrayBuffer>> {
  if (!response.ok || response.body === null) {
    throw new ModelFileError("source", `shard ${shard.path}: HTTP status ${response.status}`);
  }
  const bytes = new Uint8Array(shard.sizeBytes);
  let at = 0;
  const reader = response.body.getReader();
  for (;;) {
    const next = await reader.read();
    if (next.done) break;
    const chunk: Uint8Array = next.value;
    if (at + chunk.length > bytes.length) {
      await reader.cancel();
      throw new ModelFileError(
        "integrity",
        `shard ${shard.path}: more than ${shard.sizeBytes} bytes`,
      );
    }
    bytes.set(chunk, at);
    at += chunk.length;
  }
  if (at !== bytes.length) {
    throw new ModelFileError("truncated", `shard ${shard.path}: ${at} of ${shard.sizeBytes} bytes`);
  }
  return bytes;
}

/**
 * A model file in shards. Each shard is fetched when its first byte is needed, checked against its
 * hash before any byte of it is handed out, and held until the next one is fetched: one block of
 * memory, and a header of a few reads costs one fetch. Calls must follow each other: await a read,
 * drain or cancel a stream, before the next.
 */
export function shardSource(manifest: ShardManifest, fetchShard: ShardFetcher): ModelSource {
  let heldIndex = -1;
  let held: Uint8Array<ArrayBuffer> = new Uint8Array(0);

  async function shardBytes(index: number): Promise<Uint8Array<ArrayBuffer>> {
    if (index === heldIndex) return held;
    const shard = manifest.shards[index];
    if (shard === undefined) throw manifestError(`no shard ${index} of ${manifest.shards.length}`);
    heldIndex = -1;
    held = new Uint8Array(0);
    let response: Response;
    try {
      response = await fetchShard(shard);
    } catch (cause) {
      throw new ModelFileError("source", `shard ${shard.path} could not be fetched`, { cause });
    }
    const bytes = await readBody(shard, response);
    const hash = await sha256Hex(bytes);
    if (hash !== shard.sha256) {
      throw new ModelFileError(
        "integrity",
        `shard ${shard.path}: sha256 ${hash}, ${shard.sha256} expected`,
      );
    }
    heldIndex = index;
    held = bytes;
    return bytes;
  }

  async function* chunks(offset: number, length: number) {
    const end = offset + length;
    for (let at = offset; at < end;) {
      const index = Math.floor(at / fileBlockBytes);
      const bytes = await shardBytes(index);
      const begin = at - index * fileBlockBytes;
      const stop = Math.min(bytes.length, end - index * fileBlockBytes);
      yield bytes.subarray(begin, stop);
      at += stop - begin;
    }
  }

  return {
    sizeBytes: manifest.sizeBytes,
    async read(offset, length) {
      checkRange(manifest.sizeBytes, offset, length);
      const result = new Uint8Array(length);
      let at = 0;
      for await (const chunk of chunks(offset, length)) {
        result.set(chunk, at);
        at += chunk.length;
      }
      return result;
    },
    stream(offset, length) {
      checkRange(manifest.sizeBytes, offset, length);
      return streamOf(chunks(offset, length));
    },
  };
}
