import { evictDurableObject, runInDurableObject } from "cloudflare:test";
import { describe, expect, it, vi } from "vitest";
import {
  inStorage,
  newTenant,
  ringAlarm,
  runTurn,
  scripted,
  sessionClient,
  sessionObject,
  setAlarm,
  testEnv,
} from "../testing/gateway-clients.js";
import { sessionReserveMs } from "../limits.js";
import type { IndexEntry } from "./index-entry.js";

/** Longer than entries wait for each other, on a busy machine. */
const waitMs = 10_000;

function entry(sessionId: string, version: number, title = ""): IndexEntry {
  return {
    sessionId,
    version,
    model: "scripted",
    title,
    createMs: 1,
    updateMs: version,
    lastTurn: 0,
    runningTurn: 0,
    messageCount: 0,
    forkedFrom: "",
    keyId: "",
  };
}

describe("TenantObject", () => {
  it("keeps its rows over an eviction", async () => {
    const stub = testEnv.TENANT.getByName(crypto.randomUUID());
    await stub.put(entry("a", 1, "kept"));
    await runInDurableObject(stub, (instance) => {
      Object.assign(instance, { list: () => [entry("corrupt", 999)] });
    });
    await evictDurableObject(stub);
    expect(await stub.list(10, undefined)).toEqual([entry("a", 1, "kept")]);
  });

  it("takes updates in any order and any number", async () => {
    const stub = testEnv.TENANT.getByName(crypto.randomUUID());
    expect(await stub.put(entry("a", 5, "new"))).toBe(5);
    expect(await stub.put(entry("a", 4, "old"))).toBe(5);
    expect(await stub.put(entry("a", 5, "again"))).toBe(5);
    expect((await stub.list(10, undefined)).map((row) => row.title)).toEqual(["new"]);
  });

  it("does not bring back what was deleted, but takes what was made anew", async () => {
    const stub = testEnv.TENANT.getByName(crypto.randomUUID());
    await stub.put(entry("a", 5));
    expect(await stub.remove("a", 6)).toBe(6);
    await stub.put(entry("a", 5));
    expect(await stub.list(10, undefined)).toEqual([]);
    await stub.remove("b", 3);
    await stub.put(entry("b", 2));
    expect(await stub.list(10, undefined)).toEqual([]);
    await stub.put(entry("a", 7, "anew"));
    expect((await stub.list(10, undefined)).map((row) => row.title)).toEqual(["anew"]);
  });

  it("takes a session that was made anew in the millisecond of its deletion", async () => {
    const stub = testEnv.TENANT.getByName(crypto.randomUUID());
    await stub.remove("a", 5);
    await stub.put(entry("a", 5, "anew"));
    expect((await stub.list(10, undefined)).map((row) => row.title)).toEqual(["anew"]);
  });

  it("keeps the place of a session that is being made, for a minute", async () => {
    const stub = testEnv.TENANT.getByName(crypto.randomUUID());
    expect(await stub.reserve("a", "key-1", 2)).toBeUndefined();
    expect(await stub.reserve("a", "key-1", 2)).toBeUndefined();
    expect(await stub.reserve("b", "key-1", 2)).toBeUndefined();
    expect(await stub.reserve("c", "key-1", 2)).toBe(2);
    expect(await stub.reserve("c", "key-2", 2)).toBeUndefined();
    expect(await stub.list(10, undefined)).toEqual([]);
    // One is made, the other place lapses.
    await stub.put({ ...entry("a", 1), keyId: "key-1" });
    await runInDurableObject(stub, (_instance, state) => {
      state.storage.sql.exec("UPDATE session SET update_ms = update_ms - ?", sessionReserveMs);
    });
    expect(await stub.reserve("d", "key-1", 2)).toBeUndefined();
    expect(await stub.reserve("e", "key-1", 2)).toBe(2);
    await stub.remove("a", 2);
    expect(await stub.reserve("e", "key-1", 2)).toBeUndefined();
    expect(await stub.reserve("f", "key-1", 1)).toBe(2);
  });

  it("does not let a place bring back what was deleted", async () => {
    const stub = testEnv.TENANT.getByName(crypto.randomUUID());
    await stub.remove("a", 6);
    expect(await stub.reserve("a", "key-1", 1)).toBeUndefined();
    await stub.put({ ...entry("a", 5), keyId: "key-1" });
    expect(await stub.list(10, undefined)).toEqual([]);
    await stub.put({ ...entry("a", 7, "anew"), keyId: "key-1" });
    expect((await stub.list(10, undefined)).map((row) => row.title)).toEqual(["anew"]);
  });

  it("is outbid by a session whose clock went back", async () => {
    const { tenant, key } = await newTenant();
    const future = Date.now() + 1_000_000;
    await testEnv.TENANT.getByName(tenant).remove("s", future);
    const client = sessionClient(key);
    await client.createSession({ sessionId: "s", title: "seen" });
    await vi.waitFor(async () =>
      expect((await client.listSessions({})).sessions[0]?.title).toBe("seen"),
    );
    const [held] = await testEnv.TENANT.getByName(tenant).list(1, undefined);
    expect(held?.version).toBe(future + 1);
  });

  it("hears of many sessions' turns in a few calls, and of all of them", async () => {
    const { tenant, key } = await newTenant();
    const client = sessionClient(key);
    const sessions = Array.from({ length: 12 }, (_, index) => `s${index}`);
    await Promise.all(
      sessions.map((sessionId) =>
        runTurn(client, { sessionId, turn: 1, messages: [scripted({})] }),
      ),
    );
    const ended = { lastTurn: 1, runningTurn: 0, messageCount: 2 };
    await vi.waitFor(async () => {
      const listed = await testEnv.TENANT.getByName(tenant).list(100, undefined);
      expect(listed.map((row) => row.sessionId).sort()).toEqual([...sessions].sort());
      for (const row of listed) expect(row).toMatchObject(ended);
    }, waitMs);
    // Those whose entries others carried learn of it from their alarms, and tell nothing again.
    for (const sessionId of sessions) {
      await ringAlarm(tenant, sessionId);
    }
    const versions = await testEnv.TENANT.getByName(tenant).list(100, undefined);
    for (const { sessionId, version } of versions) {
      await inStorage(tenant, sessionId, ({ sql }, number) => {
        const stored = sql.exec("SELECT index_version FROM session WHERE session = ?", number);
        expect(stored.one()).toEqual({ index_version: version });
      });
    }
  });

  it("is brought up to date by a session's alarm after it was out of reach", async () => {
    const { tenant, key } = await newTenant();
    const client = sessionClient(key);
    await runTurn(client, { sessionId: "s", turn: 1, messages: [scripted({})] });
    await vi.waitFor(async () =>
      expect((await client.listSessions({})).sessions[0]?.messageCount).toBe(2),
    );
    // As if the last updates had been lost on the way.
    const index = testEnv.TENANT.getByName(tenant);
    await runInDurableObject(index, (_instance, state) => {
      state.storage.sql.exec("DELETE FROM session");
    });
    await inStorage(tenant, "s", async (storage, number) => {
      storage.sql.exec("UPDATE session SET indexed_version = 0 WHERE session = ?", number);
      await setAlarm(storage, number, Date.now() + 60_000);
    });
    await evictDurableObject(sessionObject(tenant, "s"));
    expect(await ringAlarm(tenant, "s")).toBe(true);
    expect((await client.listSessions({})).sessions[0]).toMatchObject({
      sessionId: "s",
      messageCount: 2,
      runningTurn: 0,
    });
  });
});
