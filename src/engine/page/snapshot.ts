/**
 * Serialised caches: docs/page-format.md section 3. Engines write and read the part before the
 * checksum (`Engine.snapshot`, `Engine.restore`); fingerprints and checksum are the host's work,
 * which is `sealSnapshot` and `openSnapshot`. `encodeSnapshot` is the format in executable form.
 */
import type { LogSegment } from "../engine.js";
import { archivePages, pageSlots, planLimits, type CachePlan } from "../plan/plan.js";
import { fingerprintBytes, sha256, toHex } from "../sha256.js";
import { EngineError } from "../status.js";
import { f16IsFinite } from "./half.js";
import { pageLayout } from "./layout.js";
import { positionsProblem } from "./page.js";

/** Bytes of the header. */
export const snapshotHeaderBytes = 192;
/** Bytes of the checksum at the end. */
export const snapshotChecksumBytes = 32;
/** Version that this code writes, and the only one that it reads. */
export const snapshotVersion = 1;
/** Most segments of a log (engine/include/leanedge/sequence.h). */
export const segmentsMax = 16384;

const magic = 0x564b454c; // "LEKV" as bytes
const flagEvicting = 1;

/** Byte offsets of the header's fields. */
export const snapshotFields = {
  magic: 0,
  version: 4,
  bytes: 8,
  layers: 16,
  kvHeads: 20,
  headDim: 24,
  pageBytes: 28,
  model: 32,
  template: 64,
  plan: 96,
  logTokens: 128,
  cacheTokens: 132,
  segments: 136,
  sinkRows: 140,
  recentRows: 144,
  pages: 148,
  nextPosition: 152,
  flags: 156,
  rowsOffset: 160,
  pagesOffset: 168,
  checksumOffset: 176,
  reserved: 184,
} as const;
const at = snapshotFields;

/** Why a snapshot is refused; docs/page-format.md 3.6. */
export type SnapshotReason =
  | "truncated"
  | "magic"
  | "version"
  | "trailing"
  | "checksum"
  | "foreignModel"
  | "foreignTemplate"
  | "foreignPlan"
  | "foreignEngine"
  | "foreignLog"
  | "tooLong"
  | "corrupt";

/** A snapshot that cannot be restored here. */
export class SnapshotError extends EngineError {
  /**
   * @param reason what kind of refusal it is
   * @param problem names thing, value and bound
   * @param value the offending value, 0 if it is no number
   * @param bound the bound that it broke, 0 if there is none
   */
  constructor(
    readonly reason: SnapshotReason,
    problem: string,
    value = 0,
    bound = 0,
  ) {
    super("invalidSnapshot", `snapshot: ${problem}`, value, bound);
  }
}

/** What gives a snapshot its meaning: SHA-256 fingerprints in lower-case hexadecimal. */
export interface SnapshotIdentity {
  readonly model: string;
  readonly template: string;
  readonly plan: string;
}

/** Sink and recent rows of one layer and KV head, binary16 bits. */
export interface ZoneRows {
  /** (sinkRows, headDim), K after RoPE. */
  readonly kSink: Uint16Array;
  /** (recentRows, headDim). */
  readonly kRecent: Uint16Array;
  /** (sinkRows, headDim). */
  readonly vSink: Uint16Array;
  /** (recentRows, headDim). */
  readonly vRecent: Uint16Array;
}

/** What a snapshot is made of. */
export interface SnapshotParts {
  readonly segments: readonly LogSegment[];
  /** Tokens of the log whose K and V are in the snapshot, the first ones. */
  readonly cacheTokens: number;
  /** Under an evicting plan only: rows and pages that are left, and the next token's position. */
  readonly evicted?: {
    readonly sinkRows: number;
    readonly recentRows: number;
    readonly nextPosition: number;
  };
  /** Rows of one head. */
  readonly rows: (layer: number, head: number) => ZoneRows;
  /** Serialised pages, oldest first. */
  readonly pages: readonly Uint8Array[];
}

/** A snapshot that was checked in full. */
export interface Snapshot {
  readonly segments: readonly LogSegment[];
  readonly logTokens: number;
  readonly cacheTokens: number;
  readonly sinkRows: number;
  readonly recentRows: number;
  readonly nextPosition: number;
  /** Serialised pages, views into the snapshot, oldest first. */
  readonly pages: readonly Uint8Array[];
  /** Rows of one head, copied. */
  readonly rows: (layer: number, head: number) => ZoneRows;
  /** The snapshot without its checksum, as engines take it; a view. */
  readonly body: Uint8Array;
}

/** What a reader expects of a snapshot. */
export interface SnapshotExpectation {
  readonly identity: SnapshotIdentity;
  readonly plan: CachePlan;
  /** Longest log that the engine takes, in tokens. */
  readonly contextTokensMax: number;
  /** Token ids are below this. */
  readonly vocabSize: number;
}

/** Counts that fix a snapshot's sizes. */
interface SnapshotCounts {
  readonly logTokens: number;
  readonly segments: number;
  readonly sinkRows: number;
  readonly recentRows: number;
  readonly pages: number;
}

/** Where a snapshot's sections begin, in bytes. */
interface SnapshotOffsets {
  readonly rows: number;
  readonly pages: number;
  readonly checksum: number;
}

/**
 * Writes a snapshot, checksum included.
 *
 * @throws SnapshotError corrupt if the parts do not fit each other
 */
export async function encodeSnapshot(
  plan: CachePlan,
  identity: SnapshotIdentity,
  parts: SnapshotParts,
): Promise<Uint8Array<ArrayBuffer>> {
  const { pageBytes } = pageLayout(plan);
  const logTokens = parts.segments.reduce((sum, segment) => sum + segment.ids.length, 0);
  const zones = parts.evicted ?? {
    ...zonesOf(plan, parts.cacheTokens),
    nextPosition: parts.cacheTokens,
  };
  const counts = {
    logTokens,
    segments: parts.segments.length,
    sinkRows: zones.sinkRows,
    recentRows: zones.recentRows,
    pages: parts.pages.length,
  };
  const offsets = offsetsOf(plan, pageBytes, counts);
  const body = new Uint8Array(offsets.checksum);
  const view = new DataView(body.buffer);
  view.setUint32(at.magic, magic, true);
  view.setUint32(at.version, snapshotVersion, true);
  view.setBigUint64(at.bytes, BigInt(offsets.checksum + snapshotChecksumBytes), true);
  view.setUint32(at.layers, plan.layers, true);
  view.setUint32(at.kvHeads, plan.kvHeads, true);
  view.setUint32(at.headDim, plan.headDim, true);
  view.setUint32(at.pageBytes, pageBytes, true);
  view.setUint32(at.logTokens, counts.logTokens, true);
  view.setUint32(at.cacheTokens, parts.cacheTokens, true);
  view.setUint32(at.segments, counts.segments, true);
  view.setUint32(at.sinkRows, counts.sinkRows, true);
  view.setUint32(at.recentRows, counts.recentRows, true);
  view.setUint32(at.pages, counts.pages, true);
  view.setUint32(at.nextPosition, zones.nextPosition, true);
  view.setUint32(at.flags, plan.evicting ? flagEvicting : 0, true);
  view.setBigUint64(at.rowsOffset, BigInt(offsets.rows), true);
  view.setBigUint64(at.pagesOffset, BigInt(offsets.pages), true);
  view.setBigUint64(at.checksumOffset, BigInt(offsets.checksum), true);

  let position = snapshotHeaderBytes;
  for (const segment of parts.segments) {
    view.setUint32(position, segment.kind === "prompt" ? 1 : 2, true);
    view.setUint32(position + 4, segment.ids.length, true);
    segment.ids.forEach((id, index) => view.setUint32(position + 8 + index * 4, id, true));
    position += 8 + segment.ids.length * 4;
  }
  position = offsets.rows;
  for (let layer = 0; layer < plan.layers; layer++) {
    for (let head = 0; head < plan.kvHeads; head++) {
      const rows = parts.rows(layer, head);
      for (const [values, count] of [
        [rows.kSink, counts.sinkRows],
        [rows.kRecent, counts.recentRows],
        [rows.vSink, counts.sinkRows],
        [rows.vRecent, counts.recentRows],
      ] as const) {
        checkEqual("values of a head's zone", values.length, count * plan.headDim);
        values.forEach((value, index) => view.setUint16(position + index * 2, value, true));
        position += values.length * 2;
      }
    }
  }
  parts.pages.forEach((page, index) => {
    checkEqual("bytes of a page", page.length, pageBytes);
    body.set(page, offsets.pages + index * pageBytes);
  });
  return sealSnapshot(body, identity);
}

/**
 * Makes a snapshot of what an engine wrote: fills the fingerprints in and appends the checksum.
 *
 * @param body the snapshot without its checksum; not changed
 * @throws RangeError for a malformed fingerprint
 */
export async function sealSnapshot(
  body: Uint8Array,
  identity: SnapshotIdentity,
): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(body.length + snapshotChecksumBytes);
  bytes.set(body);
  bytes.set(fingerprintBytes(identity.model), at.model);
  bytes.set(fingerprintBytes(identity.template), at.template);
  bytes.set(fingerprintBytes(identity.plan), at.plan);
  bytes.set(await sha256(bytes.subarray(0, body.length)), body.length);
  return bytes;
}

/**
 * Checks a snapshot in full. Nothing is allocated in proportion to a size that it claims before
 * that size is known to be there.
 *
 * @throws SnapshotError with the reason
 */
export async function openSnapshot(
  bytes: Uint8Array<ArrayBuffer>,
  expected: SnapshotExpectation,
): Promise<Snapshot> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  checkFrame(view);
  const bodyBytes = bytes.length - snapshotChecksumBytes;
  const body = bytes.subarray(0, bodyBytes);
  const checksum = await sha256(body);
  if (checksum.some((byte, index) => byte !== bytes[bodyBytes + index])) {
    throw new SnapshotError("checksum", "its SHA-256 is not the one at its end");
  }
  checkIdentity(bytes, view, expected);

  const { plan } = expected;
  const u32 = (offset: number): number => view.getUint32(offset, true);
  const counts = {
    logTokens: u32(at.logTokens),
    segments: u32(at.segments),
    sinkRows: u32(at.sinkRows),
    recentRows: u32(at.recentRows),
    pages: u32(at.pages),
  };
  checkMost("log_tokens", counts.logTokens, expected.contextTokensMax, "tooLong");
  checkMost("segments", counts.segments, segmentsMax);
  const cacheTokens = u32(at.cacheTokens);
  const nextPosition = u32(at.nextPosition);
  checkZones(plan, counts, cacheTokens, nextPosition);
  const layout = pageLayout(plan);
  const offsets = offsetsOf(plan, layout.pageBytes, counts);
  checkEqual("rows_offset", u64(view, at.rowsOffset), offsets.rows);
  checkEqual("pages_offset", u64(view, at.pagesOffset), offsets.pages);
  checkEqual("checksum_offset", u64(view, at.checksumOffset), offsets.checksum);
  checkEqual("bytes before the checksum", bodyBytes, offsets.checksum);
  checkEqual("reserved field", u64(view, at.reserved), 0);

  const segments = readSegments(view, counts, cacheTokens, offsets.rows, expected.vocabSize);
  const headBytes = (counts.sinkRows + counts.recentRows) * plan.headDim * 4;
  checkFinite(view, offsets.rows, offsets.pages);
  checkZeros(body, offsets.rows + plan.layers * plan.kvHeads * headBytes, offsets.pages, "rows");
  const pages = Array.from({ length: counts.pages }, (_, index) => {
    const start = offsets.pages + index * layout.pageBytes;
    const page = body.subarray(start, start + layout.pageBytes);
    const problem = plan.evicting ? positionsProblem(layout, page) : undefined;
    if (problem !== undefined)
      throw new SnapshotError("corrupt", `page ${index}: ${problem}`, index);
    return page;
  });

  const rows = (layer: number, head: number): ZoneRows => {
    let position = offsets.rows + (layer * plan.kvHeads + head) * headBytes;
    const take = (count: number): Uint16Array => {
      const length = count * plan.headDim * 2;
      const copy = body.slice(position, position + length);
      position += length;
      return new Uint16Array(copy.buffer);
    };
    // Properties are evaluated in the order of the sections.
    return {
      kSink: take(counts.sinkRows),
      kRecent: take(counts.recentRows),
      vSink: take(counts.sinkRows),
      vRecent: take(counts.recentRows),
    };
  };
  return {
    segments,
    logTokens: counts.logTokens,
    cacheTokens,
    sinkRows: counts.sinkRows,
    recentRows: counts.recentRows,
    nextPosition,
    pages,
    rows,
    body,
  };
}

/** Rows of the zones of a sequence of `tokens` tokens with nothing evicted. */
function zonesOf(
  plan: CachePlan,
  tokens: number,
): { readonly sinkRows: number; readonly recentRows: number } {
  const sinkRows = Math.min(tokens, plan.sink);
  const pages = archivePages(tokens, plan.sink, plan.recent);
  return { sinkRows, recentRows: tokens - sinkRows - pageSlots * pages };
}

function offsetsOf(plan: CachePlan, pageBytes: number, counts: SnapshotCounts): SnapshotOffsets {
  const aligned = (bytes: number): number => Math.ceil(bytes / 16) * 16;
  const rows = snapshotHeaderBytes + aligned(8 * counts.segments + 4 * counts.logTokens);
  const zoneRows = counts.sinkRows + counts.recentRows;
  const pages = rows + aligned(plan.layers * plan.kvHeads * zoneRows * plan.headDim * 4);
  return { rows, pages, checksum: pages + counts.pages * pageBytes };
}

/** Length, magic and version: what can be said before the checksum. */
function checkFrame(view: DataView): void {
  const least = snapshotHeaderBytes + snapshotChecksumBytes;
  const length = view.byteLength;
  if (length < least) {
    throw new SnapshotError("truncated", `has ${length} bytes, at least ${least}`, length, least);
  }
  const found = view.getUint32(at.magic, true);
  if (found !== magic) {
    throw new SnapshotError(
      "magic",
      `begins with ${found}, must begin with ${magic}`,
      found,
      magic,
    );
  }
  const version = view.getUint32(at.version, true);
  if (version !== snapshotVersion) {
    throw new SnapshotError(
      "version",
      `version is ${version}, must be ${snapshotVersion}`,
      version,
      snapshotVersion,
    );
  }
  const stated = u64(view, at.bytes);
  if (length < stated) {
    throw new SnapshotError("truncated", `has ${length} bytes of ${stated}`, length, stated);
  }
  if (length > stated) {
    throw new SnapshotError("trailing", `has ${length} bytes, states ${stated}`, length, stated);
  }
}

function checkIdentity(bytes: Uint8Array, view: DataView, expected: SnapshotExpectation): void {
  const { identity, plan } = expected;
  for (const [name, reason] of [
    ["model", "foreignModel"],
    ["template", "foreignTemplate"],
    ["plan", "foreignPlan"],
  ] as const) {
    const found = toHex(bytes.subarray(at[name], at[name] + 32));
    if (found !== identity[name]) {
      throw new SnapshotError(reason, `${name} is ${found}, must be ${identity[name]}`);
    }
  }
  const u32 = (offset: number): number => view.getUint32(offset, true);
  checkEqual("layers", u32(at.layers), plan.layers, "foreignModel");
  checkEqual("kv_heads", u32(at.kvHeads), plan.kvHeads, "foreignModel");
  checkEqual("head_dim", u32(at.headDim), plan.headDim, "foreignModel");
  checkEqual("page_bytes", u32(at.pageBytes), pageLayout(plan).pageBytes, "foreignPlan");
  checkEqual("flags", u32(at.flags), plan.evicting ? flagEvicting : 0, "foreignPlan");
}

function checkZones(
  plan: CachePlan,
  counts: SnapshotCounts,
  cacheTokens: number,
  nextPosition: number,
): void {
  checkMost("cache_tokens", cacheTokens, counts.logTokens);
  const zones = zonesOf(plan, cacheTokens);
  const pages = archivePages(cacheTokens, plan.sink, plan.recent);
  if (plan.evicting) {
    checkMost("sink_rows", counts.sinkRows, zones.sinkRows);
    checkMost("recent_rows", counts.recentRows, Math.min(cacheTokens, plan.recent + pageSlots - 1));
    checkMost("pages", counts.pages, pages);
    checkMost("next_position", nextPosition, planLimits.contextTokensMax);
    return;
  }
  checkEqual("sink_rows", counts.sinkRows, zones.sinkRows);
  checkEqual("recent_rows", counts.recentRows, zones.recentRows);
  checkEqual("pages", counts.pages, pages);
  checkEqual("next_position", nextPosition, cacheTokens);
}

function readSegments(
  view: DataView,
  counts: SnapshotCounts,
  cacheTokens: number,
  end: number,
  vocabSize: number,
): LogSegment[] {
  const segments: LogSegment[] = [];
  let position = snapshotHeaderBytes;
  let tokens = 0;
  for (let index = 0; index < counts.segments; index++) {
    // Headers of all segments fit before `end`; their ids are checked against what log_tokens left.
    const kind = view.getUint32(position, true);
    const length = view.getUint32(position + 4, true);
    if (kind !== 1 && kind !== 2) {
      throw new SnapshotError(
        "corrupt",
        `kind of segment ${index} is ${kind}, must be 1 or 2`,
        kind,
        2,
      );
    }
    if (kind === 2 && segments.at(-1)?.kind === "generated") {
      throw new SnapshotError(
        "corrupt",
        `segment ${index} is generated like the one before it`,
        index,
      );
    }
    if (length < 1 || length > counts.logTokens - tokens) {
      throw new SnapshotError(
        "corrupt",
        `segment ${index} has ${length} tokens, must have 1 .. ${counts.logTokens - tokens}`,
        length,
        counts.logTokens - tokens,
      );
    }
    const ids = Array.from({ length }, (_, i) => view.getUint32(position + 8 + i * 4, true));
    const bad = ids.find((id) => id >= vocabSize);
    if (bad !== undefined) {
      throw new SnapshotError(
        "corrupt",
        `token id ${bad}, must be below ${vocabSize}`,
        bad,
        vocabSize,
      );
    }
    if (kind === 1 && cacheTokens > tokens && cacheTokens < tokens + length) {
      throw new SnapshotError(
        "corrupt",
        `cache_tokens is ${cacheTokens}, within prompt segment ${index} of ${tokens} .. ${tokens + length}`,
        cacheTokens,
        tokens + length,
      );
    }
    segments.push({ kind: kind === 1 ? "prompt" : "generated", ids });
    tokens += length;
    position += 8 + length * 4;
  }
  checkEqual("tokens of all segments", tokens, counts.logTokens);
  const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  checkZeros(bytes, position, end, "log");
  return segments;
}

/** A u64 as a number; what is beyond 2^53 is beyond every real size as well. */
function u64(view: DataView, offset: number): number {
  return Number(view.getBigUint64(offset, true));
}

function checkEqual(
  what: string,
  value: number,
  wanted: number,
  reason: SnapshotReason = "corrupt",
): void {
  if (value === wanted) return;
  throw new SnapshotError(reason, `${what} is ${value}, must be ${wanted}`, value, wanted);
}

function checkMost(
  what: string,
  value: number,
  most: number,
  reason: SnapshotReason = "corrupt",
): void {
  if (value <= most) return;
  throw new SnapshotError(reason, `${what} is ${value}, at most ${most}`, value, most);
}

/** Rows become pages, whose quantiser needs finite values; padding is zero, hence finite. */
function checkFinite(view: DataView, from: number, to: number): void {
  for (let offset = from; offset < to; offset += 2) {
    const bits = view.getUint16(offset, true);
    if (f16IsFinite(bits)) continue;
    throw new SnapshotError("corrupt", `row value at ${offset} is not finite: bits ${bits}`, bits);
  }
}

function checkZeros(bytes: Uint8Array, from: number, to: number, section: string): void {
  for (let index = from; index < to; index++) {
    if (bytes[index] === 0) continue;
    throw new SnapshotError(
      "corrupt",
      `padding after the ${section} at ${index} is not zero`,
      index,
    );
  }
}
