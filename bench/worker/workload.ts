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
};

/** A worker and its clients. */
export type LoadRun = {
  /** Tokens a second while all sessions answer. */
  tokensPerSecond: number;
  stepMs: number;
  /** 99th percentile of the time between two tokens of a session. */
  gapMs: number;
  /** Share of the time that the engine computes while all sessions answer. */
  engineShare: number;
  firstTokenSteps: number;
  firstTokenMs: number;
  cancelSteps: number;
  /** Share of earlier tokens that the second turns found in the cache. */
  cachedShare: number;
  /** Bytes of the worker process at its end. */
  residentBytes: number;
};
