/**
 * One Snapshot call: the serialised cache of an idle sequence, a piece between two steps, so that no
 * other sequence's token waits for more than one piece. Whoever takes the sequence over meanwhile
 * ends the call.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import { create } from "@bufbuild/protobuf";
import { concatBytes } from "@noble/hashes/utils.js";
import { cacheVersion } from "../engine/cache-version.js";
import { snapshotChecksumBytes } from "../engine/page/snapshot.js";
import { SnapshotChecksum, stampIdentity } from "../engine/page/snapshot-stream.js";
import {
  SnapshotResponseSchema,
  type SnapshotRequest,
  type SnapshotResponse,
} from "../gen/leanedge/worker/v1/worker_pb.js";
import { toConnectError } from "./errors.js";
import { fingerprintsOf, holdsPrefix, type GenerateContext } from "./generate.js";
import { snapshotPieceBytes, snapshotReadMsMax } from "./limits.js";
import type { HeldSequence } from "./sequence-table.js";

/** What SnapshotResponse names as the engine's version. */
export const engineVersion = `cache-${cacheVersion}`;

/** Runs a call; ends with a ConnectError where leanedge.worker.v1 says so. */
export async function* saveSnapshot(
  context: GenerateContext,
  request: SnapshotRequest,
  signal: AbortSignal,
): AsyncGenerator<SnapshotResponse> {
  const { config, counters, gate, table } = context;
  const { engine } = config;
  await gate.quiet();
  const held = findIdle(context, request);
  let failure: Error | undefined;
  const stop = (reason: Error): void => {
    clearTimeout(timer);
    failure ??= reason;
    if (held.stopReader === stop) held.stopReader = undefined;
  };
  held.stopReader = stop;
  const onLeave = (): void => {
    stop(new ConnectError("the caller has left", Code.Canceled));
  };
  signal.addEventListener("abort", onLeave);
  // A reader that stands still must not hold its cache for ever.
  const timer = setTimeout(() => {
    const message = `the snapshot was not read in ${snapshotReadMsMax} ms`;
    stop(new ConnectError(message, Code.DeadlineExceeded));
  }, snapshotReadMsMax);
  try {
    if (signal.aborted) onLeave();
    const bytes = engine.snapshotBytes(held.handle);
    const checksum = new SnapshotChecksum();
    for (let at = 0; at < bytes; at += snapshotPieceBytes) {
      if (at > 0) {
        await config.yieldToHost();
        await gate.quiet();
      }
      if (failure !== undefined) throw failure;
      const count = Math.min(snapshotPieceBytes, bytes - at);
      const piece = engine.snapshotPiece(held.handle, at, count);
      if (at === 0) stampIdentity(piece, fingerprintsOf(context, context.plans.at(held.plan)));
      checksum.update(piece);
      yield create(SnapshotResponseSchema, {
        data: at + count < bytes ? piece : concatBytes(piece, checksum.digest()),
        engineVersion: at === 0 ? engineVersion : "",
      });
    }
    if (failure !== undefined) throw failure;
    held.saved = true;
    counters.snapshotsSaved++;
    counters.snapshotBytesSaved += BigInt(bytes + snapshotChecksumBytes);
    table.touch(held);
  } catch (error) {
    throw toConnectError(error);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", onLeave);
    if (held.stopReader === stop) held.stopReader = undefined;
  }
}

/** The sequence as the gateway knows it, with a cache and with nobody at work on it. */
function findIdle(context: GenerateContext, request: SnapshotRequest): HeldSequence {
  const { config, table } = context;
  const held = table.get(request.sequenceId);
  if (held === undefined) {
    throw new ConnectError("the worker does not have that sequence", Code.NotFound);
  }
  if (held.abort !== undefined) {
    throw new ConnectError("the sequence generates", Code.FailedPrecondition);
  }
  const { prefix } = request;
  if (prefix !== undefined) {
    if (!holdsPrefix(context, held, prefix)) {
      throw new ConnectError("the worker does not have that prefix", Code.NotFound);
    }
    table.truncate(held, prefix.tokens);
  }
  if (config.engine.sequenceStats(held.handle).computed === 0) {
    throw new ConnectError("the worker holds no cache of that sequence", Code.NotFound);
  }
  held.stopReader?.(new ConnectError("another call reads the snapshot", Code.Aborted));
  return held;
}
