/** The meter of this isolate, and the way of its counts to the MetricsObject. */
import type { GatewayEnv } from "../bindings.js";
import { metricsFlushMs } from "../limits.js";
import { log } from "../log.js";
import { systemClock } from "../objects/clock.js";
import { errorFields } from "../../log/log-line.js";
import { Meter } from "./meter.js";
import { objectNamed } from "../processes/objects.js";

/** Counts of all requests and objects of this isolate. */
export const meter = new Meter();

/** Name of the one object. */
export const metricsObjectName = "metrics";

/** What keeps work alive that nobody waits for. */
export interface Lifetime {
  waitUntil(work: Promise<unknown>): void;
}

/** When the flush that is under way should be through; 0: none is. */
let dueMs = 0;

/**
 * Sees to it that what was counted leaves soon. The request that counts first takes it along, metricsFlushMs later; if
 * its context ends before, the next one does.
 */
export function flushSoon(env: Pick<GatewayEnv, "METRICS">, lifetime: Lifetime): void {
  const nowMs = systemClock.nowMs();
  if (env.METRICS === undefined || meter.empty || nowMs < dueMs) {
    return;
  }
  dueMs = nowMs + 2 * metricsFlushMs;
  lifetime.waitUntil(flushLater(env));
}

async function flushLater(env: Pick<GatewayEnv, "METRICS">): Promise<void> {
  await systemClock.sleep(metricsFlushMs, new AbortController().signal);
  dueMs = 0;
  const sums = meter.take();
  try {
    await objectNamed(env, "METRICS", metricsObjectName).add(sums);
  } catch (error) {
    meter.put(sums);
    log("warn", "metrics.unsent", errorFields(error));
  }
}
