/** What GET /v1/status says of a gateway's one worker. */
import type { GatewayStatus, WorkerStatus } from "../../src/gateway/http/status-figures.js";
import type { RunningGateway } from "../support/running-gateway.js";

/** The figures; docs/operations.md describes them. */
export type EngineStatus = WorkerStatus;

/** Asks once. */
export async function engineStatus(gateway: RunningGateway): Promise<EngineStatus> {
  const response = await fetch(`${gateway.url}/v1/status`, {
    headers: { authorization: `Bearer ${gateway.key}` },
  });
  const { workers } = (await response.json()) as GatewayStatus;
  const [worker] = workers;
  if (worker === undefined || "error" in worker) {
    throw new Error(`the worker does not say its status: ${JSON.stringify(worker)}`);
  }
  return worker;
}

/**
 * Asks again and again until a status is as wanted.
 * @throws Error with the last status after `msMax`
 */
export async function statusWhen(
  gateway: RunningGateway,
  wanted: (status: EngineStatus) => boolean,
  msMax: number,
): Promise<EngineStatus> {
  const deadlineMs = performance.now() + msMax;
  for (;;) {
    const status = await engineStatus(gateway);
    if (wanted(status)) return status;
    if (performance.now() > deadlineMs) {
      throw new Error(`not so after ${msMax} ms: ${JSON.stringify(status)}`);
    }
  }
}

/** Whether the engine has nothing to do. */
export function isIdle(status: EngineStatus): boolean {
  return status.running === 0 && status.queued === 0;
}
