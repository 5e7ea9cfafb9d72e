/** What the parts of a SessionObject share. */
import type { GatewayEnv } from "../bindings.js";
import { notFound } from "../errors.js";
import { engineDirectory } from "../worker-client/directory.js";
import type { Clock } from "./clock.js";
import type { KeyGuard } from "./key-guard.js";
import type { ReleaseOptions } from "./left-workers.js";
import type { SessionLimits } from "./session-limits.js";
import type { SessionRecord } from "./session-records.js";
import type { SessionSnapshots } from "./session-snapshots.js";
import type { SessionStore } from "./session-store.js";

/** See the head of this file. */
export interface SessionParts {
  readonly env: GatewayEnv;
  /** Keeps work alive that nobody waits for. */
  readonly ctx: { waitUntil(work: Promise<unknown>): void };
  readonly store: SessionStore;
  readonly clock: Clock;
  readonly snapshots: SessionSnapshots;
  readonly keys: KeyGuard;
  readonly limits: SessionLimits;
  /** Name of the session's sequence on workers; another one for each life of a session id. */
  readonly sequenceId: () => string;
  /** Something changed that the tenant's index should know; it follows in its own time. */
  readonly changed: () => void;
  /** Stores all that waits now; resolves once it is durable. */
  readonly storeNow: () => Promise<void>;
}

/** The session. Throws NOT_FOUND, with its id, if none was created. */
export function existingSession(store: SessionStore, sessionId: string): SessionRecord {
  const session = store.session();
  if (session === undefined) {
    throw notFound(`there is no session "${sessionId}"`);
  }
  return session;
}

/** What it takes to tell workers to forget the session's sequence. */
export function releaseOptions({ store, sequenceId, env }: SessionParts): ReleaseOptions {
  return { store, sequenceId: sequenceId(), directory: engineDirectory(env) };
}
