/** What a session has of the object that keeps it: an object of its own, or one that it shares (session-object.ts). */
import type { Clock } from "./clock.js";
import type { Commits } from "./commit-group.js";
import type { SessionKey } from "./session-key.js";
import type { SessionTables } from "./session-tables.js";

/** See the head of this file. */
export interface SessionHome {
  readonly storage: DurableObjectStorage;
  /** Which rows are the session's. */
  readonly key: SessionKey;
  /** Tables of the object. */
  readonly tables: SessionTables;
  /** Who stores what changes; undefined: the session by itself. */
  readonly commits?: Commits;
  readonly clock: Clock;
  /** Begins the names of the session's sequences on workers: the object's id, and which of its sessions this is. */
  readonly sequencePrefix: string;
  /** Has `Session.alarm` called at a time, in milliseconds since 1970, instead of any set before. Stored with what is stored next. */
  setAlarm(dueMs: number): void;
  /** Keeps work alive that nobody waits for. */
  waitUntil(work: Promise<unknown>): void;
}
