/** What a worker says of itself, in the form that a pool wants. */
import { create } from "@bufbuild/protobuf";
import {
  WorkerLoadSchema,
  WorkerModelSchema,
  type WorkerLoad,
  type WorkerModel,
} from "../../gen/leanedge/pool/v1/pool_pb.js";
import type { GetStatusResponse } from "../../gen/leanedge/worker/v1/worker_pb.js";

/** Tokens generated in a second, between two looks at a worker's counter. */
export class TokenRate {
  #tokens: bigint | undefined;
  #atMs = 0;

  /** The rate since the last look; 0 at the first one, and after the counter began anew. */
  next({ generatedTokens }: Pick<GetStatusResponse, "generatedTokens">): number {
    const nowMs = performance.now();
    const before = this.#tokens;
    const seconds = (nowMs - this.#atMs) / 1_000;
    this.#tokens = generatedTokens;
    this.#atMs = nowMs;
    return before === undefined || generatedTokens < before || seconds <= 0
      ? 0
      : Number(generatedTokens - before) / seconds;
  }
}

/** A worker's load. */
export function workerLoad(
  status: GetStatusResponse,
  tokensPerSecond: number,
  shutsDown: boolean,
): WorkerLoad {
  const { running, queued, sequences, pages, pagesFree, pagesIdle, draining } = status;
  return create(WorkerLoadSchema, {
    running,
    queued,
    sequences,
    pages,
    pagesFree,
    pagesIdle,
    tokensPerSecond,
    draining: draining || shutsDown,
  });
}

/** A worker's models. */
export function registeredModels({ models }: GetStatusResponse): WorkerModel[] {
  return models.map(({ model, fingerprints, info }) =>
    create(WorkerModelSchema, {
      model,
      fingerprint: fingerprints?.model ?? "",
      templateFingerprint: fingerprints?.template ?? "",
      planFingerprints: info?.plans.map((plan) => plan.fingerprint) ?? [],
    }),
  );
}
