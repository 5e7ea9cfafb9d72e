/**
 * One Restore call: a serialised cache that arrives in pieces. It is checked as it comes, never lies
 * in memory as a whole beside the cache that it becomes, and is admitted like a job.
 */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { concatBytes } from "@noble/hashes/utils.js";
import type { Engine, SequenceHandle } from "../engine/engine.js";
import {
  SnapshotError,
  snapshotChecksumBytes,
  snapshotHeaderBytes,
} from "../engine/page/snapshot.js";
import {
  SnapshotChecksum,
  readSnapshotHead,
  readSnapshotLog,
  type SnapshotHead,
  type SnapshotLogSegment,
} from "../engine/page/snapshot-stream.js";
import { EngineError } from "../engine/status.js";
import { prefixHash } from "../engine/prefix.js";
import {
  SnapshotFaultReason,
  type PrefixName,
  type RestoreRequest,
  type RestoreResponseSchema,
} from "../gen/leanedge/worker/v1/worker_pb.js";
import { checkSequenceId } from "./check-request.js";
import { restoreError, snapshotFault } from "./errors.js";
import { endCalls, fingerprintsOf, type GenerateContext } from "./generate.js";
import { queueWaitMsMax, restoreWaitMsMax } from "./limits.js";
import { engineVersion } from "./save-snapshot.js";
import { segmentKindToWire, type SegmentBorder } from "./sequence-table.js";
import type { ServedPlan } from "./served-plans.js";

/** How often a restore that waits looks again. */
const lookAgainMs = 5;

/** Engines that restore now: they take one at a time, whoever's worker asks. */
const restoring = new WeakSet<Engine>();

/** Runs a call; ends with a ConnectError where leanedge.worker.v1 says so, and nothing is kept then. */
export async function restoreSnapshot(
  context: GenerateContext,
  messages: AsyncIterable<RestoreRequest>,
  signal: AbortSignal,
): Promise<MessageInitShape<typeof RestoreResponseSchema>> {
  const { counters } = context;
  const restore = new Restore(context, signal);
  const pieces = messages[Symbol.asyncIterator]();
  context.restores.add(restore);
  try {
    for (;;) {
      const next = await restore.next(pieces);
      if (next.done === true) return await restore.finish();
      await restore.take(next.value);
    }
  } catch (error) {
    const fault = snapshotFault(error);
    if (fault === SnapshotFaultReason.FOREIGN) counters.snapshotsStale++;
    else if (fault !== undefined) counters.snapshotsBroken++;
    throw restoreError(error);
  } finally {
    context.restores.delete(restore);
    restore.close();
    // A sender that stands still does not hear of it before it goes on: nobody waits for that.
    pieces.return?.().catch(() => undefined);
  }
}

/** A snapshot on its way in. */
class Restore {
  readonly #context: GenerateContext;
  readonly #signal: AbortSignal;
  readonly #checksum = new SnapshotChecksum();
  /** The checksum at the end, as far as it has come. */
  readonly #expected: number[] = [];
  #first: RestoreRequest | undefined;
  /** Bytes that wait: until the header is there, and of the log until that is there. */
  #collected = new Uint8Array(0);
  #head: SnapshotHead | undefined;
  #plan: ServedPlan | undefined;
  #segments: SnapshotLogSegment[] | undefined;
  #foreignLog = false;
  /** Bytes given to the engine. */
  #written = 0;
  #jobId: number | undefined;
  #handle: SequenceHandle | undefined;
  #owner = false;
  /** Rejects when the call is over before its last message; never resolves. */
  readonly #over = Promise.withResolvers<never>();
  #ended: Error | undefined;

  readonly #onLeave = (): void => {
    this.end(callerLeft());
  };

  constructor(context: GenerateContext, signal: AbortSignal) {
    this.#context = context;
    this.#signal = signal;
    // Whoever waits sees it; until somebody does it is no fault.
    this.#over.promise.catch(() => undefined);
    signal.addEventListener("abort", this.#onLeave);
    if (signal.aborted) this.#onLeave();
  }

  /** Ends the call with `reason` at once; a runtime may drop that of a client that has left without ever resuming it. */
  end(reason: Error): void {
    this.#ended ??= reason;
    this.#over.reject(this.#ended);
    this.close();
  }

  /**
   * Waits for the next message.
   * @throws ConnectError DeadlineExceeded where none comes: meanwhile memory is held, and no other snapshot is restored
   */
  async next(pieces: AsyncIterator<RestoreRequest>): Promise<IteratorResult<RestoreRequest>> {
    const timer = setTimeout(() => {
      const message = `no piece of the snapshot came in ${restoreWaitMsMax} ms`;
      this.end(new ConnectError(message, Code.DeadlineExceeded));
    }, restoreWaitMsMax);
    try {
      return await Promise.race([pieces.next(), this.#over.promise]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Takes a message. */
  async take(message: RestoreRequest): Promise<void> {
    const { config, gate } = this.#context;
    if (this.#first === undefined) {
      this.#first = message;
      checkSequenceId(message.sequenceId);
      checkEngineVersion(message.engineVersion);
    }
    let piece = message.data;
    if (this.#head === undefined) {
      this.#collected = concatBytes(this.#collected, piece);
      if (this.#collected.length < snapshotHeaderBytes) return;
      const header = this.#collected.subarray(0, snapshotHeaderBytes);
      piece = this.#collected.subarray(snapshotHeaderBytes);
      this.#collected = new Uint8Array(0);
      await this.#open(header);
    }
    await gate.quiet();
    this.#write(piece);
    await config.yieldToHost();
  }

  /** The last message has come. */
  async finish(): Promise<MessageInitShape<typeof RestoreResponseSchema>> {
    const { config, counters, gate, table } = this.#context;
    const { engine } = config;
    await gate.quiet();
    this.#checkPresent();
    const [head, plan, segments, handle] = [this.#head, this.#plan, this.#segments, this.#handle];
    const arrived = this.#written + this.#expected.length;
    if (head === undefined || arrived < head.bytes) {
      const all = head?.bytes ?? snapshotHeaderBytes;
      throw new SnapshotError("truncated", `has ${arrived} bytes of ${all}`, arrived, all);
    }
    this.#checksum.check(Uint8Array.from(this.#expected));
    // Only now: a log that is merely damaged differs, too.
    if (this.#foreignLog) {
      throw new SnapshotError(
        "foreignLog",
        `its log of ${head.logTokens} tokens is not the one that is wanted`,
      );
    }
    if (plan === undefined || segments === undefined || handle === undefined) {
      throw new SnapshotError("corrupt", "has no log");
    }
    const { sequenceId, generation } = this.#request();
    const earlier = table.get(sequenceId);
    if (earlier !== undefined) endCalls(earlier, generation);
    const borders = segments.map(({ kind, ids }) => ({ kind, tokens: ids.length }));
    const held = table.adopt(sequenceId, handle, plan.index, borders);
    this.#handle = undefined;
    table.beside--;
    held.generation = generation;
    counters.snapshotsRestored++;
    counters.snapshotBytesRestored += BigInt(head.bytes);
    return {
      prefix: table.name(held, fingerprintsOf(this.#context, plan)),
      cacheBytes: BigInt(engine.sequenceStats(handle).cacheBytes),
    };
  }

  /** Gives everything back that was not kept. */
  close(): void {
    const { config, gate, loop, table } = this.#context;
    this.#signal.removeEventListener("abort", this.#onLeave);
    const handle = this.#handle;
    this.#handle = undefined;
    const jobId = this.#jobId;
    this.#jobId = undefined;
    const owner = this.#owner;
    this.#owner = false;
    gate.whenQuiet(() => {
      if (jobId !== undefined) loop.cancel(jobId);
      if (owner) restoring.delete(config.engine);
      if (handle !== undefined) {
        table.beside--;
        freeUnlessLost(config.engine, handle);
      }
    });
  }

  /** The header is there: waits for memory and begins. */
  async #open(header: Uint8Array): Promise<void> {
    const { config, gate, keepCache, table } = this.#context;
    const { engine } = config;
    const head = readSnapshotHead(header);
    const plan = this.#checkHead(head);
    this.#head = head;
    this.#plan = plan;
    await this.#admit(engine.sequenceCacheBytes(plan.index, head.cacheTokens));
    await this.#waitForTurn();
    if (keepCache !== undefined) await table.keepForRoom(keepCache);
    await gate.quiet();
    this.#checkPresent();
    const { sequenceId, generation } = this.#request();
    const earlier = table.get(sequenceId);
    if (earlier !== undefined) {
      endCalls(earlier, generation);
      // Its memory and its handle are the new one's.
      table.release(earlier);
    }
    await this.#begin(header, plan.index, head.bytes - snapshotChecksumBytes);
  }

  /**
   * Lets the engine take the memory. What was reserved can be in use by another worker on the same engine for a while:
   * then idle caches go, or the others end.
   */
  async #begin(header: Uint8Array, plan: number, bytes: number): Promise<void> {
    const { config, gate, keepCache, table } = this.#context;
    const { engine } = config;
    for (let waitedMs = 0; ; waitedMs += lookAgainMs) {
      const handle = table.withRoom(() => engine.beginRestore(plan, bytes));
      try {
        engine.writeRestore(handle, 0, header);
        this.#handle = handle;
        table.beside++;
        this.#written = header.length;
        this.#checksum.update(header);
        return;
      } catch (error) {
        const full = error instanceof EngineError && error.status === "outOfPages";
        if (!full || waitedMs >= restoreWaitMsMax) throw error;
      }
      table.dropOneIdleCache(keepCache);
      await new Promise((resolve) => setTimeout(resolve, lookAgainMs));
      await gate.quiet();
      this.#checkPresent();
    }
  }

  #checkHead(head: SnapshotHead): ServedPlan {
    const { config, fingerprints, plans } = this.#context;
    const { engine } = config;
    for (const [what, reason] of [
      ["model", "foreignModel"],
      ["template", "foreignTemplate"],
    ] as const) {
      if (head.identity[what] !== fingerprints[what]) {
        throw new SnapshotError(
          reason,
          `${what} is ${head.identity[what]}, must be ${fingerprints[what]}`,
        );
      }
    }
    const plan = plans.all.find(({ fingerprint }) => fingerprint === head.identity.plan);
    if (plan === undefined) {
      throw new SnapshotError("foreignPlan", `plan is ${head.identity.plan}, not served here`);
    }
    const least = head.rowsOffset + snapshotChecksumBytes;
    if (head.bytes < least) {
      throw new SnapshotError("corrupt", `states ${head.bytes} bytes, at least ${least}`);
    }
    if (head.logTokens > engine.contextTokensMax) {
      throw new SnapshotError(
        "tooLong",
        `its log has ${head.logTokens} tokens, at most ${engine.contextTokensMax}`,
        head.logTokens,
        engine.contextTokensMax,
      );
    }
    if (head.cacheTokens > head.logTokens) {
      throw new SnapshotError(
        "corrupt",
        `cache_tokens is ${head.cacheTokens}, at most ${head.logTokens}`,
        head.cacheTokens,
        head.logTokens,
      );
    }
    return plan;
  }

  /** Waits for memory in the queue of all jobs. */
  async #admit(cacheBytes: number): Promise<void> {
    const { loop } = this.#context;
    this.#checkPresent();
    const admitted = Promise.withResolvers<undefined>();
    this.#jobId = loop.reserve(cacheBytes, {
      onAdmitted: () => admitted.resolve(undefined),
      onError: admitted.reject,
    });
    const timer = setTimeout(() => {
      const message = `no memory for the snapshot became free in ${queueWaitMsMax} ms`;
      admitted.reject(new ConnectError(message, Code.ResourceExhausted));
    }, queueWaitMsMax);
    try {
      await Promise.race([admitted.promise, this.#over.promise]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Waits until the engine restores nothing else; it may be another worker's restore, so this one looks again. */
  async #waitForTurn(): Promise<void> {
    const { config } = this.#context;
    for (let waitedMs = 0; restoring.has(config.engine); waitedMs += lookAgainMs) {
      if (waitedMs >= restoreWaitMsMax) {
        throw new ConnectError(
          `the engine restores another snapshot for ${restoreWaitMsMax} ms`,
          Code.Unavailable,
        );
      }
      await new Promise((resolve) => setTimeout(resolve, lookAgainMs));
      this.#checkPresent();
    }
    restoring.add(config.engine);
    this.#owner = true;
  }

  /** Gives bytes to the engine, the checksum's aside; takes the log out as it passes. */
  #write(piece: Uint8Array): void {
    this.#checkPresent();
    const [head, handle] = [this.#head, this.#handle];
    if (head === undefined || handle === undefined) return;
    const bodyBytes = head.bytes - snapshotChecksumBytes;
    const body = piece.subarray(0, Math.max(0, bodyBytes - this.#written));
    const rest = piece.subarray(body.length);
    if (this.#expected.length + rest.length > snapshotChecksumBytes) {
      throw new SnapshotError("trailing", `has more than the ${head.bytes} bytes that it states`);
    }
    this.#expected.push(...rest);
    this.#takeLog(head, body);
    this.#checksum.update(body);
    try {
      this.#context.config.engine.writeRestore(handle, this.#written, body);
    } catch (error) {
      // The engine has freed it.
      this.#handle = undefined;
      this.#context.table.beside--;
      throw error;
    }
    this.#written += body.length;
  }

  #takeLog(head: SnapshotHead, body: Uint8Array): void {
    if (this.#segments !== undefined) return;
    const from = Math.max(0, snapshotHeaderBytes - this.#written);
    const to = Math.min(body.length, Math.max(0, head.rowsOffset - this.#written));
    this.#collected = concatBytes(this.#collected, body.subarray(from, Math.max(from, to)));
    if (this.#written + body.length < head.rowsOffset) return;
    const segments = readSnapshotLog(head, this.#collected);
    this.#collected = new Uint8Array(0);
    const { prefix } = this.#request();
    this.#foreignLog = prefix !== undefined && !isLog(prefix, segments);
    this.#segments = segments;
  }

  #request(): RestoreRequest {
    if (this.#first === undefined) {
      throw new ConnectError("the stream has no message", Code.InvalidArgument);
    }
    return this.#first;
  }

  #checkPresent(): void {
    if (this.#ended !== undefined) throw this.#ended;
  }
}

/** A lost engine refuses; its memory goes as a whole, with the engine. */
function freeUnlessLost(engine: Engine, handle: SequenceHandle): void {
  try {
    engine.freeSequence(handle);
  } catch (error) {
    if (!(error instanceof EngineError)) throw error;
  }
}

function callerLeft(): ConnectError {
  return new ConnectError("the caller has left", Code.Canceled);
}

function checkEngineVersion(version: string): void {
  if (version === "" || version === engineVersion) return;
  throw new SnapshotError(
    "foreignEngine",
    `the engine's version is ${version.slice(0, 80)}, must be ${engineVersion}`,
  );
}

function isLog(prefix: PrefixName, segments: readonly SnapshotLogSegment[]): boolean {
  const borders: SegmentBorder[] = segments.map(({ kind, ids }) => ({ kind, tokens: ids.length }));
  const hash = prefixHash(concatIds(segments));
  return (
    borders.length === prefix.segmentTokens.length &&
    borders.every(
      ({ kind, tokens }, i) =>
        tokens === prefix.segmentTokens[i] && segmentKindToWire(kind) === prefix.segmentKinds[i],
    ) &&
    hash.length === prefix.sha256.length &&
    hash.every((byte, i) => byte === prefix.sha256[i])
  );
}

function concatIds(segments: readonly SnapshotLogSegment[]): Uint32Array {
  const all = new Uint32Array(segments.reduce((sum, { ids }) => sum + ids.length, 0));
  let at = 0;
  for (const { ids } of segments) {
    all.set(ids, at);
    at += ids.length;
  }
  return all;
}
