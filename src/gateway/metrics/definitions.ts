/**
 * The gateway's own metrics, as docs/operations.md lists them. All are sums: what an isolate counted can be added to what
 * others did, in any order. Labels have few values each: nothing that a caller sends becomes one.
 */

/** A metric. */
export interface Metric {
  /** Its name, without the prefix `leanedge:gateway_`. */
  readonly name: string;
  readonly kind: "counter" | "histogram";
  readonly help: string;
  /** Upper bounds of a histogram's buckets, rising. */
  readonly buckets?: readonly number[];
}

/** From what a cached answer takes to what a queue and a long prompt do, in seconds. */
const firstTokenSeconds = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];
const answerSeconds = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300];

/** All of them. */
export const gatewayMetrics = {
  answers: {
    name: "answers_total",
    kind: "counter",
    help: "Answers to clients, by protocol and how they ended: a finish reason, an error code, or left.",
  },
  firstToken: {
    name: "time_to_first_token_seconds",
    kind: "histogram",
    help: "Seconds from a request to the first text of its answer, by protocol.",
    buckets: firstTokenSeconds,
  },
  answerTime: {
    name: "answer_seconds",
    kind: "histogram",
    help: "Seconds from a request to the end of its answer, by protocol.",
    buckets: answerSeconds,
  },
  resumed: {
    name: "resumed_streams_total",
    kind: "counter",
    help: "Streams that joined or replayed a turn that another one began, by protocol.",
  },
  turns: {
    name: "turns_total",
    kind: "counter",
    help: "Turns that ended, by outcome and by why their worker answered.",
  },
  tokens: {
    name: "tokens_total",
    kind: "counter",
    help: "Tokens of turns that ended: prompt, those of it found in a cache, and completion.",
  },
  attempts: {
    name: "attempts_total",
    kind: "counter",
    help: "Attempts at turns on workers.",
  },
  failovers: {
    name: "failovers_total",
    kind: "counter",
    help: "Turns that were answered by another worker than the one that began them or held their session.",
  },
  snapshots: {
    name: "snapshots_total",
    kind: "counter",
    help: "Saved caches, by what became of them: saved, restored, carried, failed.",
  },
  refusals: {
    name: "refusals_total",
    kind: "counter",
    help: "Requests that were refused, by the code or the reason of the error.",
  },
  limited: {
    name: "limit_refusals_total",
    kind: "counter",
    help: "Calls that a key's limit a minute, or its limit of turns at once, refused, by limit.",
  },
} as const satisfies Record<string, Metric>;

/** Name of all metrics of the gateway begin so. */
export const metricPrefix = "leanedge:gateway_";
