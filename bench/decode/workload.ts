/** What the decode benchmark asks of every variant's process, and what each answers with. */

/** One prompt, one greedy answer, on one thread. */
export type Task = {
  text: string;
  /** The prompt's ids, beginning-of-sequence token included. */
  ids: readonly number[];
  /** Tokens to generate, at least 1; end-of-text tokens do not end the answer. */
  generate: number;
};

/** What one process does. */
export type Workload = {
  /** GGUF file. */
  modelPath: string;
  /** Runs first: warms up, and its answer is the one that the oracle judges. */
  check: Task;
  /** Timed, in this order, each from an empty sequence. */
  tasks: readonly Task[];
  /** Most memory of the engine, bytes. */
  memoryBytesMax: number;
  /** Positions to make room for. */
  contextTokens: number;
  /** Bytes for the pure-read loop: as many as one token reads of the file's weights. */
  readBytes: number;
  /** Threads of the engine; peers always have one. */
  threads: number;
  /** Folder with the benchmark's bundled Worker; empty where no variant needs it. */
  workerBundle: string;
};

/** How one task went. All times by the clock of the side that waits for the answer. */
export type TaskTimes = {
  /** From the start of the prompt until the first token is there, milliseconds. */
  prefillMs: number;
  /** From the first token until the last, milliseconds: `generate - 1` steps. */
  decodeMs: number;
};

/** What one process measured. */
export type Measurement = {
  /** The answer's ids to `check`. */
  checked: readonly number[];
  /** One for each task. */
  tasks: readonly TaskTimes[];
  /** Bytes of weights that a decoded row reads in this engine's own layout. */
  weightBytesPerRow?: number;
  /** Pure-read loop, bytes a second, in the same process and runtime. */
  readBytesPerSecond?: number;
  /** Version of runtime and engine. */
  version: string;
};
