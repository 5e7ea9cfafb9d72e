/**
 * Gateways in front of a pool of three CPU workers that are killed, lose their PoolObject's storage, or cannot reach it. The
 * workers live on, and with them the caches: no client loses a byte or gets one twice, and bound sessions go on at once.
 */
import { Code } from "@connectrpc/connect";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createLeanedgeClient, type LeanedgeClient } from "../../src/client/index.js";
import { PlacementReason, Role } from "../../src/gen/leanedge/v1/session_pb.js";
import { startWorkerdPool, type WorkerdPool } from "../support/workerd-pool.js";
import { cachedAfter, runPlaced, talkPlaced, told, type PlacedTurn } from "./seen-turn.js";
import { transcript, type Sampling, type TurnPlan } from "./talk.js";

const names = ["one", "two", "three"];
const samplings: readonly (readonly [string, Sampling])[] = [
  ["temperature 0", { temperature: 0 }],
  ["a seed", { temperature: 0.8, topP: 0.95, seed: 20_261_122n }],
];
const places = ["harbor", "garden", "bridge", "market"];
const before: readonly TurnPlan[] = places.map((place) => ({
  text: `Tell me what is at the ${place}.`,
  maxTokens: 10,
}));
/** Takes seconds: far longer than it takes to kill a process. */
const long: TurnPlan = { text: "Now tell me a long story of all that.", maxTokens: 1_200 };
const after: readonly TurnPlan[] = [
  { text: "And then?", maxTokens: 10 },
  { text: "And in the end?", maxTokens: 10 },
];
/** Bytes that the client has when the gateway is killed. */
const bytesBeforeKill = 60;
const readyMsMax = 60_000;

let pool: WorkerdPool;
let client: LeanedgeClient;
/** Makes each try of a test a session of its own. */
let tries = 0;
const undisturbed = new Map<string, PlacedTurn[]>();

beforeAll(async () => {
  pool = await startWorkerdPool({ names });
  client = createLeanedgeClient({ baseUrl: pool.gateway.url, key: pool.gateway.key });
  for (const [name, sampling] of samplings) {
    const plans = [...before, long, ...after];
    undisturbed.set(name, await talkPlaced(client, `calm at ${name}`, 1, plans, sampling));
  }
});

afterAll(() => pool.close());

/** The turns of the session that nothing happened to. */
function calm(name: string): readonly PlacedTurn[] {
  const turns = undisturbed.get(name);
  if (turns === undefined) throw new Error(`there was no session at ${name}`);
  return turns;
}

/** Each turn after the first ran on the worker of the one before, which had all of its log cached. */
function expectStayed(turns: readonly PlacedTurn[]): void {
  for (const [index, turn] of turns.slice(1).entries()) {
    const last = turns[index];
    if (last === undefined) throw new Error("there is no turn before");
    expect(turn).toMatchObject({ worker: last.worker, placement: PlacementReason.BOUND });
    expect(turn.cachedTokens).toBe(cachedAfter(last));
  }
}

/** Runs a session's first turn once, without coming back where it fails. */
async function runOnce(sessionId: string): Promise<void> {
  const messages = [{ role: Role.USER, text: "Is anybody there?" }];
  for await (const { event } of client.sessions.generate({ sessionId, turn: 1, messages })) {
    if (event.case === "finished") return;
  }
}

describe("an undisturbed session", () => {
  it.each(samplings)("stays with its worker and finds all of its log cached, at %s", (name) => {
    expectStayed(calm(name));
  });
});

describe("a gateway that is killed in the middle of an answer", () => {
  // A machine that starves a worker of heartbeats makes its session leave it: then the whole is done again.
  it.each(samplings)(
    "gives every byte once, and goes on with the caches of its workers, at %s",
    { retry: 2 },
    async (name, sampling) => {
      const session = `killed at ${name}, ${++tries}`;
      const turns = await talkPlaced(client, session, 1, before, sampling);
      let cutAt = 0;
      let restarted: Promise<void> | undefined;
      const tokens: number[] = [];
      const turn = before.length + 1;
      const whole = await runPlaced(client, session, turn, long, sampling, (event, text) => {
        if (event.type !== "delta") return;
        tokens.push(event.completionTokens);
        const bytes = new TextEncoder().encode(text).length;
        if (restarted === undefined && bytes >= bytesBeforeKill) {
          cutAt = bytes;
          restarted = pool.gateway.kill().then(() => pool.gateway.start());
        }
      });
      await restarted;
      turns.push(whole, ...(await talkPlaced(client, session, turn + 1, after, sampling)));

      expect(cutAt).toBeGreaterThanOrEqual(bytesBeforeKill);
      expect(cutAt).toBeLessThan(whole.textBytes);
      expect(whole.reconnects).toBeGreaterThanOrEqual(1);
      expect(new TextEncoder().encode(whole.text)).toHaveLength(whole.textBytes);
      expect(tokens).toEqual([...new Set(tokens)].sort((a, b) => a - b));
      expect(turns.map(told)).toEqual(calm(name).map(told));
      expect(await transcript(client, session)).toEqual(
        await transcript(client, `calm at ${name}`),
      );
      // The worker kept the cache all the time.
      const last = turns.at(-3);
      expect(turns.map(({ worker }) => worker)).toEqual(turns.map(() => turns[0]?.worker));
      expect(turns.at(-2)?.cachedTokens).toBe(last === undefined ? 0 : cachedAfter(last));
    },
  );

  it("ends the turn of a client that never comes back", async () => {
    const session = "left alone";
    const [name, sampling] = ["temperature 0", { temperature: 0 }] as const;
    await talkPlaced(client, session, 1, before, sampling);
    const turn = before.length + 1;
    let bytes = 0;
    for await (const event of client.runTurn({
      sessionId: session,
      turn,
      text: long.text,
      sampling: { ...sampling, maxTokens: long.maxTokens },
    })) {
      if (event.type === "delta") bytes += new TextEncoder().encode(event.text).length;
      if (bytes < bytesBeforeKill) continue;
      // Whatever another call is told is stored; what is only shown need not be yet.
      await client.sessions.getSession({ sessionId: session });
      // Killed before it can see that the client leaves, which would end the turn.
      await pool.gateway.kill();
      break;
    }
    await pool.gateway.start();
    await expect
      .poll(
        async () => {
          const { session: stored } = await client.sessions.getSession({ sessionId: session });
          return stored?.runningTurn;
        },
        { timeout: readyMsMax, interval: 250 },
      )
      .toBe(0);
    const stored = await transcript(client, session);
    expect(stored.map(({ text }) => text)).toEqual(
      (await transcript(client, `calm at ${name}`)).slice(0, 2 * turn).map(({ text }) => text),
    );
  });
});

describe("a gateway whose PoolObject lost everything", () => {
  it("goes on with bound sessions at once, and its workers register again by themselves", async () => {
    const session = "bound to a forgotten worker";
    const turns = await talkPlaced(client, session, 1, before);
    await pool.gateway.kill();
    await pool.gateway.forget("PoolObject");
    await pool.gateway.start();
    turns.push(...(await talkPlaced(client, session, before.length + 1, after)));
    expectStayed(turns);
    for (const name of names) await pool.ready(name);
    const [fresh] = await talkPlaced(client, "placed anew", 1, before);
    expect(names).toContain(fresh?.worker);
    expect([PlacementReason.LOAD, PlacementReason.HASH]).toContain(fresh?.placement);
  });
});

describe.each(["throws", "hangs"] as const)("a gateway whose PoolObject %s", (fault) => {
  it("goes on with bound sessions, each with its cache", async () => {
    const session = `bound while the pool ${fault}`;
    const turns = await talkPlaced(client, session, 1, before);
    await pool.gateway.kill();
    await pool.gateway.start(fault);
    turns.push(...(await talkPlaced(client, session, before.length + 1, after)));
    expectStayed(turns);
    expect(turns.map(({ reconnects }) => reconnects)).toEqual(turns.map(() => 0));
    if (fault === "throws") {
      // Nobody knows a worker for a new one; it is told so, and may come again.
      await expect(runOnce("new while the pool throws")).rejects.toMatchObject({
        code: Code.Unavailable,
      });
    }
    await pool.gateway.kill();
    await pool.gateway.start();
    for (const name of names) await pool.ready(name);
    const [fresh] = await talkPlaced(client, `placed after the pool ${fault}`, 1, before);
    expect(names).toContain(fresh?.worker);
  });
});
