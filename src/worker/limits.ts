/** Limits of a worker, each with the reason for its value. */

/** Longest sequence id in bytes: a tenant's prefix and a session id of 256 bytes, escaped. */
export const sequenceIdBytesMax = 512;

/** Longest request id in bytes, as leanedge.worker.v1 says. */
export const requestIdBytesMax = 128;

/** Requests that may wait for memory; more are refused at once, so that a client can go elsewhere. */
export const queuedRequestsMax = 256;

/** Longest wait for memory; a gateway gives up well before, and the client sees why. */
export const queueWaitMsMax = 60_000;

/**
 * Silence after which a Progress event is sent. What reads a TCP connection that its peer has closed is told so by its
 * second write: while a prompt is read these are all there is to write, and they bound for how long it is read in vain.
 */
export const progressIntervalMs = 250;

/**
 * Longest time between two events of tokens that a request may ask for: a reader's connection that is closed shows with the
 * second write, and 1,000 ms is what people take for standing still.
 */
export const textIntervalMsMax = 1_000;

/** Messages of one request, as leanedge.v1.GenerateRequest.messages bounds a first turn. */
export const messagesMax = 256;

/** Text of one message in bytes of UTF-8. */
export const messageBytesMax = 1 << 20;

/** Segments of one log (kSegmentsMax in engine/include/leanedge/sequence.h). */
export const segmentsMax = 16_384;

/** Stop strings of a request, and the bytes of each. */
export const stopStringsMax = 8;
export const stopStringBytesMax = 256;

/** Sequences of one step (kStepEntriesMax in engine/include/leanedge/engine.h). */
export const stepEntriesMax = 256;

/**
 * Prompt rows that one step computes in all, through every layer. 64 rows keep a step of a small
 * model on one CPU core near 50 ms, so that a cancel or another sequence's token waits no longer.
 */
export const stepPromptRowsMax = 64;

/**
 * The same on a GPU: an 8B model's step with 1,024 of them takes some 30 ms on an H100, where prompts are read at 35,000 to
 * 40,000 rows a second. With 64, each would read all weights again and take about as long as a step without any.
 */
export const deviceStepPromptRowsMax = 1_024;

/**
 * Share of a step's prompt rows that always goes to the request that waits longest: without it
 * short prompts, which go first, could starve a long one.
 */
export const oldestShare = 0.25;

/** Bytes of a snapshot in one message, as leanedge.worker.v1 says; the checksum goes with the last piece. */
export const snapshotPieceBytes = 512 * 1024 - 32;

/** Longest a snapshot may take to be read: meanwhile its cache is held in memory for it. */
export const snapshotReadMsMax = 30_000;

/** Longest wait for a piece of a snapshot that comes, and for an earlier restore to end. */
export const restoreWaitMsMax = 20_000;

/** Longest that a job waits for a cache to be saved which must go for it: replay costs about as much. */
export const keepCacheMsMax = 5_000;

/** Caches of fewer tokens are not saved before they are dropped: computing them again is as quick. */
export const keptTokensMin = 64;
