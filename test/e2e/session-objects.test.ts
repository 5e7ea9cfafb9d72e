/**
 * Objects that hold sessions, in the storage of a gateway on workerd: sessions share them where a storage begins, and keep
 * one each in a storage of before they could.
 */
import { mkdir, readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { Code } from "@connectrpc/connect";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { objectId } from "../../src/cli/object-id.js";
import { sessionClassKey } from "../../src/cli/session-objects.js";
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

/** Ids of the objects of sessions in the storage. */
async function kept(): Promise<string[]> {
  const files = await readdir(join(pool.gateway.storage, sessionClassKey));
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
  const objects = 16;
  let seen: PlacedTurn[][];

  beforeAll(async () => {
    seen = await Promise.all(sessionIds.map((id) => talkPlaced(client, id, 1, plans)));
  });

  it("are in those that their names hash to", async () => {
    const indices = sessionIds.map((id) => sharedOf(sessionObjectName("dev", id), objects));
    const ids = [...new Set(indices)].map((index) => objectId(sessionClassKey, sharedName(index)));
    expect(await kept()).toEqual(ids.sort());
    expect(await said()).toBe('{"objects":16}\n');
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

  it("keeps an object a session ever after", async () => {
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
