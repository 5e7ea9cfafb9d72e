/** A day under every way to route turns, and once more under leanedge's own without restarts. */
import { HashRing, LeastLoaded, PoolRoute, RoundRobin } from "./routes.js";
import type { Route } from "./routes.js";
import { simulate } from "./simulate.js";
import type { Outcome } from "./simulate.js";
import { seededRandom } from "./workload.js";
import type { Workload } from "./workload.js";

/** Names that the page refers to. */
export const ownName = "leanedge";
export const quietName = "leanedge, no restarts";

/** Runs them all, leanedge's first. */
export function runDay(workload: Workload, log: (line: string) => void): readonly Outcome[] {
  const routes: readonly Route[] = [
    new PoolRoute(seededRandom(workload.seed)),
    new HashRing(workload.workers),
    new LeastLoaded(true),
    new LeastLoaded(false),
    new RoundRobin(),
  ];
  const outcomes = routes.map((route) => told(simulate(workload, route), log));
  const quiet = { ...workload, restarts: false };
  const own = new PoolRoute(seededRandom(workload.seed));
  return [...outcomes, told(simulate(quiet, own, quietName), log)];
}

function told(outcome: Outcome, log: (line: string) => void): Outcome {
  log(`${outcome.name}: ${outcome.turns} turns of ${outcome.sessions} sessions`);
  return outcome;
}
