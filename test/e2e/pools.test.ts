/**
 * A gateway with two pools, a region each: the second serves while the first is full or gone, and sessions stay where they
 * are bound. And a worker that is told to end while it answers: its sessions move away, and their caches with them.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createLeanedgeClient, type LeanedgeClient } from "../../src/client/index.js";
import { WorkerState } from "../../src/gen/leanedge/pool/v1/pool_pb.js";
import { FinishReason, PlacementReason } from "../../src/gen/leanedge/v1/session_pb.js";
import { poolWorkers, writePoolTokens, type PoolWorkers } from "../support/pool-workers.js";
import { startWorkerdGateway, type WorkerdGateway } from "../support/workerd-gateway.js";
import { poolVars, poolWorkerOptions, writePoolModel } from "../support/workerd-pool.js";
import { cachedAfter, runPlaced, talkPlaced, told, type PlacedTurn } from "./seen-turn.js";
import type { TurnPlan } from "./talk.js";

const plans: readonly TurnPlan[] = ["harbor", "garden", "bridge", "market"].map((place) => ({
  text: `Tell me what is at the ${place}.`,
  maxTokens: 10,
}));
/** Lasts until it is cancelled. */
const endless: TurnPlan = { text: "Tell me a story that does not end.", maxTokens: 30_000 };
const stateMsMax = 60_000;

let gateway: WorkerdGateway;
let east: PoolWorkers;
let west: PoolWorkers;
let client: LeanedgeClient;

beforeAll(async () => {
  const tokens = await writePoolTokens();
  const model = await writePoolModel(tokens.folder);
  gateway = await startWorkerdGateway({ vars: { ...poolVars, LEANEDGE_POOLS: "east,west" } });
  client = createLeanedgeClient({ baseUrl: gateway.url, key: gateway.key });
  const options = [...poolWorkerOptions(model), "--drain", "120"];
  east = poolWorkers(gateway.url, tokens, options, "east");
  west = poolWorkers(gateway.url, tokens, options, "west");
  // One sequence at a time: whoever comes while it answers finds it full.
  await Promise.all([
    east.start("east-1", "--sequences", "1"),
    west.start("west-1"),
    west.start("west-2"),
  ]);
});

afterAll(async () => {
  await Promise.all([east.close(), west.close()]);
  await gateway.close();
});

/** An answer that goes on until `end` is called. */
async function answering(
  sessionId: string,
  turn: number,
): Promise<{ readonly worker: string; end(): Promise<PlacedTurn> }> {
  let begun: (worker: string) => void = () => undefined;
  const first = new Promise<string>((resolve) => {
    begun = resolve;
  });
  let worker = "";
  const done = runPlaced(client, sessionId, turn, endless, { temperature: 0 }, (event) => {
    if (event.type === "started") worker = event.started.worker;
    if (event.type === "delta") begun(worker);
  });
  return {
    worker: await Promise.race([first, done.then((seen) => seen.worker)]),
    async end() {
      await client.sessions.cancelTurn({ sessionId, turn });
      return done;
    },
  };
}

async function one(sessionId: string, turn: number): Promise<PlacedTurn> {
  const plan = plans[turn - 1];
  if (plan === undefined) throw new Error(`there is no turn ${turn}`);
  return runPlaced(client, sessionId, turn, plan);
}

describe("two pools", () => {
  it("give a session to the first one that has room", async () => {
    expect((await one("nearest", 1)).worker).toBe("east-1");
    const held = await answering("holds the east", 1);
    expect(held.worker).toBe("east-1");
    const other = await one("came while the east was full", 1);
    expect(other.worker).toMatch(/^west-/);
    expect((await held.end()).finishReason).toBe(FinishReason.CANCELLED);
    // There is room in the east again, of which the pool hears with a heartbeat; who is bound in the west stays there.
    let tries = 0;
    await expect
      .poll(async () => (await one(`came later ${++tries}`, 1)).worker, {
        timeout: stateMsMax,
        interval: 500,
      })
      .toBe("east-1");
    const bound = await one("came while the east was full", 2);
    expect(bound).toMatchObject({ worker: other.worker, placement: PlacementReason.BOUND });
    expect(bound.cachedTokens).toBe(cachedAfter(other));
  });

  it("serve what the first one had bound when it is gone, and new sessions again when it is back", async () => {
    const calm = await talkPlaced(client, "stays in the east", 1, plans);
    const turns = [await one("loses the east", 1), await one("loses the east", 2)];
    expect(turns[1]).toMatchObject({ worker: "east-1", placement: PlacementReason.BOUND });
    await east.kill("east-1");
    turns.push(await one("loses the east", 3));
    expect(turns[2]?.worker).toMatch(/^west-/);
    expect(turns[2]?.placement).toBe(PlacementReason.FAILOVER);
    await expect
      .poll(async () => (await east.state("east-1")).state, { timeout: stateMsMax })
      .toBe(WorkerState.NOT_READY);
    expect((await one("came while the east was gone", 1)).worker).toMatch(/^west-/);
    await east.start("east-1");
    expect((await one("came when the east was back", 1)).worker).toBe("east-1");
    turns.push(await one("loses the east", 4));
    expect(turns[3]).toMatchObject({ worker: turns[2]?.worker, placement: PlacementReason.BOUND });
    expect(turns.map(told)).toEqual(calm.map(told));
  });
});

describe("a worker that is told to end", () => {
  it("gives its sessions away with their caches while it still answers, and ends in order", async () => {
    const calm = await talkPlaced(client, "nothing happens to it", 1, plans);
    // All of them are on the one worker of the east, which has room for all since it came back.
    const names = ["moves first", "moves second", "moves third"];
    const turns = new Map<string, PlacedTurn[]>();
    for (const name of names) turns.set(name, [await one(name, 1), await one(name, 2)]);
    const held = await answering("keeps it up", 1);
    expect(held.worker).toBe("east-1");
    const ending = east.workers.get("east-1");
    if (ending === undefined) throw new Error("there is no such worker");
    ending.signal("SIGTERM");
    // It may be a while until its process sees the signal: a call that comes before is answered as ever.
    await expect
      .poll(async () => (await east.client("east-1").getStatus({})).draining, {
        timeout: stateMsMax,
      })
      .toBe(true);

    for (const name of names) {
      const seen = turns.get(name) ?? [];
      const last = seen[1];
      if (last === undefined) throw new Error("there is no turn before");
      expect(last.worker).toBe("east-1");
      const moved = await one(name, 3);
      expect(moved.worker).toMatch(/^west-/);
      expect(moved.placement).toBe(PlacementReason.MOVED);
      expect(moved.cachedTokens).toBe(cachedAfter(last));
      seen.push(moved, await one(name, 4));
      expect(seen[3]).toMatchObject({ worker: moved.worker, placement: PlacementReason.BOUND });
      expect(seen.map(told)).toEqual(calm.map(told));
    }
    const restored = await Promise.all(
      ["west-1", "west-2"].map((name) => west.client(name).getStatus({})),
    );
    expect(restored.map((status) => status.snapshotsRestored).reduce((a, b) => a + b)).toBe(3n);

    expect((await held.end()).finishReason).toBe(FinishReason.CANCELLED);
    expect(await ending.exited).toBe(0);
    const { workers } = await east.admin.listWorkers({ pool: "east" });
    expect(workers.map(({ name }) => name)).not.toContain("east-1");
  });
});
