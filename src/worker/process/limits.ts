/** Limits of a worker process, each with the reason for its value; those of the worker itself are in ../limits.ts. */

/** Longest request in bytes: a whole log of a long session, 4 to 5 bytes an id, with room. */
export const requestBytesMax = 8 << 20;

/** Header fields of one request in bytes: a few short ones and a token. */
export const headerBytesMax = 16 << 10;

/** TCP connections at once: a gateway holds one a running call at most, and a worker runs 256. */
export const connectionsMax = 1_024;

/** Calls at once on one HTTP/2 connection: all that a worker runs or lets wait. */
export const http2StreamsMax = 512;

/** Wait for the first bytes of a connection, and for a whole header block. */
export const headerMsMax = 10_000;

/**
 * Longest that a client may take nothing of what waits for it, or send nothing of a request that it began: an answer
 * that nobody reads holds its sequence while it grows. On a slow link something moves every few seconds; a Restore
 * whose cache waits for memory may stand still for a minute.
 */
export const readerStallMsMax = 90_000;

/** Connections without a call are closed after this time; gateways open new ones as they need them. */
export const idleConnectionMsMax = 120_000;

/** Bytes of one moment that are gathered before they leave: far above what tokens take, and small beside a cache's pieces. */
export const writeTogetherBytesMax = 16 << 10;

/** Longest deadline that a caller may set; the gateway's own is far shorter. */
export const callMsMax = 3_600_000;

/** Characters of a token: as many as nobody guesses, and no more than a header field holds. */
export const tokenCharsMin = 16;
export const tokenCharsMax = 4_096;

/**
 * Messages of up to this many characters are tokenized between two steps: it takes some milliseconds. Longer ones go to
 * a thread, so that no step waits for them.
 */
export const inlineTextCharsMax = 8_192;

/** Prompts that may wait for the tokenizing thread, each at most a request's size; more are refused. */
export const textQueueMax = 64;

/** Longest start of the tokenizing thread: it reads the vocabulary of the model file. */
export const textThreadStartMsMax = 60_000;

/** Time that running answers have to end when the process is told to stop, unless the command names another. */
export const drainMsDefault = 30_000;

/** After the last answer: time for gateways to come for the caches, with Snapshot. */
export const snapshotGraceMs = 1_000;

/** Time for what was written last to reach its readers before their connections are closed. */
export const closeMsMax = 1_000;

/** Engines that were lost and started again within `restartWindowMs`; one more ends the process. */
export const restartsMax = 5;
export const restartWindowMs = 600_000;

/** Rounds of the event loop between two steps: as many as it takes from a call's first byte to its place in the queue. */
export const hostRounds = 4;
