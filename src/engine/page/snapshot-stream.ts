/**
 * Snapshots as they pass by in pieces (docs/page-format.md section 3): what a host has to do with
 * one that never lies in memory as a whole. The engine checks the rest of it piece by piece.
 */
import { sha256 } from "@noble/hashes/sha2.js";
import type { SegmentKind } from "../engine.js";
import { fingerprintBytes, toHex } from "../sha256.js";
import {
  SnapshotError,
  segmentsMax,
  snapshotChecksumBytes,
  snapshotFields,
  snapshotHeaderBytes,
  snapshotVersion,
  type SnapshotIdentity,
} from "./snapshot.js";

const magic = 0x564b454c; // "LEKV" as bytes

/** What a snapshot's header says, as far as a host needs it. */
export interface SnapshotHead {
  /** Bytes of the whole snapshot, the checksum included. */
  readonly bytes: number;
  readonly identity: SnapshotIdentity;
  readonly logTokens: number;
  /** The first tokens of the log, whose cache is in the snapshot. */
  readonly cacheTokens: number;
  readonly segments: number;
  /** Where the log ends and the rows begin. */
  readonly rowsOffset: number;
}

/** A segment of a snapshot's log. */
export interface SnapshotLogSegment {
  readonly kind: SegmentKind;
  readonly ids: Uint32Array;
}

/**
 * Reads a header. Its sizes are only what it claims.
 *
 * @param header at least snapshotHeaderBytes bytes
 * @throws SnapshotError magic, version, or corrupt for an offset that does not follow from its counts
 */
export function readSnapshotHead(header: Uint8Array): SnapshotHead {
  const view = new DataView(header.buffer, header.byteOffset, header.byteLength);
  const at = snapshotFields;
  const u32 = (offset: number): number => view.getUint32(offset, true);
  if (u32(at.magic) !== magic) {
    throw new SnapshotError("magic", `begins with ${u32(at.magic)}, must begin with ${magic}`);
  }
  if (u32(at.version) !== snapshotVersion) {
    throw new SnapshotError("version", `version is ${u32(at.version)}, must be ${snapshotVersion}`);
  }
  const hex = (offset: number): string => toHex(header.subarray(offset, offset + 32));
  const [segments, logTokens] = [u32(at.segments), u32(at.logTokens)];
  const rowsOffset = Number(view.getBigUint64(at.rowsOffset, true));
  const follows = snapshotHeaderBytes + Math.ceil((8 * segments + 4 * logTokens) / 16) * 16;
  if (segments > segmentsMax || rowsOffset !== follows) {
    throw new SnapshotError(
      "corrupt",
      `rows_offset is ${rowsOffset}, must be ${follows} for ${segments} segments, at most ${segmentsMax}`,
      rowsOffset,
      follows,
    );
  }
  return {
    bytes: Number(view.getBigUint64(at.bytes, true)),
    identity: { model: hex(at.model), template: hex(at.template), plan: hex(at.plan) },
    logTokens,
    cacheTokens: u32(at.cacheTokens),
    segments,
    rowsOffset,
  };
}

/** Writes the fingerprints, which engines leave zero, into a header. */
export function stampIdentity(header: Uint8Array, identity: SnapshotIdentity): void {
  for (const name of ["model", "template", "plan"] as const) {
    header.set(fingerprintBytes(identity[name]), snapshotFields[name]);
  }
}

/**
 * Reads the log.
 *
 * @param section bytes from snapshotHeaderBytes to rowsOffset
 * @throws SnapshotError corrupt if the segments do not add up to the header's counts
 */
export function readSnapshotLog(head: SnapshotHead, section: Uint8Array): SnapshotLogSegment[] {
  const view = new DataView(section.buffer, section.byteOffset, section.byteLength);
  const segments: SnapshotLogSegment[] = [];
  let position = 0;
  let left = head.logTokens;
  for (let index = 0; index < head.segments; index++) {
    const kind = view.getUint32(position, true);
    const count = view.getUint32(position + 4, true);
    if ((kind !== 1 && kind !== 2) || count < 1 || count > left) {
      throw new SnapshotError(
        "corrupt",
        `segment ${index} is of kind ${kind} and has ${count} tokens, ${left} are left`,
        count,
        left,
      );
    }
    const ids = Uint32Array.from({ length: count }, (_, i) =>
      view.getUint32(position + 8 + i * 4, true),
    );
    segments.push({ kind: kind === 1 ? "prompt" : "generated", ids });
    position += 8 + count * 4;
    left -= count;
  }
  if (left > 0) throw new SnapshotError("corrupt", `the log lacks ${left} tokens`, left);
  return segments;
}

/** The checksum of a snapshot that passes by. */
export class SnapshotChecksum {
  readonly #hash = sha256.create();

  /** Takes the next bytes of the body. */
  update(piece: Uint8Array): void {
    this.#hash.update(piece);
  }

  /** The 32 bytes that follow the body. Ends the hash. */
  digest(): Uint8Array {
    return this.#hash.digest();
  }

  /** @throws SnapshotError checksum unless `expected` is the body's; ends the hash */
  check(expected: Uint8Array): void {
    const digest = this.digest();
    const same =
      expected.length === snapshotChecksumBytes && digest.every((byte, i) => byte === expected[i]);
    if (!same) throw new SnapshotError("checksum", "its SHA-256 is not the one at its end");
  }
}
