import { evictDurableObject, runInDurableObject } from "cloudflare:test";
import { describe, expect, it } from "vitest";
import { keyForgetMs, keyUseMs } from "../limits.js";
import { testEnv } from "../testing/gateway-clients.js";
import { hashApiKey } from "./api-key.js";
import type { KeyMade, KeyringObject, NewKey } from "./keyring-object.js";

function keyring(): DurableObjectStub<KeyringObject> {
  return testEnv.KEYRING.getByName(crypto.randomUUID());
}

function wanted(name: string, more: Partial<NewKey> = {}): NewKey {
  return { tenant: "acme", name, expireMs: 0, limits: {}, ...more };
}

function made(result: KeyMade): Extract<KeyMade, { kind: "made" }> {
  if (result.kind !== "made") throw new Error(`the key is ${result.kind}`);
  return result;
}

describe("KeyringObject", () => {
  it("keeps its keys over an eviction, as hashes only", async () => {
    const stub = keyring();
    const limits = { requestsPerMinute: 60, turns: 0 };
    const { key, record } = made(await stub.createKey(wanted("laptop", { limits })));
    expect(key).toMatch(/^le-[A-Za-z0-9_-]{43}$/);
    await runInDurableObject(stub, (instance, state) => {
      const rows = JSON.stringify(
        state.storage.sql.exec("SELECT *, hex(hash) AS hash FROM made_key").toArray(),
      );
      expect(rows).toContain("acme");
      expect(rows).not.toContain(key.slice(3, 13));
      Object.assign(instance, { find: () => "corrupt" });
    });
    await evictDurableObject(stub);
    const found = await stub.find(hashApiKey(key));
    expect(found).toEqual(record);
    expect(found).toMatchObject({ tenant: "acme", name: "laptop", limits });
    expect(await stub.find(hashApiKey(`${key}x`))).toBeUndefined();
  });

  it("compares the whole hash, not only the part that it looks up", async () => {
    const stub = keyring();
    const hash = hashApiKey("a key");
    const first = await stub.importKey(hash, wanted("a"));
    const alike = hash.slice();
    alike[31] = (alike[31] ?? 0) ^ 1;
    expect(await stub.find(alike)).toBeUndefined();
    const second = await stub.importKey(alike, wanted("b", { tenant: "other" }));
    expect((await stub.find(hash))?.keyId).toBe(first.keyId);
    expect((await stub.find(alike))?.keyId).toBe(second.keyId);
  });

  it("gives a name to one active key of a tenant only", async () => {
    const stub = keyring();
    const { record } = made(await stub.createKey(wanted("laptop")));
    expect(await stub.createKey(wanted("laptop"))).toEqual({ kind: "taken" });
    made(await stub.createKey(wanted("laptop", { tenant: "other" })));
    await stub.revoke(record.keyId);
    made(await stub.createKey(wanted("laptop")));
  });

  it("says of a revoked key when that was, and keeps the first time", async () => {
    const stub = keyring();
    const { key, record } = made(await stub.createKey(wanted("laptop")));
    const revoked = await stub.revoke(record.keyId);
    expect(revoked?.revokeMs).toBeGreaterThanOrEqual(record.createMs);
    expect(await stub.revoke(record.keyId)).toEqual(revoked);
    expect(await stub.find(hashApiKey(key))).toEqual(revoked);
    expect(await stub.revoke("key-unknown")).toBeUndefined();
  });

  it("knows to the minute when a key was last used", async () => {
    const stub = keyring();
    const { key, record } = made(await stub.createKey(wanted("laptop")));
    expect(record.useMs).toBe(0);
    await stub.find(hashApiKey(key));
    const { useMs = 0 } = (await stub.get(record.keyId)) ?? {};
    expect(useMs).toBeGreaterThanOrEqual(record.createMs);
    await stub.find(hashApiKey(key));
    expect((await stub.get(record.keyId))?.useMs).toBe(useMs);
    await runInDurableObject(stub, (_instance, state) => {
      state.storage.sql.exec("UPDATE made_key SET use_ms = use_ms - ?", keyUseMs);
    });
    await stub.find(hashApiKey(key));
    expect((await stub.get(record.keyId))?.useMs).toBeGreaterThanOrEqual(useMs);
  });

  it("lists the latest first, page by page, of all tenants or one", async () => {
    const stub = keyring();
    for (const name of ["a", "b", "c", "d", "e"]) {
      made(await stub.createKey(wanted(name, { tenant: name === "c" ? "other" : "acme" })));
    }
    const all = await stub.list("", 10, undefined);
    expect(all).toHaveLength(5);
    const first = await stub.list("", 2, undefined);
    const rest = await stub.list("", 10, first.at(-1));
    expect([...first, ...rest]).toEqual(all);
    const times = all.map((record) => record.createMs);
    expect(times).toEqual([...times].sort((a, b) => b - a));
    expect((await stub.list("other", 10, undefined)).map((record) => record.name)).toEqual(["c"]);
  });

  it("forgets keys that ended long ago when another one is made", async () => {
    const stub = keyring();
    const { record } = made(await stub.createKey(wanted("old")));
    const expiring = made(await stub.createKey(wanted("brief", { expireMs: Date.now() + 5 })));
    await stub.revoke(record.keyId);
    await runInDurableObject(stub, (_instance, state) => {
      state.storage.sql.exec(
        "UPDATE made_key SET revoke_ms = revoke_ms - ? WHERE revoke_ms > 0",
        keyForgetMs + 1_000,
      );
    });
    made(await stub.createKey(wanted("new")));
    expect(await stub.get(record.keyId)).toBeUndefined();
    expect(await stub.get(expiring.record.keyId)).toBeDefined();
  });

  it("takes over keys from before they had ids", async () => {
    const stub = keyring();
    const key = "le-older";
    await runInDurableObject(stub, (_instance, state) => {
      state.storage.sql.exec(
        `CREATE TABLE api_key (lookup TEXT NOT NULL, hash BLOB NOT NULL UNIQUE, tenant TEXT NOT NULL, name TEXT NOT NULL,
          create_ms INTEGER NOT NULL, UNIQUE (tenant, name))`,
      );
      const hash = hashApiKey(key);
      const lookup = Array.from(hash.subarray(0, 8), (byte) =>
        byte.toString(16).padStart(2, "0"),
      ).join("");
      state.storage.sql.exec(
        "INSERT INTO api_key VALUES (?, ?, 'acme', 'laptop', 7)",
        lookup,
        hash.slice().buffer,
      );
    });
    await evictDurableObject(stub);
    expect(await stub.find(hashApiKey(key))).toMatchObject({ tenant: "acme", createMs: 7 });
  });
});
