/** What a worker may do wrong, as far as an attempt notices it. */

/** The worker broke the protocol or went away: another attempt may succeed. */
export class WorkerFault extends Error {
  override readonly name: string = "WorkerFault";
}

/** Text that was shown does not go with the answer's tokens: no other attempt can take it back. */
export class SpoiledAnswer extends WorkerFault {
  override readonly name = "SpoiledAnswer";
}
