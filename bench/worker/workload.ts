/** What the processes of this benchmark are told, and what they hand back. */

/** Sessions and lengths. */
export type Workload = {
  modelPath: string;
  /** Sessions at once. */
  sessions: number;
  /** Prompt of each, as text. */
  prompt: string;
  /** Longest answer of each. */
  generate: number;
  /** Tokens of each long prompt. */
  longPrompt: number;
  memoryMib: number;
};

/** The engine alone. */
export type BareRun = {
  /** Tokens a second while all sequences decode. */
  tokensPerSecond: number;
  stepMs: number;
  /** From the first prompt to the last token of all sequences, milliseconds. */
  wholeMs: number;
};

/** A worker while all its sessions answer. */
export type LoadRun = {
  /** Tokens a second. */
  tokensPerSecond: number;
  stepMs: number;
  /** 99th percentile of the time between two tokens of a session. */
  gapMs: number;
  /** Share of the time that the engine computes. */
  engineShare: number;
  /** From the first call to the last token of all first turns, milliseconds. */
  wholeMs: number;
  /** From the call to the first token, of all first turns, milliseconds. */
  firstTokenMs: { p50: number; p99: number };
  /** The same of all second turns, asked at once. */
  secondTurnMs: { p50: number; p99: number };
  /** Share of earlier tokens that second turns of all sessions found in the cache. */
  cachedShare: number;
};

/** What single clients see of a worker that has other work. */
export type AmongOthersRun = {
  firstTokenSteps: number;
  firstTokenMs: number;
  cancelSteps: number;
  /** Bytes of the worker process. */
  residentBytes: number;
};

/** What a worker's clients may be told to measure. */
export type LoadTurn = "throughput" | "among-others";
