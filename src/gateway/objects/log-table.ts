/**
 * The log of a session and the answer that is added to it. Kept in memory (store-writes.ts): the pieces of a running answer,
 * and the segments as long as they are short together; the name of the whole log is made once, not at each use.
 */
import { concatBytes } from "@noble/hashes/utils.js";
import { SegmentKind } from "../../gen/leanedge/worker/v1/worker_pb.js";
import type { PrefixName } from "../../gen/leanedge/worker/v1/worker_pb.js";
import { keptIdsBytesMax } from "../limits.js";
import { utf8Bytes } from "../utf8.js";
import { namePrefix, packIds } from "../worker-client/segments.js";
import type { PackedSegment } from "../worker-client/segments.js";
import { pieceRecord } from "./session-records.js";
import type { PieceRecord } from "./session-records.js";
import { blob, bytes, int, member } from "./sql-row.js";
import type { Row } from "./sql-row.js";
import type { KeptTable, StoreWrites } from "./store-writes.js";
import { StoredColumns } from "./stored-columns.js";

/** A segment and the turn that added it. */
export interface TurnSegment extends PackedSegment {
  readonly turn: number;
}

/** A segment and its place in the log. */
interface PlacedSegment extends TurnSegment {
  readonly position: number;
}

const segmentColumns = new StoredColumns<PlacedSegment>("segment", {
  position: ({ position }) => position,
  turn: ({ turn }) => turn,
  kind: ({ kind }) => kind,
  ids: ({ ids }) => blob(ids),
});

const pieceColumns = new StoredColumns<PieceRecord & { readonly number: number }>("piece", {
  number: ({ number }) => number,
  byte_offset: ({ byteOffset }) => byteOffset,
  byte_length: ({ byteLength }) => byteLength,
  tokens_end: ({ tokensEnd }) => tokensEnd,
  text: ({ text }) => text,
  ids: ({ ids }) => blob(ids),
});

/** See the head of this file. */
export class LogTable implements KeptTable {
  readonly #writes: StoreWrites;
  /** All segments; undefined if they were not read, or are long. */
  #segments: readonly TurnSegment[] | undefined;
  #segmentCount: number | undefined;
  /** Those that wait for their rows. */
  #appended: PlacedSegment[] = [];
  /** Bytes of all segments, as far as they were read. */
  #bytes = 0;
  #name: PrefixName | undefined;
  #pieces: PieceRecord[] | undefined;
  /** Those of them, from the first on, that are stored: in fewer rows, since what came between two commits is one. */
  #piecesStored = 0;
  /** Number of the next row of pieces. */
  #pieceNumber = 0;

  /** Reads nothing yet. */
  constructor(writes: StoreWrites) {
    this.#writes = writes;
    writes.register(this);
  }

  /** The segments, in order. */
  get segments(): readonly TurnSegment[] {
    if (this.#segments !== undefined) {
      return this.#segments;
    }
    if (this.#segmentCount === 0) {
      this.#segments = [];
      return this.#segments;
    }
    const segments = this.#writes
      .all("segment", "SELECT turn, kind, ids FROM segment WHERE session = ? ORDER BY position")
      .map(segmentOf);
    this.#bytes = segments.reduce((sum, { ids }) => sum + ids.byteLength, 0);
    if (this.#bytes <= keptIdsBytesMax) {
      this.#segments = segments;
      this.#segmentCount = segments.length;
    }
    return segments;
  }

  /** Name of the whole log, without fingerprints. */
  get name(): PrefixName {
    this.#name ??= namePrefix(this.segments, undefined);
    return this.#name;
  }

  /** Tokens of the log, those of the running answer included. */
  get tokens(): number {
    return this.name.tokens + (this.pieces.at(-1)?.tokensEnd ?? 0);
  }

  /** Appends a segment. */
  append(turn: number, kind: PackedSegment["kind"], ids: Uint8Array): void {
    const position = this.#nextPosition();
    this.#appended.push({ position, turn, kind, ids });
    this.#writes.changed(this);
    if (position === 0) {
      this.#segments = [];
      this.#bytes = 0;
    }
    this.#segmentCount = position + 1;
    this.#bytes += ids.byteLength;
    this.#name = undefined;
    this.#segments =
      this.#segments === undefined || this.#bytes > keptIdsBytesMax
        ? undefined
        : [...this.#segments, { turn, kind, ids }];
  }

  /** Empties the log. */
  clear(): void {
    this.#appended = [];
    this.#writes.delete("segment");
    this.#forgetSegments();
  }

  /** Takes back what a turn added: its segments, and the running answer. */
  withdraw(turn: number): void {
    this.clearPieces();
    this.#appended = this.#appended.filter((segment) => segment.turn !== turn);
    this.#writes.delete("segment", "turn = ?", turn);
    this.#forgetSegments();
  }

  /** Pieces of the running answer, in order. */
  get pieces(): readonly PieceRecord[] {
    if (this.#pieces === undefined) {
      this.#pieces = this.#writes
        .all("piece", "SELECT * FROM piece WHERE session = ? ORDER BY number")
        .map((row) => {
          this.#pieceNumber = int(row, "number") + 1;
          return pieceRecord(row);
        });
      this.#piecesStored = this.#pieces.length;
    }
    return this.#pieces;
  }

  /** Pieces of the running answer that end after `byteOffset`, in order. */
  piecesFrom(byteOffset: number): readonly PieceRecord[] {
    const { pieces } = this;
    let first = pieces.length;
    while (first > 0 && endOf(pieces[first - 1]) > byteOffset) {
      first--;
    }
    return pieces.slice(first);
  }

  /** Appends to the running answer. */
  appendPiece(ids: readonly number[], text: string): PieceRecord {
    const last = this.pieces.at(-1);
    const piece: PieceRecord = {
      byteOffset: endOf(last),
      byteLength: utf8Bytes(text),
      tokensEnd: (last?.tokensEnd ?? 0) + ids.length,
      text,
      ids: packIds(ids),
    };
    this.#pieces?.push(piece);
    this.#writes.changed(this);
    return piece;
  }

  /** Empties the running answer; what it was. */
  takePieces(): { readonly ids: Uint8Array; readonly text: string } {
    const { pieces } = this;
    this.clearPieces();
    return {
      ids: concatBytes(...pieces.map((piece) => piece.ids)),
      text: pieces.map((piece) => piece.text).join(""),
    };
  }

  /** Empties the running answer. */
  clearPieces(): void {
    if (this.pieces.length > 0) {
      if (this.#piecesStored > 0) {
        this.#writes.delete("piece");
      }
      this.#pieces = [];
      this.#piecesStored = 0;
    }
  }

  look(): unknown {
    return [this.#nextPosition(), this.pieces];
  }

  /** Stores segments that are new, and the pieces that are, as one row. */
  write(): void {
    segmentColumns.append(this.#writes, this.#appended);
    this.#appended = [];
    const pieces = this.#pieces?.slice(this.#piecesStored) ?? [];
    const [first] = pieces;
    if (first === undefined) {
      return;
    }
    this.#piecesStored += pieces.length;
    const last = pieces.at(-1);
    pieceColumns.append(this.#writes, [
      {
        number: this.#pieceNumber++,
        byteOffset: first.byteOffset,
        byteLength: endOf(last) - first.byteOffset,
        tokensEnd: last?.tokensEnd ?? 0,
        text: pieces.map((piece) => piece.text).join(""),
        ids: concatBytes(...pieces.map((piece) => piece.ids)),
      },
    ]);
  }

  reset(): void {
    this.#appended = [];
    this.#forgetSegments();
    this.#pieces = undefined;
    this.#piecesStored = 0;
  }

  #nextPosition(): number {
    this.#segmentCount ??= this.#writes.count("segment");
    return this.#segmentCount;
  }

  #forgetSegments(): void {
    this.#segments = undefined;
    this.#segmentCount = undefined;
    this.#bytes = 0;
    this.#name = undefined;
  }
}

/** Where a piece ends, in bytes of the answer; 0 for none. */
function endOf(piece: PieceRecord | undefined): number {
  return piece === undefined ? 0 : piece.byteOffset + piece.byteLength;
}

function segmentOf(row: Row): TurnSegment {
  const kind = member<SegmentKind>(row, "kind");
  return {
    turn: int(row, "turn"),
    kind: kind === SegmentKind.PROMPT ? SegmentKind.PROMPT : SegmentKind.GENERATED,
    ids: bytes(row, "ids"),
  };
}
