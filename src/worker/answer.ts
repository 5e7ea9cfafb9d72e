/**
 * One answer as it grows: drawn ids become text (whole characters, stop strings cut out), and wait
 * here until the stream takes them. What waits is at most the answer itself, which max_tokens
 * bounds, so a slow reader costs no more than that and never holds up a step.
 */
import { FinishReason } from "../gen/leanedge/v1/session_pb.js";
import type { StopMatcher } from "../engine/tokenizer/index.js";
import type { AnswerDecoder } from "./text-codec.js";

const utf8 = new TextEncoder();

/** Bytes of a text in UTF-8. */
export function utf8Bytes(text: string): number {
  return utf8.encode(text).length;
}

/** Ids and text that were not sent yet. */
export interface AnswerPiece {
  readonly ids: number[];
  readonly text: string;
  /** Offset of `text` in the answer, bytes of UTF-8. */
  readonly offset: number;
}

/** What an answer is made with. */
export interface AnswerOptions {
  readonly decoder: AnswerDecoder;
  readonly stop: StopMatcher;
  readonly isEnd: (id: number) => boolean;
  /** Longest answer in tokens. */
  readonly tokensMax: number;
  /** Bytes of the answer's text that the reader has already. */
  readonly skipBytes: number;
}

/** See the head of this file. */
export class Answer {
  readonly #options: AnswerOptions;
  #ids: number[] = [];
  #text = "";
  #sentBytes: number;
  #textBytes = 0;
  #tokens = 0;
  #finish: FinishReason = FinishReason.UNSPECIFIED;

  constructor(options: AnswerOptions) {
    this.#options = options;
    this.#sentBytes = options.skipBytes;
  }

  /** Ids of the answer so far; an end token is not one of them. */
  get tokens(): number {
    return this.#tokens;
  }

  /** Bytes of UTF-8 of the answer so far, what is held back not counted. */
  get textBytes(): number {
    return this.#textBytes;
  }

  /** Why it ended; unspecified while it grows. */
  get finishReason(): FinishReason {
    return this.#finish;
  }

  /**
   * Takes ids that an earlier stream has sent: they make text, but are not sent again.
   * @returns whether the answer goes on
   */
  replay(ids: Iterable<number>): boolean {
    for (const id of ids) if (!this.push(id)) break;
    this.#ids = [];
    return this.#finish === FinishReason.UNSPECIFIED;
  }

  /**
   * Takes the next drawn id.
   * @returns whether the answer goes on
   */
  push(id: number): boolean {
    const { decoder, stop, isEnd, tokensMax } = this.#options;
    if (isEnd(id)) {
      this.#end(FinishReason.STOP);
      return false;
    }
    this.#tokens++;
    this.#ids.push(id);
    const { text, stopped } = stop.push(decoder.push(id));
    this.#release(text);
    if (stopped) this.#finish = FinishReason.STOP;
    else if (this.#tokens >= tokensMax) this.#end(FinishReason.LENGTH);
    return this.#finish === FinishReason.UNSPECIFIED;
  }

  /** Takes what waits to be sent; undefined if nothing does. */
  take(): AnswerPiece | undefined {
    if (this.#ids.length === 0 && this.#text === "") return undefined;
    const piece = { ids: this.#ids, text: this.#text, offset: this.#sentBytes };
    this.#ids = [];
    this.#text = "";
    this.#sentBytes += utf8Bytes(piece.text);
    return piece;
  }

  #end(reason: FinishReason): void {
    const { decoder, stop } = this.#options;
    const last = stop.push(decoder.flush());
    this.#release(last.text);
    if (!last.stopped) this.#release(stop.flush());
    this.#finish = last.stopped ? FinishReason.STOP : reason;
  }

  #release(text: string): void {
    if (text === "") return;
    const bytes = utf8.encode(text);
    // What the reader has already ends at a character's border: it was sent in whole characters.
    const skip = Math.max(0, Math.min(bytes.length, this.#options.skipBytes - this.#textBytes));
    this.#textBytes += bytes.length;
    this.#text += skip === 0 ? text : new TextDecoder().decode(bytes.subarray(skip));
  }
}
