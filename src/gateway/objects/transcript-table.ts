/** The messages of a session. Kept in memory (store-writes.ts) as long as they are short together. */
import { keptCharsMax } from "../limits.js";
import { messageRecord } from "./session-records.js";
import type { MessageRecord } from "./session-records.js";
import { int, text } from "./sql-row.js";
import type { KeptTable, StoreWrites } from "./store-writes.js";
import { StoredColumns } from "./stored-columns.js";

const messageColumns = new StoredColumns<MessageRecord>("message", {
  position: ({ position }) => position,
  turn: ({ turn }) => turn,
  role: ({ role }) => role,
  text: (message) => message.text,
  answer: ({ answer }) => Number(answer),
  create_ms: ({ createMs }) => createMs,
});

/** Messages that are read at once where they are looked at one by one: a text may be long. */
const eachReadMax = 16;

/** See the head of this file. */
export class TranscriptTable implements KeptTable {
  readonly #writes: StoreWrites;
  #count: number | undefined;
  /** Those that wait for their rows. */
  #appended: MessageRecord[] = [];
  /** All of them; undefined if they were not read, or are long. */
  #kept: MessageRecord[] | undefined;
  #keptChars = 0;

  /** Reads nothing yet. */
  constructor(writes: StoreWrites) {
    this.#writes = writes;
    writes.register(this);
  }

  /** Number of messages; their positions count from 0 without gaps. */
  get count(): number {
    this.#count ??= this.#writes.count("message");
    return this.#count;
  }

  /** Appends a message. */
  append(message: Omit<MessageRecord, "position">): void {
    const position = this.count;
    this.#appended.push({ ...message, position });
    this.#writes.changed(this);
    this.#count = position + 1;
    if (position === 0) {
      this.#kept = [];
      this.#keptChars = 0;
    }
    this.#keep({ ...message, position });
  }

  /** Takes a turn's messages back, which are the last ones. */
  withdraw(turn: number): void {
    this.#appended = this.#appended.filter((message) => message.turn !== turn);
    this.#writes.delete("message", "turn = ?", turn);
    this.#forget();
  }

  /** Messages from a position on, in order, at most `limit`. */
  from(position: number, limit: number): readonly MessageRecord[] {
    if (this.#kept === undefined && this.#keptChars === 0) {
      this.#read();
    }
    if (this.#kept !== undefined) {
      return this.#kept.slice(position, position + limit);
    }
    return this.#writes
      .all(
        "message",
        "SELECT * FROM message WHERE session = ? AND position >= ? ORDER BY position LIMIT ?",
        position,
        limit,
      )
      .map(messageRecord);
  }

  /** Messages from a position on, one by one. A cursor that nobody reads to its end would keep SQLite's log from beginning anew. */
  *each(position: number): Generator<MessageRecord, void, undefined> {
    for (let next = position; next < this.count;) {
      const messages = this.from(next, eachReadMax);
      yield* messages;
      next += eachReadMax;
    }
  }

  /** The answer of an ended turn; empty if there is none. */
  answer(turn: number): string {
    const kept = this.#kept?.findLast((message) => message.answer && message.turn === turn);
    if (kept !== undefined) {
      return kept.text;
    }
    const row = this.#writes.first(
      "message",
      "SELECT text FROM message WHERE session = ? AND turn = ? AND answer = 1 ORDER BY position DESC LIMIT 1",
      turn,
    );
    return row === undefined ? "" : text(row, "text");
  }

  look(): unknown {
    return this.count;
  }

  write(): void {
    messageColumns.append(this.#writes, this.#appended);
    this.#appended = [];
  }

  reset(): void {
    this.#appended = [];
    this.#forget();
  }

  #forget(): void {
    this.#count = undefined;
    this.#kept = undefined;
    this.#keptChars = 0;
  }

  #read(): void {
    const row = this.#writes.first(
      "message",
      "SELECT COALESCE(SUM(LENGTH(text)), 0) AS n FROM message WHERE session = ?",
    );
    const chars = row === undefined ? 0 : int(row, "n");
    if (chars > keptCharsMax) {
      this.#keptChars = chars;
      return;
    }
    this.#kept = this.#writes
      .all("message", "SELECT * FROM message WHERE session = ? ORDER BY position")
      .map(messageRecord);
    this.#keptChars = chars;
  }

  #keep(message: MessageRecord): void {
    if (this.#kept === undefined) {
      return;
    }
    this.#keptChars += message.text.length;
    if (this.#keptChars > keptCharsMax) {
      this.#kept = undefined;
    } else {
      this.#kept.push(message);
    }
  }
}
