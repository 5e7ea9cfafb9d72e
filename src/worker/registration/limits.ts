/** Limits of a worker's registration, each with the reason for its value. */

/** Deadline of one call to the pool: less than the silence that it takes for a dead worker's. */
export const callMsMax = 5_000;

/** Shortest and longest time between two heartbeats that a gateway may ask for, in milliseconds. */
export const heartbeatMsMin = 250;
/** See heartbeatMsMin. */
export const heartbeatMsMax = 60_000;

/** Pause after a call that failed; it doubles with each further one. */
export const retryMs = 500;
/** Longest pause after a call that failed: a gateway that starts again finds its workers within seconds. */
export const retryMsMax = 5_000;

/** Pools that one worker may be in: one for each gateway that it serves. */
export const poolsMax = 16;
