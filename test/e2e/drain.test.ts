/**
 * Workers that leave while sessions talk: drained by an operator, and told to end. No turn fails, every text is that of an
 * undisturbed run. The workers are real, but give their tokens at a fixed rate, so that answers are under way when one leaves.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createLeanedgeClient, type LeanedgeClient } from "../../src/client/index.js";
import { WorkerState } from "../../src/gen/leanedge/pool/v1/pool_pb.js";
import { FinishReason, PlacementReason } from "../../src/gen/leanedge/v1/session_pb.js";
import { startBehindFront, type Fault, type FaultyWorker } from "../support/faulty-worker.js";
import { startWorkerdPool, type WorkerdPool } from "../support/workerd-pool.js";
import { runOne, type TurnPlan, type TurnSeen } from "./talk.js";

const names = ["one", "two", "three"];
const sessions = 24;
/** Turns of each session in a phase: more than it takes a gateway to hear of a drain, and to move. */
const turnsOfPhase = 6;
/** Time between two tokens of a worker. */
const tokenMs = 100;
/** The same while times are measured: a turn then takes as long as a short answer of a model that people talk to. */
const measuredTokenMs = 250;
const plan: TurnPlan = { text: "What is the special magic number?", maxTokens: 8 };
/** Turns of each session beside a drain, and as many before it beside none. */
const turnsOfMeasure = 2;
/** What drains may make of the slowest turn of a hundred. */
const tailRatioMax = 2;
/**
 * The same on a machine that other work keeps busy, where a move waits for a core: there the quiet turns, too, take longer
 * than their tokens, the slowest of a hundred by this share.
 */
const busyTailRatioMax = 10;
const busyShare = 0.25;
/** Times that all of it is measured: a busy machine makes some turns slow, whatever happens beside them. */
const measurementsMax = 3;
/** Longest that a worker which was told to end may take: its answers, its caches, its process. */
const endMsMax = 120_000;

/** A turn as its client saw it. */
interface NumberedTurn extends TurnSeen {
  readonly number: number;
  readonly placement: PlacementReason;
  /** Until its end, and until its first text; milliseconds. */
  readonly ms: number;
  readonly firstMs: number;
}

let pool: WorkerdPool;
let client: LeanedgeClient;
const fronts: FaultyWorker[] = [];
let pauseMs = tokenMs;
/** Number of the next turn of all sessions. */
let nextTurn = 1;
/** The text of each turn: all sessions say the same at temperature 0, so all hear the same. */
const texts = new Map<number, string>();

/** Gives tokens at a fixed rate. */
const paced: Fault = async function* ({ forward }) {
  let dueMs = performance.now();
  for await (const event of forward()) {
    if (event.event.case === "tokens") {
      dueMs += pauseMs * Math.max(1, event.event.value.ids.length);
      await new Promise((resolve) => setTimeout(resolve, Math.max(0, dueMs - performance.now())));
    }
    yield event;
  }
};

beforeAll(async () => {
  pool = await startWorkerdPool({ names: [] });
  client = createLeanedgeClient({ baseUrl: pool.gateway.url, key: pool.gateway.key });
  for (const name of names) {
    const front = await startBehindFront(pool, name);
    front.spoil(paced);
    fronts.push(front);
  }
});

afterAll(async () => {
  await pool.close();
  await Promise.all(fronts.map((front) => front.close()));
});

/** One turn of one session. */
async function numberedTurn(session: number, number: number): Promise<NumberedTurn> {
  let placement = PlacementReason.UNSPECIFIED;
  let firstMs = NaN;
  const beginMs = performance.now();
  const seen = await runOne(
    client,
    `drain ${session}`,
    number,
    plan,
    { temperature: 0 },
    (event) => {
      if (event.type === "started") placement = event.started.placement;
      if (event.type === "delta" && Number.isNaN(firstMs)) firstMs = performance.now() - beginMs;
    },
  );
  return { ...seen, number, placement, firstMs, ms: performance.now() - beginMs };
}

/** All sessions talk at once, each for some turns; `during` happens once their first turns are under way. */
async function phase(
  turns: number,
  during: () => Promise<void> = () => Promise.resolve(),
): Promise<NumberedTurn[]> {
  const first = nextTurn;
  nextTurn += turns;
  const talks = Array.from({ length: sessions }, async (_, session) => {
    const seen: NumberedTurn[] = [];
    for (let number = first; number < first + turns; number++) {
      seen.push(await numberedTurn(session, number));
    }
    return seen;
  });
  const [seen] = await Promise.all([Promise.all(talks), during()]);
  return seen.flat();
}

/** No turn failed, none was taken up again by its client, and all say what an undisturbed turn of their number says. */
function expectUndisturbed(turns: readonly NumberedTurn[]): void {
  for (const { number, text, finishReason, completionTokens, reconnects } of turns) {
    const expected = texts.get(number) ?? text;
    texts.set(number, expected);
    expect({ text, finishReason, completionTokens, reconnects }).toEqual({
      text: expected,
      finishReason: FinishReason.LENGTH,
      completionTokens: plan.maxTokens,
      reconnects: 0,
    });
  }
}

/** Sessions that moved away from a worker on purpose. */
function moved(turns: readonly NumberedTurn[]): number {
  return turns.filter(({ placement }) => placement === PlacementReason.MOVED).length;
}

/** The value below which 99 of 100 are. */
function tailOf(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.ceil(sorted.length * 0.99) - 1] ?? NaN;
}

describe(`a worker of three that leaves while ${sessions} sessions talk`, () => {
  it("fails no turn when it is drained, and gives its sessions away", async () => {
    const [name = ""] = names;
    expectUndisturbed(await phase(1));
    const turns = await phase(turnsOfPhase, async () => {
      await pool.admin.drainWorker({ name });
    });
    expectUndisturbed(turns);
    expect(moved(turns)).toBeGreaterThan(0);
    expect((await pool.state(name)).state).toBe(WorkerState.DRAINING);
    await pool.admin.resumeWorker({ name });
  });

  it(
    `leaves p99 of turns below ${tailRatioMax} times that of quiet ones when it is drained`,
    { retry: measurementsMax - 1 },
    async () => {
      const quiet: NumberedTurn[] = [];
      const drained: NumberedTurn[] = [];
      pauseMs = measuredTokenMs;
      // In turn, so that both see the same machine; each worker gives its sessions away once.
      for (const name of names) {
        quiet.push(...(await phase(turnsOfMeasure)));
        drained.push(
          ...(await phase(turnsOfMeasure, async () => {
            await pool.admin.drainWorker({ name });
          })),
        );
        await pool.admin.resumeWorker({ name });
      }
      pauseMs = tokenMs;
      expectUndisturbed([...quiet, ...drained]);
      expect(moved(drained)).toBeGreaterThan(0);
      const [before, beside] = [quiet, drained].map((turns) => tailOf(turns.map(({ ms }) => ms)));
      const [first, firstBeside] = [quiet, drained].map((turns) =>
        tailOf(turns.map(({ firstMs }) => firstMs)),
      );
      console.log(
        `p99 of ${quiet.length} quiet turns ${before?.toFixed(0)} ms, of ${drained.length} beside drains, ` +
          `of which ${moved(drained)} moved, ${beside?.toFixed(0)} ms; ` +
          `of their first texts ${first?.toFixed(0)} and ${firstBeside?.toFixed(0)} ms`,
      );
      const busy = (before ?? NaN) > (1 + busyShare) * measuredTokenMs * plan.maxTokens;
      expect((beside ?? NaN) / (before ?? NaN)).toBeLessThanOrEqual(
        busy ? busyTailRatioMax : tailRatioMax,
      );
    },
  );

  it("fails no turn when its process is told to end", async () => {
    const { session } = await client.sessions.getSession({ sessionId: "drain 0" });
    const name = session?.worker.replace("pool:default/", "") ?? "";
    const worker = pool.workers.get(name);
    if (worker === undefined) throw new Error(`there is no worker ${name}`);
    // In the middle of its sessions' second turns.
    const turns = await phase(turnsOfPhase, async () => {
      await new Promise((resolve) => setTimeout(resolve, tokenMs * plan.maxTokens * 1.5));
      worker.signal("SIGTERM");
    });
    expectUndisturbed(turns);
    const late = new Promise<"late">((resolve) => setTimeout(resolve, endMsMax, "late"));
    expect(await Promise.race([worker.exited, late])).toBe(0);
    expectUndisturbed(await phase(1));
    const { workers } = await pool.admin.listWorkers({});
    expect(workers.map((other) => other.name)).not.toContain(name);
  });
});
