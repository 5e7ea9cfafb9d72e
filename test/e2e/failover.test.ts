/**
 * Sessions of a pool of three CPU workers behind a gateway in the Workers runtime. A worker that is drained gives its sessions
 * away with their caches. A worker that is killed in the middle of an answer is replaced: the stream goes on after the last
 * token that the client got, and the text is that of an undisturbed run.
 */
import { execFile } from "node:child_process";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createLeanedgeClient, type LeanedgeClient } from "../../src/client/index.js";
import { WorkerState } from "../../src/gen/leanedge/pool/v1/pool_pb.js";
import { PlacementReason, type TurnStarted } from "../../src/gen/leanedge/v1/session_pb.js";
import { longStory } from "../support/conversation.js";
import { startPool, type RunningPool } from "../support/running-pool.js";
import { runOne, talk, transcript, type Sampling, type TurnPlan, type TurnSeen } from "./talk.js";

const names = ["one", "two", "three"];
const samplings: readonly (readonly [string, Sampling])[] = [
  ["temperature 0", { temperature: 0 }],
  ["a seed", { temperature: 0.8, topP: 0.95, seed: 20_261_122n }],
];
// Long enough for its cache to be worth carrying to another worker.
const before: readonly TurnPlan[] = [
  {
    text:
      "The special magic number for harbor is 4827193. It stands on the wall in white letters, where everybody who " +
      "comes in from the sea can read it, and nobody knows who wrote it there, or when, or what it was good for.",
    maxTokens: 14,
  },
  { text: "What is the special magic number for harbor mentioned in the text?", maxTokens: 14 },
];
const story = { text: longStory, maxTokens: 100 };
const after = [
  { text: "What is the special magic number for harbor mentioned in the text?", maxTokens: 14 },
];
/** Bytes that the client has when the worker is killed. */
const bytesBeforeKill = 80;
/** Sessions until one is on a given worker of three: idle ones count, so the workers fill evenly. */
const placementsMax = 24;
/** Until the pool misses a worker that is gone: three heartbeats, on a busy machine. */
const missesMsMax = 60_000;
/** Until a bound session has heard of a drain: a view's age and some turns, on a busy machine. */
const hearsMsMax = 60_000;

let pool: RunningPool;
let client: LeanedgeClient;

beforeAll(async () => {
  // No cache is saved between turns: what a killed worker held is lost.
  pool = await startPool(names, ["--snapshot-idle", "3600"]);
  client = createLeanedgeClient({ baseUrl: pool.gateway.url, key: pool.gateway.key });
});

afterAll(() => pool.close());

/** The tokens of a turn, as its client saw them. */
function told({ text, completionTokens, finishReason, textBytes }: TurnSeen): unknown {
  return { text, completionTokens, finishReason, textBytes };
}

/** What `leanedge pool` prints. */
async function poolCommand(...options: readonly string[]): Promise<string> {
  const root = resolve(import.meta.dirname, "../..");
  const { stdout } = await promisify(execFile)(
    process.execPath,
    [
      ...["--import", "tsx", join(root, "src/cli/main.ts"), "pool", ...options],
      ...["--gateway", pool.gateway.url, "--admin-token-file", pool.adminTokenFile],
    ],
    { cwd: root, timeout: 30_000 },
  );
  return stdout;
}

/** Runs a turn, and says who answered it and why. */
async function seenTurn(
  session: string,
  turn: number,
  plan: TurnPlan,
): Promise<TurnSeen & { readonly worker: string; readonly placement: PlacementReason }> {
  let last: TurnStarted | undefined;
  const seen = await runOne(client, session, turn, plan, { temperature: 0 }, (event) => {
    if (event.type === "started") last = event.started;
  });
  return {
    ...seen,
    worker: last?.worker ?? "",
    placement: last?.placement ?? PlacementReason.UNSPECIFIED,
  };
}

/** Snapshots that the workers have put back since their start. */
async function snapshotsRestored(): Promise<bigint> {
  const counts = names.map(
    async (name) => (await pool.client(name).getStatus({})).snapshotsRestored,
  );
  return (await Promise.all(counts)).reduce((sum, count) => sum + count, 0n);
}

/** Begins sessions until one is placed on a worker; returns its id. */
async function sessionOn(worker: string, plan: TurnPlan): Promise<string> {
  for (let index = 1; index <= placementsMax; index++) {
    const session = `beside ${index}`;
    if ((await seenTurn(session, 1, plan)).worker === worker) return session;
  }
  throw new Error(`none of ${placementsMax} sessions was placed on worker ${worker}`);
}

describe("a worker that people drain", () => {
  it("gives its session away with its cache, and gets no new one until it is resumed", async () => {
    const [fact, question] = before;
    if (fact === undefined || question === undefined) throw new Error("there are no turns");
    await seenTurn("undisturbed", 1, fact);
    await seenTurn("undisturbed", 2, question);
    const undisturbed = await seenTurn("undisturbed", 3, question);
    const first = await seenTurn("drained", 1, fact);
    const second = await seenTurn("drained", 2, question);
    expect([PlacementReason.LOAD, PlacementReason.HASH]).toContain(first.placement);
    expect(second).toMatchObject({ worker: first.worker, placement: PlacementReason.BOUND });
    // Bound to the same worker: once it moves, the isolate that runs the sessions has heard of the drain.
    const beside = await sessionOn(first.worker, fact);

    expect(await poolCommand("drain", first.worker)).toMatch(
      new RegExp(`${first.worker} +registered +draining .* drained by an operator`),
    );
    const other = await seenTurn("placed while one drains", 1, fact);
    expect(other.worker).not.toBe(first.worker);
    // A bound session hears of it beside a turn, and moves with the next one.
    await expect
      .poll(async () => (await seenTurn(beside, 0, fact)).placement, {
        interval: 500,
        timeout: hearsMsMax,
      })
      .toBe(PlacementReason.MOVED);

    const restoredBefore = await snapshotsRestored();
    const third = await seenTurn("drained", 3, question);
    expect(third.placement).toBe(PlacementReason.MOVED);
    expect(third.worker).not.toBe(first.worker);
    // The last token of an answer that was cut off is not in the cache yet: all else came along.
    expect(third.cachedTokens).toBeGreaterThanOrEqual(
      second.promptTokens + second.completionTokens - 1,
    );
    expect(await snapshotsRestored()).toBe(restoredBefore + 1n);
    expect(third.text).toBe(undisturbed.text);
    const fourth = await seenTurn("drained", 4, question);
    expect(fourth).toMatchObject({ worker: third.worker, placement: PlacementReason.BOUND });

    await poolCommand("resume", first.worker);
    expect(await poolCommand("list")).toMatch(
      new RegExp(`${first.worker} +registered +ready +closed`),
    );
  });
});

describe("a worker that is killed in the middle of an answer", () => {
  it.each(samplings)(
    "is replaced: the stream is that of an undisturbed run, at %s",
    async (name, sampling) => {
      const calm = `calm at ${name}`;
      const undisturbed = [
        ...(await talk(client, calm, 1, before, sampling)),
        await runOne(client, calm, 3, story, sampling),
        ...(await talk(client, calm, 4, after, sampling)),
      ];

      const session = `killed at ${name}`;
      const disturbed = await talk(client, session, 1, before, sampling);
      const tokens: number[] = [];
      const placements: PlacementReason[] = [];
      let victim = "";
      let killed: Promise<void> | undefined;
      const answer = await runOne(client, session, 3, story, sampling, (event, text) => {
        if (event.type === "started") {
          const { started } = event;
          placements.push(started.placement);
          if (victim === "") victim = started.worker;
        }
        if (event.type !== "delta") return;
        tokens.push(event.completionTokens);
        if (killed === undefined && new TextEncoder().encode(text).length >= bytesBeforeKill) {
          killed = pool.kill(victim);
        }
      });
      await killed;
      disturbed.push(answer, ...(await talk(client, session, 4, after, sampling)));

      // It was in the middle of the answer, and the client's own stream never broke.
      expect(killed).toBeDefined();
      expect(answer.textBytes).toBeGreaterThan(bytesBeforeKill);
      expect(answer.reconnects).toBe(0);
      expect(placements.at(-1)).toBe(PlacementReason.BOUND);
      // No byte twice, none missing.
      expect(new TextEncoder().encode(answer.text)).toHaveLength(answer.textBytes);
      expect(tokens).toEqual([...new Set(tokens)].sort((a, b) => a - b));
      expect(disturbed.map(told)).toEqual(undisturbed.map(told));
      expect(await transcript(client, session)).toEqual(await transcript(client, calm));

      // The binding changed once, and holds: the turn after finds its cache there.
      const { session: bound } = await client.sessions.getSession({ sessionId: session });
      expect(bound?.worker).not.toBe(`pool:default/${victim}`);
      expect(disturbed[3]?.cachedTokens).toBeGreaterThanOrEqual(
        answer.promptTokens + answer.completionTokens - 1,
      );

      // The pool notices, and takes the worker back when a new process of it comes.
      await expect
        .poll(async () => (await pool.state(victim)).state, { timeout: missesMsMax })
        .toBe(WorkerState.NOT_READY);
      await pool.start(victim);
    },
  );
});
