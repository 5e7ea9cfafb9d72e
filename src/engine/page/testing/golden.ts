/**
 * The golden files of plans and pages, engine/testdata/pages-v1.bin and snapshot-v1.bin: what is in
 * them, and how their inputs are made. engine/test/page_test.cpp reads the same files and makes the
 * same inputs (integers only, so nothing depends on floating point).
 *
 * pages-v1.bin, little endian: u32 magic "LEKG", u32 version 1, u32 cases, u32 0. Each case: name
 * (48 bytes, zero-padded), u32 seed, u32 bytes of the plan block, u32 bytes of a page, u32 0, three
 * pairs of u64 tokens and u64 cache bytes, the plan block, the page.
 */
import { cacheBytes } from "../../plan/cost.js";
import { planBlock } from "../../plan/binary.js";
import { identityPlan, pageSlots, pageStorages, type CachePlan } from "../../plan/plan.js";
import { pageLayout } from "../layout.js";
import { packPage, type HeadRows } from "../page.js";
import {
  encodeSnapshot,
  type SnapshotIdentity,
  type SnapshotParts,
  type ZoneRows,
} from "../snapshot.js";

/** One plan, and the seed of the rows that fill its page. */
export interface GoldenCase {
  readonly name: string;
  readonly seed: number;
  readonly plan: CachePlan;
}

const magic = 0x474b454c; // "LEKG"
const nameBytes = 48;

/** Plans of every storage, width and shape that the format distinguishes. */
export function goldenCases(): GoldenCase[] {
  const plans: [string, CachePlan][] = [];
  const add = (name: string, plan: CachePlan): void => {
    plans.push([name, plan]);
  };
  for (const k of pageStorages) {
    for (const v of pageStorages) {
      add(`dim8-${k}-${v}`, planOf(8, [[8, 0]], { storage: { k, v } }));
      // All widths at once only on the diagonal: the file stays small.
      const widths =
        k === v
          ? [
              [0, 16],
              [48, 64],
            ]
          : [[16, 0]];
      add(`dim64-${k}-${v}`, planOf(64, widths, { storage: { k, v } }));
    }
  }
  for (const k of pageStorages) {
    const storage = { k, v: k };
    add(`dim80-${k}`, planOf(80, [[80]], { storage }));
    add(
      `dim128-${k}`,
      planOf(
        128,
        [
          [0, 0],
          [32, 128],
        ],
        { storage },
      ),
    );
    add(`evicting-${k}`, planOf(64, [[16, 0, 32]], { storage, evicting: true }));
    const pageSelection = { pagesPerStep: 64, pagesFloor: 96 };
    add(`selecting-${k}`, planOf(64, [[48]], { storage, pageSelection }));
    add(
      `selecting-evicting-${k}`,
      planOf(40, [[16, 40]], { storage, pageSelection, evicting: true }),
    );
  }
  add("dim80-int8-int2", planOf(80, [[48]], { storage: { k: "int8", v: "int2" } }));
  add("dim6-f16", planOf(6, [[6]], {}));
  add("identity", identityPlan({ layers: 2, kvHeads: 2, headDim: 16 }));
  return plans.map(([name, plan], index) => ({ name, seed: 1000 + index, plan }));
}

/** A plan with the given widths [layer][head]; the channels kept are spread over the head. */
export function planOf(
  headDim: number,
  widths: readonly (readonly number[])[],
  rest: Partial<CachePlan>,
): CachePlan {
  const geometry = { layers: widths.length, kvHeads: widths[0]?.length ?? 0, headDim };
  return {
    ...identityPlan(geometry, { sink: 4, recent: 8 }),
    name: "golden",
    kept: widths.map((layer) =>
      layer.map((width) =>
        Array.from({ length: width }, (_, i) => Math.floor(((i + 1) * headDim) / width) - 1),
      ),
    ),
    ...rest,
  };
}

/** Which rows a stream of the generator is for. */
export type RowPart = "k" | "v" | "positions";

/** splitmix32: the stream of integers of one part of one head. */
export function goldenStream(
  seed: number,
  layer: number,
  head: number,
  part: RowPart,
): () => number {
  let state = seed ^ Math.imul(layer + 1, 0x9e3779b1) ^ Math.imul(head + 1, 0x85ebca77);
  state ^= Math.imul(["k", "v", "positions"].indexOf(part) + 1, 0xc2b2ae3d);
  return () => {
    state = (state + 0x9e3779b9) | 0;
    let z = state;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return (z ^ (z >>> 15)) >>> 0;
  };
}

/**
 * binary16 bits of kind `kind` (0 .. 7) from a random integer: ordinary values, a narrow range far
 * from zero, a wide range, subnormals and zeros of both signs, the ends of the range, a constant.
 */
export function goldenValue(kind: number, random: number): number {
  const sign = (random >>> 16) & 0x8000;
  const mantissa = random & 0x3ff;
  if (kind < 3) return sign | ((12 + ((random >>> 20) & 3)) << 10) | mantissa;
  if (kind === 3) return 0x4900 | (random & 0xff);
  if (kind === 4) return sign | ((1 + ((random >>> 20) % 29)) << 10) | mantissa;
  if (kind === 5) return sign | (random & 3);
  if (kind === 6) return (random & 1) === 0 ? 0x7bff : 0xfbff;
  return 0xbc00;
}

/** Rows of one head of a case: the kind follows the channel in K, slot and group in V. */
export function goldenRows(golden: GoldenCase, layer: number, head: number): HeadRows {
  const { headDim, evicting } = golden.plan;
  const k = new Uint16Array(pageSlots * headDim);
  const v = new Uint16Array(pageSlots * headDim);
  const nextK = goldenStream(golden.seed, layer, head, "k");
  const nextV = goldenStream(golden.seed, layer, head, "v");
  for (let slot = 0; slot < pageSlots; slot++) {
    for (let channel = 0; channel < headDim; channel++) {
      const index = slot * headDim + channel;
      k[index] = goldenValue((channel >> 1) % 8, nextK());
      v[index] = goldenValue((slot + (channel >> 5)) % 8, nextV());
    }
  }
  if (!evicting) return { k, v };
  const next = goldenStream(golden.seed, layer, head, "positions");
  const count = head === 0 ? 1 + (next() % pageSlots) : pageSlots;
  let position = golden.plan.sink;
  const positions = Array.from({ length: count }, () => (position += 1 + (next() % 3)));
  return { k, v, positions };
}

/** The page of a case. */
export function goldenPage(golden: GoldenCase): Uint8Array<ArrayBuffer> {
  return packPage(golden.plan, pageLayout(golden.plan), (layer, head) =>
    goldenRows(golden, layer, head),
  );
}

/** Context lengths whose cache bytes the file states: no archive, the first page, many pages. */
export function goldenTokens(plan: CachePlan): readonly number[] {
  const border = plan.sink + plan.recent + pageSlots;
  return [border - 1, border, border + 100 * pageSlots + 31];
}

/** The whole of pages-v1.bin. */
export function goldenPagesFile(): Uint8Array<ArrayBuffer> {
  const chunks: Uint8Array[] = [u32s(magic, 1, goldenCases().length, 0)];
  for (const golden of goldenCases()) {
    const block = planBlock(golden.plan);
    const page = goldenPage(golden);
    const name = new Uint8Array(nameBytes);
    name.set(new TextEncoder().encode(golden.name));
    chunks.push(name, u32s(golden.seed, block.length, page.length, 0));
    for (const tokens of goldenTokens(golden.plan)) {
      const pair = new BigUint64Array([BigInt(tokens), BigInt(cacheBytes(golden.plan, tokens))]);
      chunks.push(new Uint8Array(pair.buffer));
    }
    chunks.push(block, page);
  }
  return joined(chunks);
}

/** Plan of the golden snapshot: two pages under it, and rows in every zone. */
export const goldenSnapshotPlan: CachePlan = planOf(
  8,
  [
    [8, 0],
    [8, 8],
  ],
  { storage: { k: "int8", v: "int4" } },
);

/** Fingerprints of the golden snapshot; made up. */
export const goldenSnapshotIdentity: SnapshotIdentity = {
  model: "11".repeat(32),
  template: "22".repeat(32),
  plan: "33".repeat(32),
};

/** What the golden snapshot is made of: 85 tokens computed of 90, in four segments. */
export function goldenSnapshotParts(plan: CachePlan = goldenSnapshotPlan): SnapshotParts {
  const cacheTokens = 85;
  const next = goldenStream(7, 0, 0, "positions");
  const ids = (length: number): number[] => Array.from({ length }, () => next() % 512);
  const sinkRows = plan.sink;
  const recentRows = cacheTokens - sinkRows - 2 * pageSlots;
  return {
    segments: [
      { kind: "prompt", ids: ids(40) },
      { kind: "generated", ids: ids(11) },
      { kind: "prompt", ids: ids(30) },
      { kind: "generated", ids: ids(9) },
    ],
    cacheTokens,
    ...(plan.evicting ? { evicted: { sinkRows, recentRows, nextPosition: 99 } } : {}),
    rows: (layer, head): ZoneRows => {
      const random = goldenStream(8, layer, head, "k");
      const take = (rows: number): Uint16Array =>
        Uint16Array.from({ length: rows * plan.headDim }, () => goldenValue(0, random()));
      return {
        kSink: take(sinkRows),
        kRecent: take(recentRows),
        vSink: take(sinkRows),
        vRecent: take(recentRows),
      };
    },
    pages: [31, 32].map((seed) => goldenPage({ name: "snapshot", seed, plan })),
  };
}

/** The whole of snapshot-v1.bin. */
export function goldenSnapshotFile(): Promise<Uint8Array<ArrayBuffer>> {
  return encodeSnapshot(goldenSnapshotPlan, goldenSnapshotIdentity, goldenSnapshotParts());
}

function u32s(...values: readonly number[]): Uint8Array {
  return new Uint8Array(Uint32Array.from(values).buffer);
}

function joined(chunks: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.length, 0));
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return bytes;
}
