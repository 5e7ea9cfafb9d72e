/** The answer of GET /v1/status; docs/operations.md describes the fields. Types only: clients may import it. */

/** A model of a worker. */
export interface ModelStatus {
  /** Id that requests name it by. */
  readonly model: string;
  /** Longest context, tokens. */
  readonly context_tokens_max: number;
  /** Bytes of one page, all layers together. */
  readonly page_bytes: number;
  /** Bytes that a sequence takes before its first page. */
  readonly sequence_bytes: number;
  /** Cache plans that it may be served with, in the order in which they are looked at. */
  readonly plans: readonly PlanStatus[];
}

/** A cache plan of a model, with the sizes that follow from it. */
export interface PlanStatus {
  /** Name of the plan. */
  readonly plan: string;
  /** Archive bytes of one token, all layers together. */
  readonly archive_bytes_per_token: number;
  /** Bytes of one page, all layers together. */
  readonly page_bytes: number;
  /** Bytes that a sequence takes before its first page. */
  readonly sequence_bytes: number;
  /** Pages of a session at the longest context. */
  readonly pages_max: number;
  /** Bytes of cache of a session at the longest context. */
  readonly session_bytes_max: number;
  /** Longest context of one session in the engine's cache memory, tokens. */
  readonly context_tokens_budget: number;
}

/** A worker that answers. */
export interface WorkerStatus {
  /** Name of the worker, as `x-served-by` and the `started` event give it. */
  readonly worker: string;
  /** reference, wasm or cuda. */
  readonly backend: string;
  /** Refuses new sequences because it shuts down. */
  readonly draining: boolean;
  /** Models that it serves. */
  readonly models: readonly ModelStatus[];
  /** Sequences that generate or read a prompt now. */
  readonly running: number;
  /** Requests that wait. */
  readonly queued: number;
  /** Sequences that it holds. */
  readonly sequences: number;
  /** Pages of cache in all. */
  readonly pages: number;
  /** Pages that are free, or that an idle cache could give back at once. */
  readonly pages_free: number;
  /** Bytes of engine memory in use: weights, cache and scratch. */
  readonly memory_bytes: number;
  /** Bytes of engine memory that may be used. */
  readonly memory_bytes_max: number;
  /** Calls into the engine since start. */
  readonly steps: number;
  /** Tokens computed for prompts since start. */
  readonly prompt_tokens: number;
  /** Tokens generated since start. */
  readonly generated_tokens: number;
  /** Prompt tokens found in the cache since start. */
  readonly cached_tokens: number;
  /** Rows that the engine computed since its start. */
  readonly rows: number;
  /** Bytes of cache memory. */
  readonly cache_bytes: number;
  /** Bytes of it that no sequence holds. */
  readonly cache_bytes_free: number;
  /** Caches that were saved since start. */
  readonly snapshots_saved: number;
  /** Caches that were put back since start. */
  readonly snapshots_restored: number;
  /** Saved caches since start that were of another log, model, template, plan or engine version. */
  readonly snapshots_stale: number;
  /** Saved caches since start that were damaged. */
  readonly snapshots_broken: number;
  /** Bytes of saved and of restored caches since start. */
  readonly snapshot_bytes_saved: number;
  readonly snapshot_bytes_restored: number;
}

/** A worker that does not answer. */
export interface LostWorker {
  /** Name of the worker. */
  readonly worker: string;
  /** For people; without internals. */
  readonly error: string;
}

/** The whole answer. */
export interface GatewayStatus {
  readonly object: "status";
  readonly workers: readonly (WorkerStatus | LostWorker)[];
}
