/** Limits of keys, as clients of each protocol meet them. */
import { evictDurableObject, runInDurableObject } from "cloudflare:test";
import { fromBinary } from "@bufbuild/protobuf";
import { DurationSchema } from "@bufbuild/protobuf/wkt";
import { Code } from "@connectrpc/connect";
import { describe, expect, it, vi } from "vitest";
import { FinishReason } from "../../gen/leanedge/v1/session_pb.js";
import { keyringName } from "../objects/keyring-object.js";
import {
  beginTurn,
  errorOf,
  newTenant,
  runTurn,
  scripted,
  scriptedEngine,
  send,
  sessionClient,
  testEnv,
  testUrl,
  words,
} from "../testing/gateway-clients.js";

interface ChatError {
  readonly error: {
    readonly message: string;
    readonly code: string;
    readonly param: string | null;
  };
}

/** A request in OpenAI form. */
function chat(key: string, body: object, headers: Record<string, string> = {}): Promise<Response> {
  return send(`${testUrl}/v1/chat/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${key}`, "content-type": "application/json", ...headers },
    body: JSON.stringify(body),
  });
}

function message(content: string): { readonly messages: readonly object[] } {
  return { messages: [{ role: "user", content }] };
}

/** Lets time pass for a key's limits. */
async function pass(keyId: string, ms: number): Promise<void> {
  await runInDurableObject(testEnv.LIMIT.getByName(keyId), (_instance, state) => {
    state.storage.sql.exec("UPDATE bucket SET at_ms = at_ms - ?", ms);
  });
}

async function tokensUsed(keyId: string): Promise<number> {
  return runInDurableObject(testEnv.LIMIT.getByName(keyId), (_instance, state) => {
    const [row] = state.storage.sql
      .exec<{ used: number }>("SELECT used FROM bucket WHERE name = 'tokens'")
      .toArray();
    return row?.used ?? 0;
  });
}

/** The places of running turns. */
async function turnsHeld(keyId: string): Promise<number> {
  return runInDurableObject(
    testEnv.LIMIT.getByName(keyId),
    (_instance, state) => state.storage.sql.exec("SELECT lease FROM turn").toArray().length,
  );
}

describe("requests a minute", () => {
  it("are refused beyond the limit, with the session as it was, and come back", async () => {
    const { key, keyId } = await newTenant({ requestsPerMinute: 2 });
    const heads: Headers[] = [];
    const client = sessionClient(key);
    const onHeader = (head: Headers): void => void heads.push(head);
    await runTurn(client, { sessionId: "s", turn: 1, messages: [scripted({})] }, { onHeader });
    expect(heads[0]?.get("x-ratelimit-limit-requests")).toBe("2");
    expect(heads[0]?.get("x-ratelimit-remaining-requests")).toBe("1");
    expect(heads[0]?.get("x-ratelimit-reset-requests")).toMatch(/^(30s|29\.\d+s)$/);
    expect(heads[0]?.get("x-ratelimit-limit-tokens")).toBeNull();
    // A replay counts as a request too.
    await runTurn(client, { sessionId: "s", turn: 1, messages: [scripted({})] });
    const error = await errorOf(
      runTurn(client, { sessionId: "s", turn: 2, messages: [scripted({})] }, { onHeader }),
    );
    expect(error.code).toBe(Code.ResourceExhausted);
    expect(error.rawMessage).toMatch(
      /^the key's limit requests_per_minute is 2, and this would make it 3; come again in \d+ s$/,
    );
    expect(Number(error.metadata.get("retry-after"))).toBeGreaterThan(20);
    const [detail] = error.details;
    if (detail === undefined || !("type" in detail)) throw new Error("no detail from the wire");
    expect(detail.type).toBe("google.rpc.RetryInfo");
    expect(String(fromBinary(DurationSchema, detail.value.subarray(2)).seconds)).toBe(
      error.metadata.get("retry-after"),
    );
    expect(heads.at(-1)?.get("x-ratelimit-remaining-requests")).toBe("0");
    expect((await client.getSession({ sessionId: "s" })).session).toMatchObject({
      lastTurn: 1,
      runningTurn: 0,
      messageCount: 2,
    });
    await pass(keyId, 31_000);
    const seen = await runTurn(client, { sessionId: "s", turn: 2, messages: [scripted({})] });
    expect(seen.finished?.finishReason).toBe(FinishReason.STOP);
  });

  it("are refused in OpenAI's form, streamed or not, and make no session", async () => {
    const { key } = await newTenant({ requestsPerMinute: 1 });
    const first = await chat(key, { ...message('!{"tokens":2}'), stream: true });
    expect(first.headers.get("x-ratelimit-limit-requests")).toBe("1");
    expect(first.headers.get("x-ratelimit-remaining-requests")).toBe("0");
    expect(await first.text()).toContain("[DONE]");
    for (const stream of [true, false]) {
      const refused = await chat(
        key,
        { ...message('!{"tokens":3}'), stream },
        { "x-session-id": "other" },
      );
      expect(refused.status).toBe(429);
      expect(refused.headers.get("retry-after")).toMatch(/^\d+$/);
      expect(refused.headers.get("x-should-retry")).toBeNull();
      expect(refused.headers.get("x-ratelimit-remaining-requests")).toBe("0");
      const { error } = await refused.json<ChatError>();
      expect(error.code).toBe("rate_limit_exceeded");
      expect(error.message).toContain("requests_per_minute is 1");
    }
    const missing = await errorOf(sessionClient(key).getSession({ sessionId: "other" }));
    expect(missing.code).toBe(Code.NotFound);
  });

  it("are no more than the limit when many sessions come at once", async () => {
    const { key } = await newTenant({ requestsPerMinute: 6 });
    const client = sessionClient(key);
    const results = await Promise.allSettled(
      Array.from({ length: 24 }, (_, index) =>
        runTurn(client, { sessionId: `s${index}`, turn: 1, messages: [scripted({ tokens: 1 })] }),
      ),
    );
    const admitted = results.filter(({ status }) => status === "fulfilled").length;
    // One flows in every 10 s.
    expect(admitted).toBeGreaterThanOrEqual(6);
    expect(admitted).toBeLessThanOrEqual(9);
  });
});

describe("tokens a minute", () => {
  it("are those that were computed, streamed or not, and a replay is free", async () => {
    const { key, keyId } = await newTenant({ tokensPerMinute: 100_000 });
    const client = sessionClient(key);
    const ask = { sessionId: "s", turn: 1, messages: [scripted({ tokens: 7 })] };
    const seen = await runTurn(client, ask);
    const usage = seen.finished?.usage;
    const computed =
      (usage?.promptTokens ?? 0) - (usage?.cachedTokens ?? 0) + (usage?.completionTokens ?? 0);
    expect(computed).toBeGreaterThan(7);
    await vi.waitFor(async () => {
      expect(await turnsHeld(keyId)).toBe(0);
    });
    expect(await tokensUsed(keyId)).toBeLessThanOrEqual(computed);
    // At this limit 1,667 flow back in a second; what the estimate took beyond is 500.
    await pass(keyId, 60_000);
    await runTurn(client, ask);
    expect(await turnsHeld(keyId)).toBe(0);

    // The second turn's prefix is in the cache: only what is new counts.
    const second = await runTurn(client, {
      sessionId: "s",
      turn: 2,
      messages: [scripted({ tokens: 3 })],
    });
    expect(second.finished?.usage?.cachedTokens).toBeGreaterThan(0);

    const before = await chat(key, { ...message('!{"tokens":9}'), stream: false });
    const { usage: whole } = await before.json<{
      usage: { prompt_tokens: number; completion_tokens: number };
    }>();
    expect(whole.completion_tokens).toBe(9);
  });

  it("refuse further turns once one took more than was expected", async () => {
    const { key, keyId } = await newTenant({ tokensPerMinute: 600 });
    const client = sessionClient(key);
    // 1,200 bytes are 300 tokens by the estimate and 1,200 of the scripted model.
    const long = { ...scripted({ tokens: 1 }, "x".repeat(1_200)) };
    await runTurn(client, {
      sessionId: "s",
      turn: 1,
      messages: [long],
      sampling: { maxTokens: 4 },
    });
    await vi.waitFor(async () => {
      expect(await turnsHeld(keyId)).toBe(0);
    });
    expect(await tokensUsed(keyId)).toBeGreaterThan(1_000);
    const response = await chat(key, { ...message("hello"), max_tokens: 1 });
    expect(response.status).toBe(429);
    expect(response.headers.get("x-ratelimit-limit-tokens")).toBe("600");
    expect(response.headers.get("x-ratelimit-remaining-tokens")).toBe("0");
    expect(Number(response.headers.get("retry-after"))).toBeGreaterThan(30);
    expect((await response.json<ChatError>()).error.message).toContain("tokens_per_minute is 600");
    await evictDurableObject(testEnv.LIMIT.getByName(keyId));
    expect((await chat(key, { ...message("hello"), max_tokens: 1 })).status).toBe(429);
    await pass(keyId, 120_000);
    expect((await chat(key, { ...message("hello"), max_tokens: 1 })).status).toBe(200);
  });

  it("are given back by a turn that a worker refuses", async () => {
    const { key, keyId } = await newTenant({ tokensPerMinute: 10_000 });
    const client = sessionClient(key);
    const refuse = { code: Code.InvalidArgument, message: "no" };
    const error = await errorOf(
      runTurn(client, { sessionId: "s", turn: 1, messages: [scripted({ refuse })] }),
    );
    expect(error.rawMessage).toBe("no");
    await vi.waitFor(async () => {
      expect(await turnsHeld(keyId)).toBe(0);
      expect(await tokensUsed(keyId)).toBe(0);
    });
  });
});

describe("turns at once", () => {
  it("are refused beyond the limit, and their number is free again", async () => {
    const { key, keyId } = await newTenant({ turns: 1 });
    const client = sessionClient(key);
    const slow = { sessionId: "a", turn: 1, messages: [scripted({ tokens: 400, delayMs: 20 })] };
    const leaving = new AbortController();
    const running = await beginTurn(client, slow, { signal: leaving.signal });
    const error = await errorOf(
      runTurn(client, { sessionId: "b", turn: 1, messages: [scripted({})] }),
    );
    expect([error.code, error.rawMessage]).toEqual([
      Code.ResourceExhausted,
      "the key's limit turns is 1, and 1 run; come again in 1 s",
    ]);
    // Another reader of the running turn takes no place.
    const joined = await beginTurn(client, slow);
    expect(joined.text).not.toBe("");
    await client.cancelTurn({ sessionId: "a" });
    await Promise.allSettled([running.finish(), joined.finish()]);
    leaving.abort();
    await vi.waitFor(async () => {
      expect(await turnsHeld(keyId)).toBe(0);
    });
    const seen = await runTurn(client, { sessionId: "b", turn: 1, messages: [scripted({})] });
    expect(seen.text).toBe(words(5));
  });

  it("end, and their session goes on, where a later worker names a backend that is not known yet", async () => {
    const { key, keyId } = await newTenant({ turns: 1, tokensPerMinute: 100_000 });
    const client = sessionClient(key);
    const later = '!{"tokens":2,"backend":9}';
    for (const turn of [1, 2]) {
      const messages = [{ ...scripted({}), text: later }];
      const seen = await runTurn(client, { sessionId: "a", turn, messages });
      expect(seen.finished?.finishReason).toBe(FinishReason.STOP);
      await vi.waitFor(async () => {
        expect(await turnsHeld(keyId)).toBe(0);
      });
    }
    const body = { ...message(later), stream: false };
    const answer = await chat(key, body, { "x-session-id": "b" });
    expect([answer.status, answer.headers.get("x-served-by")]).toEqual([
      200,
      "unknown:scripted:scripted/0",
    ]);
  });

  it("end with a session that is deleted", async () => {
    const { key, keyId } = await newTenant({ turns: 1 });
    const client = sessionClient(key);
    const running = await beginTurn(client, {
      sessionId: "a",
      turn: 1,
      messages: [scripted({ tokens: 400, delayMs: 20 })],
    });
    await client.deleteSession({ sessionId: "a" });
    await Promise.allSettled([running.finish()]);
    await vi.waitFor(async () => {
      expect(await turnsHeld(keyId)).toBe(0);
    });
  });
});

describe("sessions", () => {
  it("are refused beyond the limit however they are made, and deleting one makes room", async () => {
    const { key } = await newTenant({ sessions: 2 });
    const client = sessionClient(key);
    await client.createSession({ sessionId: "a" });
    await runTurn(client, { sessionId: "b", turn: 1, messages: [scripted({})] });
    const refusal = "the key's limit sessions is 2, and it has 2; delete one first";
    for (const attempt of [
      () => client.createSession({ sessionId: "c" }),
      () => runTurn(client, { sessionId: "d", turn: 1, messages: [scripted({})] }),
      () => client.forkSession({ sessionId: "b", turn: 1, newSessionId: "e" }),
    ]) {
      const error = await errorOf(attempt());
      expect([error.code, error.rawMessage]).toEqual([Code.ResourceExhausted, refusal]);
      expect(error.metadata.get("retry-after")).toBeNull();
    }
    const refused = await chat(key, message("hello"));
    expect(refused.status).toBe(429);
    expect(refused.headers.get("x-should-retry")).toBe("false");
    expect(refused.headers.get("retry-after")).toBeNull();
    expect((await refused.json<ChatError>()).error).toMatchObject({
      code: "sessions_exceeded",
      param: null,
    });
    // Those that are there go on.
    await client.createSession({ sessionId: "a" });
    await runTurn(client, { sessionId: "b", turn: 2, messages: [scripted({})] });
    await client.deleteSession({ sessionId: "a" });
    await vi.waitFor(() => client.createSession({ sessionId: "c" }));
    // The list hears of sessions behind them (indexPushMs).
    await vi.waitFor(
      async () => {
        const { sessions } = await client.listSessions({});
        expect(sessions.map(({ sessionId }) => sessionId).sort()).toEqual(["b", "c"]);
      },
      { timeout: 20_000, interval: 100 },
    );
  });

  it("are no more than the limit when many are made at once", async () => {
    const { key } = await newTenant({ sessions: 3 });
    const client = sessionClient(key);
    const results = await Promise.allSettled(
      Array.from({ length: 12 }, (_, index) => client.createSession({ sessionId: `s${index}` })),
    );
    expect(results.filter(({ status }) => status === "fulfilled")).toHaveLength(3);
    await vi.waitFor(
      async () => {
        expect((await client.listSessions({})).sessions).toHaveLength(3);
      },
      { timeout: 20_000, interval: 100 },
    );
  });
});

describe("output tokens", () => {
  it("are the longest answer, and its default", async () => {
    const { key } = await newTenant({ outputTokens: 8 });
    const client = sessionClient(key);
    const error = await errorOf(
      runTurn(client, {
        sessionId: "s",
        turn: 1,
        messages: [scripted({})],
        sampling: { maxTokens: 9 },
      }),
    );
    expect([error.code, error.rawMessage]).toEqual([
      Code.ResourceExhausted,
      "max_tokens is 9, the key's limit output_tokens is 8",
    ]);
    const refused = await chat(key, { ...message("hello"), max_tokens: 9 });
    expect(refused.status).toBe(429);
    expect(refused.headers.get("x-should-retry")).toBe("false");
    expect((await refused.json<ChatError>()).error).toMatchObject({
      code: "output_tokens_exceeded",
      param: "max_tokens",
    });
    const seen = await runTurn(client, {
      sessionId: "s",
      turn: 1,
      messages: [scripted({ tokens: 100 })],
    });
    expect(seen.finished?.finishReason).toBe(FinishReason.LENGTH);
    expect(seen.finished?.usage?.completionTokens).toBe(8);
  });
});

describe("context tokens", () => {
  it("end an answer, and refuse a prompt, with the session as it was", async () => {
    const { key, keyId } = await newTenant({ contextTokens: 60, turns: 1 });
    const client = sessionClient(key);
    const first = await runTurn(client, {
      sessionId: "s",
      turn: 1,
      messages: [scripted({ tokens: 500 })],
    });
    expect(first.finished?.finishReason).toBe(FinishReason.LENGTH);
    const { promptTokens = 0, completionTokens = 0 } = first.finished?.usage ?? {};
    expect(promptTokens).toBeLessThan(60);
    expect(promptTokens + completionTokens).toBeGreaterThanOrEqual(60);
    expect(completionTokens).toBeLessThan(500);

    const error = await errorOf(
      runTurn(client, { sessionId: "s", turn: 2, messages: [scripted({})] }),
    );
    expect(error.code).toBe(Code.ResourceExhausted);
    expect(error.rawMessage).toMatch(
      /^the prompt has \d+ tokens, the key's limit context_tokens is 60 and the answer needs at least one$/,
    );
    expect((await client.getSession({ sessionId: "s" })).session).toMatchObject({
      lastTurn: 1,
      runningTurn: 0,
      messageCount: 2,
    });
    await vi.waitFor(async () => {
      expect(await turnsHeld(keyId)).toBe(0);
    });
    const refused = await chat(key, message("y".repeat(80)));
    expect(refused.status).toBe(429);
    expect(refused.headers.get("x-should-retry")).toBe("false");
    expect((await refused.json<ChatError>()).error).toMatchObject({
      code: "context_length_exceeded",
      param: "messages",
    });
  });
});

describe("a key that is revoked", () => {
  it("ends its streams in every form with UNAUTHENTICATED, and stops the worker", async () => {
    const { tenant, key, keyId } = await newTenant();
    const client = sessionClient(key);
    const endless = { tokens: 2_000, delayMs: 20 };
    const connect = await beginTurn(client, {
      sessionId: "a",
      turn: 1,
      messages: [scripted(endless, `connect ${tenant}`)],
    });
    const detached = await beginTurn(client, {
      sessionId: "b",
      turn: 1,
      detach: true,
      messages: [scripted(endless, `detached ${tenant}`)],
    });
    const sse = await chat(key, {
      messages: [{ role: "user", content: scripted(endless, `sse ${tenant}`).text }],
      stream: true,
    });
    await testEnv.KEYRING.getByName(keyringName).revoke(keyId);
    const revokedMs = Date.now();
    for (const running of [connect, detached]) {
      const error = await errorOf(running.finish());
      expect([error.code, error.rawMessage]).toEqual([
        Code.Unauthenticated,
        "the API key was revoked",
      ]);
    }
    const lines = (await sse.text()).trim().split("\n\n");
    expect(JSON.parse(lines.at(-1)?.slice("data: ".length) ?? "")).toEqual({
      error: {
        message: "the API key was revoked",
        type: "invalid_request_error",
        param: null,
        code: "invalid_api_key",
      },
    });
    expect(Date.now() - revokedMs).toBeLessThan(5_000);
    await vi.waitFor(async () => {
      const calls = (await scriptedEngine().seenCalls()).filter(({ messages }) =>
        messages.some((text) => text.includes(tenant)),
      );
      expect(calls.map(({ end }) => end)).toEqual(["left", "left", "left"]);
    });
  });

  it("leaves the turn of another key of its tenant alone", async () => {
    const { tenant, key, keyId } = await newTenant();
    const { key: owner } = await secondKey(tenant);
    const ask = {
      sessionId: "s",
      turn: 1,
      messages: [scripted({ tokens: 250, delayMs: 20 })],
    };
    const mine = await beginTurn(sessionClient(owner), ask);
    const joined = await beginTurn(sessionClient(key), ask);
    await testEnv.KEYRING.getByName(keyringName).revoke(keyId);
    expect((await errorOf(joined.finish())).code).toBe(Code.Unauthenticated);
    const seen = await mine.finish();
    expect(seen.text).toBe(words(250));
    expect(seen.finished?.finishReason).toBe(FinishReason.STOP);
  });
});

/** One more key of a tenant. */
async function secondKey(tenant: string): Promise<{ readonly key: string }> {
  const made = await testEnv.KEYRING.getByName(keyringName).createKey({
    tenant,
    name: "second",
    expireMs: 0,
    limits: {},
  });
  if (made.kind !== "made") throw new Error(`the key is ${made.kind}`);
  return { key: made.key };
}

describe("a key without limits", () => {
  it("asks no object, and gets no headers", async () => {
    const { key, keyId } = await newTenant();
    const response = await chat(key, message("hello"));
    expect(response.status).toBe(200);
    await response.text();
    expect([...response.headers.keys()].filter((name) => name.startsWith("x-ratelimit"))).toEqual(
      [],
    );
    expect(await turnsHeld(keyId)).toBe(0);
  });
});
