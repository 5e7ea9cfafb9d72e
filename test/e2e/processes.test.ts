/**
 * One gateway of three processes. Sessions, indexes, engines and keys are spread over them, connections come to any of
 * them, and a client must not see which.
 */
import { execFile } from "node:child_process";
import { readdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { objectId } from "../../src/cli/object-id.js";
import { sessionClassKey } from "../../src/cli/session-objects.js";
import { createLeanedgeClient, type LeanedgeClient } from "../../src/client/index.js";
import type { GatewayStatus } from "../../src/gateway/http/status-figures.js";
import { sessionObjectName } from "../../src/gateway/objects/session-name.js";
import { sharedName, sharedOf } from "../../src/gateway/objects/shared-name.js";
import { FinishReason } from "../../src/gen/leanedge/v1/session_pb.js";
import { longStory } from "../support/conversation.js";
import { startGateway, type RunningGateway } from "../support/running-gateway.js";
import { protocols } from "./protocols.js";
import { runOne, talk, transcript, type TurnPlan, type TurnSeen } from "./talk.js";

const processes = 3;
const temperature = 0;
/** Enough for each process to keep some; the ids are fixed. */
const sessionIds = Array.from({ length: 12 }, (_, index) => `spread-${index}`);
const plans: readonly TurnPlan[] = [
  { text: "The special magic number for harbor is 4827193.", maxTokens: 8 },
  { text: "What is the special magic number for harbor mentioned in the text?", maxTokens: 12 },
];
/** Longest wait for an index that is told, and for engines with nothing to do after a client left; how its answer ended tells whether it was stopped. */
const idleMsMax = 30_000;

let gateway: RunningGateway;
let client: LeanedgeClient;
let seen: TurnSeen[][];

async function workers(): Promise<GatewayStatus["workers"]> {
  const response = await fetch(`${gateway.url}/v1/status`, {
    headers: { authorization: `Bearer ${gateway.key}` },
  });
  return ((await response.json()) as GatewayStatus).workers;
}

/** Steps of all engines together, and what runs. */
async function work(): Promise<{ steps: number; running: number }> {
  let [steps, running] = [0, 0];
  for (const worker of await workers()) {
    if ("error" in worker) throw new Error(`no status: ${JSON.stringify(worker)}`);
    steps += worker.steps;
    running += worker.running + worker.queued;
  }
  return { steps, running };
}

/** Ids of the objects of a class that each process keeps. */
async function kept(classKey: string): Promise<string[][]> {
  const all: string[][] = [];
  for (let index = 0; index < processes; index++) {
    const folder = join(gateway.state, "objects", `${index}-of-${processes}`, classKey);
    const files = await readdir(folder).catch(() => []);
    const ids = files.flatMap((file) => /^([0-9a-f]{64})\.sqlite$/.exec(file)?.[1] ?? []);
    all.push(ids.sort());
  }
  return all;
}

/** Index of the shared object that holds a session. */
function sharedBy(sessionId: string): number {
  return sharedOf(sessionObjectName("dev", sessionId), processes);
}

/** Ids of the objects of sessions by the process that is to keep them. */
function expected(ids: readonly string[]): string[][] {
  const indices = [...new Set(ids.map(sharedBy))];
  return Array.from({ length: processes }, (_, process) =>
    indices
      .filter((index) => index % processes === process)
      .map((index) => objectId(sessionClassKey, sharedName(index)))
      .sort(),
  );
}

beforeAll(async () => {
  gateway = await startGateway("--processes", String(processes));
  client = createLeanedgeClient({ baseUrl: gateway.url, key: gateway.key });
  seen = await Promise.all(sessionIds.map((id) => talk(client, id, 1, plans, { temperature })));
});

afterAll(() => gateway.close());

describe("sessions over three processes", () => {
  it("are kept by all of them, and answered by an engine of each", async () => {
    const objects = await kept(sessionClassKey);
    expect(objects).toEqual(expected(sessionIds));
    for (const { length } of objects) expect(length).toBeGreaterThan(0);
    const engines = await workers();
    expect(engines).toHaveLength(processes);
    for (const engine of engines) expect(engine).toMatchObject({ backend: "wasm" });
  });

  it("find their cache, and answer alike", () => {
    const [first = []] = seen;
    for (const turns of seen) {
      expect(turns.map(({ text }) => text)).toEqual(first.map(({ text }) => text));
      expect(turns[0]?.cachedTokens).toBe(0);
      expect(turns[1]?.cachedTokens).toBeGreaterThanOrEqual(turns[0]?.promptTokens ?? NaN);
    }
  });

  it("are all in their tenant's one list", async () => {
    expect((await kept("leanedge-TenantObject")).flat()).toHaveLength(1);
    await expect
      .poll(
        async () => {
          const { sessions } = await client.sessions.listSessions({ pageSize: 100 });
          return sessions.map(({ sessionId }) => sessionId).sort();
        },
        { timeout: idleMsMax },
      )
      .toEqual([...sessionIds].sort());
  });

  it("are forked from one process to another, and deleted", async () => {
    const [source = ""] = sessionIds;
    const forks = Array.from({ length: 6 }, (_, index) => `fork-${index}`);
    for (const newSessionId of forks) {
      await client.sessions.forkSession({ sessionId: source, turn: 2, newSessionId });
      expect(await transcript(client, newSessionId)).toEqual(await transcript(client, source));
    }
    expect(await kept(sessionClassKey)).toEqual(expected([...sessionIds, ...forks]));
    expect(new Set(forks.map((id) => sharedBy(id) % processes)).size).toBe(processes);
    for (const sessionId of forks) await client.sessions.deleteSession({ sessionId });
    await expect(client.sessions.getSession({ sessionId: forks[0] ?? "" })).rejects.toThrow();
  });
});

describe.each(protocols)("%s to three processes", (name, protocol) => {
  it("streams what a session of each says", async () => {
    const texts = await Promise.all(
      Array.from({ length: 4 }, async (_, index) => {
        let text = "";
        const ask = { sessionId: `${name} ${index}`, text: longStory, maxTokens: 12 };
        for await (const piece of protocol(gateway, ask, new AbortController().signal)) {
          text += piece;
        }
        return text;
      }),
    );
    expect(texts[0]).not.toBe("");
    expect(new Set(texts).size).toBe(1);
  });

  it("stops the engine when its client leaves, wherever the session is kept", async () => {
    for (let index = 0; index < 4; index++) {
      await expect.poll(async () => (await work()).running, { timeout: idleMsMax }).toBe(0);
      const sessionId = `left ${name} ${index}`;
      const leaving = new AbortController();
      const ask = { sessionId, text: longStory, maxTokens: 3_000 };
      const pieces: string[] = [];
      try {
        for await (const piece of protocol(gateway, ask, leaving.signal)) {
          pieces.push(piece);
          if (pieces.length === 3) leaving.abort();
        }
      } catch {
        // Each client has its own words for a stream that it closed itself.
      }
      expect(pieces.length).toBeGreaterThanOrEqual(3);
      await expect.poll(async () => (await work()).running, { timeout: idleMsMax }).toBe(0);
      const { steps } = await work();
      await sleep(200);
      expect((await work()).steps).toBe(steps);
      const { messages } = await client.sessions.listMessages({ sessionId });
      expect(messages[1]).toMatchObject({ finishReason: FinishReason.CANCELLED });
    }
  });
});

describe("a gateway of three processes that is killed", () => {
  it("goes on with every answer, each byte once, and remembers", async () => {
    const ids = Array.from({ length: 4 }, (_, index) => `killed-${index}`);
    const plan = { text: longStory, maxTokens: 60 };
    const calm = await runOne(client, "calm", 1, plan, { temperature });
    let restarted: Promise<void> | undefined;
    const begun = new Set<string>();
    const answers = await Promise.all(
      ids.map((id) =>
        runOne(client, id, 1, plan, { temperature }, ({ type }) => {
          if (type !== "delta") return;
          begun.add(id);
          if (begun.size === ids.length) restarted ??= gateway.restart();
        }),
      ),
    );
    await restarted;
    expect(answers.map(({ text }) => text)).toEqual(ids.map(() => calm.text));
    expect(answers.some(({ reconnects }) => reconnects > 0)).toBe(true);
    for (const [index, id] of sessionIds.entries()) {
      expect((await transcript(client, id)).map(({ text }) => text)).toEqual(
        plans.flatMap(({ text }, at) => [text, seen[index]?.[at]?.text ?? ""]),
      );
    }
  });

  it("is not started with another number of processes, until its sessions were spread over them", async () => {
    const [first = ""] = sessionIds;
    const storage = join(gateway.state, "objects");
    await expect(spread(storage, 2)).rejects.toThrow(/a gateway runs over .*: end it first/);
    // One line says it, and the last one.
    await expect(gateway.restart("--processes", "2")).rejects.toThrow(
      /\nthe sessions in .* are those of 3 gateway processes, not 2; "leanedge spread .*" moves them\n+$/,
    );
    for (const count of [2, 1, 3]) {
      expect(await spread(storage, count)).toMatch(
        /^[1-9][0-9]* sessions moved to other objects\n[1-9][0-9]* objects moved in /,
      );
      await gateway.restart("--processes", String(count));
      for (const [index, id] of sessionIds.entries()) {
        const texts = (await transcript(client, id)).map(({ text }) => text);
        expect(texts).toEqual(
          plans.flatMap(({ text }, at) => [text, seen[index]?.[at]?.text ?? ""]),
        );
      }
      const { sessions } = await client.sessions.listSessions({ pageSize: 100 });
      expect(sessions.map(({ sessionId }) => sessionId)).toEqual(
        expect.arrayContaining([...sessionIds]),
      );
      await gateway.kill();
    }
    await gateway.restart();
    const [plan] = plans;
    if (plan === undefined) throw new Error("there is no turn");
    expect((await runOne(client, first, 3, plan, { temperature })).text).not.toBe("");
  });
});

/** Runs `leanedge spread`; what it says. Rejects with what it says where it fails. */
async function spread(storage: string, count: number): Promise<string> {
  const { stdout } = await promisify(execFile)(process.execPath, [
    ...["--import", "tsx", resolve(import.meta.dirname, "../../src/cli/main.ts"), "spread"],
    ...["--storage", storage, "--processes", String(count)],
  ]);
  return stdout;
}
