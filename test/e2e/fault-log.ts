/**
 * Faults on workers at a fixed pace, from a seed: one is killed and started again, or stopped for a while. What happened to
 * whom, and when, is kept, so that a test knows which caches cannot have lived.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { SeededRandom } from "../oracle/random.js";
import type { PoolWorkers } from "../support/pool-workers.js";

/** One fault. */
export interface Fault {
  readonly worker: string;
  readonly kind: "killed" | "stopped";
  /** When it began; milliseconds of performance.now(). */
  readonly fromMs: number;
  /** When the worker served again; Infinity until then. */
  untilMs: number;
}

/** How often, and on whom. */
export interface FaultPlan {
  readonly names: readonly string[];
  /** Time from one fault to the next. */
  readonly everyMs: number;
  /** How long a worker is stopped: one of these. */
  readonly stopMs: readonly number[];
  /** Workers that are away at once, at most: the others must be able to serve all. */
  readonly awayMax: number;
  readonly random: SeededRandom;
}

/** Makes faults until the signal aborts; resolves with all of them once every worker serves again. */
export async function makeFaults(
  pool: PoolWorkers,
  { names, everyMs, stopMs, awayMax, random }: FaultPlan,
  signal: AbortSignal,
): Promise<readonly Fault[]> {
  const faults: Fault[] = [];
  const away = new Map<string, Promise<void>>();
  const draw = <T>(among: readonly T[]): T => {
    const drawn = among[random.below(among.length)];
    if (drawn === undefined) throw new Error("there is nothing to draw from");
    return drawn;
  };
  const over = (): boolean => signal.aborted;
  while (!over()) {
    await sleep(everyMs, undefined, { signal }).catch(() => undefined);
    const kind = draw(["killed", "stopped"] as const);
    const pauseMs = draw(stopMs);
    const candidates = names.filter((name) => !away.has(name));
    const worker = draw(candidates.length === 0 ? names : candidates);
    if (over() || away.size >= awayMax) continue;
    const fault: Fault = { worker, kind, fromMs: performance.now(), untilMs: Infinity };
    faults.push(fault);
    const back = (kind === "killed" ? restart(pool, worker) : pause(pool, worker, pauseMs)).then(
      () => {
        fault.untilMs = performance.now();
        away.delete(worker);
      },
    );
    // A failure is seen by whoever waits for all of them below.
    back.catch(() => undefined);
    away.set(worker, back);
  }
  await Promise.all(away.values());
  return faults;
}

async function restart(pool: PoolWorkers, name: string): Promise<void> {
  await pool.kill(name);
  await pool.start(name);
}

async function pause(pool: PoolWorkers, name: string, ms: number): Promise<void> {
  const worker = pool.workers.get(name);
  if (worker === undefined) throw new Error(`there is no worker ${name}`);
  worker.signal("SIGSTOP");
  await sleep(ms);
  worker.signal("SIGCONT");
  await pool.ready(name);
}

/** Whether a worker had such a fault at any time from one moment to another. */
export function hadFault(
  faults: readonly Fault[],
  worker: string,
  fromMs: number,
  toMs: number,
  kinds: readonly Fault["kind"][],
): boolean {
  return faults.some(
    (fault) =>
      fault.worker === worker &&
      kinds.includes(fault.kind) &&
      fault.fromMs <= toMs &&
      fault.untilMs >= fromMs,
  );
}
