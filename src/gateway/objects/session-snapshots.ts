/**
 * Saves the cache of an idle session and brings it back: what a worker computed is not computed
 * again after it lost its memory. A snapshot only ever saves time: whatever is wrong with it, the log
 * is replayed instead.
 */
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import {
  RestoreRequestSchema,
  SnapshotFaultSchema,
} from "../../gen/leanedge/worker/v1/worker_pb.js";
import type {
  PrefixName,
  RestoreRequest,
  SnapshotResponse,
} from "../../gen/leanedge/worker/v1/worker_pb.js";
import {
  snapshotBytesMax,
  snapshotRowBytesMax,
  snapshotTimeoutMs,
  snapshotTokensMin,
} from "../limits.js";
import { errorFields } from "../../log/log-line.js";
import { log } from "../log.js";
import { gatewayMetrics } from "../metrics/definitions.js";
import { meter } from "../metrics/isolate-meter.js";
import type { WorkerDirectory } from "../worker-client/directory.js";
import { logTokens, namePrefix, segmentsBefore } from "../worker-client/segments.js";
import type { WorkerClient } from "../worker-client/worker-client.js";
import type { SnapshotRecord } from "./cache-store.js";
import { sameBytes } from "./request-rules.js";
import type { SessionStore } from "./session-store.js";
import { controllerOf } from "./stop.js";
import type { StopSignal } from "./stop.js";

/** What the snapshots of a session work with. */
export interface SessionSnapshotsOptions {
  readonly store: SessionStore;
  readonly directory: () => WorkerDirectory;
  /** Name of the session's sequence on workers. */
  readonly sequenceId: () => string;
}

/** See the head of this file. */
export class SessionSnapshots {
  readonly #options: SessionSnapshotsOptions;
  readonly #store: SessionStore;
  #saving: Promise<void> | undefined;
  #stale = false;

  constructor(options: SessionSnapshotsOptions) {
    this.#options = options;
    this.#store = options.store;
  }

  /**
   * Saves the cache as it stands, unless that is done already or cannot be. Never rejects but for storage that
   * fails: a worker that has no cache, or is at work, is left alone until after the next turn.
   */
  save(): Promise<void> {
    this.#saving ??= this.#save().finally(() => {
      this.#saving = undefined;
    });
    return this.#saving;
  }

  /**
   * Tokens of the log that a restore would bring; 0 if there is no snapshot of this log. A snapshot of another one, or
   * under other fingerprints, is deleted.
   */
  usableTokens(): number {
    const snapshot = this.#store.cache.snapshot();
    if (snapshot === undefined) {
      return 0;
    }
    if (this.#isOurs(snapshot)) {
      return snapshot.tokens;
    }
    this.discardStale();
    return 0;
  }

  /** Deletes a snapshot that is of no use any more; the next request tells the worker, which counts it. */
  discardStale(): void {
    if (this.#store.cache.snapshot() !== undefined) {
      this.#store.cache.deleteSnapshot();
      this.#stale = true;
    }
  }

  /** Whether a stale snapshot was deleted since this was last asked. */
  takeStale(): boolean {
    const stale = this.#stale;
    this.#stale = false;
    return stale;
  }

  /**
   * Brings the snapshot to a worker. The caller has asked usableTokens.
   * @param sequenceId the session's sequence, or that of a fork of it
   * @returns tokens of the log that the worker has now; 0 if it could not take them
   */
  async restore(
    client: WorkerClient,
    generation: number,
    signal: StopSignal,
    sequenceId = this.#options.sequenceId(),
  ): Promise<number> {
    const { cache } = this.#store;
    const snapshot = cache.snapshot();
    if (snapshot === undefined) {
      return 0;
    }
    const { controller, release } = controllerOf(signal);
    try {
      await client.restore(this.#pieces(snapshot, generation, sequenceId), {
        signal: controller.signal,
        timeoutMs: snapshotTimeoutMs,
      });
      meter.count(gatewayMetrics.snapshots, { outcome: "restored" });
      return snapshot.tokens;
    } catch (error) {
      signal.throwIfAborted();
      meter.count(gatewayMetrics.snapshots, { outcome: "failed" });
      log("warn", "snapshot.not_restored", { tokens: snapshot.tokens, ...errorFields(error) });
      const fault = error instanceof ConnectError && error.findDetails(SnapshotFaultSchema).length;
      if (fault) {
        cache.deleteSnapshot();
      }
      return 0;
    } finally {
      release();
    }
  }

  /**
   * Carries the cache from one worker to another, piece by piece: neither it nor this object holds all of it. The
   * receiver checks bytes, log and fingerprints.
   * @returns tokens of the log that the receiver has now; 0 if the cache could not be carried
   */
  async carry(
    from: WorkerClient,
    to: WorkerClient,
    generation: number,
    signal: StopSignal,
  ): Promise<number> {
    const fingerprints = this.#store.session()?.fingerprints;
    const prefix = namePrefix(this.#store.segments(), fingerprints);
    if (prefix.tokens < snapshotTokensMin) {
      return 0;
    }
    const { controller: stop, release } = controllerOf(signal);
    try {
      const sequenceId = this.#options.sequenceId();
      const pieces = from.snapshot(
        { sequenceId, prefix },
        { signal: stop.signal, timeoutMs: snapshotTimeoutMs },
      );
      await to.restore(carried(pieces, { sequenceId, prefix, generation }), {
        signal: stop.signal,
        timeoutMs: snapshotTimeoutMs,
      });
      meter.count(gatewayMetrics.snapshots, { outcome: "carried" });
      return prefix.tokens;
    } catch (error) {
      signal.throwIfAborted();
      meter.count(gatewayMetrics.snapshots, { outcome: "failed" });
      log("info", "snapshot.not_carried", { tokens: prefix.tokens, ...errorFields(error) });
      return 0;
    } finally {
      release();
      stop.abort();
    }
  }

  async *#pieces(
    snapshot: SnapshotRecord,
    generation: number,
    sequenceId: string,
  ): AsyncGenerator<RestoreRequest, void, undefined> {
    const segments = this.#store.segments();
    const count = segmentsBefore(segments, snapshot.tokens);
    // The first message goes alone, so that a snapshot whose rows are gone is refused as truncated.
    yield create(RestoreRequestSchema, {
      sequenceId,
      engineVersion: snapshot.engineVersion,
      prefix: namePrefix(segments.slice(0, count), snapshot.fingerprints),
      generation: BigInt(generation),
    });
    for (const data of this.#store.cache.snapshotRows(snapshot.number)) {
      yield create(RestoreRequestSchema, { data });
    }
  }

  #isOurs(snapshot: SnapshotRecord): boolean {
    const fingerprints = this.#store.session()?.fingerprints;
    const segments = this.#store.segments();
    const count = segmentsBefore(segments, snapshot.tokens);
    return (
      count !== undefined &&
      fingerprints?.model === snapshot.fingerprints.model &&
      fingerprints.template === snapshot.fingerprints.template &&
      fingerprints.plan === snapshot.fingerprints.plan &&
      sameBytes(namePrefix(segments.slice(0, count), undefined).sha256, snapshot.sha256)
    );
  }

  async #save(): Promise<void> {
    const { cache } = this.#store;
    cache.setSaveDue(0);
    const { worker, address } = this.#store.binding() ?? { worker: "", address: "" };
    const client = worker === "" ? undefined : this.#options.directory().open(worker, address);
    const session = this.#store.session();
    const segments = this.#store.segments();
    const saved = cache.snapshot();
    if (
      client === undefined ||
      session === undefined ||
      this.#store.runningTurn() !== undefined ||
      logTokens(segments) < snapshotTokensMin ||
      (saved !== undefined && saved.tokens === logTokens(segments) && this.#isOurs(saved))
    ) {
      return;
    }
    const prefix = namePrefix(segments, session.fingerprints);
    const number = cache.beginSnapshot();
    const stop = new AbortController();
    try {
      let bytes = 0;
      let position = 0;
      let engineVersion = "";
      const pieces = client.snapshot(
        { sequenceId: this.#options.sequenceId(), prefix },
        { signal: stop.signal, timeoutMs: snapshotTimeoutMs },
      );
      for await (const piece of pieces) {
        bytes += piece.data.byteLength;
        if (bytes > snapshotBytesMax || piece.data.byteLength > snapshotRowBytesMax) {
          throw new ConnectError(
            `the snapshot has ${bytes} bytes so far, at most ${snapshotBytesMax}`,
            Code.ResourceExhausted,
          );
        }
        if (position === 0) {
          engineVersion = piece.engineVersion;
        }
        cache.appendSnapshotRow(number, position++, piece.data);
      }
      // A session that was deleted meanwhile leaves nothing behind.
      if (this.#store.session()?.createMs !== session.createMs) {
        cache.abandonSnapshot(number);
        return;
      }
      cache.finishSnapshot({
        number,
        tokens: prefix.tokens,
        sha256: prefix.sha256,
        fingerprints: session.fingerprints,
        engineVersion,
        bytes,
      });
      await this.#store.sync();
      meter.count(gatewayMetrics.snapshots, { outcome: "saved" });
    } catch (error) {
      cache.abandonSnapshot(number);
      if (!(error instanceof ConnectError)) {
        throw error;
      }
      meter.count(gatewayMetrics.snapshots, { outcome: "failed" });
      log("info", "snapshot.not_saved", { tokens: prefix.tokens, ...errorFields(error) });
    } finally {
      stop.abort();
    }
  }
}

/** Pieces of one worker's Snapshot as messages of another one's Restore. */
async function* carried(
  pieces: AsyncIterable<SnapshotResponse>,
  target: {
    readonly sequenceId: string;
    readonly prefix: PrefixName;
    readonly generation: number;
  },
): AsyncGenerator<RestoreRequest, void, undefined> {
  let bytes = 0;
  let first = true;
  for await (const { data, engineVersion } of pieces) {
    bytes += data.byteLength;
    if (bytes > snapshotBytesMax) {
      throw new ConnectError(
        `the snapshot has ${bytes} bytes so far, at most ${snapshotBytesMax}`,
        Code.ResourceExhausted,
      );
    }
    yield first
      ? create(RestoreRequestSchema, {
          sequenceId: target.sequenceId,
          prefix: target.prefix,
          generation: BigInt(target.generation),
          engineVersion,
          data,
        })
      : create(RestoreRequestSchema, { data });
    first = false;
  }
}
