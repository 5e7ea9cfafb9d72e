/** When and how often a lost stream is taken up again. */
import { Code, type ConnectError } from "@connectrpc/connect";

/** See the head of this file. */
export interface ReconnectPolicy {
  /** Attempts in a row without a new event before the error is given to the caller. */
  readonly attemptsMax: number;
  /** Wait before the first attempt; doubles with each further one. */
  readonly firstWaitMs: number;
  /** Longest wait. */
  readonly waitMsMax: number;
}

/** Rides out the restart of a gateway: about half a minute in all. */
export const defaultReconnectPolicy: ReconnectPolicy = {
  attemptsMax: 10,
  firstWaitMs: 250,
  waitMsMax: 5_000,
};

/**
 * Whether an error may be gone at the next attempt: the connection was lost, or the service is away.
 * A lost connection reaches us as Unknown or Internal (the stream ended without a trailer) or
 * Unavailable, according to where it broke.
 */
export function isRetryable(error: ConnectError): boolean {
  switch (error.code) {
    case Code.Unavailable:
    case Code.Aborted:
      return true;
    case Code.Unknown:
    case Code.Internal:
      // A server's own "internal error" arrives with a proper status and is final.
      return error.rawMessage !== "internal error";
    default:
      return false;
  }
}

/**
 * Wait before attempt `attempt` (from 1), with up to half of it taken off at random so that clients
 * of one gateway do not come back all at once.
 * @param random uniform in [0, 1)
 */
export function reconnectWaitMs(policy: ReconnectPolicy, attempt: number, random: number): number {
  const wait = Math.min(policy.firstWaitMs * 2 ** (attempt - 1), policy.waitMsMax);
  return wait * (1 - random / 2);
}
