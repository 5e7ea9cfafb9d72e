/** Which rows of an object's tables are a session's: an object may have one session, or many (shared-sessions.ts). */

/** See the head of this file. */
export interface SessionKey {
  /** Number under which the session's rows are in its object's tables. */
  readonly number: number;
  /** Rows are about to be written: stores that the number is taken, with them, unless it is. Called in their transaction. */
  taken(): void;
  /** Storage did not take what was written last. */
  undone(): void;
}

/** The session of an object that has one. */
export const onlySession: SessionKey = {
  number: 1,
  taken: () => undefined,
  undone: () => undefined,
};
