/** Client of leanedge.worker.v1 over anything that answers HTTP: the stub of an EngineObject, or a worker's address. */
import { createClient } from "@connectrpc/connect";
import type { Client } from "@connectrpc/connect";
import { bearerToken } from "../../client/bearer-token.js";
import { WorkerService } from "../../gen/leanedge/worker/v1/worker_pb.js";
import { workerTransport } from "../connect/worker-transport.js";
import type { Fetching } from "../connect/worker-transport.js";

/** Calls of a worker. */
export type WorkerClient = Client<typeof WorkerService>;

/**
 * Opens a client.
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
  return createClient(
    WorkerService,
    workerTransport({
      baseUrl,
      fetcher,
      interceptors: bearerToken(token),
    }),
  );
}
