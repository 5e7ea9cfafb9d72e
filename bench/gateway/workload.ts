/** What the processes of this benchmark tell each other. */

/** Models of the stub: one answers at a fixed rate, the other at once. */
export const pacedModel = "stub-paced";
export const instantModel = "stub-instant";

/** When the paced model's first token comes, and how long after it each next one; milliseconds. */
export const firstTokenMs = 20;
export const tokenMs = 10;

/** Characters of a token's text: a blank and when it was sent, in microseconds of the machine's clock, base 36. */
export const tokenChars = 11;

/** Longest that a load takes, however slow its target is; milliseconds. */
export const loadMsMax = 15_000;

/** Microseconds of a clock that all processes of a machine share. */
export function machineClockUs(): number {
  return Number(process.hrtime.bigint() / 1000n);
}

/** Where a stub listens. */
export type StubAddresses = {
  /** WorkerService over Connect, HTTP/1.1 and HTTP/2. */
  workerUrl: string;
  /** POST /v1/chat/completions. */
  openAiUrl: string;
};

/** Whom the clients talk to. */
export type Target = {
  /** `openai`: POST /v1/chat/completions with the whole history; `connect`: SessionService.Generate with what is new. */
  form: "openai" | "connect";
  url: string;
  headers: Record<string, string>;
};

/** What the clients do: each holds one session after the other, a turn at a time. */
export type Load = {
  target: Target;
  model: string;
  /** Clients at once, each of which begins a turn as soon as its last one has ended; 0 with `arrivalsPerSecond`. */
  streams: number;
  /**
   * Turns begin at this rate, whatever became of those before (an open loop): each in a session that has none under way, or
   * in a new one. 0: clients decide.
   */
  arrivalsPerSecond: number;
  /** How long they begin turns, at least; those under way then are waited for, and their time with them. */
  ms: number;
  /** They go on until this many turns have ended, for loadMsMax at most. */
  turnsMin: number;
  /** Tokens of an answer. */
  tokens: number;
  /** Turns of a session. */
  turns: number;
  /** Names the sessions of this load. */
  label: string;
};

/** What the clients saw. */
export type LoadResult = {
  /** Turns that ended well. */
  turns: number;
  /** Those of them that were the first of their session. */
  openings: number;
  /** Turns that were refused or ended with an error; their sessions end there. */
  failed: number;
  turnsPerSecond: number;
  /** From the request, or from when it was due, to the first text, milliseconds, of each of these turns. */
  firstTokenMs: number[];
  /** From when the stub sent a token to when the client had its text, milliseconds: of each token but the first. */
  tokenLagMs: number[];
  /** Share of the second and later turns of sessions that ran where the cache was; 1 where nobody says. */
  affinity: number;
};
