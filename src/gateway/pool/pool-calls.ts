/** What a PoolObject is asked and answers. Plain data: it crosses between objects, where classes of errors are lost. */
import type { PlacementReason } from "../../gen/leanedge/v1/session_pb.js";
import type { ChoiceReason } from "./placement.js";
import type { MoveOffer } from "./rebalance.js";
import type { WorkerLoad, WorkerModel, WorkerRecord } from "./pool-entry.js";
import type { WorkerState } from "./worker-state.js";

/** A process that wants in. */
export interface Registration {
  readonly name: string;
  readonly incarnation: string;
  readonly address: string;
  readonly startMs: number;
  readonly models: readonly WorkerModel[];
  readonly load: WorkerLoad;
  readonly shutsDown: boolean;
}

/** A heartbeat. */
export interface Beat {
  readonly name: string;
  readonly incarnation: string;
  readonly load: WorkerLoad;
  readonly shutsDown: boolean;
}

/** Answer to Register and Heartbeat. */
export type MemberAnswer =
  | { readonly kind: "member"; readonly state: WorkerState }
  /** The pool does not know it (any more): it registers again. */
  | { readonly kind: "unknown" }
  /** This process is out for good. */
  | { readonly kind: "out"; readonly message: string }
  | { readonly kind: "full"; readonly message: string };

/** A session that looks for a worker. */
export interface PlaceRequest {
  readonly model: string;
  /** The session, for rendezvous hashing: the same for all its placements. */
  readonly key: string;
  /** Workers that it comes from or that failed it: chosen only where no other can be. */
  readonly avoid: readonly string[];
  /** Fingerprints of model and plan that its log has; empty: any. Others are chosen only where none has them. */
  readonly fingerprint: string;
  readonly planFingerprint: string;
  /** How long it may wait for a worker with room, in milliseconds. */
  readonly waitMs: number;
  /** It is bound and would move off a crowded worker; the pool may say that it stays. */
  readonly move?: MoveOffer;
}

/** What became of it. */
export type PlaceAnswer =
  | {
      readonly kind: "placed";
      readonly worker: string;
      readonly address: string;
      readonly reason: ChoiceReason;
    }
  /** It was offered to move, and stays where it is. */
  | { readonly kind: "stay" }
  /** Workers are there, but none has room, or none is ready, and the wait is over or the queue is full. */
  | { readonly kind: "full" }
  /** The pool has no worker of the model. */
  | { readonly kind: "none" };

/** What became of a call on a worker. */
export type Outcome =
  | "succeeded"
  | "failed"
  /** It had no room. */
  | "full"
  /** It says that it shuts down. */
  | "shutsDown";

/** Turns that ended well on a worker that they were not bound to, and that was not in doubt. */
export interface ServedTurns {
  readonly worker: string;
  /** Where it was reached; empty where its name says it. */
  readonly address: string;
  /** Why they went there. */
  readonly reason: PlacementReason;
  readonly turns: number;
}

/** What an isolate keeps of a pool. */
export interface PoolView {
  /** When it was made, by the pool's clock; milliseconds since 1970. */
  readonly atMs: number;
  readonly workers: readonly WorkerRecord[];
}

/** Counts of a pool since its object started. */
export interface PoolCounts {
  /** Placements by reason. */
  readonly placed: Readonly<Record<ChoiceReason, number>>;
  /** Turns that ended well on a worker that they were not bound to before, by why they went there. */
  readonly rebound: Readonly<Partial<Record<PlacementReason, number>>>;
  /** Requests that found no room. */
  readonly refused: number;
  /** Requests that wait now. */
  readonly waiting: number;
}
