import { createHash } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openFileSource } from "./file-source.js";
import { FingerprintHasher, fingerprintSource } from "./fingerprint.js";
import { fileBlockBytes, streamChunkBytes } from "./limits.js";
import { memorySource } from "./memory-source.js";
import { checkShardManifest, makeShardManifest, shardSource } from "./shard-source.js";
import type { ModelShard, ShardManifest } from "./shard-source.js";
import type { ModelSource } from "./source.js";

const bytes = new Uint8Array(2 * fileBlockBytes + 12_345);
for (let i = 0; i < bytes.length; i++) bytes[i] = (i * 31) >>> 3;

let manifest: ShardManifest;
let folder: string;
let path: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "leanedge-shards-"));
  path = join(folder, "model.bin");
  await writeFile(path, bytes);
  manifest = await makeShardManifest(memorySource(bytes), (index) => `part-${index}`);
});
afterAll(() => rm(folder, { recursive: true }));

/** Serves shards from memory and counts how often it is asked. */
function server(
  change: (shard: ModelShard, body: Uint8Array<ArrayBuffer>) => Response = (_, body) =>
    new Response(body),
) {
  const asked: string[] = [];
  return {
    asked,
    fetchShard: (shard: ModelShard): Promise<Response> => {
      asked.push(shard.path);
      const index = Number(shard.path.slice("part-".length));
      const body = bytes.slice(index * fileBlockBytes, index * fileBlockBytes + shard.sizeBytes);
      return Promise.resolve(change(shard, body));
    },
  };
}

async function drain(source: ModelSource, offset: number, length: number): Promise<Uint8Array[]> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of source.stream(offset, length)) chunks.push(chunk);
  return chunks;
}

function sha(data: Uint8Array): string {
  return createHash("sha256").update(data).digest("hex");
}

describe("the three sources of bytes", () => {
  it.each(["memory", "file", "shards"])("%s: reads and streams the same bytes", async (kind) => {
    const file = kind === "file" ? await openFileSource(path) : undefined;
    const source =
      file ??
      (kind === "memory" ? memorySource(bytes) : shardSource(manifest, server().fetchShard));
    expect(source.sizeBytes).toBe(bytes.length);
    const [offset, length] = [fileBlockBytes - 7, fileBlockBytes + 20];
    const expected = sha(bytes.subarray(offset, offset + length));
    expect(sha(await source.read(offset, length))).toBe(expected);
    const chunks = await drain(source, offset, length);
    expect(sha(Buffer.concat(chunks))).toBe(expected);
    const bound = kind === "shards" ? fileBlockBytes : streamChunkBytes;
    expect(Math.max(...chunks.map((chunk) => chunk.length))).toBeLessThanOrEqual(bound);
    expect(await drain(source, bytes.length, 0)).toEqual([]);
    await expect(source.read(bytes.length - 1, 2)).rejects.toMatchObject({ code: "truncated" });
    await expect(source.read(-1, 2)).rejects.toMatchObject({ code: "truncated" });
    expect(() => source.stream(0, bytes.length + 1)).toThrow(/the file has 8400953/);
    expect(await fingerprintSource(source)).toBe(manifest.fingerprint);
    await file?.close();
  });

  it("names a file that is not there", async () => {
    await expect(openFileSource(join(folder, "no.gguf"))).rejects.toMatchObject({ code: "source" });
    await expect(openFileSource(folder)).rejects.toThrow(/is not a file/);
  });
});

describe("fingerprints", () => {
  it("are the documented hash, however the bytes arrive", async () => {
    const size = Buffer.alloc(8);
    size.writeBigUInt64LE(BigInt(bytes.length));
    const inner = [0, 1, 2].map((i) =>
      createHash("sha256")
        .update(bytes.subarray(i * fileBlockBytes, (i + 1) * fileBlockBytes))
        .digest(),
    );
    const expected = sha(Buffer.concat([Buffer.from("leanedge model 1\n"), size, ...inner]));
    expect(manifest.fingerprint).toBe(expected);
    const hasher = new FingerprintHasher();
    for (let at = 0, step = 1; at < bytes.length; at += step, step = step * 3 + 1) {
      await hasher.update(bytes.subarray(at, at + step));
    }
    expect(await hasher.digest()).toBe(expected);
  });

  it("change with any byte and with the size", async () => {
    const changed = bytes.slice();
    changed[fileBlockBytes + 1] = (changed[fileBlockBytes + 1] ?? 0) ^ 1;
    const others = [changed, bytes.subarray(1), bytes.subarray(0, bytes.length - 1)];
    const names = await Promise.all(others.map((other) => fingerprintSource(memorySource(other))));
    expect(new Set([...names, manifest.fingerprint]).size).toBe(4);
  });
});

describe("shards", () => {
  it("are fetched once each by a pass in order, and only when pulled", async () => {
    const { asked, fetchShard } = server();
    const source = shardSource(manifest, fetchShard);
    await source.read(0, 100);
    await source.read(50, 5000);
    expect(asked).toEqual(["part-0"]);
    const reader = source.stream(0, bytes.length).getReader();
    await reader.read();
    expect(asked).toEqual(["part-0"]);
    await reader.read();
    expect(asked).toEqual(["part-0", "part-1"]);
    await reader.cancel();
    expect(asked).toEqual(["part-0", "part-1"]);
  });

  it.each([
    ["a missing asset", () => new Response("no", { status: 404 }), "source", /HTTP status 404/],
    [
      "a short body",
      (_: ModelShard, b: Uint8Array<ArrayBuffer>) => new Response(b.slice(1)),
      "truncated",
      /4194303 of 4194304/,
    ],
    [
      "a long body",
      (_: ModelShard, b: Uint8Array<ArrayBuffer>) => new Response(Buffer.concat([b, b])),
      "integrity",
      /more than 4194304/,
    ],
    [
      "other bytes",
      (_: ModelShard, b: Uint8Array<ArrayBuffer>) => new Response(b.fill(0)),
      "integrity",
      /sha256 [0-9a-f]{64}, [0-9a-f]{64} expected/,
    ],
  ])("are refused: %s", async (_what, change, code, message) => {
    const source = shardSource(manifest, server(change).fetchShard);
    await expect(source.read(0, 1)).rejects.toMatchObject({ code });
    await expect(source.read(0, 1)).rejects.toThrow(message);
    await expect(drain(source, 0, 1)).rejects.toMatchObject({ code });
  });

  it("pass on that a fetch failed", async () => {
    const source = shardSource(manifest, () => Promise.reject(new Error("offline")));
    await expect(source.read(0, 1)).rejects.toMatchObject({
      code: "source",
      cause: new Error("offline"),
    });
  });
});

describe("shard manifests", () => {
  it("survive JSON", async () => {
    expect(await checkShardManifest(JSON.parse(JSON.stringify(manifest)))).toEqual(manifest);
  });

  const first = () => manifest.shards[0];
  it.each([
    ["nothing", () => null, "source", /not an object/],
    ["no fingerprint", () => ({ ...manifest, fingerprint: "x" }), "source", /not 64 hexadecimal/],
    [
      "another fingerprint",
      () => ({ ...manifest, fingerprint: "0".repeat(64) }),
      "integrity",
      /its shards give/,
    ],
    ["no size", () => ({ ...manifest, sizeBytes: 0 }), "source", /sizeBytes 0 is outside/],
    ["another size", () => ({ ...manifest, sizeBytes: 1 }), "source", /3 shards, 1 expected/],
    [
      "a shard too few",
      () => ({ ...manifest, shards: manifest.shards.slice(1) }),
      "source",
      /2 shards, 3 expected/,
    ],
    [
      "a shard of another size",
      () => ({ ...manifest, shards: [{ ...first(), sizeBytes: 5 }, ...manifest.shards.slice(1)] }),
      "source",
      /shard 0 has 5 bytes, 4194304 expected/,
    ],
    [
      "a shard without a hash",
      () => ({ ...manifest, shards: [{ ...first(), sha256: "" }, ...manifest.shards.slice(1)] }),
      "source",
      /shard 0 needs a sha256/,
    ],
    [
      "a shard without a path",
      () => ({ ...manifest, shards: [{ ...first(), path: "" }, ...manifest.shards.slice(1)] }),
      "source",
      /shard 0 needs a path/,
    ],
    [
      "a shard that is text",
      () => ({ ...manifest, shards: ["a", "b", "c"] }),
      "source",
      /shard 0 is not an object/,
    ],
  ])("are refused: %s", async (_what, make, code, message) => {
    const value: unknown = make();
    await expect(checkShardManifest(value)).rejects.toMatchObject({ code });
    await expect(checkShardManifest(value)).rejects.toThrow(message);
  });
});
