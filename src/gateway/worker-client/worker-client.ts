/** Client of leanedge.worker.v1 over anything that answers HTTP: the stub of an EngineObject, or a worker's address. */
import { create } from "@bufbuild/protobuf";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { createClient } from "@connectrpc/connect";
import type { CallOptions, Client } from "@connectrpc/connect";
import { bearerToken } from "../../client/bearer-token.js";
import { GenerateRequestSchema, WorkerService } from "../../gen/leanedge/worker/v1/worker_pb.js";
import type { GenerateResponse } from "../../gen/leanedge/worker/v1/worker_pb.js";
import { workerTransport } from "../connect/worker-transport.js";
import type { Fetching } from "../connect/worker-transport.js";
import { GenerateCall } from "./generate-call.js";
import type { GenerateOptions } from "./generate-call.js";

/** Events of a worker's answer. */
export interface WorkerEvents extends AsyncIterable<GenerateResponse> {
  /** An event came with the one before, or the end; not there where nobody can tell. */
  readonly ready?: boolean;
}

/** Calls of a worker. */
export interface WorkerClient extends Omit<Client<typeof WorkerService>, "generate"> {
  /** WorkerService.Generate. */
  generate(
    request: MessageInitShape<typeof GenerateRequestSchema>,
    options?: CallOptions | GenerateOptions,
  ): WorkerEvents;
}

/**
 * Opens a client. Calls of Generate go past Connect's client (generate-call.ts), unless they come with more options than a
 * signal.
 *
 * @param fetcher carries the requests
 * @param baseUrl where the service is mounted; for a stub the host name is free
 * @param token sent as `authorization: Bearer` if given
 */
export function openWorker(
  fetcher: Fetching,
  baseUrl = "http://worker",
  token?: string,
): WorkerClient {
  const client = createClient(
    WorkerService,
    workerTransport({
      baseUrl,
      fetcher,
      interceptors: bearerToken(token),
    }),
  );
  const target = { fetcher, baseUrl: baseUrl.replace(/\/$/, ""), token };
  return {
    ...client,
    generate(request, options) {
      return isPlain(options)
        ? new GenerateCall(target, create(GenerateRequestSchema, request), options)
        : client.generate(request, options);
    },
  };
}

function isPlain(options: CallOptions | GenerateOptions = {}): options is GenerateOptions {
  return Object.keys(options).every((name) => name === "signal" || name === "clock");
}
