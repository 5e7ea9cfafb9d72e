/**
 * Decides who computes what in the next step. Pure: it knows numbers, no engine, no clock and no
 * text, so that its promises are tested apart from everything else.
 *
 * - Continuous batching: every admitted job that decodes takes part in every step; what a step
 *   can take besides goes to jobs that still read their prompt (or replay a lost cache).
 * - Admission by bytes: a job's growth is known from its plan before it starts, and is reserved as
 *   a whole; what only the reading of its prompt takes is given back when that is done. Jobs are admitted in order of arrival; the first that does not fit holds back the
 *   others, so that a large one is not overtaken for ever.
 * - Prompt rows go to the shortest remainder first, which keeps the first token of short prompts
 *   near; a fixed share goes to the job that came first, so that none starves.
 */
import { oldestShare, queuedRequestsMax, stepEntriesMax, stepPromptRowsMax } from "./limits.js";

/** A scheduler's refusal. */
export class SchedulerError extends Error {
  override readonly name = "SchedulerError";

  /** @param reason what is exhausted: the queue, or memory that the job could never have */
  constructor(
    readonly reason: "queueFull" | "tooLarge",
    message: string,
  ) {
    super(message);
  }
}

/** What a scheduler needs to know of a job when it comes. */
export interface JobSize {
  /** Names the job in all later calls. */
  readonly id: number;
  /** Log rows without K and V; 0 for a job that only takes memory. */
  readonly rowsPending: number;
  /** Bytes of cache that the job holds at most, its whole answer included. */
  readonly cacheBytesMax: number;
  /** Bytes that it holds at most until its prompt is read, if that takes more; 0 if unset. */
  readonly readingBytesMax?: number;
}

/** One job's part in a step. */
export interface StepShare {
  readonly id: number;
  /** Most rows x layers. */
  readonly workMax: number;
}

/** What the next step is made of. */
export interface StepPlan {
  /** Jobs that start now; their caches must have room, see `idleBytesMax`. */
  readonly admitted: readonly number[];
  /** Bytes that caches of sequences without a running job may keep; more must be dropped first. */
  readonly idleBytesMax: number;
  /** Who computes, decoding jobs first; empty if there is nothing to do. */
  readonly shares: readonly StepShare[];
}

/** Sizes of the engine that the scheduler works for. */
export interface SchedulerOptions {
  /** Layers of the model: a row costs as many units of work. */
  readonly layers: number;
  /** Bytes of cache memory in all. */
  readonly cacheBytes: number;
  /** Most jobs that run at once; at most the engine's entries a step. */
  readonly runningMax?: number;
  /** Most jobs that wait. */
  readonly queuedMax?: number;
  /** Prompt rows of one step. */
  readonly promptRowsMax?: number;
}

interface Job {
  readonly id: number;
  readonly cacheBytesMax: number;
  /** Bytes that are reserved for it, or will be. */
  reservedBytes: number;
  rowsPending: number;
}

/** See the head of this file. */
export class Scheduler {
  readonly #options: Required<SchedulerOptions>;
  readonly #queued: Job[] = [];
  /** In order of admission. */
  readonly #running = new Map<number, Job>();
  #reservedBytes = 0;

  constructor(options: SchedulerOptions) {
    this.#options = {
      runningMax: stepEntriesMax,
      queuedMax: queuedRequestsMax,
      promptRowsMax: stepPromptRowsMax,
      ...options,
    };
  }

  /** Jobs that run. */
  get running(): number {
    return this.#running.size;
  }

  /** Jobs that wait. */
  get queued(): number {
    return this.#queued.length;
  }

  /** Bytes reserved by the running jobs. */
  get reservedBytes(): number {
    return this.#reservedBytes;
  }

  /** Jobs that wait before this one; 0 if it runs or is unknown. */
  queuedBefore(id: number): number {
    return Math.max(
      0,
      this.#queued.findIndex((job) => job.id === id),
    );
  }

  /** Whether a job waits. */
  isQueued(id: number): boolean {
    return this.#queued.some((job) => job.id === id);
  }

  /** Jobs that wait, in their order. */
  queuedIds(): number[] {
    return this.#queued.map(({ id }) => id);
  }

  /** Says that a job which waits has lost its cache: what is left to compute, and what that takes. */
  resize(
    id: number,
    { rowsPending, readingBytesMax }: Pick<JobSize, "rowsPending" | "readingBytesMax">,
  ): void {
    const job = this.#queued.find((queued) => queued.id === id);
    if (job === undefined) return;
    job.rowsPending = rowsPending;
    job.reservedBytes = Math.max(job.cacheBytesMax, readingBytesMax ?? 0);
  }

  /**
   * Puts a job into the queue.
   * @throws SchedulerError if the queue is full, or if the job could not run even alone
   */
  add(size: JobSize): void {
    const { cacheBytes, queuedMax } = this.#options;
    const { id, rowsPending, cacheBytesMax, readingBytesMax = 0 } = size;
    const reservedBytes = Math.max(cacheBytesMax, readingBytesMax);
    if (reservedBytes > cacheBytes) {
      throw new SchedulerError(
        "tooLarge",
        `the sequence needs ${reservedBytes} bytes of cache, the engine has ${cacheBytes}`,
      );
    }
    if (this.#queued.length >= queuedMax) {
      throw new SchedulerError("queueFull", `${queuedMax} requests wait already`);
    }
    this.#queued.push({ id, rowsPending, cacheBytesMax, reservedBytes });
  }

  /** Forgets a job, wherever it is; unknown ones are ignored. */
  remove(id: number): void {
    const queuedAt = this.#queued.findIndex((job) => job.id === id);
    if (queuedAt >= 0) this.#queued.splice(queuedAt, 1);
    const job = this.#running.get(id);
    if (job !== undefined) {
      this.#running.delete(id);
      this.#reservedBytes -= job.reservedBytes;
    }
  }

  /**
   * Says how many rows of a job are left after a step.
   * @param drewToken its whole log was computed: from now on it holds what its answer can grow to, and no more
   */
  report(id: number, rowsPending: number, drewToken: boolean): void {
    const job = this.#running.get(id);
    if (job === undefined) return;
    job.rowsPending = rowsPending;
    if (!drewToken) return;
    this.#reservedBytes -= job.reservedBytes - job.cacheBytesMax;
    job.reservedBytes = job.cacheBytesMax;
  }

  /**
   * Bytes that caches of sequences without a running job may keep once the job that came first is admitted; undefined if
   * none waits, or if it cannot be admitted now.
   */
  idleBytesAfterNext(): number | undefined {
    const { cacheBytes, runningMax } = this.#options;
    const job = this.#queued[0];
    if (job === undefined || this.#running.size >= runningMax) return undefined;
    const left = cacheBytes - this.#reservedBytes - job.reservedBytes;
    return left < 0 ? undefined : left;
  }

  /**
   * Admits what fits and shares out the next step.
   * @param admitMax most jobs to admit
   */
  next(admitMax = Infinity): StepPlan {
    const admitted = this.#admit(admitMax);
    return {
      admitted,
      idleBytesMax: this.#options.cacheBytes - this.#reservedBytes,
      shares: this.#share(),
    };
  }

  #admit(admitMax: number): number[] {
    const admitted: number[] = [];
    while (admitted.length < admitMax && this.#running.size < this.#options.runningMax) {
      const job = this.#queued[0];
      if (job === undefined) break;
      if (this.#reservedBytes + job.reservedBytes > this.#options.cacheBytes) break;
      this.#queued.shift();
      this.#running.set(job.id, job);
      this.#reservedBytes += job.reservedBytes;
      admitted.push(job.id);
    }
    return admitted;
  }

  #share(): StepShare[] {
    const { layers, promptRowsMax } = this.#options;
    const shares: StepShare[] = [];
    const readers: Job[] = [];
    for (const job of this.#running.values()) {
      if (job.rowsPending === 1) shares.push({ id: job.id, workMax: layers });
      else if (job.rowsPending > 1) readers.push(job);
    }
    const oldest = readers[0];
    if (oldest === undefined) return shares;

    let rowsLeft = promptRowsMax;
    const rows = new Map<Job, number>();
    const give = (job: Job, most: number): void => {
      const had = rows.get(job) ?? 0;
      const more = Math.min(most, rowsLeft, job.rowsPending - had);
      if (more <= 0) return;
      rows.set(job, had + more);
      rowsLeft -= more;
    };
    if (readers.length > 1) give(oldest, Math.ceil(promptRowsMax * oldestShare));
    // A stable sort: equal remainders keep the order of arrival.
    for (const job of [...readers].sort((a, b) => a.rowsPending - b.rowsPending)) {
      give(job, rowsLeft);
    }
    for (const [job, count] of rows) shares.push({ id: job.id, workMax: count * layers });
    return shares;
  }
}
