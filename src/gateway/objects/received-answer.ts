/** The answer of a running turn as workers tell it: checks what comes, and appends it to what is there. */
import type { Finished, Tokens } from "../../gen/leanedge/worker/v1/worker_pb.js";
import type { SessionStore } from "./session-store.js";
import { SpoiledAnswer, WorkerFault } from "./worker-fault.js";

const encoder = new TextEncoder();
/** Keeps a byte order mark that a model writes: offsets count it. */
const utf8 = new TextDecoder("utf-8", { fatal: false, ignoreBOM: true });

/** See the head of this file. */
export class ReceivedAnswer {
  readonly #store: SessionStore;
  readonly #turn: number;
  #bytes: number;
  #tokens: number;
  /** Longest answer in tokens, once the model's defaults are known. */
  tokensMax = 0;
  /** Every id is below it, as far as a worker said so. */
  vocabSize = Infinity;
  /** A worker failed this run: the next one tells the whole text anew, which shows whether what was shown goes with its ids. */
  verifies = false;

  /** @param turn number of the turn, which is stored as running */
  constructor(store: SessionStore, turn: number) {
    const record = store.turn(turn);
    this.#store = store;
    this.#turn = turn;
    this.#bytes = record?.textBytes ?? 0;
    this.#tokens = record?.completionTokens ?? 0;
  }

  /** Length so far, in bytes of UTF-8. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Length so far, in tokens. */
  get tokens(): number {
    return this.#tokens;
  }

  /** Appends what a worker says. Throws WorkerFault if that cannot be. */
  take(tokens: Tokens): void {
    const offset = Number(tokens.offset);
    let text = tokens.text;
    if (text !== "" && offset !== this.#bytes) {
      if (offset > this.#bytes) {
        throw new WorkerFault(
          `the worker's text goes on at byte ${offset}, the answer ends at ${this.#bytes}`,
        );
      }
      text = this.#newText(text, offset);
    }
    if (this.#tokens + tokens.ids.length > this.tokensMax) {
      throw new WorkerFault(`the worker goes on after max_tokens, which is ${this.tokensMax}`);
    }
    this.checkIds(tokens.ids);
    if (tokens.ids.length > 0 || text !== "") {
      const piece = this.#store.appendPiece(this.#turn, tokens.ids, text);
      this.#tokens = piece.tokensEnd;
      this.#bytes = piece.byteOffset + piece.byteLength;
    }
  }

  /** An id that is none would make the log one that no worker takes. Throws WorkerFault. */
  checkIds(ids: readonly number[]): void {
    const wrong = ids.find((id) => id >= this.vocabSize);
    if (wrong !== undefined) {
      throw new WorkerFault(`the worker sent id ${wrong}, its vocabulary has ${this.vocabSize}`);
    }
  }

  /** Compares what a worker counts at the end with what came. Throws WorkerFault. */
  checkEnd(finished: Finished): void {
    const textBytes = Number(finished.textBytes);
    if (textBytes > this.#bytes) {
      throw new WorkerFault(`the worker counts ${textBytes} bytes of text, ${this.#bytes} arrived`);
    }
    if (textBytes < this.#bytes) {
      throw this.#otherText(
        `the worker counts ${textBytes} bytes of text, ${this.#bytes} were shown`,
      );
    }
    if (finished.generatedTokens > this.#tokens) {
      throw new WorkerFault(
        `the worker counts ${finished.generatedTokens} tokens, ${this.#tokens} arrived`,
      );
    }
  }

  /** What a text that begins at `offset` has beyond the answer so far: a resumed stream may repeat what is known. */
  #newText(text: string, offset: number): string {
    const bytes = encoder.encode(text);
    const texts = this.#store.pieces().map((piece) => piece.text);
    const known = encoder.encode(texts.join("")).subarray(offset, offset + bytes.length);
    if (known.some((byte, index) => byte !== bytes[index])) {
      throw this.#otherText(`the worker repeats other text at byte ${offset} than was shown`);
    }
    return utf8.decode(bytes.subarray(known.length));
  }

  /** A worker's text differs from what was shown. It may be its own fault, until a second one says so. */
  #otherText(message: string): WorkerFault {
    return this.verifies ? new SpoiledAnswer(message) : new WorkerFault(message);
  }
}
