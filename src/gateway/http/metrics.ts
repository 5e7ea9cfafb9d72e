/**
 * GET /metrics: this gateway and its pools in the Prometheus text format, for whoever shows the admin token. Names begin with
 * `leanedge:gateway_` and `leanedge:pool_`; docs/operations.md says what they mean. The gateway's counters are those of all its
 * isolates (MetricsObject); a pool's run from the start of its object.
 */
import type { Hono } from "hono";
import { PlacementReason } from "../../gen/leanedge/v1/session_pb.js";
import type { GatewayEnv } from "../bindings.js";
import { gatewayConfig } from "../config.js";
import { metricsObjectName } from "../metrics/isolate-meter.js";
import type { Sums } from "../metrics/meter.js";
import { renderSums } from "../metrics/render.js";
import type { BreakerState } from "../pool/breaker.js";
import type { PoolCounts } from "../pool/pool-calls.js";
import { poolObject } from "../pool/pool-client.js";
import type { WorkerRecord } from "../pool/pool-entry.js";
import type { WorkerState } from "../pool/worker-state.js";
import { requireToken } from "../services/bearer-token.js";
import type { GatewayHonoEnv } from "./frame.js";
import { placementName } from "../objects/placement-name.js";
import { objectNamed } from "../processes/objects.js";

/** What is known of one pool. */
export interface PoolFigures {
  readonly pool: string;
  readonly workers: readonly WorkerRecord[];
  readonly counts: PoolCounts;
}

/** Mounts the route. */
export function mountMetrics(app: Hono<GatewayHonoEnv>): void {
  app.get("/metrics", async (c) => {
    const { adminToken } = gatewayConfig(c.env);
    requireToken(c.req.raw.headers, adminToken, "LEANEDGE_ADMIN_TOKEN");
    const [sums, pools] = await Promise.all([gatewaySums(c.env), figuresOf(c.env)]);
    return c.body(`${renderSums(sums)}${poolMetrics(pools)}`, 200, {
      "content-type": "text/plain; version=0.0.4; charset=utf-8",
      "cache-control": "no-store",
    });
  });
}

/** What all isolates counted; nothing where no object collects it. */
async function gatewaySums(env: GatewayEnv): Promise<Sums> {
  return env.METRICS === undefined ? {} : objectNamed(env, "METRICS", metricsObjectName).sums();
}

function figuresOf(env: GatewayEnv): Promise<PoolFigures[]> {
  return Promise.all(
    gatewayConfig(env).pools.map(async (pool) => {
      const stub = poolObject(env, pool);
      const [workers, counts] = await Promise.all([stub.list(), stub.counts()]);
      return { pool: pool.name, workers, counts };
    }),
  );
}

const states: readonly WorkerState[] = ["pending", "ready", "draining", "notReady", "failed"];
const breakers: Readonly<Record<BreakerState, number>> = { closed: 0, halfOpen: 1, open: 2 };
const reboundReasons = [
  PlacementReason.ONLY,
  PlacementReason.LOAD,
  PlacementReason.HASH,
  PlacementReason.MOVED,
  PlacementReason.FAILOVER,
  PlacementReason.LAST_RESORT,
  PlacementReason.FALLBACK,
  PlacementReason.CONFIGURED,
] as const;

type Sample = readonly [labels: Readonly<Record<string, string>>, value: number];

interface Metric {
  readonly name: string;
  readonly kind: "gauge" | "counter";
  readonly help: string;
  readonly samples: (figures: PoolFigures) => readonly Sample[];
}

/** A metric with one sample a worker. */
function ofWorkers(
  name: string,
  kind: Metric["kind"],
  help: string,
  value: (worker: WorkerRecord) => number,
): Metric {
  return {
    name: `worker_${name}`,
    kind,
    help,
    samples: ({ pool, workers }) =>
      workers.map((worker) => [{ pool, worker: worker.name }, value(worker)]),
  };
}

const metrics: readonly Metric[] = [
  {
    name: "workers",
    kind: "gauge",
    help: "Workers by state.",
    samples: ({ pool, workers }) =>
      states.map((state) => [
        { pool, state },
        workers.filter((worker) => worker.state === state).length,
      ]),
  },
  {
    name: "placements_total",
    kind: "counter",
    help: "Places given to sessions, by how they were chosen.",
    samples: ({ pool, counts }) =>
      Object.entries(counts.placed).map(([reason, count]) => [{ pool, reason }, count]),
  },
  {
    name: "turns_rebound_total",
    kind: "counter",
    help: "Turns that ended well on a worker that their session was not bound to before, by reason.",
    samples: ({ pool, counts }) =>
      reboundReasons.map((reason) => [
        { pool, reason: placementName(reason) },
        counts.rebound[reason] ?? 0,
      ]),
  },
  {
    name: "refusals_total",
    kind: "counter",
    help: "Requests that found all workers full.",
    samples: ({ pool, counts }) => [[{ pool }, counts.refused]],
  },
  {
    name: "waiting",
    kind: "gauge",
    help: "Requests that wait for a worker with room.",
    samples: ({ pool, counts }) => [[{ pool }, counts.waiting]],
  },
  ofWorkers(
    "breaker",
    "gauge",
    "Circuit breaker: 0 closed, 1 half open, 2 open.",
    (worker) => breakers[worker.breaker],
  ),
  ofWorkers("running", "gauge", "Sequences that compute.", ({ load }) => load.running),
  ofWorkers("queued", "gauge", "Requests that wait on the worker.", ({ load }) => load.queued),
  ofWorkers("sequences", "gauge", "Sequences held.", ({ load }) => load.sequences),
  ofWorkers("pages", "gauge", "Pages of cache.", ({ load }) => load.pages),
  ofWorkers("pages_free", "gauge", "Pages free or idle.", ({ load }) => load.pagesFree),
  ofWorkers("pages_idle", "gauge", "Pages of idle caches.", ({ load }) => load.pagesIdle),
  ofWorkers(
    "crowded",
    "gauge",
    "Far fuller than the others, so that its sessions move away: 1, or 0.",
    ({ crowded }) => Number(crowded),
  ),
  ofWorkers(
    "tokens_per_second",
    "gauge",
    "Tokens generated in a second.",
    ({ load }) => load.tokensPerSecond,
  ),
  ofWorkers(
    "heard_seconds",
    "gauge",
    "Time since the worker was heard.",
    ({ heardMsAgo }) => heardMsAgo / 1_000,
  ),
  ofWorkers("placed_total", "counter", "Sessions placed there.", ({ placedTotal }) => placedTotal),
  ofWorkers(
    "moved_total",
    "counter",
    "Sessions that moved off it because it was crowded.",
    ({ movedTotal }) => movedTotal,
  ),
  ofWorkers(
    "failures_total",
    "counter",
    "Calls there that failed.",
    ({ failuresTotal }) => failuresTotal,
  ),
];

/** The metrics of pools as text. */
export function poolMetrics(pools: readonly PoolFigures[]): string {
  const lines = metrics.flatMap(({ name, kind, help, samples }) => [
    `# HELP leanedge:pool_${name} ${help}`,
    `# TYPE leanedge:pool_${name} ${kind}`,
    ...pools.flatMap(samples).map(([labels, value]) => {
      const pairs = Object.entries(labels).map(([label, text]) => `${label}="${text}"`);
      return `leanedge:pool_${name}{${pairs.join(",")}} ${value}`;
    }),
  ]);
  return `${lines.join("\n")}\n`;
}
