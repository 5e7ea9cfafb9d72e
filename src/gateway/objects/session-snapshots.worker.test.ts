/** Caches that are saved and brought back, with the real engine: model `tiny`, of random weights. */
import { evictDurableObject, runInDurableObject } from "cloudflare:test";
import type { Client } from "@connectrpc/connect";
import { beforeEach, describe, expect, it } from "vitest";
import type { SessionService } from "../../gen/leanedge/v1/session_pb.js";
import {
  newTenant,
  ringAlarm,
  runTurn,
  sessionClient,
  sessionObject,
  testEnv,
  tinyStatus,
  user,
} from "../testing/gateway-clients.js";
import type { SeenTurn } from "../testing/gateway-clients.js";
import { snapshotRowBytesMax } from "../limits.js";

const opening =
  "The old bridge over the river was closed in winter, and whoever wanted to cross it went down to the ferry. ";
const goOn = "And then?";

let tenant: string;
let client: Client<typeof SessionService>;

beforeEach(async () => {
  const made = await newTenant();
  tenant = made.tenant;
  client = sessionClient(made.key);
});

function turn(sessionId: string, number: number, text: string): Promise<SeenTurn> {
  return runTurn(client, {
    sessionId,
    model: "tiny",
    turn: number,
    messages: [user(text)],
    sampling: { temperature: 0.9, seed: 7n, maxTokens: 12 },
  });
}

/** Saves the cache of a session as its alarm would. */
async function save(sessionId: string): Promise<void> {
  await runInDurableObject(sessionObject(tenant, sessionId), async (instance) => {
    await instance.saveCache(await instance.sequenceId(tenant, sessionId));
  });
}

/** The engine loses all that it holds. */
async function loseCaches(): Promise<void> {
  await evictDurableObject(testEnv.ENGINE.getByName("tiny/0"));
  await tinyStatus();
}

function sql<T>(sessionId: string, work: (sql: SqlStorage) => T): Promise<T> {
  return runInDurableObject(sessionObject(tenant, sessionId), (_instance, state) =>
    work(state.storage.sql),
  );
}

async function rowCount(sessionId: string): Promise<number> {
  return sql(sessionId, (s) => Number(s.exec("SELECT COUNT(*) AS n FROM snapshot_row").one()["n"]));
}

/** Changes one byte of the saved cache; negative positions count from its end. */
async function damage(sessionId: string, position: number): Promise<void> {
  await sql(sessionId, (s) => {
    const rows = s.exec("SELECT position, bytes FROM snapshot_row ORDER BY position").toArray();
    const row = position < 0 ? rows.at(-1) : rows[0];
    if (row === undefined) throw new Error("nothing is saved");
    const bytes = new Uint8Array(row["bytes"] as ArrayBuffer);
    const at = position < 0 ? bytes.length + position : position;
    bytes[at] = (bytes[at] ?? 0) ^ 0x10;
    s.exec("UPDATE snapshot_row SET bytes = ? WHERE position = ?", bytes, row["position"]);
  });
}

/** Two turns of an undisturbed session: what every other one must say. */
async function undisturbed(): Promise<readonly SeenTurn[]> {
  return [await turn("calm", 1, opening), await turn("calm", 2, goOn), await turn("calm", 3, goOn)];
}

function tokens(seen: SeenTurn | undefined): { prompt: number; cached: number } {
  const usage = seen?.finished?.usage;
  return { prompt: usage?.promptTokens ?? 0, cached: usage?.cachedTokens ?? 0 };
}

describe("the cache of an idle session", () => {
  it("is saved once, and brought back after the engine lost it: only new rows are computed", async () => {
    const [, calm] = await undisturbed();
    const first = await turn("s", 1, opening);
    const before = await tinyStatus();
    await save("s");
    await save("s");
    const saved = await tinyStatus();
    expect(saved.snapshotsSaved - before.snapshotsSaved).toBe(1n);
    expect(saved.snapshotBytesSaved).toBeGreaterThan(before.snapshotBytesSaved);
    await loseCaches();
    const lost = await tinyStatus();
    expect(lost.cacheBytesFree).toBe(lost.cacheBytes);

    const second = await turn("s", 2, goOn);
    expect(second.text).toBe(calm?.text);
    const after = await tinyStatus();
    const { prompt, cached } = tokens(second);
    expect(cached).toBe(tokens(first).prompt + 11);
    expect(after.snapshotsRestored).toBe(1n);
    expect(after.snapshotBytesRestored).toBe(saved.snapshotBytesSaved - before.snapshotBytesSaved);
    // The new prompt, and the answer but for its last token.
    expect(Number(after.rows - lost.rows)).toBe(prompt - cached + 11);
  });

  it("is saved by the alarm, in rows below 2 MB, and survives the session's own eviction", async () => {
    const [, calm] = await undisturbed();
    await turn("s", 1, opening);
    // The turn has set the time; it is now.
    await sql("s", (s) => {
      expect(s.exec("SELECT save_due_ms FROM cache").one()["save_due_ms"]).toBeGreaterThan(0);
      s.exec("UPDATE cache SET save_due_ms = 1");
    });
    // The object believes what it wrote until it starts again.
    await evictDurableObject(sessionObject(tenant, "s"));
    expect(await ringAlarm(tenant, "s")).toBe(true);
    const lengths = await sql("s", (s) =>
      s.exec("SELECT LENGTH(bytes) AS n FROM snapshot_row").toArray(),
    );
    expect(lengths.length).toBeGreaterThan(0);
    for (const { n } of lengths) expect(n).toBeLessThanOrEqual(snapshotRowBytesMax);
    await evictDurableObject(sessionObject(tenant, "s"));
    await loseCaches();
    const second = await turn("s", 2, goOn);
    expect(second.text).toBe(calm?.text);
    expect(tokens(second).cached).toBeGreaterThan(0);
  });

  it("serves as a beginning where the log went on since", async () => {
    const [, , calm] = await undisturbed();
    const first = await turn("s", 1, opening);
    await save("s");
    await turn("s", 2, goOn);
    await loseCaches();
    const third = await turn("s", 3, goOn);
    expect(third.text).toBe(calm?.text);
    // What was saved came back, the second turn was computed again.
    expect(tokens(third).cached).toBe(tokens(first).prompt + 11);
  });

  it("replaces the one before as a whole, and takes away what was left unfinished", async () => {
    await turn("s", 1, opening);
    await save("s");
    await sql("s", (s) => {
      s.exec("INSERT INTO snapshot_row (session, number, position, bytes) VALUES (1, 9, 0, x'00')");
    });
    await turn("s", 2, goOn);
    await save("s");
    const numbers = await sql("s", (s) =>
      s.exec("SELECT DISTINCT number FROM snapshot_row").toArray(),
    );
    const current = await sql("s", (s) => s.exec("SELECT number, bytes FROM snapshot").one());
    expect(numbers).toEqual([{ number: current["number"] }]);
    const total = await sql("s", (s) =>
      s.exec("SELECT SUM(LENGTH(bytes)) AS n FROM snapshot_row").one(),
    );
    expect(total["n"]).toBe(current["bytes"]);
  });

  it("is deleted with the session", async () => {
    await turn("s", 1, opening);
    await save("s");
    expect(await rowCount("s")).toBeGreaterThan(0);
    await client.deleteSession({ sessionId: "s" });
    expect(await rowCount("s")).toBe(0);
  });

  it("is what a fork begins with where the engine lost it", async () => {
    const [, calm] = await undisturbed();
    const first = await turn("s", 1, opening);
    await save("s");
    await loseCaches();
    await client.forkSession({ sessionId: "s", turn: 1, newSessionId: "f" });
    const second = await turn("f", 2, goOn);
    expect(second.text).toBe(calm?.text);
    expect(tokens(second).cached).toBe(tokens(first).prompt + 11);
    // The session itself is as it was.
    const own = await turn("s", 2, goOn);
    expect(own.text).toBe(calm?.text);
    expect(tokens(own).cached).toBe(tokens(first).prompt + 11);
  });

  it("is of no use to a fork of an earlier turn, which replays its log", async () => {
    const [, calm] = await undisturbed();
    await turn("s", 1, opening);
    await turn("s", 2, goOn);
    await save("s");
    await loseCaches();
    await client.forkSession({ sessionId: "s", turn: 1, newSessionId: "f" });
    const second = await turn("f", 2, goOn);
    expect(second.text).toBe(calm?.text);
    expect(tokens(second).cached).toBe(0);
    expect((await tinyStatus()).snapshotsRestored).toBe(0n);
  });

  it("shows in GetSession what the session holds, and would hold at its longest", async () => {
    await turn("s", 1, opening);
    const { session } = await client.getSession({ sessionId: "s" });
    const status = await tinyStatus();
    const plan = status.models[0]?.info?.plans.find(({ name }) => name === "lean");
    expect(session?.plan).toBe("lean");
    expect(session?.planFingerprint).toBe(plan?.fingerprint);
    expect(session?.cachePages).toBeGreaterThan(1);
    expect(session?.cacheBytes).toBe(
      (plan?.sequenceBytes ?? 0n) + BigInt(session?.cachePages ?? 0) * (plan?.pageBytes ?? 0n),
    );
    expect(session?.cachePagesLongest).toBe(plan?.pagesMax);
    expect(session?.cacheBytesLongest).toBe(plan?.sessionBytesMax);
    const fork = await client.forkSession({ sessionId: "s", turn: 1, newSessionId: "f" });
    expect(fork.session).toMatchObject({ plan: "lean", planFingerprint: plan?.fingerprint });
  });
});

describe("a saved cache that is of no use", () => {
  interface Case {
    readonly name: string;
    readonly spoil: () => Promise<unknown>;
    /** How it is counted. */
    readonly counted: "snapshotsBroken" | "snapshotsStale";
  }

  const cases: readonly Case[] = [
    { name: "has a damaged header", spoil: () => damage("s", 1), counted: "snapshotsBroken" },
    { name: "has a damaged log", spoil: () => damage("s", 210), counted: "snapshotsBroken" },
    { name: "has a damaged page", spoil: () => damage("s", -500), counted: "snapshotsBroken" },
    { name: "has a damaged checksum", spoil: () => damage("s", -1), counted: "snapshotsBroken" },
    {
      name: "has lost its rows",
      spoil: () => sql("s", (s) => s.exec("DELETE FROM snapshot_row").toArray()),
      counted: "snapshotsBroken",
    },
    {
      name: "is cut off",
      spoil: () =>
        sql("s", (s) =>
          s
            .exec("UPDATE snapshot_row SET bytes = SUBSTR(bytes, 1, LENGTH(bytes) - 4000)")
            .toArray(),
        ),
      counted: "snapshotsBroken",
    },
    {
      name: "is of another version of the engine",
      spoil: () =>
        sql("s", (s) => s.exec("UPDATE snapshot SET engine_version = 'cache-0'").toArray()),
      counted: "snapshotsStale",
    },
    { name: "is of another model", spoil: () => damage("s", 40), counted: "snapshotsStale" },
    { name: "is of another plan", spoil: () => damage("s", 100), counted: "snapshotsStale" },
    {
      name: "is of another log",
      spoil: () => sql("s", (s) => s.exec("UPDATE snapshot SET sha256 = x'00'").toArray()),
      counted: "snapshotsStale",
    },
  ];

  it.each(cases)("since it $name: the log is replayed, and it is counted", async (each) => {
    const [, calm] = await undisturbed();
    await turn("s", 1, opening);
    await save("s");
    await each.spoil();
    await loseCaches();
    const second = await turn("s", 2, goOn);
    expect(second.text).toBe(calm?.text);
    expect(tokens(second).cached).toBe(0);
    const after = await tinyStatus();
    expect(after[each.counted]).toBe(1n);
    expect(after.snapshotsRestored).toBe(0n);
    expect(await rowCount("s")).toBe(0);
    // The next one is as good as any.
    await save("s");
    await loseCaches();
    expect(tokens(await turn("s", 3, goOn)).cached).toBeGreaterThan(0);
  });
});
