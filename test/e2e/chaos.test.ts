/**
 * Sessions of ten turns over four CPU workers, of which one is killed or stopped and started again every five seconds. Every
 * turn ends, once and in order, with the text of an undisturbed run; no session is lost, and no worker keeps a page.
 *
 * LEANEDGE_TEST_PROCESSES says how many processes the gateway has, one if unset. LEANEDGE_CHAOS_SECONDS says how long, a minute if unset. 200 sessions take their ten turns in ten minutes; a shorter run
 * has as many sessions as keep the turns a second the same, at most 200.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { Code, ConnectError } from "@connectrpc/connect";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createLeanedgeClient, type LeanedgeClient } from "../../src/client/index.js";
import { FinishReason, PlacementReason } from "../../src/gen/leanedge/v1/session_pb.js";
import { SeededRandom } from "../oracle/random.js";
import { startWorkerdPool, type WorkerdPool } from "../support/workerd-pool.js";
import { hadFault, makeFaults, type Fault } from "./fault-log.js";
import { cachedAfter, runPlaced, talkPlaced, told, type PlacedTurn } from "./seen-turn.js";
import { transcript, type Sampling, type TurnPlan } from "./talk.js";

const seed = 20_261_122;
const names = ["one", "two", "three", "four"];
const processes = Number(process.env["LEANEDGE_TEST_PROCESSES"] ?? "1");
const seconds = Number(process.env["LEANEDGE_CHAOS_SECONDS"] ?? "60");
const sessionsMax = 200;
const sessionCount = Math.min(sessionsMax, Math.ceil(seconds / 3));
const turnCount = 10;
/** Sessions whose script is also run by itself, before there are faults. */
const sampleCount = 6;
/** Of the time, what the last turns may be late by without lengthening the run. */
const spareShare = 0.1;
/** Beyond the time that was planned: starts of workers, and turns that wait for a worker that hangs. */
const overtimeMs = 120_000;
const faultEveryMs = 5_000;
/** A turn that is told that all workers are full comes again, as it is told to; so often at most. */
const comesAgainMax = 60;
const comesAgainMs = 2_000;
/** Prefix hits apart from killed workers: the goal, and what a run must reach that is too short for a share of 5 %. */
const hitShareMin = seconds >= 600 ? 0.95 : 0.8;
const places = ["harbor", "garden", "bridge", "market", "tower", "mill", "forest", "station"];

/** A turn, and when it ran; milliseconds of performance.now(). */
interface TimedTurn extends PlacedTurn {
  readonly fromMs: number;
  readonly toMs: number;
}

/** What a session says, and when. */
interface Script {
  readonly sessionId: string;
  readonly sampling: Sampling;
  readonly plans: readonly TurnPlan[];
  /** When each turn is due, from the start of the run. */
  readonly dueMs: readonly number[];
}

let pool: WorkerdPool;
let client: LeanedgeClient;
let scripts: readonly Script[];
/** Sessions of undisturbed runs, by the session of the other one. */
const calm = new Map<string, PlacedTurn[]>();
const seen = new Map<string, TimedTurn[]>();
let faults: readonly Fault[] = [];
/** Times that a turn was told to come again. */
let refused = 0;

/** A conversation of its own for each number. */
function scriptOf(index: number): Script {
  const random = SeededRandom.named(seed, `session ${index}`);
  const stepMs = (seconds * 1_000 * (1 - spareShare)) / turnCount;
  return {
    sessionId: `session ${index}`,
    sampling:
      index % 2 === 0
        ? { temperature: 0 }
        : { temperature: 0.8, topP: 0.95, seed: BigInt(seed + index) },
    plans: Array.from({ length: turnCount }, (_, turn) => ({
      text: `${turn + 1}: what is at the ${places[random.below(places.length)] ?? ""}?`,
      maxTokens: 8 + random.below(24),
    })),
    dueMs: Array.from({ length: turnCount }, (_, turn) => (turn + random.uniform()) * stepMs),
  };
}

/** Runs a turn, again where no worker had room for it; nothing of it was begun then. */
async function comeAgain(run: () => Promise<PlacedTurn>): Promise<PlacedTurn> {
  for (let times = 0; ; times++) {
    try {
      return await run();
    } catch (error) {
      const full = error instanceof ConnectError && error.code === Code.ResourceExhausted;
      if (!full || times >= comesAgainMax) throw error;
      refused++;
      await sleep(comesAgainMs);
    }
  }
}

async function runScript(
  { sessionId, sampling, plans, dueMs }: Script,
  startMs: number,
): Promise<void> {
  const turns: TimedTurn[] = [];
  seen.set(sessionId, turns);
  for (const [index, plan] of plans.entries()) {
    await sleep(Math.max(0, startMs + (dueMs[index] ?? 0) - performance.now()));
    const fromMs = performance.now();
    const tokens: number[] = [];
    const turn = await comeAgain(() =>
      runPlaced(client, sessionId, index + 1, plan, sampling, (event) => {
        if (event.type === "delta") tokens.push(event.completionTokens);
      }),
    );
    // The stream told each token once, and in order.
    expect(tokens).toEqual([...new Set(tokens)].sort((a, b) => a - b));
    turns.push({ ...turn, fromMs, toMs: performance.now() });
  }
}

/** Runs a session by itself, if that was not done. */
async function runCalm({ sessionId, sampling, plans }: Script): Promise<void> {
  if (calm.has(sessionId)) return;
  calm.set(sessionId, await talkPlaced(client, `calm ${sessionId}`, 1, plans, sampling));
}

/** How an undisturbed turn ended; a turn that there is not ended in no way. */
function endOf(turn: PlacedTurn | undefined): object {
  return { finishReason: turn?.finishReason, completionTokens: turn?.completionTokens };
}

function endsEarly({ sessionId }: Script): boolean {
  return (seen.get(sessionId) ?? []).some((turn) => turn.finishReason === FinishReason.STOP);
}

beforeAll(
  async () => {
    pool = await startWorkerdPool({ names, processes });
    client = createLeanedgeClient({ baseUrl: pool.gateway.url, key: pool.gateway.key });
    scripts = Array.from({ length: sessionCount }, (_, index) => scriptOf(index));
    await Promise.all(scripts.slice(0, sampleCount).map(runCalm));
    const over = new AbortController();
    const faulting = makeFaults(
      pool,
      {
        names,
        everyMs: faultEveryMs,
        // Shorter than the silence after which the pool gives a worker up, and longer.
        stopMs: [2_000, 4_000, 8_000],
        awayMax: 2,
        random: SeededRandom.named(seed, "faults"),
      },
      over.signal,
    );
    const startMs = performance.now();
    try {
      await Promise.all(scripts.map((script) => runScript(script, startMs)));
    } finally {
      over.abort();
      faults = await faulting;
    }
    // A sampled answer may draw its end: no fault made it end, if an undisturbed run draws it, too.
    await Promise.all(scripts.filter(endsEarly).map(runCalm));
  },
  seconds * 1_000 + 2 * overtimeMs,
);

afterAll(() => pool.close());

/** Each turn but a session's first, with the one before. */
function followers(): { readonly before: TimedTurn; readonly turn: TimedTurn }[] {
  return [...seen.values()].flatMap((turns) =>
    turns.slice(1).flatMap((turn, index) => {
      const before = turns[index];
      return before === undefined ? [] : [{ before, turn }];
    }),
  );
}

/** Share of turns that found all of the log in the cache. */
function hitShare(turns: readonly { readonly before: TimedTurn; readonly turn: TimedTurn }[]) {
  const hits = turns.filter(({ before, turn }) => turn.cachedTokens >= cachedAfter(before));
  return hits.length / turns.length;
}

describe(`${sessionCount} sessions of ${turnCount} turns over ${names.length} workers with faults`, () => {
  it("were really disturbed", () => {
    expect(faults.length).toBeGreaterThanOrEqual(Math.floor((seconds * 1_000) / faultEveryMs / 3));
    expect(new Set(faults.map(({ kind }) => kind))).toEqual(new Set(["killed", "stopped"]));
  });

  it("have every turn's end, once and in order", async () => {
    for (const { sessionId, plans } of scripts) {
      const turns = seen.get(sessionId) ?? [];
      expect(turns).toHaveLength(turnCount);
      for (const [index, { finishReason, completionTokens, text, textBytes }] of turns.entries()) {
        const longest = {
          finishReason: FinishReason.LENGTH,
          completionTokens: plans[index]?.maxTokens,
        };
        expect({ finishReason, completionTokens }).toMatchObject(
          finishReason === FinishReason.STOP ? endOf(calm.get(sessionId)?.[index]) : longest,
        );
        expect(new TextEncoder().encode(text)).toHaveLength(textBytes);
      }
      const stored = await transcript(client, sessionId);
      expect(stored.map(({ turn, text }) => ({ turn, text }))).toEqual(
        plans.flatMap(({ text }, index) => [
          { turn: index + 1, text },
          { turn: index + 1, text: turns[index]?.text },
        ]),
      );
    }
  });

  it("say what they would have said without faults", () => {
    expect(calm.size).toBe(
      scripts.filter((script, index) => index < sampleCount || endsEarly(script)).length,
    );
    for (const [sessionId, turns] of calm) {
      expect((seen.get(sessionId) ?? []).map(told)).toEqual(turns.map(told));
    }
  });

  it("find all of their log in the cache where their worker had no fault, and nearly always elsewhere", () => {
    const all = followers();
    const stable = all.filter(
      ({ before, turn }) =>
        turn.placement === PlacementReason.BOUND &&
        turn.worker === before.worker &&
        !hadFault(faults, before.worker, before.fromMs, turn.toMs, ["killed", "stopped"]),
    );
    // A worker that was killed in the meantime, or while the turn before ran, took its caches along.
    const notKilled = all.filter(
      ({ before, turn }) =>
        !hadFault(faults, before.worker, before.fromMs, turn.toMs, ["killed"]) &&
        !hadFault(faults, turn.worker, before.fromMs, turn.toMs, ["killed"]),
    );
    const percent = (share: number): string => `${(share * 100).toFixed(2)} %`;
    const kinds = ["killed", "stopped"].map(
      (kind) => `${faults.filter((fault) => fault.kind === kind).length} ${kind}`,
    );
    const without = all.filter(
      ({ before, turn }) =>
        turn.worker !== before.worker &&
        !hadFault(faults, before.worker, before.fromMs, turn.toMs, ["killed", "stopped"]),
    ).length;
    const reconnects = [...seen.values()].flat().filter((turn) => turn.reconnects > 0).length;
    console.log(
      `${sessionCount} sessions, ${all.length + sessionCount} turns, faults: ${kinds.join(", ")}; ` +
        `prefix hits: ${percent(hitShare(all))} of all ${all.length} turns, ` +
        `${percent(hitShare(notKilled))} of ${notKilled.length} apart from killed workers, ` +
        `${percent(hitShare(stable))} of ${stable.length} on stable ones; ` +
        `${without} turns went elsewhere without a fault, ${reconnects} reconnected, ${refused} came again`,
    );
    expect(stable.length).toBeGreaterThan(0);
    expect(hitShare(stable)).toBe(1);
    expect(hitShare(notKilled)).toBeGreaterThan(hitShareMin);
  });

  it("are all there, and leave no page behind when they are deleted", async () => {
    const listed: string[] = [];
    let pageToken = "";
    do {
      const page = await client.sessions.listSessions({ pageSize: 1_000, pageToken });
      listed.push(...page.sessions.map(({ sessionId }) => sessionId));
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
    const ids = [...scripts.map(({ sessionId }) => sessionId), ...calm.keys()];
    expect(listed).toEqual(expect.arrayContaining(scripts.map(({ sessionId }) => sessionId)));
    expect(listed).toHaveLength(ids.length);
    for (const sessionId of listed) await client.sessions.deleteSession({ sessionId });
    for (const name of names) {
      await expect
        .poll(
          async () => {
            const { sequences, running, queued, pages, pagesFree, cacheBytes, cacheBytesFree } =
              await pool.client(name).getStatus({});
            return {
              ...{ sequences, running, queued },
              ...{ pages: pages - pagesFree, bytes: cacheBytes - cacheBytesFree },
            };
          },
          { timeout: 60_000, interval: 500 },
        )
        .toEqual({ sequences: 0, running: 0, queued: 0, pages: 0n, bytes: 0n });
    }
  });
});
