/**
 * The turns of a session. The last one is kept in memory (store-writes.ts), since no other changes; earlier ones are read, and
 * a few are kept as they were read. How long a running answer is, its pieces say: its row is not written for each of them.
 */
import { toBinary } from "@bufbuild/protobuf";
import { SamplingParamsSchema } from "../../gen/leanedge/v1/sampling_pb.js";
import type { SamplingParams } from "../../gen/leanedge/v1/sampling_pb.js";
import { Backend, FinishReason, PlacementReason } from "../../gen/leanedge/v1/session_pb.js";
import { turnRecord } from "./session-records.js";
import type { TurnRecord } from "./session-records.js";
import { blob } from "./sql-row.js";
import type { Row } from "./sql-row.js";
import type { KeptTable, StoreWrites } from "./store-writes.js";
import { StoredColumns } from "./stored-columns.js";

/** Earlier turns that are kept as they were read: the one before, and those that are replayed. */
const turnsKeptMax = 4;

/** A turn that begins. */
export interface NewTurn {
  readonly number: number;
  readonly messagesHash: Uint8Array;
  readonly requestHash: Uint8Array;
  readonly idempotencyKey: string;
  readonly sampling: SamplingParams;
  readonly detach: boolean;
  readonly requestId: string;
  readonly model: string;
  readonly allowFallback?: boolean | undefined;
  readonly ticket?: string;
  readonly nowMs: number;
}

/** How long an answer is. */
export interface AnswerLength {
  readonly completionTokens: number;
  readonly textBytes: number;
}

/** See the head of this file. */
export class TurnTable implements KeptTable {
  readonly #writes: StoreWrites;
  readonly #runningLength: () => AnswerLength;
  /** The last turn; undefined before the first. */
  #last: { readonly turn: TurnRecord | undefined } | undefined;
  /** The last turn differs from its row, or has none. */
  #changed = false;
  /** Turns that were copied in and wait for their rows. */
  #imported: StoredTurn[] = [];
  /** The sampling of the last turn, as it is stored; undefined until it is needed. */
  #sampling: ArrayBuffer | undefined;
  readonly #earlier = new Map<number, TurnRecord | undefined>();

  /** @param runningLength how long the running answer is, by its pieces */
  constructor(writes: StoreWrites, runningLength: () => AnswerLength) {
    this.#writes = writes;
    this.#runningLength = runningLength;
    writes.register(this);
  }

  /** The last turn; undefined before the first. */
  get last(): TurnRecord | undefined {
    if (this.#last === undefined) {
      const row = this.#writes.first(
        "turn",
        "SELECT * FROM turn WHERE session = ? ORDER BY number DESC LIMIT 1",
      );
      this.#last = { turn: row === undefined ? undefined : this.#record(row) };
    }
    return this.#last.turn;
  }

  /** A turn; undefined if there is none of this number. */
  get(number: number): TurnRecord | undefined {
    const { last } = this;
    if (last === undefined || number > last.number || number < 1) {
      return undefined;
    }
    if (number === last.number) {
      return last;
    }
    if (!this.#earlier.has(number)) {
      if (this.#earlier.size >= turnsKeptMax) {
        this.#earlier.clear();
      }
      const row = this.#writes.first(
        "turn",
        "SELECT * FROM turn WHERE session = ? AND number = ?",
        number,
      );
      this.#earlier.set(number, row === undefined ? undefined : this.#record(row));
    }
    return this.#earlier.get(number);
  }

  /** The turn that was started under this key; undefined if none was. */
  byIdempotencyKey(key: string): TurnRecord | undefined {
    const row = this.#writes.first(
      "turn",
      "SELECT * FROM turn WHERE session = ? AND idempotency_key = ?",
      key,
    );
    return row === undefined ? undefined : this.#record(row);
  }

  /** Turns up to and including one, in order. */
  upTo(number: number): TurnRecord[] {
    return this.#writes
      .all("turn", "SELECT * FROM turn WHERE session = ? AND number <= ? ORDER BY number", number)
      .map((row) => this.#record(row));
  }

  /** Stores a turn that runs; its first attempt counts already. */
  insert(turn: NewTurn): void {
    const { nowMs, ...given } = turn;
    this.#setLast({
      ...given,
      running: true,
      startMs: nowMs,
      endMs: 0,
      orphanMs: 0,
      attempts: 1,
      accepted: false,
      promptTokens: 0,
      cachedTokens: 0,
      completionTokens: 0,
      textBytes: 0,
      finishReason: FinishReason.UNSPECIFIED,
      errorMessage: "",
      backend: Backend.UNSPECIFIED,
      worker: "",
      placement: PlacementReason.UNSPECIFIED,
      allowFallback: turn.allowFallback,
      cacheBytes: 0,
      ticket: turn.ticket ?? "",
    });
    this.#sampling = undefined;
    this.#changed = true;
    this.#writes.changed(this);
  }

  /** Copies an ended turn in, as a fork does. */
  import(turn: TurnRecord): void {
    this.#forget();
    this.#imported.push({
      ...turn,
      running: false,
      idempotencyKey: "",
      detach: false,
      orphanMs: 0,
      placement: PlacementReason.UNSPECIFIED,
      allowFallback: undefined,
      cacheBytes: 0,
      ticket: "",
      stored: samplingBlob(turn.sampling),
    });
    this.#writes.changed(this);
  }

  /** Changes the last turn. Throws where `number` is another one. */
  change(number: number, change: Partial<Omit<TurnRecord, "number">>): void {
    this.#change(number, change);
    this.#changed = true;
    this.#writes.changed(this);
  }

  /** Notes how long the running answer is, which its pieces say. */
  grow(number: number, length: AnswerLength): void {
    this.#change(number, length);
  }

  /** Takes the last turn back. */
  withdraw(number: number): void {
    this.#writes.delete("turn", "number = ?", number);
    this.reset();
  }

  look(): unknown {
    return this.last;
  }

  write(): void {
    turnColumns.append(this.#writes, this.#imported);
    this.#imported = [];
    const turn = this.#last?.turn;
    if (turn !== undefined && this.#changed) {
      this.#changed = false;
      turnColumns.replace(this.#writes, { ...turn, stored: this.#storedSampling(turn.sampling) });
    }
  }

  reset(): void {
    this.#imported = [];
    this.#forget();
  }

  #forget(): void {
    this.#last = undefined;
    this.#changed = false;
    this.#sampling = undefined;
    this.#earlier.clear();
  }

  #change(number: number, change: Partial<Omit<TurnRecord, "number">>): void {
    const { last } = this;
    if (last?.number !== number) {
      throw new Error(`turn ${number} is not the last one, which is ${last?.number ?? 0}`);
    }
    if (change.sampling !== undefined) {
      this.#sampling = undefined;
    }
    this.#last = { turn: { ...last, ...change } };
  }

  #setLast(turn: TurnRecord): void {
    const before = this.#last?.turn;
    if (before !== undefined) {
      if (this.#earlier.size >= turnsKeptMax) {
        this.#earlier.clear();
      }
      this.#earlier.set(before.number, before);
    }
    this.#earlier.delete(turn.number);
    this.#last = { turn };
  }

  #storedSampling(sampling: SamplingParams): ArrayBuffer {
    this.#sampling ??= samplingBlob(sampling);
    return this.#sampling;
  }

  #record(row: Row): TurnRecord {
    const turn = turnRecord(row);
    return turn.running ? { ...turn, ...this.#runningLength() } : turn;
  }
}

function samplingBlob(sampling: SamplingParams): ArrayBuffer {
  return blob(toBinary(SamplingParamsSchema, sampling));
}

/** A turn, and its sampling as it is stored. */
interface StoredTurn extends TurnRecord {
  readonly stored: ArrayBuffer;
}

const turnColumns = new StoredColumns<StoredTurn>("turn", {
  number: ({ number }) => number,
  running: ({ running }) => Number(running),
  messages_hash: ({ messagesHash }) => blob(messagesHash),
  request_hash: ({ requestHash }) => blob(requestHash),
  idempotency_key: ({ idempotencyKey }) => idempotencyKey,
  sampling: ({ stored }) => stored,
  detach: ({ detach }) => Number(detach),
  request_id: ({ requestId }) => requestId,
  start_ms: ({ startMs }) => startMs,
  end_ms: ({ endMs }) => endMs,
  orphan_ms: ({ orphanMs }) => orphanMs,
  attempts: ({ attempts }) => attempts,
  accepted: ({ accepted }) => Number(accepted),
  prompt_tokens: ({ promptTokens }) => promptTokens,
  cached_tokens: ({ cachedTokens }) => cachedTokens,
  completion_tokens: ({ completionTokens }) => completionTokens,
  text_bytes: ({ textBytes }) => textBytes,
  finish_reason: ({ finishReason }) => finishReason,
  error_message: ({ errorMessage }) => errorMessage,
  model: ({ model }) => model,
  backend: ({ backend }) => backend,
  worker: ({ worker }) => worker,
  placement: ({ placement }) => placement,
  fallback: ({ allowFallback }) => (allowFallback === undefined ? 0 : allowFallback ? 1 : 2),
  cache_bytes: ({ cacheBytes }) => cacheBytes,
  ticket: ({ ticket }) => ticket,
});
