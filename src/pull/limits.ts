/** Every bound of fetching a model, in one place. Tests pass smaller ones. */

/** Bounds of a pull. */
export interface PullLimits {
  /** Largest model file, in bytes. */
  readonly fileBytesMax: number;
  /** Largest answer of a hub's API, in bytes: repositories with thousands of files stay below it. */
  readonly apiBytesMax: number;
  /** Redirects of one request. Hubs need two, a mirror before them one more. */
  readonly redirectsMax: number;
  /** Attempts in a row that brought no byte; an attempt that brings some starts the count again. */
  readonly attemptsMax: number;
  /** Attempts of one download in all, however little each of them brings. */
  readonly attemptsTotalMax: number;
  /** First pause between attempts, in milliseconds; each further one is twice as long. */
  readonly backoffMs: number;
  /** Longest pause, in milliseconds. A server that asks for a longer one ends the pull. */
  readonly pauseMsMax: number;
  /** Time to connect, in milliseconds. */
  readonly connectTimeoutMs: number;
  /** Time from a request to the head of its answer, in milliseconds. */
  readonly headersTimeoutMs: number;
  /** A download that brings less than `stallBytes` in this time has stalled, in milliseconds. */
  readonly stallMs: number;
  /** See `stallMs`. */
  readonly stallBytes: number;
  /** Bytes that must stay free on the disk: a full one breaks more than this download. */
  readonly diskSpareBytes: number;
  /** A lock whose holder has not touched it for so long is abandoned, in milliseconds. */
  readonly lockStaleMs: number;
  /** Time for a package's own client, in milliseconds: it resumes and retries on its own terms. */
  readonly packageMsMax: number;
}

const mebibyte = 1024 * 1024;

/** The bounds that the command uses. */
export const pullLimits: PullLimits = {
  // The engine maps positions far beyond this; a larger file is a mistake on a machine for small models.
  fileBytesMax: 64 * 1024 * mebibyte,
  apiBytesMax: 16 * mebibyte,
  redirectsMax: 10,
  attemptsMax: 6,
  attemptsTotalMax: 200,
  backoffMs: 1_000,
  // Hubs count requests over windows of five minutes.
  pauseMsMax: 5 * 60_000,
  connectTimeoutMs: 15_000,
  headersTimeoutMs: 30_000,
  stallMs: 30_000,
  // 1 KiB/s: 100 MB would take more than a day.
  stallBytes: 30 * 1024,
  diskSpareBytes: 256 * mebibyte,
  lockStaleMs: 60_000,
  packageMsMax: 30 * 60_000,
};

/** Longest name of a model, in UTF-16 units; file systems stop at 255 bytes. */
export const nameCharsMax = 200;

/** Longest text of a server that a message repeats, in UTF-16 units. */
export const quotedCharsMax = 200;

/** Largest record or state file beside a model, in bytes. */
export const recordBytesMax = 64 * 1024;
