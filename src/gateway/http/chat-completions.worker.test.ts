import { runInDurableObject } from "cloudflare:test";
import { describe, expect, it, vi } from "vitest";
import { Code } from "@connectrpc/connect";
import {
  newTenant,
  scriptedEngine,
  send,
  sequenceOf,
  sessionClient,
  sessionObject,
  testUrl,
  words,
} from "../testing/gateway-clients.js";
import type { Script, ScriptedCall } from "../testing/scripted-engine.js";
import { bodyBytesMax, headerBytesMax } from "../limits.js";

interface ChatMessage {
  readonly role: string;
  readonly content: unknown;
}

interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
  // Whatever the gateway said, as tests look at it.
  readonly body: {
    readonly id?: string;
    readonly object?: string;
    readonly model?: string;
    readonly choices?: readonly {
      readonly message: { readonly content: string };
      readonly finish_reason: string;
    }[];
    readonly usage?: {
      readonly prompt_tokens: number;
      readonly completion_tokens: number;
      readonly total_tokens: number;
      readonly prompt_tokens_details: { readonly cached_tokens: number };
    };
    readonly error?: Record<string, unknown>;
  };
}

/** One event of a stream; `[DONE]` has no fields. */
interface Chunk {
  readonly choices?: readonly { readonly delta: { readonly content?: string } }[];
}

function user(script: Script | string, note = ""): ChatMessage {
  const content = typeof script === "string" ? script : `!${JSON.stringify({ ...script, note })}`;
  return { role: "user", content };
}

function assistant(content: string): ChatMessage {
  return { role: "assistant", content };
}

function post(
  key: string,
  body: unknown,
  headers: Record<string, string> = {},
  signal?: AbortSignal,
): Promise<Response> {
  return send(`${testUrl}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${key}`, ...headers },
    body: typeof body === "string" ? body : JSON.stringify(body),
    ...(signal === undefined ? {} : { signal }),
  });
}

async function chat(
  key: string,
  body: Record<string, unknown>,
  headers: Record<string, string> = {},
): Promise<Answer> {
  const response = await post(key, { model: "scripted", ...body }, headers);
  const text = await response.text();
  return {
    status: response.status,
    headers: response.headers,
    text,
    body: JSON.parse(text) as Answer["body"],
  };
}

function answerOf(answer: Answer): string {
  return answer.body.choices?.[0]?.message.content ?? "";
}

/** The data of a stream's events; comments as they are. */
function eventsOf(text: string): unknown[] {
  return text
    .split("\n\n")
    .filter((line) => line !== "")
    .map((line) => {
      if (!line.startsWith("data: ")) return line;
      const data = line.slice(6);
      return data === "[DONE]" ? data : (JSON.parse(data) as unknown);
    });
}

async function callsOf(tenant: string, sessionId: string): Promise<ScriptedCall[]> {
  const sequenceId = await sequenceOf(tenant, sessionId);
  return (await scriptedEngine().seenCalls()).filter((call) => call.sequenceId === sequenceId);
}

describe("POST /v1/chat/completions", () => {
  it("answers in OpenAI's form, and says who answered", async () => {
    const { key } = await newTenant();
    const answer = await chat(
      key,
      { messages: [user({ tokens: 3 })] },
      { "x-request-id": "request-7", "x-session-id": "talk" },
    );
    expect(answer.status).toBe(200);
    expect(answer.body).toMatchObject({
      object: "chat.completion",
      model: "scripted",
      choices: [
        {
          index: 0,
          message: { role: "assistant", content: words(3) },
          finish_reason: "stop",
        },
      ],
      usage: { completion_tokens: 3, prompt_tokens_details: { cached_tokens: 0 } },
    });
    const { usage } = answer.body;
    expect(usage?.total_tokens).toBe((usage?.prompt_tokens ?? 0) + 3);
    expect(answer.body.id).toMatch(/^chatcmpl-[0-9a-f]{24}$/);
    expect(Object.fromEntries(answer.headers)).toMatchObject({
      "x-request-id": "request-7",
      "x-session-id": "talk",
      "x-served-by": "reference:scripted:scripted/0",
      "x-affinity": "miss",
      "x-placement": "configured",
    });
  });

  it("streams server-sent events with the usage at the end", async () => {
    const { key } = await newTenant();
    const response = await post(key, {
      messages: [user({ tokens: 4, delayMs: 30 })],
      stream: true,
      stream_options: { include_usage: true },
    });
    expect(response.status).toBe(200);
    expect(response.headers.get("content-type")).toBe("text/event-stream; charset=utf-8");
    const events = eventsOf(await response.text()) as {
      choices: { delta: { content?: string }; finish_reason: string | null }[];
      usage: unknown;
    }[];
    expect(events[0]).toMatchObject({
      object: "chat.completion.chunk",
      choices: [{ delta: { role: "assistant", content: "" }, finish_reason: null }],
      usage: null,
    });
    const texts = events.slice(1, -3).map((event) => event.choices[0]?.delta.content ?? "");
    expect(texts.join("")).toBe(words(4));
    expect(texts.length).toBeGreaterThan(1);
    expect(events.at(-3)).toMatchObject({ choices: [{ delta: {}, finish_reason: "stop" }] });
    expect(events.at(-2)).toMatchObject({
      choices: [],
      usage: { completion_tokens: 4, prompt_tokens_details: { cached_tokens: 0 } },
    });
    expect(events.at(-1)).toBe("[DONE]");
  });

  it("streams without a usage where none is asked for", async () => {
    const { key } = await newTenant();
    const response = await post(key, { messages: [user({})], stream: true });
    const text = await response.text();
    expect(text).not.toContain('"usage"');
    expect(text.endsWith("data: [DONE]\n\n")).toBe(true);
  });

  it("sends signs of life while a long prompt is read", async () => {
    const { key } = await newTenant();
    const response = await post(key, {
      messages: [user({ progress: 4, delayMs: 40 })],
      stream: true,
    });
    expect(eventsOf(await response.text())).toContain(": ping");
  });

  it("ends with the error where the worker gives up in the middle, without [DONE]", async () => {
    const { key } = await newTenant();
    const body = { messages: [user({ failAt: 2, failTimes: 100 })], stream: true };
    const events = eventsOf(await (await post(key, body)).text());
    expect(events.at(-1)).toEqual({
      error: {
        message: "no worker completed turn 1 in 5 attempts",
        type: "server_error",
        param: null,
        code: "unavailable",
      },
    });
  });

  it("breaks an answer in one piece off where the worker gives up after its first blank", async () => {
    const { key } = await newTenant();
    const messages = [user({ failAt: 2, failTimes: 100 })];
    const response = await post(key, { messages });
    expect(response.status).toBe(200);
    await expect(response.text()).rejects.toThrow("no worker completed turn 1");
  });

  it("begins an answer in one piece that takes long with blanks", async () => {
    const { key } = await newTenant();
    const quick = await chat(key, { messages: [user({ tokens: 3 })] });
    expect(quick.text.startsWith("{")).toBe(true);
    const slow = await chat(key, { messages: [user({ tokens: 30, delayMs: 50 })] });
    expect(slow.text).toMatch(/^ {2,}\{/);
    expect(answerOf(slow)).toBe(words(30));
  });

  it("stops the worker when the client of an answer in one piece leaves", async () => {
    const { tenant, key } = await newTenant();
    const response = await post(
      key,
      { messages: [user({ tokens: 500, delayMs: 20 })] },
      { "x-session-id": "one" },
    );
    const reader = (response.body as ReadableStream<Uint8Array>).getReader();
    expect(new TextDecoder().decode((await reader.read()).value)).toBe(" ");
    await reader.cancel();
    await vi.waitFor(async () => {
      const [call] = await callsOf(tenant, "one");
      expect(call?.end).toBe("left");
    });
  });

  it("breaks off where the session's object is lost, and sent again is the same answer", async () => {
    const { tenant, key } = await newTenant();
    const body = {
      messages: [user({ tokens: 60, delayMs: 10 })],
      stream: true,
      session_id: "lost",
    };
    const response = await post(key, body);
    const reader = (response.body as ReadableStream<Uint8Array>).getReader();
    let text = "";
    const read = async (): Promise<void> => {
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        text += new TextDecoder().decode(value);
        if (text.includes("w5")) break;
      }
      await runInDurableObject(sessionObject(tenant, "lost"), (_instance, state) => {
        state.abort("a crash, as the test wants it");
      }).catch(() => undefined);
      for (let last = await reader.read(); !last.done; last = await reader.read()) {
        text += new TextDecoder().decode(last.value);
      }
    };
    await expect(read()).rejects.toThrow();
    expect(text).toContain("w5");
    expect(text).not.toContain("[DONE]");
    const again = (eventsOf(await (await post(key, body)).text()) as Chunk[]).flatMap(
      (event) => event.choices?.map(({ delta }) => delta.content ?? "") ?? [],
    );
    expect(again.join("")).toBe(words(60));
  });

  it("tells with a status what goes wrong before the first token", async () => {
    const { key } = await newTenant();
    const refuse = { code: Code.ResourceExhausted, message: "no page of 64 is free" };
    const full = await chat(key, { messages: [user({ refuse })], stream: true });
    expect(full.status).toBe(429);
    expect(full.body.error).toEqual({
      message: "no page of 64 is free",
      type: "rate_limit_error",
      param: null,
      code: "rate_limit_exceeded",
    });
    const long = await chat(key, { messages: [user("x".repeat(5_000))] });
    expect(long.status).toBe(400);
    expect(long.body.error?.["message"]).toBe("the prompt has 5001 tokens, the window has 4000");
    const bug = await chat(key, { messages: [user({ crash: true })] });
    expect(bug.status).toBe(503);
    expect(bug.text).not.toContain("secret");
  });

  it("stops the worker when the client leaves a stream", async () => {
    const { tenant, key } = await newTenant();
    const leave = new AbortController();
    const response = await post(
      key,
      { messages: [user({ tokens: 300, delayMs: 10 })], stream: true },
      { "x-session-id": "left" },
      leave.signal,
    );
    const reader = response.body?.getReader();
    await reader?.read();
    await reader?.read();
    await reader?.cancel();
    leave.abort();
    await vi.waitFor(async () => expect((await callsOf(tenant, "left"))[0]?.end).toBe("left"));
    expect((await callsOf(tenant, "left"))[0]?.drawn).toBeLessThan(100);
  });

  it("stops the worker when the client leaves before an answer in one piece", async () => {
    const { tenant, key } = await newTenant();
    const leave = new AbortController();
    const messages = [user({ tokens: 300, delayMs: 10 })];
    const response = post(key, { messages }, { "x-session-id": "left" }, leave.signal);
    response.catch(() => undefined);
    await vi.waitFor(async () =>
      expect((await callsOf(tenant, "left"))[0]?.drawn).toBeGreaterThan(2),
    );
    leave.abort();
    await vi.waitFor(async () => expect((await callsOf(tenant, "left"))[0]?.end).toBe("left"));
    expect((await callsOf(tenant, "left"))[0]?.drawn).toBeLessThan(150);
  });

  it("passes sampling on and stops at max_completion_tokens", async () => {
    const { key } = await newTenant();
    const answer = await chat(key, {
      messages: [user({ tokens: 9 })],
      max_completion_tokens: 4,
      seed: 17,
      temperature: 0,
      stop: ["\n"],
    });
    expect(answerOf(answer)).toBe(words(4));
    expect(answer.body.choices?.[0]?.finish_reason).toBe("length");
  });
});

describe("a history", () => {
  it("continues its session: only what is new is computed", async () => {
    const { tenant, key } = await newTenant();
    const named = { "x-session-id": "talk" };
    const first = await chat(key, { messages: [user({ tokens: 2 })] }, named);
    const history = [user({ tokens: 2 }), assistant(answerOf(first)), user({ tokens: 3 })];
    const second = await chat(key, { messages: history }, named);
    expect(answerOf(second)).toBe(words(3));
    expect(second.headers.get("x-affinity")).toBe("hit");
    expect(second.headers.get("x-placement")).toBe("bound");
    expect(second.headers.get("x-session-id")).toBe("talk");
    expect(second.body.usage?.prompt_tokens_details.cached_tokens).toBe(
      (first.body.usage?.prompt_tokens ?? 0) + 2,
    );
    const calls = await callsOf(tenant, "talk");
    expect(calls.map((call) => call.messages.length)).toEqual([1, 1]);
  });

  it("sent again is a retry: the stored answer, under the same id", async () => {
    const { tenant, key } = await newTenant();
    const named = { "x-session-id": "talk" };
    const request = { messages: [user({ tokens: 2 })], temperature: 0.7 };
    const first = await chat(key, request, named);
    const again = await chat(key, request, named);
    expect(again.body.id).toBe(first.body.id);
    expect(answerOf(again)).toBe(words(2));
    expect(await callsOf(tenant, "talk")).toHaveLength(1);
  });

  it("sent again while it runs joins the answer", async () => {
    const { tenant, key } = await newTenant();
    const named = { "x-session-id": "talk" };
    const request = { messages: [user({ tokens: 20, delayMs: 10 })] };
    const answers = await Promise.all([chat(key, request, named), chat(key, request, named)]);
    expect(answers.map(answerOf)).toEqual([words(20), words(20)]);
    expect(await callsOf(tenant, "talk")).toHaveLength(1);
  });

  it("with another sampling is another answer, in a fork that the next request finds", async () => {
    const { tenant, key } = await newTenant();
    const named = { "x-session-id": "talk" };
    const messages = [user({ tokens: 2 })];
    await chat(key, { messages, temperature: 0.1 }, named);
    const other = await chat(key, { messages, temperature: 0.9 }, named);
    const fork = other.headers.get("x-session-id") ?? "";
    expect(fork).toMatch(/^fork-[0-9a-f]{32}$/);
    expect(await callsOf(tenant, "talk")).toHaveLength(1);
    expect(await callsOf(tenant, fork)).toHaveLength(1);
    const again = await chat(key, { messages, temperature: 0.9 }, named);
    expect(again.body.id).toBe(other.body.id);
  });

  it("that parts from the session goes on in a fork from there, with the cache of what is shared", async () => {
    const { tenant, key } = await newTenant();
    const named = { "x-session-id": "talk" };
    const one = user({ tokens: 2 }, "one");
    await chat(key, { messages: [one] }, named);
    const shared = [one, assistant(words(2))];
    await chat(key, { messages: [...shared, user({ tokens: 3 }, "left")] }, named);
    const right = [...shared, user({ tokens: 4 }, "right")];
    const parted = await chat(key, { messages: right }, named);
    expect(answerOf(parted)).toBe(words(4));
    expect(parted.headers.get("x-affinity")).toBe("hit");
    const fork = parted.headers.get("x-session-id") ?? "";
    expect(fork).not.toBe("talk");
    const { session } = await sessionClient(key).getSession({ sessionId: fork });
    expect(session).toMatchObject({ forkedFrom: "talk", lastTurn: 2 });
    // Both go on, each where it belongs.
    const more = [...right, assistant(words(4)), user({ tokens: 1 }, "more")];
    const onward = await chat(key, { messages: more }, named);
    expect(onward.headers.get("x-session-id")).toBe(fork);
    expect(onward.headers.get("x-affinity")).toBe("hit");
    const left = [...shared, user({ tokens: 3 }, "left"), assistant(words(3)), user({ tokens: 1 })];
    const back = await chat(key, { messages: left }, named);
    expect(back.headers.get("x-session-id")).toBe("talk");
    const calls = await callsOf(tenant, fork);
    expect(calls.map((call) => [call.outcome, call.messages.length, call.logTokens])).toEqual([
      ["accepted", 1, 0],
      ["accepted", 1, 0],
    ]);
  });

  it("with an edited answer is imported into a fork", async () => {
    const { key } = await newTenant();
    const named = { "x-session-id": "talk" };
    await chat(key, { messages: [user({ tokens: 2 })] }, named);
    const edited = [user({ tokens: 2 }), assistant("something else"), user({ tokens: 3 })];
    const answer = await chat(key, { messages: edited }, named);
    expect(answerOf(answer)).toBe(words(3));
    const fork = answer.headers.get("x-session-id") ?? "";
    const { messages } = await sessionClient(key).listMessages({ sessionId: fork });
    expect(messages.map((entry) => entry.message?.text)).toContain("something else");
    const more = [...edited, assistant(words(3)), user({ tokens: 1 })];
    const next = await chat(key, { messages: more }, named);
    expect(next.headers.get("x-session-id")).toBe(fork);
    expect(next.body.usage?.prompt_tokens_details.cached_tokens).toBeGreaterThan(0);
  });

  it("whose answer was cut off is answered anew, not replayed", async () => {
    const { tenant, key } = await newTenant();
    const leave = new AbortController();
    const body = { messages: [user({ tokens: 50, delayMs: 5 })], stream: true };
    const response = await post(key, body, { "x-session-id": "cut" }, leave.signal);
    const reader = response.body?.getReader();
    await reader?.read();
    await reader?.read();
    await reader?.cancel();
    leave.abort();
    await vi.waitFor(async () => expect((await callsOf(tenant, "cut"))[0]?.end).toBe("left"));
    await vi.waitFor(async () => {
      const { session } = await sessionClient(key).getSession({ sessionId: "cut" });
      expect(session?.runningTurn).toBe(0);
    });
    const answer = await chat(key, { messages: body.messages }, { "x-session-id": "cut" });
    expect(answerOf(answer)).toBe(words(50));
  });

  it("without any id is found by how it begins", async () => {
    const { key } = await newTenant();
    const opener = [
      { role: "system", content: "Be brief." },
      user({ tokens: 2 }, crypto.randomUUID()),
    ];
    const first = await chat(key, { messages: opener });
    const next = [...opener, assistant(words(2)), user({ tokens: 1 })];
    const second = await chat(key, { messages: next });
    expect(second.headers.get("x-session-id")).toBe(first.headers.get("x-session-id"));
    expect(second.headers.get("x-affinity")).toBe("hit");
    const elsewhere = await chat((await newTenant()).key, { messages: next });
    expect(elsewhere.headers.get("x-affinity")).toBe("miss");
    expect(elsewhere.body.usage?.prompt_tokens_details.cached_tokens).toBe(0);
  });

  it("under an idempotency key runs once, and another request under it is refused", async () => {
    const { key } = await newTenant();
    const headers = { "idempotency-key": "k-1", "x-session-id": "talk" };
    const first = await chat(key, { messages: [user({ tokens: 2 })] }, headers);
    const again = await chat(key, { messages: [user({ tokens: 2 })] }, headers);
    expect(again.body.id).toBe(first.body.id);
    const wrong = await chat(key, { messages: [user({ tokens: 3 })] }, headers);
    expect(wrong.status).toBe(409);
    expect(wrong.body.error).toMatchObject({
      message: 'the idempotency key "k-1" was used for another request',
      code: "conflict",
    });
    const second = await chat(
      key,
      { messages: [user({ tokens: 2 })] },
      { ...headers, "idempotency-key": "k-2" },
    );
    expect(second.body.id).not.toBe(first.body.id);
  });

  it.each([
    [{ "x-session-id": "a", "x-session-affinity": "b" }, {}, "a"],
    [{ "x-session-affinity": "b", session_id: "c" }, {}, "b"],
    [{ "session-id": "c" }, {}, "c"],
    [{ session_id: "d" }, {}, "d"],
    [{ "x-claude-code-session-id": "e" }, {}, "e"],
    [{ "x-dynamo-session-id": "f" }, {}, "f"],
    [{ "x-litellm-session-id": "g" }, { prompt_cache_key: "h" }, "g"],
    [{ "x-session-id": "a" }, { session_id: "own" }, "own"],
  ])("is named by %j and %j", async (headers, body, sessionId) => {
    const { key } = await newTenant();
    const answer = await chat(key, { messages: [user({})], ...body }, headers);
    expect(answer.headers.get("x-session-id")).toBe(sessionId);
  });

  it("is named by prompt_cache_key before user, whatever they hold", async () => {
    const { key } = await newTenant();
    async function idOf(body: Record<string, unknown>): Promise<string | null> {
      return (await chat(key, { messages: [user({})], ...body })).headers.get("x-session-id");
    }
    const byKey = await idOf({ prompt_cache_key: "k".repeat(400), user: "u" });
    expect(byKey).toMatch(/^key-[0-9a-f]{32}$/);
    expect(await idOf({ prompt_cache_key: "k".repeat(400), user: "v" })).toBe(byKey);
    expect(await idOf({ user: "u" })).not.toBe(byKey);
  });
});

describe("what cannot be answered", () => {
  it.each([
    [{ messages: [user("x")], n: 2 }, "n", "n is not supported"],
    [{ messages: [user("x")], logprobs: true }, "logprobs", "logprobs is not supported"],
    [{ messages: [user("x")], tools: [{}] }, "tools", "tools is not supported"],
    [
      { messages: [user("x")], response_format: { type: "json_object" } },
      "response_format",
      "response_format is not supported",
    ],
    [
      { messages: [user("x")], temperature: 3 },
      "temperature",
      "temperature is 3, it must be 0 to 2",
    ],
    [{ messages: [user("x")], top_p: "1" }, "top_p", "top_p must be a number"],
    [
      { messages: [user("x")], max_tokens: 1.5 },
      "max_tokens",
      "max_tokens is 1.5, it must be a whole number",
    ],
    [{ messages: [user("x")], stop: ["a\ud800"] }, "stop", "stop is not valid Unicode"],
    [{ messages: [user("x")], stream: "yes" }, "stream", "stream must be true or false"],
    [{}, "messages", "messages is missing"],
    [{ messages: [] }, "messages", "messages is empty, at least 1 is needed"],
    [{ messages: [user("")] }, "messages[0].content", "messages[0].content is empty"],
    [
      { messages: [{ role: "tool", content: "x" }] },
      "messages[0].role",
      "messages[0].role must be system, developer, user or assistant",
    ],
    [
      { messages: [{ role: "constructor", content: "x" }, user("y")] },
      "messages[0].role",
      "messages[0].role must be system, developer, user or assistant",
    ],
    [
      { messages: [user("x"), { role: "system", content: "y" }, user("z")] },
      "messages[1].role",
      "messages[1].role: only the first message may be system",
    ],
    [
      { messages: [{ role: "user", content: [{ type: "image_url", image_url: {} }] }] },
      "messages[0].content[0]",
      "messages[0].content[0]: only parts of type text are supported",
    ],
    [
      { messages: [user("x"), assistant("y")] },
      "messages[1].role",
      "the last message must be user",
    ],
  ])("%j is refused by the name of its parameter", async (body, param, message) => {
    const { key } = await newTenant();
    const answer = await chat(key, body);
    expect(answer.status).toBe(400);
    expect(answer.body.error).toMatchObject({ type: "invalid_request_error", param, message });
  });

  it("is refused: what is no JSON, no UTF-8 and no object", async () => {
    const { key } = await newTenant();
    const headers = { authorization: `Bearer ${key}` };
    const bodies = [
      ["{", "the body is not valid JSON"],
      [new Uint8Array([0x22, 0xff, 0x22]), "the body is not valid UTF-8"],
      ["[]", "the body must be a JSON object"],
    ] as const;
    for (const [body, message] of bodies) {
      const url = `${testUrl}/v1/chat/completions`;
      const response = await send(url, { method: "POST", headers, body });
      expect(response.status).toBe(400);
      expect(await response.json()).toMatchObject({ error: { message, code: "invalid_json" } });
    }
  });

  it("is refused: a body above 1 MiB, whether or not it says its length", async () => {
    const { key } = await newTenant();
    const large = `{"messages":[{"role":"user","content":"${"x".repeat(10 * 1024 * 1024)}"}]}`;
    const told = await post(key, large);
    expect(told.status).toBe(413);
    const bytes = new TextEncoder().encode(large);
    const stream = new ReadableStream<Uint8Array>({
      start(controller) {
        controller.enqueue(bytes.slice(0, bodyBytesMax));
        controller.enqueue(bytes.slice(bodyBytesMax));
        controller.close();
      },
    });
    const chunked = await send(`${testUrl}/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: `Bearer ${key}` },
      body: stream,
    });
    expect(chunked.status).toBe(413);
    expect(await chunked.json()).toEqual({
      error: {
        message: "the body has more than 1048576 bytes",
        type: "invalid_request_error",
        param: null,
        code: "request_too_large",
      },
    });
  });

  it("is refused: headers above their bound", async () => {
    const { key } = await newTenant();
    const response = await post(key, {}, { "x-large": "x".repeat(headerBytesMax) });
    expect(response.status).toBe(431);
    expect(response.headers.get("x-request-id")).toMatch(/^[0-9a-f-]{36}$/);
  });

  it("is refused: no key, a wrong key, an unknown model, a bad session id", async () => {
    const none = await send(`${testUrl}/v1/chat/completions`, { method: "POST", body: "{}" });
    expect(none.status).toBe(401);
    expect(await none.json()).toMatchObject({ error: { code: "invalid_api_key" } });
    expect((await chat("wrong", { messages: [user("x")] })).status).toBe(401);
    const { key } = await newTenant();
    const model = await chat(key, { model: "gpt-9", messages: [user("x")] });
    expect(model.status).toBe(404);
    expect(model.body.error).toEqual({
      message: 'there is no model "gpt-9"',
      type: "invalid_request_error",
      param: "model",
      code: "model_not_found",
    });
    const id = await chat(key, { messages: [user("x")] }, { "x-session-id": "x".repeat(257) });
    expect([id.status, id.body.error?.["message"]]).toEqual([
      400,
      "session id is 257 bytes long, at most 256 are allowed",
    ]);
  });
});

describe("GET /v1/models", () => {
  it("lists the models, and shows one", async () => {
    const { key } = await newTenant();
    const headers = { authorization: `Bearer ${key}` };
    const list = await send(`${testUrl}/v1/models`, { headers });
    expect(await list.json()).toEqual({
      object: "list",
      data: ["scripted", "second", "tiny"].map((id) => ({
        id,
        object: "model",
        created: 0,
        owned_by: "leanedge",
      })),
    });
    const one = await send(`${testUrl}/v1/models/second`, { headers });
    expect(await one.json()).toMatchObject({ id: "second", object: "model" });
    const missing = await send(`${testUrl}/v1/models/none`, { headers });
    expect(missing.status).toBe(404);
    expect(await missing.json()).toMatchObject({ error: { code: "model_not_found" } });
    expect((await send(`${testUrl}/v1/models`)).status).toBe(401);
  });
});

describe("what else is there", () => {
  it("answers probes, and says what is not there in the same form", async () => {
    expect(await (await send(`${testUrl}/healthz`)).json()).toEqual({ status: "ok" });
    const nothing = await send(`${testUrl}/v1/none`);
    expect(nothing.status).toBe(404);
    expect(await nothing.json()).toMatchObject({
      error: { message: "there is nothing at GET /v1/none", code: "not_found" },
    });
  });
});
