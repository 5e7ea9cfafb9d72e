/** What the index holds of a session. */
export interface IndexEntry {
  readonly sessionId: string;
  /** Grows with each change of the session. */
  readonly version: number;
  readonly model: string;
  readonly title: string;
  readonly createMs: number;
  readonly updateMs: number;
  readonly lastTurn: number;
  readonly runningTurn: number;
  readonly messageCount: number;
  readonly forkedFrom: string;
  /** Id of the key that made it; empty for none. */
  readonly keyId: string;
}
