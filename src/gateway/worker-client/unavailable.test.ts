import { Code, ConnectError, createClient, createRouterTransport } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import { UnavailableReason, WorkerService } from "../../gen/leanedge/worker/v1/worker_pb.js";
import { drainingError, restartingError } from "../../worker/process/unavailable.js";
import { unavailableReason } from "./unavailable.js";

/** What a gateway gets of a worker's error: it has crossed the wire. */
async function received(thrown: Error): Promise<unknown> {
  const transport = createRouterTransport((router) => {
    router.service(WorkerService, {
      getStatus() {
        throw thrown;
      },
    });
  });
  return createClient(WorkerService, transport)
    .getStatus({})
    .then(
      () => undefined,
      (error: unknown) => error,
    );
}

describe("the reason of a worker that takes no call", () => {
  it.each([
    ["shuts down", drainingError(), UnavailableReason.DRAINING],
    ["restarts its engine", restartingError(), UnavailableReason.ENGINE_RESTARTING],
    ["does not say", new ConnectError("gone", Code.Unavailable), UnavailableReason.UNSPECIFIED],
    ["is full", new ConnectError("full", Code.ResourceExhausted), UnavailableReason.UNSPECIFIED],
  ])("is read of one that %s", async (_name, thrown, reason) => {
    expect(unavailableReason(await received(thrown))).toBe(reason);
  });

  it("is unknown of what no worker sent", () => {
    expect(unavailableReason(new TypeError("fetch failed"))).toBe(UnavailableReason.UNSPECIFIED);
  });
});
