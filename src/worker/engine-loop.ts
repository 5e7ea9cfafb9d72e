/**
 * Drives an engine step by step for the jobs that a scheduler admits. One loop an engine; it runs
 * while there are jobs, and lets the host breathe between steps, so that a cancel, a new
 * request or another sequence's output never waits longer than one step.
 */
import type { Engine, StepEntry, StepResult } from "../engine/engine.js";
import { EngineError } from "../engine/status.js";
import type { EngineGate } from "./engine-gate.js";
import type { Scheduler } from "./scheduler.js";
import type { HeldSequence, KeepCache, SequenceTable } from "./sequence-table.js";

/** A job: one answer of one sequence, and what happens to it. */
export interface LoopJob {
  readonly held: HeldSequence;
  /** Bytes of cache that the sequence holds at most, its whole answer included. */
  readonly cacheBytesMax: number;
  /** Bytes that it holds at most until its prompt is read; more once its cache was dropped. */
  readonly readingBytesMax: number;
  /** The job was admitted; what is in the cache now stays there. */
  onStart(): void;
  /** `workDone` rows x layers were computed without giving a token yet; `rowsPending` rows are left. */
  onProgress(rowsPending: number, workDone: number): void;
  /** A token was drawn and appended to the log. Returns whether to draw another one. */
  onToken(id: number): boolean;
  /**
   * The reader may be told of tokens now. That begins all that it takes to send them, so a device computes the next step
   * by then.
   */
  onSend(): void;
  /** The job has failed and is forgotten. */
  onError(error: Error): void;
}

/** What waits for memory without rows to compute. */
export interface LoopWaiter {
  /** The memory is there. Called in a step; idle caches have made room. */
  onAdmitted(): void;
  /** It never will be: the engine is lost. What was reserved is given back. */
  onError(error: Error): void;
}

/** What a loop works with. */
export interface EngineLoopOptions {
  readonly engine: Engine;
  readonly scheduler: Scheduler;
  readonly table: SequenceTable;
  readonly gate: EngineGate;
  /** As WorkerConfig.keepCache, but never takes longer than keepCacheMsMax. */
  readonly keepCache?: KeepCache | undefined;
  /** As WorkerConfig.relieve. */
  readonly relieve?: (() => boolean) | undefined;
  /** Returns to the host's event loop until it has done what waits there. */
  readonly yieldToHost: () => Promise<void>;
}

/** See the head of this file. */
export class EngineLoop {
  readonly #options: EngineLoopOptions;
  readonly #jobs = new Map<number, LoopJob>();
  /** What waits for memory without rows to compute, by job id. */
  readonly #waiting = new Map<number, LoopWaiter>();
  /** Jobs with tokens that their readers were not told of. */
  #unsent: LoopJob[] = [];
  #lastJobId = 0;
  #awake = false;

  constructor(options: EngineLoopOptions) {
    this.#options = options;
  }

  /**
   * Waits in the queue for memory, as a job does, but computes nothing: for a cache that comes from
   * elsewhere. `cancel` gives the memory back, or ends the waiting.
   * @returns the job's id
   * @throws SchedulerError if it cannot be queued
   */
  reserve(cacheBytesMax: number, waiter: LoopWaiter): number {
    const id = this.#lastJobId + 1;
    this.#options.scheduler.add({ id, rowsPending: 0, cacheBytesMax });
    this.#lastJobId = id;
    this.#waiting.set(id, waiter);
    this.#wake();
    return id;
  }

  /**
   * Queues a job and wakes the loop.
   * @returns the job's id
   * @throws SchedulerError if it cannot be queued
   */
  add(job: LoopJob): number {
    const { engine, scheduler } = this.#options;
    const stats = engine.sequenceStats(job.held.handle);
    const id = this.#lastJobId + 1;
    scheduler.add({
      id,
      // Where all rows are there the last one is computed again, for the token after it.
      rowsPending: Math.max(1, stats.tokens - stats.computed),
      cacheBytesMax: job.cacheBytesMax,
      readingBytesMax: job.readingBytesMax,
    });
    this.#lastJobId = id;
    this.#jobs.set(id, job);
    this.#wake();
    return id;
  }

  /** Forgets a job before the next step; nothing of it is called any more. */
  cancel(id: number): void {
    this.#jobs.delete(id);
    this.#waiting.delete(id);
    this.#options.scheduler.remove(id);
  }

  /** Drops the cache of the last job that waits and has one; false if none has. */
  dropQueuedCache(): boolean {
    return this.#options.scheduler
      .queuedIds()
      .reverse()
      .some((id) => this.#dropQueued(id) > 0);
  }

  #wake(): void {
    if (this.#awake) return;
    this.#awake = true;
    // Nobody waits for the loop: #run gives every error to the jobs and never rejects.
    void this.#run();
  }

  async #run(): Promise<void> {
    const { yieldToHost } = this.#options;
    // The caller of add() finishes first, so that its own first event goes out before any work.
    await yieldToHost();
    while (this.#jobs.size + this.#waiting.size > 0) {
      try {
        await this.#step();
      } catch (error) {
        this.#fail([...this.#jobs.keys(), ...this.#waiting.keys()], error);
      }
      await yieldToHost();
    }
    this.#awake = false;
    this.#send();
  }

  async #step(): Promise<void> {
    const { engine, gate, scheduler } = this.#options;
    await gate.quiet();
    const plan = scheduler.next(this.#admitMax());
    if (plan.admitted.length > 0) this.#dropCaches(plan.idleBytesMax);
    for (const id of plan.admitted) {
      this.#jobs.get(id)?.onStart();
      this.#waiting.get(id)?.onAdmitted();
      this.#waiting.delete(id);
    }

    const stepped: { id: number; job: LoopJob }[] = [];
    const entries: StepEntry[] = [];
    for (const { id, workMax } of plan.shares) {
      const job = this.#jobs.get(id);
      if (job === undefined) continue;
      stepped.push({ id, job });
      entries.push({ sequence: job.held.handle, workMax, sample: true });
    }
    if (entries.length === 0) {
      this.#send();
      return;
    }
    try {
      if (engine.stepSync) {
        this.#take(stepped, engine.stepSync(entries));
        this.#send();
      } else {
        await gate.pass(async () => {
          const results = engine.step(entries);
          // It computes: now there is time to send what the step before has given.
          this.#send();
          this.#take(stepped, await results);
        });
      }
    } catch (error) {
      // A lost engine has nothing left for anybody.
      if (error instanceof EngineError && error.status === "deviceLost") throw error;
      this.#fail(
        stepped.map(({ id }) => id),
        error,
      );
    }
  }

  /** Most jobs that may be admitted now: one at a time, and none while a cache that must go for it is being saved. */
  #admitMax(): number {
    const { keepCache, scheduler, table } = this.#options;
    if (keepCache === undefined) return Infinity;
    const bytesMax = scheduler.idleBytesAfterNext();
    if (bytesMax === undefined) return 0;
    // What the first one holds is a part of what is reserved for it.
    const idleBytesMax = bytesMax - this.#queuedBytes(scheduler.queuedIds().slice(1));
    return table.keepIdleCaches(Math.max(0, idleBytesMax), keepCache) ? 1 : 0;
  }

  /**
   * Drops caches of sequences without a running job until they hold at most `bytesMax` bytes: first those of idle
   * ones, then those of jobs that wait, the last one's first. Nothing is reserved for what these hold.
   */
  #dropCaches(bytesMax: number): void {
    const { scheduler, table } = this.#options;
    const queued = scheduler.queuedIds();
    const queuedBytes = this.#queuedBytes(queued);
    table.dropIdleCaches(Math.max(0, bytesMax - queuedBytes));
    let bytes = queuedBytes;
    while (bytes > bytesMax && queued.length > 0) bytes -= this.#dropQueued(queued.pop());
  }

  /** Bytes of cache that the sequences of jobs hold. */
  #queuedBytes(ids: readonly number[]): number {
    const { engine } = this.#options;
    return ids.reduce((sum, id) => {
      const job = this.#jobs.get(id);
      return job === undefined ? sum : sum + engine.sequenceStats(job.held.handle).cacheBytes;
    }, 0);
  }

  /** Drops the cache of a job that waits: it reads its whole log once it runs. Returns the bytes that became free. */
  #dropQueued(id: number | undefined): number {
    const { engine, scheduler } = this.#options;
    const job = id === undefined ? undefined : this.#jobs.get(id);
    if (id === undefined || job === undefined) return 0;
    const { cacheBytes, tokens } = engine.sequenceStats(job.held.handle);
    if (cacheBytes === 0) return 0;
    engine.dropCache(job.held.handle);
    scheduler.resize(id, { rowsPending: tokens, readingBytesMax: job.readingBytesMax });
    return cacheBytes;
  }

  #take(stepped: readonly { id: number; job: LoopJob }[], results: readonly StepResult[]): void {
    let workDone = 0;
    const withoutPages: number[] = [];
    stepped.forEach(({ id, job }, index) => {
      const result = results[index];
      if (result === undefined) return;
      if (this.#jobs.get(id) !== job) {
        // It was cancelled while a device computed: nobody takes note of what it drew.
        if (result.token !== undefined) this.#options.table.cutToBorders(job.held);
        return;
      }
      workDone += result.workDone;
      if (result.error?.status === "outOfPages") withoutPages.push(id);
      else this.#deliver(id, job, result);
    });
    this.#relieve(withoutPages, workDone);
  }

  #deliver(id: number, job: LoopJob, result: StepResult): void {
    const { scheduler, table } = this.#options;
    try {
      if (result.error !== undefined) {
        this.cancel(id);
        job.onError(result.error);
        return;
      }
      scheduler.report(id, result.rowsPending, result.token !== undefined);
      if (result.token === undefined) {
        job.onProgress(result.rowsPending, result.workDone);
        return;
      }
      table.noteAppended(job.held, "generated", 1);
      this.#unsent.push(job);
      if (!job.onToken(result.token)) this.cancel(id);
    } catch (error) {
      // A fault in one job's own code (decoding its text, say) must not stop the others.
      this.cancel(id);
      job.onError(error instanceof Error ? error : new Error(String(error)));
    }
  }

  #send(): void {
    const unsent = this.#unsent;
    this.#unsent = [];
    for (const job of unsent) job.onSend();
  }

  /**
   * Jobs that found no page although their growth was reserved: other users of the same engine can
   * use memory up for a while. Idle caches go first; otherwise they wait for the others, and where
   * nothing at all moved, caches of jobs that wait go, and then the youngest gives way.
   */
  #relieve(ids: readonly number[], workDone: number): void {
    if (ids.length === 0) return;
    const { keepCache, table, relieve } = this.#options;
    if (table.dropOneIdleCache(keepCache) || workDone > 0 || relieve?.() === true) return;
    if (this.dropQueuedCache()) return;
    const youngest = Math.max(...ids);
    const job = this.#jobs.get(youngest);
    this.cancel(youngest);
    job?.onError(
      new EngineError("outOfPages", "no page of cache memory is free, and no idle cache is left"),
    );
  }

  #fail(ids: readonly number[], reason: unknown): void {
    const error = reason instanceof Error ? reason : new Error(String(reason));
    for (const id of ids) {
      const job = this.#jobs.get(id) ?? this.#waiting.get(id);
      this.cancel(id);
      job?.onError(error);
    }
  }
}
