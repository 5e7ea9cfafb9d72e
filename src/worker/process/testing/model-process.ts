/** A worker process for tests, in this process and over the model engine; see ../../testing/model-engine.ts. */
import { createClient, type Client } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { bearerToken } from "../../../client/bearer-token.js";
import { Role } from "../../../gen/leanedge/v1/session_pb.js";
import { WorkerService, type GenerateResponse } from "../../../gen/leanedge/worker/v1/worker_pb.js";
import { byteCodec } from "../../testing/byte-codec.js";
import { ModelEngine, modelGeometry, type ModelEngineOptions } from "../../testing/model-engine.js";
import type { LoadedModel } from "../engine-host.js";
import {
  startWorkerProcess,
  type WorkerProcess,
  type WorkerProcessOptions,
} from "../run-worker.js";

/** Address of this machine, any free port. */
export const localAddress = { host: "127.0.0.1", port: 0, loopback: true } as const;

/** Tokenizes on the spot. */
export const inlineTexts: WorkerProcessOptions["texts"] = {
  encode: async (messages, continues) =>
    Uint32Array.from(
      continues ? byteCodec.encodeContinuation(messages) : byteCodec.encodeFirst(messages),
    ),
  close: async () => undefined,
};

/** A model engine as a process loads it. */
export function loadModelEngine(options: ModelEngineOptions = {}): LoadedModel {
  return {
    engine: new ModelEngine(options),
    codec: byteCodec,
    geometry: modelGeometry,
    plans: [],
    modelFingerprint: "model",
    info: {},
  };
}

/** Starts one with model `m`, without a token unless the options say otherwise. */
export function startModelProcess(
  options: Partial<WorkerProcessOptions> = {},
): Promise<WorkerProcess> {
  return startWorkerProcess({
    model: "m",
    name: "w1",
    load: async () => loadModelEngine(),
    texts: inlineTexts,
    address: localAddress,
    token: undefined,
    drainMs: 5_000,
    log: () => undefined,
    ...options,
  });
}

/** Client of a worker. */
export type WorkerClient = Client<typeof WorkerService>;

/** Opens a client of a worker process. */
export function openClient(
  { url }: Pick<WorkerProcess, "url">,
  httpVersion: "1.1" | "2" = "1.1",
  token?: string,
): WorkerClient {
  const transport = createConnectTransport({
    baseUrl: url,
    httpVersion,
    interceptors: bearerToken(token),
  });
  return createClient(WorkerService, transport);
}

/** A first turn. */
export interface Question {
  sequenceId: string;
  generation: bigint;
  model: string;
  messages: { role: Role; text: string }[];
  sampling: { maxTokens: number };
}

/** A request for an answer to `text`. */
export function ask(text: string, maxTokens: number, sequenceId = "s"): Question {
  return {
    sequenceId,
    generation: 1n,
    model: "m",
    messages: [{ role: Role.USER, text }],
    sampling: { maxTokens },
  };
}

/** All events of a stream. */
export async function events(
  stream: AsyncIterable<GenerateResponse>,
): Promise<GenerateResponse["event"][]> {
  const all: GenerateResponse["event"][] = [];
  for await (const { event } of stream) all.push(event);
  return all;
}
