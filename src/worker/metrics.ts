/**
 * What a worker measures of itself, as Prometheus reads it. Names are those of vLLM where it has one (SGLang's are the
 * same or close), under the prefix `leanedge:`; docs/worker.md lists them. Labels have few values each: nothing that a
 * caller sends becomes one.
 */
import { Counter, Gauge, Histogram, Registry, collectDefaultMetrics } from "prom-client";
import type { StepEntry, StepResult } from "../engine/engine.js";

/** What is read when somebody looks, not counted as it happens. */
export interface WorkerLevels {
  readonly running: number;
  readonly queued: number;
  readonly sequences: number;
  readonly pages: number;
  readonly pagesFree: number;
  readonly pagesIdle: number;
  readonly cacheBytes: number;
  readonly cacheBytesFree: number;
  readonly memoryBytes: number;
  readonly snapshots: Readonly<Record<"saved" | "restored" | "stale" | "broken", number>>;
}

/** Seconds from under a millisecond, a step of a small model on a GPU, to what a queue allows. */
const latencySeconds = [
  0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5,
  10, 20, 40, 80, 160,
];
const tokenCounts = [
  1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072,
];
const sequenceCounts = [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256];

/** See the head of this file. */
export class WorkerMetrics {
  /** Holds all of them. */
  readonly registry = new Registry();
  /** Restarts of a lost engine. */
  readonly engineRestarts = this.#counter(
    "engine_restarts_total",
    "Engines started again after a loss.",
  );
  /** Readers that took nothing for too long. */
  readonly slowReaders = this.#counter(
    "slow_readers_total",
    "Calls ended because their reader took nothing.",
  );
  /** Tokens of prompts that were computed. */
  readonly promptTokens = this.#counter(
    "prompt_tokens_total",
    "Prompt tokens computed, those found in the cache not counted.",
  );
  /** Tokens of answers. */
  readonly generationTokens = this.#counter("generation_tokens_total", "Tokens generated.");
  /** Tokens that were looked up in the cache. */
  readonly prefixQueries = this.#counter(
    "prefix_cache_queries_total",
    "Tokens of contexts that were looked up in the cache.",
  );
  /** Tokens that were found there. */
  readonly prefixHits = this.#counter(
    "prefix_cache_hits_total",
    "Tokens of contexts found in the cache.",
  );
  /** Answers that ended, by reason. */
  readonly successes = new Counter({
    name: "leanedge:request_success_total",
    help: "Answers that ended, by reason.",
    labelNames: ["finished_reason"],
    registers: [this.registry],
  });
  /** Calls of Generate that failed, by RPC code. */
  readonly failures = new Counter({
    name: "leanedge:request_failures_total",
    help: "Calls of Generate that failed, by RPC code.",
    labelNames: ["code"],
    registers: [this.registry],
  });
  /** From a call's arrival to its first token. */
  readonly timeToFirstToken = this.#seconds(
    "time_to_first_token_seconds",
    "Seconds from a call's arrival to the first token of its answer.",
  );
  /** Between two tokens of an answer, as the engine drew them. */
  readonly interTokenLatency = this.#seconds(
    "inter_token_latency_seconds",
    "Seconds between two tokens of an answer, as the engine drew them.",
  );
  /** From a call's arrival to its end. */
  readonly endToEnd = this.#seconds(
    "e2e_request_latency_seconds",
    "Seconds from a call's arrival to the end of its answer.",
  );
  /** In the queue. */
  readonly queueTime = this.#seconds(
    "request_queue_time_seconds",
    "Seconds that a call waited for memory.",
  );
  /** From admission to the first token. */
  readonly prefillTime = this.#seconds(
    "request_prefill_time_seconds",
    "Seconds from admission to the first token.",
  );
  /** From the first token to the last. */
  readonly decodeTime = this.#seconds(
    "request_decode_time_seconds",
    "Seconds from the first token to the last.",
  );
  /** Of a call: its whole context. */
  readonly requestPromptTokens = this.#counts(
    "request_prompt_tokens",
    "Tokens of a call's context before its answer.",
    tokenCounts,
  );
  /** Of a call. */
  readonly requestGenerationTokens = this.#counts(
    "request_generation_tokens",
    "Tokens of a call's answer.",
    tokenCounts,
  );
  readonly #stepSeconds = this.#seconds("step_duration_seconds", "Seconds of one engine step.");
  readonly #stepRows = this.#counts(
    "iteration_tokens_total",
    "Tokens computed by one engine step, those of prompts in whole rows.",
    tokenCounts,
  );
  readonly #stepSequences = this.#counts(
    "step_sequences",
    "Sequences that took part in one engine step.",
    sequenceCounts,
  );

  #steps = 0;

  /** Sets what is read when somebody looks. */
  readonly #levels: ((at: WorkerLevels) => void)[] = [];

  /** @param model name of the model, the label `model_name` of all */
  constructor(model: string) {
    this.registry.setDefaultLabels({ model_name: model });
    collectDefaultMetrics({ register: this.registry });
    const gauge = (name: string, help: string, read: (at: WorkerLevels) => number): void => {
      const made = new Gauge({ name: `leanedge:${name}`, help, registers: [this.registry] });
      this.#levels.push((at) => made.set(read(at)));
    };
    gauge("num_requests_running", "Calls that read their prompt or answer.", (at) => at.running);
    gauge("num_requests_waiting", "Calls that wait for memory.", (at) => at.queued);
    gauge("num_sequences", "Sequences held, idle ones included.", (at) => at.sequences);
    gauge(
      "kv_cache_usage_perc",
      "Share of cache memory that sequences hold, 0 to 1, idle ones included.",
      (at) => (at.cacheBytes === 0 ? 0 : 1 - at.cacheBytesFree / at.cacheBytes),
    );
    gauge("kv_cache_bytes", "Bytes of cache memory in all.", (at) => at.cacheBytes);
    gauge("pages", "Pages of the cache in all.", (at) => at.pages);
    gauge("pages_free", "Pages that are free, or idle.", (at) => at.pagesFree);
    gauge("pages_idle", "Pages of idle caches.", (at) => at.pagesIdle);
    gauge("engine_memory_bytes", "Bytes of weights, cache and scratch.", (at) => at.memoryBytes);
    const snapshots = new Counter({
      name: "leanedge:snapshots_total",
      help: "Snapshots of caches, by what became of them.",
      labelNames: ["outcome"],
      registers: [this.registry],
    });
    this.#levels.push((at) => {
      snapshots.reset();
      for (const [outcome, count] of Object.entries(at.snapshots))
        snapshots.inc({ outcome }, count);
    });
  }

  /**
   * All of them, as Prometheus reads them.
   * @param levels undefined while there is no engine: the latest ones stay
   */
  async text(levels: WorkerLevels | undefined): Promise<string> {
    if (levels !== undefined) for (const set of this.#levels) set(levels);
    return this.registry.metrics();
  }

  /** Engine steps so far: what a log line names them by. */
  get steps(): number {
    return this.#steps;
  }

  /** Takes note of one engine step. */
  step(
    seconds: number,
    entries: readonly StepEntry[],
    results: readonly StepResult[],
    layers: number,
  ): void {
    this.#steps++;
    this.#stepSeconds.observe(seconds);
    this.#stepSequences.observe(entries.length);
    this.#stepRows.observe(results.reduce((sum, { workDone }) => sum + workDone, 0) / layers);
  }

  #counter(name: string, help: string): Counter {
    return new Counter({ name: `leanedge:${name}`, help, registers: [this.registry] });
  }

  #seconds(name: string, help: string): Histogram {
    return this.#counts(name, help, latencySeconds);
  }

  #counts(name: string, help: string, buckets: number[]): Histogram {
    return new Histogram({ name: `leanedge:${name}`, help, buckets, registers: [this.registry] });
  }
}
