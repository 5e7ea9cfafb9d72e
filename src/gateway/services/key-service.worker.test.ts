import { runInDurableObject } from "cloudflare:test";
import { timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import { Code, createClient } from "@connectrpc/connect";
import type { Client } from "@connectrpc/connect";
import { describe, expect, it, vi } from "vitest";
import { bearerToken } from "../../client/bearer-token.js";
import { KeyOrigin, KeyService, KeyState } from "../../gen/leanedge/admin/v1/key_pb.js";
import { workerTransport } from "../connect/worker-transport.js";
import { keyringName } from "../objects/keyring-object.js";
import {
  errorOf,
  runTurn,
  scripted,
  send,
  sessionClient,
  testEnv,
  testUrl,
} from "../testing/gateway-clients.js";

const adminToken = "admin-token-of-the-tests";

function keyClient(token: string | undefined): Client<typeof KeyService> {
  return createClient(
    KeyService,
    workerTransport({
      baseUrl: testUrl,
      fetcher: { fetch: (url, init) => send(url, init) },
      interceptors: bearerToken(token),
    }),
  );
}

const admin = keyClient(adminToken);

function someTenant(): string {
  return `tenant-${crypto.randomUUID()}`;
}

describe("KeyService", () => {
  it("is for the admin token only", async () => {
    for (const token of [undefined, "wrong", "le-dev-test"]) {
      const error = await errorOf(keyClient(token).listKeys({}));
      expect(error.code).toBe(Code.Unauthenticated);
      expect(error.rawMessage).toBe("the call must carry the token of LEANEDGE_ADMIN_TOKEN");
    }
  });

  it("takes the scheme of the header in any case, as keys do, and no other one", async () => {
    const ask = async (authorization: string): Promise<number> => {
      const response = await send(`${testUrl}/leanedge.admin.v1.KeyService/ListKeys`, {
        method: "POST",
        headers: { authorization, "content-type": "application/json" },
        body: "{}",
      });
      await response.body?.cancel();
      return response.status;
    };
    for (const scheme of ["Bearer", "bearer", "BEARER "]) {
      expect(await ask(`${scheme} ${adminToken}`)).toBe(200);
    }
    for (const header of [`Basic ${adminToken}`, adminToken, `Bearer${adminToken}`, "bearer"]) {
      expect(await ask(header)).toBe(401);
    }
  });

  it("makes a key that opens its tenant, and shows it once", async () => {
    const tenant = someTenant();
    const before = Date.now();
    const { key, apiKey } = await admin.createKey({
      tenant,
      name: "laptop",
      limits: { requestsPerMinute: 100, turns: 0 },
    });
    expect(apiKey).toMatchObject({
      tenant,
      name: "laptop",
      origin: KeyOrigin.CREATED,
      state: KeyState.ACTIVE,
      limits: { requestsPerMinute: 100, turns: 0 },
      effectiveLimits: { requestsPerMinute: 100 },
      notRevocableReason: "",
    });
    expect(apiKey?.keyId).toMatch(/^key-[0-9a-f]{16}$/);
    if (apiKey?.createTime === undefined) throw new Error("no time");
    expect(timestampMs(apiKey.createTime)).toBeGreaterThanOrEqual(before);
    expect(apiKey.lastUseTime).toBeUndefined();

    const seen = await runTurn(sessionClient(key), {
      sessionId: "s",
      turn: 1,
      messages: [scripted({})],
    });
    expect(seen.finished).toBeDefined();
    const { keys } = await admin.listKeys({ tenant });
    expect(keys.map(({ keyId }) => keyId)).toEqual([apiKey.keyId]);
    expect(keys[0]?.lastUseTime).toBeDefined();
    expect(
      JSON.stringify(keys, (_name, value: unknown) => (typeof value === "bigint" ? "" : value)),
    ).not.toContain(key);
  });

  it.each([
    [
      "an empty tenant",
      { tenant: "", name: "a" },
      'tenant is ""; it must have 1 to 64 characters of [A-Za-z0-9._-]',
    ],
    [
      "a tenant with a blank",
      { tenant: "a b", name: "a" },
      'tenant is "a b"; it must have 1 to 64 characters of [A-Za-z0-9._-]',
    ],
    [
      "a name with a slash",
      { tenant: "a", name: "x/y" },
      'name is "x/y"; it must have 1 to 64 characters of [A-Za-z0-9._-]',
    ],
    [
      "a limit beyond all",
      { tenant: "a", name: "b", limits: { turns: 2_000_000_000 } },
      "limits.turns is 2000000000, it must be 0 to 1000000000",
    ],
    [
      "an end in the past",
      { tenant: "a", name: "b", expireTime: timestampFromMs(0) },
      "expire_time is 1970-01-01T00:00:00.000Z, which is not in the future",
    ],
    [
      // Milliseconds where seconds belong. No list with such a key could be written as JSON.
      "an end after the last that a timestamp can have",
      { tenant: "a", name: "b", expireTime: { seconds: 1_790_000_000_000n, nanos: 0 } },
      "expire_time is 1790000000000 s after 1970, it must be before the year 10000",
    ],
    [
      "an end that no calendar has",
      { tenant: "a", name: "b", expireTime: { seconds: -(10n ** 15n), nanos: 0 } },
      "expire_time is -1000000000000000 s after 1970, which is not in the future",
    ],
  ])("refuses %s", async (_name, request, message) => {
    const error = await errorOf(admin.createKey(request));
    expect([error.code, error.rawMessage]).toEqual([Code.InvalidArgument, message]);
  });

  it("gives a name once, and again after the key was revoked", async () => {
    const tenant = someTenant();
    const { apiKey } = await admin.createKey({ tenant, name: "laptop" });
    const error = await errorOf(admin.createKey({ tenant, name: "laptop" }));
    expect([error.code, error.rawMessage]).toEqual([
      Code.AlreadyExists,
      `tenant "${tenant}" has an active key "laptop"`,
    ]);
    await admin.revokeKey({ keyId: apiKey?.keyId ?? "" });
    await admin.createKey({ tenant, name: "laptop" });
    const { keys } = await admin.listKeys({ tenant });
    expect(keys.map(({ state }) => state).sort()).toEqual([KeyState.ACTIVE, KeyState.REVOKED]);
  });

  it("revokes a key, whose new calls are refused soon", async () => {
    const tenant = someTenant();
    const { key, apiKey } = await admin.createKey({ tenant, name: "laptop" });
    const client = sessionClient(key);
    await client.listSessions({});
    const revoked = await admin.revokeKey({ keyId: apiKey?.keyId ?? "" });
    expect(revoked.apiKey?.state).toBe(KeyState.REVOKED);
    expect(revoked.apiKey?.revokeTime).toBeDefined();
    await vi.waitFor(
      async () => {
        const error = await errorOf(client.listSessions({}));
        expect([error.code, error.rawMessage]).toEqual([
          Code.Unauthenticated,
          "the API key was revoked",
        ]);
      },
      { timeout: 5_000, interval: 100 },
    );
    expect((await admin.revokeKey({ keyId: apiKey?.keyId ?? "" })).apiKey).toEqual(revoked.apiKey);
    const unknown = await errorOf(admin.revokeKey({ keyId: "key-unknown" }));
    expect([unknown.code, unknown.rawMessage]).toEqual([
      Code.NotFound,
      'there is no key "key-unknown"',
    ]);
  });

  it("lets a key end by itself", async () => {
    const tenant = someTenant();
    const { key, apiKey } = await admin.createKey({
      tenant,
      name: "brief",
      expireTime: timestampFromMs(Date.now() + 60_000),
    });
    expect(apiKey?.state).toBe(KeyState.ACTIVE);
    await runInDurableObject(testEnv.KEYRING.getByName(keyringName), (_instance, state) => {
      state.storage.sql.exec(
        "UPDATE made_key SET expire_ms = ? WHERE key_id = ?",
        Date.now() - 1,
        apiKey?.keyId ?? "",
      );
    });
    const error = await errorOf(sessionClient(key).listSessions({}));
    expect([error.code, error.rawMessage]).toEqual([
      Code.Unauthenticated,
      "the API key has expired",
    ]);
    expect((await admin.listKeys({ tenant })).keys[0]?.state).toBe(KeyState.EXPIRED);
  });

  it("lists keys of the configuration first, which it cannot revoke", async () => {
    const { keys } = await admin.listKeys({ tenant: "dev" });
    expect(keys[0]).toMatchObject({
      tenant: "dev",
      name: "LEANEDGE_DEV_KEY",
      origin: KeyOrigin.CONFIGURED,
      state: KeyState.ACTIVE,
      notRevocableReason: "the configuration has it in LEANEDGE_DEV_KEY; take it out there",
    });
    const keyId = keys[0]?.keyId ?? "";
    expect(keyId).toMatch(/^config-[0-9a-f]{16}$/);
    const error = await errorOf(admin.revokeKey({ keyId }));
    expect([error.code, error.rawMessage]).toEqual([
      Code.FailedPrecondition,
      `key "${keyId}" cannot be revoked: the configuration has it in LEANEDGE_DEV_KEY; take it out there`,
    ]);
  });

  it("lists page by page", async () => {
    const tenant = someTenant();
    for (const name of ["a", "b", "c"]) await admin.createKey({ tenant, name });
    const first = await admin.listKeys({ tenant, pageSize: 2 });
    expect(first.keys).toHaveLength(2);
    const second = await admin.listKeys({ tenant, pageSize: 2, pageToken: first.nextPageToken });
    expect(second.nextPageToken).toBe("");
    const names = [...first.keys, ...second.keys].map(({ name }) => name);
    expect(names.sort()).toEqual(["a", "b", "c"]);
    const error = await errorOf(admin.listKeys({ pageToken: "nonsense" }));
    expect(error.code).toBe(Code.InvalidArgument);
  });
});
