/**
 * Where a client goes on in an answer. It may have seen more than is stored: an object that is lost takes with it what it showed in
 * its last moments. What it showed is generated again, from the same ids and the same seed, so the client's place comes; a hash of
 * what the client has says whether it is the same answer still.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import { invalidArgument } from "../errors.js";
import { resumeHashBytes } from "../limits.js";
import { sha256 } from "../sha256.js";
import { sameBytes } from "./request-rules.js";
import type { TurnRecord } from "./session-records.js";
import type { SessionStore } from "./session-store.js";

const encoder = new TextEncoder();

/** What a client has of an answer. */
export interface ResumeFrom {
  /** Bytes of UTF-8. */
  readonly offset: number;
  /** First resumeHashBytes of their SHA-256; empty: not told. */
  readonly hash: Uint8Array;
}

/** See the head of this file. One a stream. */
export class ResumePoint {
  readonly #from: ResumeFrom;
  #reached = false;
  /** It lay behind the end of the answer when it was last looked at. */
  #waited = false;

  /** Throws INVALID_ARGUMENT for a hash that is none. */
  constructor(from: ResumeFrom) {
    const { byteLength } = from.hash;
    if (byteLength !== 0 && byteLength !== resumeHashBytes) {
      throw invalidArgument(`resume_hash has ${byteLength} bytes, it must have ${resumeHashBytes}`);
    }
    this.#from = from;
  }

  /**
   * Whether the answer has reached the client's place.
   *
   * @throws INVALID_ARGUMENT if the place is past the end of an answer that has ended, or inside a character
   * @throws DATA_LOSS if the place was waited for, or the client's hash was, and this is not the answer that the client has seen
   */
  reached(store: SessionStore, turn: TurnRecord): boolean {
    if (this.#reached) {
      return true;
    }
    const { offset, hash } = this.#from;
    if (turn.textBytes < offset) {
      if (turn.running) {
        this.#waited = true;
        return false;
      }
      const seen = this.#waited || hash.byteLength > 0;
      const message = `resume_offset is ${offset}, the answer has ${turn.textBytes} bytes`;
      throw seen ? dataLoss(`${message}, and has ended`) : invalidArgument(`${message} so far`);
    }
    if (offset > 0) {
      this.#check(answerBytes(store, turn));
    }
    this.#reached = true;
    return true;
  }

  #check(answer: Uint8Array): void {
    const { offset, hash } = this.#from;
    const known = answer.subarray(0, offset);
    if (hash.byteLength > 0 && !sameBytes(sha256(known).subarray(0, resumeHashBytes), hash)) {
      throw otherAnswer(offset);
    }
    if (((answer[offset] ?? 0) & 0xc0) === 0x80) {
      throw this.#waited
        ? otherAnswer(offset)
        : invalidArgument(`resume_offset ${offset} is inside a character`);
    }
  }
}

function answerBytes(store: SessionStore, turn: TurnRecord): Uint8Array {
  return encoder.encode(
    turn.running
      ? store
          .pieces()
          .map((piece) => piece.text)
          .join("")
      : store.answerText(turn.number),
  );
}

function otherAnswer(offset: number): ConnectError {
  return dataLoss(
    `the answer was generated anew and differs before byte ${offset}; ask from offset 0`,
  );
}

function dataLoss(message: string): ConnectError {
  return new ConnectError(message, Code.DataLoss);
}
