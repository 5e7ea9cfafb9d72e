/** The log of a session as the gateway keeps it: segments of token ids, packed, and the name of a prefix of it. */
import { create } from "@bufbuild/protobuf";
import { PrefixNameSchema, SegmentSchema } from "../../gen/leanedge/worker/v1/worker_pb.js";
import type {
  Fingerprints,
  PrefixName,
  Segment,
  SegmentKind,
} from "../../gen/leanedge/worker/v1/worker_pb.js";
import { sha256 } from "../sha256.js";

// One packing for what is stored and what a prefix is hashed over.
export { packIds } from "../../engine/prefix.js";

/** A segment with its ids as they are stored: u32, little endian, packed. */
export interface PackedSegment {
  /** Where the ids came from. */
  readonly kind: SegmentKind.PROMPT | SegmentKind.GENERATED;
  /** The ids, 4 bytes each. */
  readonly ids: Uint8Array;
}

/** Ids of a packed segment. Throws RangeError unless the length is a multiple of 4. */
export function unpackIds(bytes: Uint8Array): number[] {
  if (bytes.byteLength % 4 !== 0) {
    throw new RangeError(`packed ids of ${bytes.byteLength} bytes are not a multiple of 4`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const ids = new Array<number>(bytes.byteLength / 4);
  for (let index = 0; index < ids.length; index++) {
    ids[index] = view.getUint32(index * 4, true);
  }
  return ids;
}

/** Tokens of a segment. */
export function segmentTokens(segment: PackedSegment): number {
  return segment.ids.byteLength / 4;
}

/** Tokens of all segments. */
export function logTokens(segments: readonly PackedSegment[]): number {
  return segments.reduce((sum, segment) => sum + segmentTokens(segment), 0);
}

/** Names a prefix that consists of these segments. */
export function namePrefix(
  segments: readonly PackedSegment[],
  fingerprints: Fingerprints | undefined,
): PrefixName {
  return create(PrefixNameSchema, {
    tokens: logTokens(segments),
    sha256: sha256(...segments.map(({ ids }) => ids)),
    segmentTokens: segments.map(segmentTokens),
    segmentKinds: segments.map((segment) => segment.kind),
    ...(fingerprints === undefined ? {} : { fingerprints }),
  });
}

/** Segments as they travel. */
export function wireSegments(segments: readonly PackedSegment[]): Segment[] {
  return segments.map((segment) =>
    create(SegmentSchema, { kind: segment.kind, ids: unpackIds(segment.ids) }),
  );
}

/**
 * Number of segments that lie before token position `tokens`; undefined if the position is not at a border of segments
 * (only a worker that errs names such a one).
 */
export function segmentsBefore(
  segments: readonly PackedSegment[],
  tokens: number,
): number | undefined {
  let position = 0;
  for (let index = 0; index <= segments.length; index++) {
    if (position === tokens) {
      return index;
    }
    const segment = segments[index];
    if (segment === undefined || position > tokens) {
      return undefined;
    }
    position += segmentTokens(segment);
  }
  return undefined;
}

/** Whether two names are of the same ids and borders; fingerprints are not compared. */
export function samePrefix(a: PrefixName, b: PrefixName): boolean {
  return (
    a.tokens === b.tokens &&
    a.sha256.length === b.sha256.length &&
    a.sha256.every((byte, index) => byte === b.sha256[index]) &&
    a.segmentTokens.length === b.segmentTokens.length &&
    a.segmentTokens.every((tokens, index) => tokens === b.segmentTokens[index]) &&
    a.segmentKinds.length === b.segmentKinds.length &&
    a.segmentKinds.every((kind, index) => kind === b.segmentKinds[index])
  );
}
