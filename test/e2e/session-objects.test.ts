/**
 * Objects that hold sessions, in the storage of a gateway on workerd: sessions share them where a storage begins, and keep
 * one each in a storage of before they could, until they are moved.
 */
import { mkdir, readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { Code } from "@connectrpc/connect";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { objectId } from "../../src/cli/object-id.js";
import { sessionClassKey } from "../../src/cli/session-objects.js";
import { storageOf } from "../../src/cli/storage-parts.js";
import { createLeanedgeClient, type LeanedgeClient } from "../../src/client/index.js";
import { sessionObjectName } from "../../src/gateway/objects/session-name.js";
import { sharedName, sharedOf } from "../../src/gateway/objects/shared-name.js";
import { PlacementReason, Role } from "../../src/gen/leanedge/v1/session_pb.js";
import { startWorkerdPool, type WorkerdPool } from "../support/workerd-pool.js";
import { cachedAfter, runPlaced, talkPlaced, type PlacedTurn } from "./seen-turn.js";
import { transcript, type StoredMessage, type TurnPlan } from "./talk.js";

const plans: readonly TurnPlan[] = [
  { text: "What is at the harbor?", maxTokens: 10 },
  { text: "Who lives in the garden?", maxTokens: 10 },
];
const next: TurnPlan = { text: "And then?", maxTokens: 10 };

let pool: WorkerdPool;
let client: LeanedgeClient;

beforeAll(async () => {
  pool = await startWorkerdPool({ names: ["one"] });
  client = createLeanedgeClient({ baseUrl: pool.gateway.url, key: pool.gateway.key });
});

afterAll(() => pool.close());

/** Ids of the objects of sessions that process `index` of `count` keeps. */
async function kept(index = 0, count = 1): Promise<string[]> {
  const folder = storageOf(pool.gateway.storage, index, count);
  const files = await readdir(join(folder, sessionClassKey));
  return files.flatMap((file) => /^([0-9a-f]{64})\.sqlite$/.exec(file)?.[1] ?? []).sort();
}

/** What the storage says of them. */
function said(): Promise<string> {
  return readFile(join(pool.gateway.storage, "sessions.json"), "utf8");
}

function messages(turns: readonly PlacedTurn[]): StoredMessage[] {
  return turns.flatMap(({ text }, index) => [
    { turn: index + 1, role: Role.USER, text: plans[index]?.text ?? "" },
    { turn: index + 1, role: Role.ASSISTANT, text },
  ]);
}

describe("sessions that share objects", () => {
  const sessionIds = Array.from({ length: 40 }, (_, index) => `session-${index}`);
  let seen: PlacedTurn[][];

  beforeAll(async () => {
    seen = await Promise.all(sessionIds.map((id) => talkPlaced(client, id, 1, plans)));
  });

  it("are all in one, where one process serves them", async () => {
    expect(await kept()).toEqual([objectId(sessionClassKey, sharedName(0))]);
    expect(await said()).toBe('{"objects":1}\n');
  });

  it("are apart, and all in their tenant's list", async () => {
    const [first = []] = seen;
    for (const [index, id] of sessionIds.entries()) {
      expect(seen[index]?.map(({ text }) => text)).toEqual(first.map(({ text }) => text));
      expect(await transcript(client, id)).toEqual(messages(first));
    }
    await expect
      .poll(async () => {
        const { sessions } = await client.sessions.listSessions({ pageSize: 100 });
        return sessions.map(({ sessionId }) => sessionId).sort();
      })
      .toEqual([...sessionIds].sort());
  });

  it("are found again after a crash, each with its worker and cache", async () => {
    await pool.gateway.kill();
    await pool.gateway.start();
    const turns = await Promise.all(
      sessionIds.map((id) => runPlaced(client, id, plans.length + 1, next)),
    );
    for (const [index, turn] of turns.entries()) {
      const last = seen[index]?.at(-1);
      expect(turn).toMatchObject({ text: turns[0]?.text, placement: PlacementReason.BOUND });
      expect(turn.cachedTokens).toBe(last === undefined ? NaN : cachedAfter(last));
    }
  });

  it("are deleted and made anew one by one", async () => {
    const [gone = "", other = ""] = sessionIds;
    await client.sessions.deleteSession({ sessionId: gone });
    await expect(client.sessions.getSession({ sessionId: gone })).rejects.toMatchObject({
      code: Code.NotFound,
    });
    expect(await transcript(client, other)).toHaveLength(2 * (plans.length + 1));
    const again = await talkPlaced(client, gone, 1, plans);
    expect(again[0]?.cachedTokens).toBe(0);
    expect(await transcript(client, gone)).toEqual(messages(again));
    await pool.gateway.kill();
    await pool.gateway.start();
    expect(await transcript(client, gone)).toEqual(messages(again));
  });
});

describe("a storage of before sessions could share objects", () => {
  const before = "kept before";
  const id = objectId(sessionClassKey, sessionObjectName("dev", before));
  const told: readonly StoredMessage[] = [
    { turn: 1, role: Role.USER, text: "What is at the harbor?" },
    { turn: 1, role: Role.ASSISTANT, text: "(JuqLsPlsPlX(C(C" },
    { turn: 2, role: Role.USER, text: "Who lives in the garden?" },
    { turn: 2, role: Role.ASSISTANT, text: "HnDlwMJ,A?(ClZ" },
  ];

  beforeAll(async () => {
    await pool.gateway.kill();
    await pool.gateway.forget("SessionObject");
    await pool.gateway.forget("TenantObject");
    await rm(join(pool.gateway.storage, "sessions.json"));
    const folder = join(pool.gateway.storage, sessionClassKey);
    await mkdir(folder);
    const database = new DatabaseSync(join(folder, `${id}.sqlite`));
    const sql = await readFile(join(import.meta.dirname, "session-before-sharing.sql"), "utf8");
    database.exec(`PRAGMA journal_mode = WAL; BEGIN; ${sql} COMMIT`);
    database.close();
    await pool.gateway.start();
    await pool.ready("one");
  });

  it("gives its sessions back, and they go on", async () => {
    const { session } = await client.sessions.getSession({ sessionId: before });
    expect(session).toMatchObject({ lastTurn: 2, runningTurn: 0, messageCount: 4, model: "tiny" });
    expect(await transcript(client, before)).toEqual(told);
    const anew = await talkPlaced(client, "told anew", 1, [...plans, next]);
    const third = await runPlaced(client, before, 3, next);
    expect(third).toMatchObject({ text: anew[2]?.text, promptTokens: anew[2]?.promptTokens });
  });

  it("keeps an object a session", async () => {
    await talkPlaced(client, "kept after", 1, plans);
    const names = [before, "told anew", "kept after"];
    const ids = names.map((name) => objectId(sessionClassKey, sessionObjectName("dev", name)));
    expect(await kept()).toEqual(ids.sort());
    expect(await said()).toBe('{"objects":0}\n');
    await pool.gateway.kill();
    await pool.gateway.start();
    expect((await transcript(client, before)).slice(0, told.length)).toEqual(told);
  });
});

/** What follows has the storage that was, with three sessions of an object each. */
describe("sessions that are moved to other objects", () => {
  /** What each session was told so far. */
  let prompts: readonly TurnPlan[] = [...plans, next];
  /** The last turn of each; undefined: it is not known. */
  const last = new Map<string, PlacedTurn | undefined>();
  let objectsBefore = 0;

  /** Turns whose cache was to be found after a move. */
  let found = 0;

  beforeAll(async () => {
    for (const id of ["kept before", "told anew"]) last.set(id, undefined);
    last.set("kept after", await runPlaced(client, "kept after", 3, next));
  });

  function indexOf(id: string, objects: number): number {
    return objects === 0 ? NaN : sharedOf(sessionObjectName("dev", id), objects);
  }

  it.each([
    { processes: 1, objects: 1 },
    { processes: 3, objects: 3 },
    { processes: 1, objects: 16 },
    { processes: 1, objects: 1 },
  ])("are all there with $processes processes and $objects objects", async (counts) => {
    const { processes, objects } = counts;
    const ids = [...last.keys()];
    const before = new Map<string, StoredMessage[]>();
    for (const id of ids) before.set(id, await transcript(client, id));
    await pool.gateway.kill();
    await pool.gateway.spread(processes, objects);
    const indices = [...new Set(ids.map((id) => indexOf(id, objects)))];
    for (let process = 0; process < processes; process++) {
      const own = indices.filter((index) => index % processes === process);
      const names = own.map((index) => objectId(sessionClassKey, sharedName(index)));
      expect(await kept(process, processes)).toEqual(names.sort());
    }
    expect(await said()).toBe(`{"objects":${objects}}\n`);
    await pool.gateway.start();
    await pool.ready("one");

    for (const id of ids) expect(await transcript(client, id)).toEqual(before.get(id));
    const fresh = `begun in ${processes} and ${objects} ${ids.length}`;
    prompts = [...prompts, next];
    const told = (await talkPlaced(client, fresh, 1, prompts)).at(-1);
    if (told === undefined) throw new Error("nothing was told");
    for (const id of ids) {
      const turn = await runPlaced(client, id, prompts.length, next);
      expect(turn).toMatchObject({ text: told.text, promptTokens: told.promptTokens });
      const seen = last.get(id);
      if (seen !== undefined && indexOf(id, objectsBefore) === indexOf(id, objects)) {
        // Where its object is the one of before, its worker knows its cache.
        expect(turn.cachedTokens).toBe(cachedAfter(seen));
        found++;
      }
      last.set(id, turn);
    }
    last.set(fresh, told);
    objectsBefore = objects;

    const [first = ""] = ids;
    await client.sessions.forkSession({ sessionId: first, turn: 2, newSessionId: "fork" });
    expect(await transcript(client, "fork")).toEqual((before.get(first) ?? []).slice(0, 4));
    for (const id of ["fork", ids.at(-1) ?? ""]) {
      await client.sessions.deleteSession({ sessionId: id });
      await expect(client.sessions.getSession({ sessionId: id })).rejects.toMatchObject({
        code: Code.NotFound,
      });
      last.delete(id);
    }
    await expect
      .poll(async () => {
        const { sessions } = await client.sessions.listSessions({ pageSize: 100 });
        return sessions.map(({ sessionId }) => sessionId).sort();
      })
      .toEqual([...last.keys()].sort());
  });

  it("find their caches where their object stays", () => {
    expect(found).toBeGreaterThan(0);
  });

  it("go on with their answers, with a client and without", async () => {
    const plan = { text: "What is at the harbor?", maxTokens: 3_000 };
    const calm = await runPlaced(client, "calm", 1, plan);
    let moved: Promise<void> | undefined;
    const move = async (): Promise<void> => {
      await pool.gateway.kill();
      await pool.gateway.spread(3, 3);
      await pool.gateway.start();
    };
    const left = client.runTurn({
      ...{ sessionId: "left", turn: 1, text: plan.text },
      sampling: { temperature: 0, maxTokens: plan.maxTokens },
    });
    for await (const { type } of left) if (type === "delta") break;
    const stayed = await runPlaced(client, "stayed", 1, plan, undefined, ({ type }) => {
      if (type === "delta") moved ??= move();
    });
    await moved;
    expect(stayed).toMatchObject({ text: calm.text, completionTokens: plan.maxTokens });
    expect(stayed.reconnects).toBeGreaterThan(0);
    // Nobody asks for it: its alarm is what goes on with it.
    await expect
      .poll(async () => {
        const { sessions } = await client.sessions.listSessions({ pageSize: 100 });
        return sessions.find(({ sessionId }) => sessionId === "left");
      })
      .toMatchObject({ runningTurn: 0, messageCount: 2 });
    expect((await transcript(client, "left"))[1]?.text).toBe(calm.text);
  });
});
