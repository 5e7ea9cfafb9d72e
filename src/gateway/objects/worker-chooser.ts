/**
 * Which worker the next attempt of a turn goes to: the bound one as long as it serves, otherwise the one that the directory
 * names. Remembers for one run of a turn which workers failed it; changes no binding.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import { PlacementReason } from "../../gen/leanedge/v1/session_pb.js";
import { UnavailableReason } from "../../gen/leanedge/worker/v1/worker_pb.js";
import { bindingTtlMs, placeWaitMsMax } from "../limits.js";
import type { MoveOffer } from "../pool/rebalance.js";
import type { Placed, WorkerDirectory, WorkerPlace } from "../worker-client/directory.js";
import { unavailableReason } from "../worker-client/unavailable.js";
import type { WorkerClient } from "../worker-client/worker-client.js";
import type { Clock } from "./clock.js";
import type { BindingRecord, TurnRecord } from "./session-records.js";
import type { SessionStore } from "./session-store.js";

/** What a chooser works with. */
export interface WorkerChooserOptions {
  readonly store: SessionStore;
  readonly directory: WorkerDirectory;
  /** Name of the sequence on workers. */
  readonly sequenceId: string;
  /** The turn was begun by this object just now. */
  readonly fresh: boolean;
  readonly clock: Clock;
  /** Keeps work alive that nobody waits for. */
  readonly background: (work: Promise<unknown>) => void;
}

/** The worker of an attempt. */
export interface WorkerChoice extends WorkerPlace {
  readonly reason: PlacementReason;
  /** Undefined if its name is not known any more. */
  readonly client: WorkerClient | undefined;
  readonly generation: number;
  /** It failed this turn before: a pause is due. */
  readonly again: boolean;
  /** Worker that the session leaves on purpose, with the generation that it holds. */
  readonly leaving: { readonly client: WorkerClient; readonly generation: number } | undefined;
}

/** See the head of this file. */
export class WorkerChooser {
  readonly #options: WorkerChooserOptions;
  #fresh: boolean;
  readonly #failed = new Set<string>();
  /** Workers that said that they shut down. */
  readonly #draining = new Set<string>();
  /** The refusal of the last worker that had no room. */
  #noRoom: ConnectError | undefined;

  /** Looks at nothing yet. */
  constructor(options: WorkerChooserOptions) {
    this.#options = options;
    this.#fresh = options.fresh;
  }

  /** Chooses. Throws what WorkerDirectory.place throws, and the worker's own refusal where no other has room. */
  async choose(turn: TurnRecord): Promise<WorkerChoice> {
    const { directory, sequenceId, store } = this.#options;
    // A model that stands in for the session's own has nothing to do with where that one is bound.
    const ours = turn.model === store.session()?.model;
    const bound = ours ? this.#bound() : undefined;
    // A worker was heard when its time as the bound one was last set.
    const heardMs = (bound?.expiresMs ?? 0) - bindingTtlMs;
    const standing = directory.standing(bound?.worker ?? "", heardMs);
    const usable = bound !== undefined && !this.#avoids(bound.worker);
    const serves = usable && standing.kind === "serving";
    // Only with a turn's first attempt: a move is for room, and must not stand in the way of an answer.
    const crowded = serves && standing.crowded && this.#fresh && !turn.accepted;
    if (serves && !crowded) {
      return this.#stay(bound);
    }
    const mayStay = crowded || (usable && standing.kind === "leaving" && !standing.shutsDown);
    let placed: Placed;
    try {
      placed = await directory.place({
        model: turn.model,
        key: sequenceId,
        avoid: [...this.#failed, ...this.#draining, ...(bound === undefined ? [] : [bound.worker])],
        fingerprints: ours ? store.session()?.fingerprints : undefined,
        // A worker that people drain still answers: better than to wait for another one. And whoever waited in the
        // queue of a worker has waited enough.
        waitMs: mayStay || this.#noRoom !== undefined ? 0 : placeWaitMsMax,
        move: crowded ? this.#offer(bound) : undefined,
      });
    } catch (error) {
      if (mayStay) {
        return this.#stay(bound);
      }
      throw error;
    }
    if (usable && placed.worker === bound.worker) {
      return this.#stay(bound);
    }
    if (this.#noRoom !== undefined && this.#failed.has(placed.worker)) {
      throw this.#noRoom;
    }
    const leaves =
      bound !== undefined &&
      placed.worker !== bound.worker &&
      (this.#draining.has(bound.worker) || crowded || (usable && standing.kind === "leaving"));
    return {
      ...placed,
      reason: reasonOf(placed, bound, leaves),
      client: directory.open(placed.worker, placed.address),
      generation: store.issueGeneration(),
      again: this.#avoids(placed.worker),
      leaving: leaves && !turn.accepted ? this.#leaving(bound) : undefined,
    };
  }

  /** An attempt failed. `blame`: the worker is at fault, and another one is tried first. */
  failed(choice: WorkerChoice, error: unknown, blame: boolean): void {
    const { background, directory } = this.#options;
    const { reason, worker } = choice;
    this.#fresh = false;
    if (!blame) {
      return;
    }
    if (unavailableReason(error) === UnavailableReason.DRAINING) {
      this.#draining.add(worker);
      background(directory.report(choice, "shutsDown", reason));
      return;
    }
    this.#failed.add(worker);
    if (error instanceof ConnectError && error.code === Code.ResourceExhausted) {
      this.#noRoom = error;
      background(directory.report(choice, "full", reason));
      return;
    }
    background(directory.report(choice, "failed", reason));
  }

  /** A turn ended well: the pool wants to know where it is not sure of the worker, or where it changed. */
  succeeded(choice: WorkerChoice, reason: PlacementReason): void {
    const { background, directory } = this.#options;
    if (reason !== PlacementReason.BOUND || directory.standing(choice.worker).suspect) {
      background(directory.report(choice, "succeeded", reason));
    }
  }

  #avoids(worker: string): boolean {
    return this.#failed.has(worker) || this.#draining.has(worker);
  }

  /** The binding, if its time is not over and its worker is known. */
  #bound(): BindingRecord | undefined {
    const { clock, directory, store } = this.#options;
    const binding = store.binding();
    return binding !== undefined &&
      binding.worker !== "" &&
      binding.expiresMs > clock.nowMs() &&
      directory.open(binding.worker, binding.address) !== undefined
      ? binding
      : undefined;
  }

  #stay(bound: BindingRecord): WorkerChoice {
    const { directory, store } = this.#options;
    return {
      worker: bound.worker,
      address: bound.address,
      reason: PlacementReason.BOUND,
      client: directory.open(bound.worker, bound.address),
      // A stream of this generation may still be open on the worker unless this is the turn's first attempt.
      generation: this.#fresh ? bound.generation : store.issueGeneration(),
      again: false,
      leaving: undefined,
    };
  }

  #offer({ worker }: BindingRecord): MoveOffer {
    const { cache } = this.#options.store;
    return { from: worker, pages: cache.pages(), pagesMax: cache.plan()?.pagesMax ?? 0 };
  }

  #leaving({ worker, address, generation }: BindingRecord): WorkerChoice["leaving"] {
    const client = this.#options.directory.open(worker, address);
    return client === undefined ? undefined : { client, generation };
  }
}

function reasonOf(
  placed: Placed,
  bound: BindingRecord | undefined,
  leaves: boolean,
): PlacementReason {
  if (bound === undefined || placed.reason === PlacementReason.LAST_RESORT) {
    return placed.reason;
  }
  if (placed.worker === bound.worker) {
    return PlacementReason.BOUND;
  }
  return leaves ? PlacementReason.MOVED : PlacementReason.FAILOVER;
}
