import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import { SegmentKind } from "../../gen/leanedge/worker/v1/worker_pb.js";
import {
  logTokens,
  namePrefix,
  packIds,
  samePrefix,
  segmentsBefore,
  unpackIds,
  wireSegments,
} from "./segments.js";
import type { PackedSegment } from "./segments.js";

const log: readonly PackedSegment[] = [
  { kind: SegmentKind.PROMPT, ids: packIds([1, 2, 3]) },
  { kind: SegmentKind.GENERATED, ids: packIds([70_000, 5]) },
  { kind: SegmentKind.PROMPT, ids: packIds([0xffffffff]) },
];

describe("a log", () => {
  it("packs ids as u32, little endian, and back", () => {
    expect([...packIds([1, 0x01020304])]).toEqual([1, 0, 0, 0, 4, 3, 2, 1]);
    expect(unpackIds(packIds([0, 1, 70_000, 0xffffffff]))).toEqual([0, 1, 70_000, 0xffffffff]);
    expect(() => unpackIds(new Uint8Array(5))).toThrow(
      "packed ids of 5 bytes are not a multiple of 4",
    );
    expect(unpackIds(new Uint8Array([9, 1, 0, 0, 0]).subarray(1))).toEqual([1]);
  });

  it("is named by length, SHA-256 over the ids, borders and kinds", () => {
    const bytes = Buffer.alloc(24);
    [1, 2, 3, 70_000, 5, 0xffffffff].forEach((id, index) => bytes.writeUInt32LE(id, index * 4));
    const name = namePrefix(log, undefined);
    expect(name).toMatchObject({
      tokens: 6,
      segmentTokens: [3, 2, 1],
      segmentKinds: [SegmentKind.PROMPT, SegmentKind.GENERATED, SegmentKind.PROMPT],
    });
    expect(Buffer.from(name.sha256)).toEqual(createHash("sha256").update(bytes).digest());
    expect(logTokens(log)).toBe(6);
    expect(wireSegments(log)[1]).toMatchObject({ kind: SegmentKind.GENERATED, ids: [70_000, 5] });
  });

  it("has borders only where segments meet", () => {
    expect([0, 3, 5, 6].map((tokens) => segmentsBefore(log, tokens))).toEqual([0, 1, 2, 3]);
    expect([1, 2, 4, 7].map((tokens) => segmentsBefore(log, tokens))).toEqual([
      undefined,
      undefined,
      undefined,
      undefined,
    ]);
  });

  it("is told from any other log", () => {
    const name = namePrefix(log, undefined);
    expect(samePrefix(name, namePrefix([...log], undefined))).toBe(true);
    const [first, second, third] = log;
    if (first === undefined || second === undefined || third === undefined) throw new Error();
    const others = [
      [first, second],
      [first, { ...second, ids: packIds([70_000, 6]) }, third],
      [first, { ...second, kind: SegmentKind.PROMPT as const }, third],
      [{ ...first, ids: packIds([1, 2, 3, 70_000]) }, { ...second, ids: packIds([5]) }, third],
    ];
    for (const other of others) expect(samePrefix(name, namePrefix(other, undefined))).toBe(false);
  });
});
