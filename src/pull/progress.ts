/** What a pull tells whoever watches it. */
export interface PullReporter {
  /** A line worth keeping: what is fetched, its licence, why an attempt is repeated. */
  note(line: string): void;
  /**
   * Bytes that are there, of so many if that is known. Called often: once for each piece.
   *
   * @param what what the bytes are doing, such as "fetching" or "checking"
   */
  progress(what: string, doneBytes: number, totalBytes: number | undefined): void;
}

/** A reporter for nobody. */
export const silentReporter: PullReporter = {
  note: () => undefined,
  progress: () => undefined,
};
