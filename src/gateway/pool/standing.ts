/** How a bound worker stands with its pool, as far as an isolate knows. */
export interface Standing {
  /** `serving`: the session stays; `leaving`: it moves, with its cache; `gone`: the cache cannot be had. */
  readonly kind: "serving" | "leaving" | "gone";
  /** Calls there failed of late: the next success is worth telling. */
  readonly suspect: boolean;
  /** It holds far more pages than others: a session may offer its pool to move. */
  readonly crowded: boolean;
  /** It shuts down by itself: staying is no choice. */
  readonly shutsDown: boolean;
}

/** A worker of which no pool says anything: its own answers decide. */
export const workerWithoutPool: Standing = {
  kind: "serving",
  suspect: false,
  crowded: false,
  shutsDown: false,
};
