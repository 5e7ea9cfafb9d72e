import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import {
  encodeSnapshot,
  openSnapshot,
  sealSnapshot,
  snapshotChecksumBytes,
  SnapshotError,
  type Snapshot,
  type SnapshotExpectation,
  type SnapshotReason,
} from "./snapshot.js";
import {
  goldenSnapshotFile,
  goldenSnapshotIdentity,
  goldenSnapshotParts,
  goldenSnapshotPlan,
  goldenStream,
  planOf,
} from "./testing/golden.js";

const identity = goldenSnapshotIdentity;
const expected: SnapshotExpectation = {
  identity,
  plan: goldenSnapshotPlan,
  contextTokensMax: 128,
  vocabSize: 512,
};
const golden = await goldenSnapshotFile();
const body = golden.slice(0, -snapshotChecksumBytes);

/** Opens; undefined and the reason if it is refused. Anything but a SnapshotError is a failure. */
async function attempt(
  bytes: Uint8Array<ArrayBuffer>,
  expectation: SnapshotExpectation = expected,
): Promise<{ snapshot?: Snapshot; reason?: SnapshotReason; message?: string }> {
  try {
    return { snapshot: await openSnapshot(bytes, expectation) };
  } catch (error) {
    if (!(error instanceof SnapshotError)) throw error;
    expect(error.status).toBe("invalidSnapshot");
    return { reason: error.reason, message: error.message };
  }
}

/** The golden snapshot with some u32 fields changed and a checksum that is right again. */
async function resealed(...changes: readonly (readonly [number, number])[]) {
  const copy = body.slice();
  const view = new DataView(copy.buffer);
  for (const [offset, value] of changes) view.setUint32(offset, value, true);
  return sealSnapshot(copy, identity);
}

describe("snapshot-v1.bin", () => {
  it("is what this code writes, byte for byte", () => {
    const committed = readFileSync("engine/testdata/snapshot-v1.bin");
    expect(Buffer.compare(Buffer.from(golden), committed)).toBe(0);
  });

  it("ends with the SHA-256 of all before", () => {
    const hash = createHash("sha256").update(body).digest("hex");
    expect(Buffer.from(golden.subarray(body.length)).toString("hex")).toBe(hash);
  });

  it("opens to what it was made of", async () => {
    const parts = goldenSnapshotParts();
    const snapshot = await openSnapshot(golden, expected);
    expect(snapshot).toMatchObject({
      segments: parts.segments,
      logTokens: 90,
      cacheTokens: 85,
      sinkRows: 4,
      recentRows: 17,
      nextPosition: 85,
    });
    expect(snapshot.pages).toEqual(parts.pages);
    for (let layer = 0; layer < 2; layer++) {
      for (let head = 0; head < 2; head++) {
        expect(snapshot.rows(layer, head)).toEqual(parts.rows(layer, head));
      }
    }
    expect(snapshot.body).toEqual(body);
  });

  it("opens from the middle of a larger buffer", async () => {
    const padded = new Uint8Array(golden.length + 13);
    padded.set(golden, 13);
    const { snapshot } = await attempt(padded.subarray(13));
    expect(snapshot?.rows(1, 1)).toEqual(goldenSnapshotParts().rows(1, 1));
  });
});

describe("a snapshot", () => {
  it("of an evicting plan carries what is left", async () => {
    const plan = { ...planOf(8, [[8, 0]], {}), evicting: true };
    const bytes = await encodeSnapshot(plan, identity, goldenSnapshotParts(plan));
    const snapshot = await openSnapshot(bytes, { ...expected, plan });
    expect(snapshot).toMatchObject({ nextPosition: 99, cacheTokens: 85, recentRows: 17 });
  });

  it("of an empty log has neither rows nor pages", async () => {
    const none = new Uint16Array();
    const bytes = await encodeSnapshot(goldenSnapshotPlan, identity, {
      segments: [],
      cacheTokens: 0,
      rows: () => ({ kSink: none, kRecent: none, vSink: none, vRecent: none }),
      pages: [],
    });
    expect(bytes).toHaveLength(192 + 32);
    expect(await openSnapshot(bytes, expected)).toMatchObject({ segments: [], pages: [] });
  });

  it("is not written from parts that do not fit", async () => {
    const parts = goldenSnapshotParts();
    await expect(
      encodeSnapshot(goldenSnapshotPlan, identity, { ...parts, cacheTokens: 84 }),
    ).rejects.toThrow("snapshot: values of a head's zone is 136, must be 128");
    await expect(
      encodeSnapshot(goldenSnapshotPlan, identity, { ...parts, pages: [new Uint8Array(3)] }),
    ).rejects.toThrow(/bytes of a page is 3, must be \d+/);
  });
});

describe("a foreign snapshot is refused:", () => {
  it.each([
    ["model", "foreignModel"],
    ["template", "foreignTemplate"],
    ["plan", "foreignPlan"],
  ] as const)("another %s", async (field, reason) => {
    const other = { ...identity, [field]: "44".repeat(32) };
    const found = await attempt(await sealSnapshot(body, other));
    expect(found.reason).toBe(reason);
    expect(found.message).toContain(`${field} is 4444`);
  });

  it.each([
    ["layers", 16, "foreignModel"],
    ["kv_heads", 20, "foreignModel"],
    ["head_dim", 24, "foreignModel"],
    ["page_bytes", 28, "foreignPlan"],
    ["flags", 156, "foreignPlan"],
  ] as const)("%s", async (field, offset, reason) => {
    const found = await attempt(await resealed([offset, 77]));
    expect(found.reason).toBe(reason);
    expect(found.message).toContain(`${field} is 77, must be `);
  });
});

describe("a broken snapshot is refused:", () => {
  it("cut at every length", async () => {
    for (let length = 0; length < golden.length; length++) {
      expect((await attempt(golden.slice(0, length))).reason).toBe("truncated");
    }
  });

  it("cut at every length, with a size and a checksum that fit", async () => {
    for (let length = 0; length < body.length; length++) {
      const cut = body.slice(0, length);
      if (length >= 16) new DataView(cut.buffer).setUint32(8, length + 32, true);
      // Shorter than a header, sealing itself has no room for the fingerprints.
      if (length < 128) continue;
      const { reason } = await attempt(await sealSnapshot(cut, identity));
      expect(reason).toBe(length < 192 ? "truncated" : "corrupt");
    }
  });

  it("one bit changed anywhere", async () => {
    for (let at = 0; at < golden.length; at++) {
      const copy = golden.slice();
      copy[at] = (copy[at] ?? 0) ^ (1 << (at % 8));
      const { reason } = await attempt(copy);
      const frame: SnapshotReason | undefined =
        at < 4 ? "magic" : at < 8 ? "version" : at < 16 ? undefined : "checksum";
      if (frame !== undefined) expect(reason).toBe(frame);
      expect(reason).toBeDefined();
    }
  });

  it("bytes after its end", async () => {
    const longer = new Uint8Array(golden.length + 1);
    longer.set(golden);
    expect((await attempt(longer)).reason).toBe("trailing");
  });

  it("a log beyond the reader's context", async () => {
    const found = await attempt(golden, { ...expected, contextTokensMax: 89 });
    expect(found).toMatchObject({
      reason: "tooLong",
      message: "snapshot: log_tokens is 90, at most 89",
    });
  });

  it("a token beyond the vocabulary", async () => {
    const found = await attempt(golden, { ...expected, vocabSize: 10 });
    expect(found.reason).toBe("corrupt");
    expect(found.message).toMatch(/token id \d+, must be below 10/);
  });

  // Offsets of the log: 192 kind, 196 count, 200 forty ids, 360 the next segment.
  it.each([
    ["more cache than log", [132, 91], "cache_tokens is 91, at most 90"],
    ["a cache that ends within a prompt segment", [132, 60], "must be"],
    ["too many segments", [136, 16385], "segments is 16385, at most 16384"],
    ["fewer segments than the log has", [136, 3], "must be"],
    ["other zones", [140, 3], "sink_rows is 3, must be 4"],
    ["other zones", [144, 18], "recent_rows is 18, must be 17"],
    ["other zones", [148, 1], "pages is 1, must be 2"],
    ["another position", [152, 86], "next_position is 86, must be 85"],
    ["another offset", [160, 0], "rows_offset is 0, must be "],
    ["another offset", [172, 1], "pages_offset is"],
    ["another offset", [176, 0], "checksum_offset is 0, must be "],
    ["something in a reserved field", [184, 1], "reserved field is 1, must be 0"],
    ["a third kind of segment", [192, 3], "kind of segment 0 is 3, must be 1 or 2"],
    ["an empty segment", [196, 0], "segment 0 has 0 tokens, must have 1 .. 90"],
    ["a segment beyond the log", [196, 91], "segment 0 has 91 tokens, must have 1 .. 90"],
    ["two generated segments in a row", [192, 2], "segment 1 is generated like the one before it"],
  ] as const)("%s (%j)", async (_, change, message) => {
    const found = await attempt(await resealed(change));
    expect(found.reason).toBe("corrupt");
    expect(found.message).toContain(message);
  });

  it("a cache that ends within a prompt segment", async () => {
    // 63 tokens are 4 + 32 + 27: the third segment is the prompt of 51 .. 81.
    const parts = goldenSnapshotParts();
    const bytes = await encodeSnapshot(goldenSnapshotPlan, identity, {
      ...parts,
      cacheTokens: 53,
      pages: parts.pages.slice(1),
    });
    expect((await attempt(bytes)).message).toContain(
      "cache_tokens is 53, within prompt segment 2 of 51 .. 81",
    );
  });

  it("padding that is not zero, after the log and after the rows", async () => {
    // 4 segments and 90 ids take 392 bytes: 8 bytes of padding follow at 584.
    expect((await attempt(await resealed([584, 1]))).message).toContain("padding after the log");
    const plan = planOf(6, [[6]], {});
    const parts = goldenSnapshotParts(plan);
    const bytes = await encodeSnapshot(plan, identity, parts);
    // (4 + 17) rows x 6 x 4 = 504 bytes: 8 bytes of padding.
    const offset = 192 + 400 + 504;
    const broken = bytes.slice(0, -32);
    broken[offset] = 1;
    const found = await attempt(await sealSnapshot(broken, identity), { ...expected, plan });
    expect(found.message).toBe(`snapshot: padding after the rows at ${offset} is not zero`);
  });

  it("a row value that is NaN or infinite", async () => {
    // Rows begin at 592 and end before the pages.
    for (const [offset, bits] of [
      [592, 0x7c00],
      [700, 0xfc00],
      [592 + 4 * 21 * 32 - 2, 0x7e00],
    ] as const) {
      const copy = body.slice();
      new DataView(copy.buffer).setUint16(offset, bits, true);
      const found = await attempt(await sealSnapshot(copy, identity));
      expect(found).toMatchObject({
        reason: "corrupt",
        message: `snapshot: row value at ${offset} is not finite: bits ${bits}`,
      });
    }
  });

  it("a count out of range in an evicting page", async () => {
    const plan = { ...planOf(8, [[8]], {}), evicting: true };
    const bytes = await encodeSnapshot(plan, identity, goldenSnapshotParts(plan));
    const broken = bytes.slice(0, -32);
    // A page is K 512, V 512, count 16, positions 128; the last page ends the body.
    new DataView(broken.buffer).setUint32(broken.length - 144, 33, true);
    const found = await attempt(await sealSnapshot(broken, identity), { ...expected, plan });
    expect(found.message).toBe(
      "snapshot: page 1: count of layer 0, KV head 0 is 33, must be 1 .. 32",
    );
  });

  it("or is legal: 4,000 sealed mutations of header and log give nothing else", async () => {
    const random = goldenStream(2026, 0, 0, "k");
    const outcomes = new Map<string, number>();
    for (let round = 0; round < 4000; round++) {
      const copy = body.slice();
      for (let change = random() % 3; change >= 0; change--) {
        const at = 8 + (random() % 590);
        copy[at] = random() % 4 === 0 ? 0 : random();
      }
      // Most mutations of the size would be found at once.
      if (random() % 4 > 0) copy.set(body.subarray(8, 16), 8);
      const { reason, snapshot } = await attempt(await sealSnapshot(copy, identity));
      if (snapshot !== undefined) {
        const tokens = snapshot.segments.reduce((sum, segment) => sum + segment.ids.length, 0);
        expect(tokens).toBe(snapshot.logTokens);
        expect(snapshot.pages).toHaveLength(2);
      }
      const outcome = reason ?? "legal";
      outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
    }
    // Each of these must occur, or the mutations do not reach far enough.
    for (const outcome of ["legal", "corrupt", "truncated", "foreignModel", "tooLong"]) {
      expect(outcomes.get(outcome) ?? 0, outcome).toBeGreaterThan(10);
    }
  });
});
