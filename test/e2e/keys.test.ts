/**
 * Keys and limits of a whole gateway: made and revoked on the command line, under streams of all protocols, over a restart,
 * and with two Workers that share the objects.
 */
import { execFile } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createLeanedgeClient } from "../../src/client/index.js";
import { FinishReason } from "../../src/gen/leanedge/v1/session_pb.js";
import { longStory } from "../support/conversation.js";
import { startGateway, type RunningGateway } from "../support/running-gateway.js";
import { startWorkerdGateway, type WorkerdGateway } from "../support/workerd-gateway.js";
import { engineStatus, isIdle, statusWhen } from "./engine-status.js";
import { protocols } from "./protocols.js";

const root = resolve(import.meta.dirname, "../..");
const adminToken = "a-token-for-the-operator";
/** Within this a revocation reaches running turns, as docs/operations.md says. */
const revokeMsMax = 5_000;
/** What a busy machine adds to it: the streams' way to their clients, beside an engine that takes both cores. */
const slackMs = 20_000;
/** More than any stream gives before its key is revoked. */
const endlessTokens = 1_500;

interface MadeKey {
  readonly key: string;
  readonly apiKey: { readonly keyId: string };
}

let folder: string;
let tokenFile: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "leanedge-keys-"));
  tokenFile = join(folder, "admin-token");
  await writeFile(tokenFile, adminToken);
});

afterAll(() => rm(folder, { recursive: true, force: true }));

/** Runs `leanedge keys`, and gives what it prints. */
async function keys(url: string, ...words: readonly string[]): Promise<string> {
  const { stdout } = await promisify(execFile)(process.execPath, [
    join(root, "bin/leanedge.js"),
    "keys",
    ...words,
    "--gateway",
    url,
    "--admin-token-file",
    tokenFile,
  ]);
  return stdout;
}

async function createKey(
  url: string,
  name: string,
  ...options: readonly string[]
): Promise<MadeKey> {
  const printed = await keys(
    url,
    "create",
    "--tenant",
    "acme",
    "--name",
    name,
    "--json",
    ...options,
  );
  return JSON.parse(printed) as MadeKey;
}

/** A request in OpenAI form for a short answer. */
function complete(url: string, key: string, sessionId: string): Promise<Response> {
  return fetch(`${url}/v1/chat/completions`, {
    method: "POST",
    headers: {
      authorization: `Bearer ${key}`,
      "content-type": "application/json",
      "x-session-id": sessionId,
    },
    body: JSON.stringify({
      messages: [{ role: "user", content: "Hello" }],
      temperature: 0,
      max_tokens: 2,
    }),
  });
}

describe("a gateway", () => {
  let gateway: RunningGateway;

  beforeAll(async () => {
    gateway = await startGateway("--admin-token-file", tokenFile);
    // The model loads at the first look.
    await engineStatus(gateway);
  });

  afterAll(() => gateway.close());

  it("makes, lists and revokes keys on the command line", async () => {
    const shown = await keys(
      gateway.url,
      "create",
      "--tenant",
      "acme",
      "--name",
      "shown",
      "--expires",
      "30d",
    );
    expect(shown).toMatch(/^le-[A-Za-z0-9_-]{43}\n$/);
    const { key, apiKey } = await createKey(gateway.url, "laptop", "--limit", "turns=2");
    const list = await keys(gateway.url, "list", "--tenant", "acme");
    expect(list).toMatch(new RegExp(`${apiKey.keyId} +acme +laptop +created +active .*turns=2\\n`));
    expect(list).not.toContain(key);
    const all = await keys(gateway.url, "list");
    expect(all).toMatch(/config-[0-9a-f]{16} +dev +LEANEDGE_DEV_KEY +configured +active/);
    const devKeyId = /config-[0-9a-f]{16}/.exec(all)?.[0] ?? "";
    expect(all).toContain(`${devKeyId} cannot be revoked: the configuration has it`);
    await expect(keys(gateway.url, "revoke", devKeyId)).rejects.toThrow("cannot be revoked");
    expect(await keys(gateway.url, "revoke", apiKey.keyId)).toMatch(/laptop +created +revoked/);
    await expect
      .poll(async () => (await complete(gateway.url, key, "late")).status, {
        timeout: revokeMsMax + slackMs,
      })
      .toBe(401);
  });

  it("ends the streams of a revoked key in all protocols, and the engine stops", async () => {
    const { key, apiKey } = await createKey(gateway.url, "streams");
    const { url, grpcAddress } = gateway;
    const access = { url, grpcAddress, key };
    const begun: Promise<void>[] = [];
    const ends = protocols.map(([name, protocol]) => {
      const first = Promise.withResolvers<undefined>();
      begun.push(first.promise);
      const ask = { sessionId: name, text: longStory, maxTokens: endlessTokens };
      return (async () => {
        try {
          for await (const piece of protocol(access, ask, new AbortController().signal)) {
            if (typeof piece === "string") first.resolve(undefined);
          }
        } catch (error) {
          first.reject(error);
          return error;
        }
        return undefined;
      })();
    });
    await Promise.all(begun);
    expect((await engineStatus(gateway)).running).toBeGreaterThan(0);
    await keys(gateway.url, "revoke", apiKey.keyId);
    const revokedAtMs = performance.now();
    const errors = await Promise.all(ends);
    expect(performance.now() - revokedAtMs).toBeLessThan(revokeMsMax + slackMs);
    const codes = new Map(protocols.map(([name], index) => [name, codeOf(errors[index])]));
    // 16 is UNAUTHENTICATED. The forms that protocols.ts reads by hand end without a word of their client's.
    for (const name of [
      "Connect JSON",
      "Connect binary",
      "gRPC-web binary",
      "native gRPC through the front",
    ]) {
      expect([name, codes.get(name)]).toEqual([name, 16]);
    }
    const stopped = await statusWhen(gateway, isIdle, slackMs);
    const later = await engineStatus(gateway);
    expect(later.steps).toBe(stopped.steps);

    // The sessions are there for the tenant's other keys, with the text so far.
    const other = await createKey(gateway.url, "other");
    const client = createLeanedgeClient({ baseUrl: url, key: other.key });
    // What a session does reaches its index a little later.
    await expect
      .poll(
        async () => {
          const { sessions } = await client.sessions.listSessions({});
          return sessions.filter(({ runningTurn }) => runningTurn > 0);
        },
        { timeout: slackMs },
      )
      .toEqual([]);
    for (const [name] of protocols) {
      const { messages } = await client.sessions.listMessages({ sessionId: name });
      expect([name, messages[1]?.finishReason]).toEqual([name, FinishReason.CANCELLED]);
      expect(messages[1]?.usage?.completionTokens).toBeLessThan(endlessTokens);
    }
  });

  it("knows after a restart what a key has used, and which keys are revoked", async () => {
    const limited = await createKey(gateway.url, "limited", "--limit", "requests_per_minute=2");
    const revoked = await createKey(gateway.url, "revoked");
    await keys(gateway.url, "revoke", revoked.apiKey.keyId);
    const firstMs = performance.now();
    for (const session of ["one", "two"]) {
      expect((await complete(gateway.url, limited.key, session)).status).toBe(200);
    }
    await gateway.restart();
    const response = await complete(gateway.url, limited.key, "three");
    const minutes = (performance.now() - firstMs) / 60_000;
    // One request flows back in half a minute; a restart may take that long.
    if (minutes < 0.5) {
      expect(response.status).toBe(429);
      expect(response.headers.get("retry-after")).toMatch(/^\d+$/);
    }
    expect(response.headers.get("x-ratelimit-limit-requests")).toBe("2");
    expect(Number(response.headers.get("x-ratelimit-remaining-requests"))).toBeLessThanOrEqual(
      Math.floor(2 * minutes),
    );
    expect((await complete(gateway.url, revoked.key, "four")).status).toBe(401);
  });
});

describe("two Workers over the same objects", () => {
  let gateway: WorkerdGateway;

  beforeAll(async () => {
    gateway = await startWorkerdGateway({
      vars: {
        LEANEDGE_ADMIN_TOKEN: adminToken,
        LEANEDGE_LIMITS: "requests_per_minute=12,sessions=5",
        // No worker serves it: limits are decided before one is sought.
        LEANEDGE_MODELS: JSON.stringify([{ model: "none", engines: 0 }]),
      },
      others: 1,
    });
  });

  afterAll(() => gateway.close());

  /** Addresses of the two Workers in turn. */
  function urls(count: number): string[] {
    return Array.from({ length: count }, (_, index) => gateway.urls[index % 2] ?? gateway.url);
  }

  it("give no more requests than the bucket of the key holds", async () => {
    const startMs = performance.now();
    const { key } = await createKey(gateway.url, "requests", "--limit", "sessions=0");
    const statuses = await Promise.all(
      urls(60).map(async (url, index) => {
        const response = await complete(url, key, `r${index}`);
        // An answer that no worker gives breaks off.
        const body = await response.text().catch(() => "");
        return body.includes("limit requests_per_minute is 12") ? "refused" : "admitted";
      }),
    );
    const admitted = statuses.filter((status) => status === "admitted").length;
    const minutes = (performance.now() - startMs) / 60_000;
    expect(admitted).toBeGreaterThanOrEqual(12);
    expect(admitted).toBeLessThanOrEqual(Math.ceil(12 * (1 + minutes)));
  });

  it("make no more sessions than the limit of the key", async () => {
    const { key } = await createKey(gateway.url, "sessions");
    const made = await Promise.allSettled(
      urls(20).map((url, index) =>
        createLeanedgeClient({ baseUrl: url, key }).sessions.createSession({
          sessionId: `s${index}`,
        }),
      ),
    );
    expect(made.filter(({ status }) => status === "fulfilled")).toHaveLength(5);
  });
});

/** The number of the code that a client's error carries. */
function codeOf(error: unknown): unknown {
  return typeof error === "object" && error !== null && "code" in error ? error.code : undefined;
}
