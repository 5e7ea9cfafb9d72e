import { Code } from "@connectrpc/connect";
import { describe, expect, it, vi } from "vitest";
import { Backend, FinishReason, Role } from "../../gen/leanedge/v1/session_pb.js";
import type { Message } from "../../gen/leanedge/v1/session_pb.js";
import {
  beginTurn,
  errorOf,
  newTenant,
  runTurn,
  scripted,
  scriptedEngine,
  send,
  sequenceOf,
  sessionClient,
  testUrl,
  user,
  words,
} from "../testing/gateway-clients.js";
import { scriptedWindow } from "../testing/scripted-engine.js";

const servicePath = `${testUrl}/leanedge.v1.SessionService`;

function message(role: Role, text: string): Message {
  return { ...user(text), role };
}

/** A client with a session `s` of one ended turn. */
async function talk(): Promise<{
  readonly tenant: string;
  readonly key: string;
  readonly client: ReturnType<typeof sessionClient>;
}> {
  const { tenant, key } = await newTenant();
  const client = sessionClient(key);
  await runTurn(client, { sessionId: "s", turn: 1, messages: [scripted({})] });
  return { tenant, key, client };
}

describe("a session", () => {
  it("is created once, however often the call is repeated", async () => {
    const { key } = await newTenant();
    const client = sessionClient(key);
    const first = await client.createSession({ sessionId: "first", title: "A talk" });
    expect(first.session).toMatchObject({ sessionId: "first", model: "scripted", title: "A talk" });
    expect(await client.createSession({ sessionId: "first", title: "A talk" })).toEqual(first);
    const error = await errorOf(client.createSession({ sessionId: "first", title: "Another" }));
    expect([error.code, error.rawMessage]).toEqual([
      Code.AlreadyExists,
      'session "first" exists with other fields',
    ]);
  });

  it("gets an id of its own where none is named", async () => {
    const { key } = await newTenant();
    const client = sessionClient(key);
    const { session } = await client.createSession({});
    expect(session?.sessionId).toMatch(/^session-[0-9a-f-]{36}$/);
    expect(await client.getSession({ sessionId: session?.sessionId ?? "" })).toMatchObject({
      session: { sessionId: session?.sessionId },
    });
  });

  it("takes its title from the first user message", async () => {
    const { key } = await newTenant();
    const client = sessionClient(key);
    const text = `How  does\na cache plan ${"work ".repeat(20)}?`;
    await runTurn(client, {
      sessionId: "s",
      turn: 1,
      messages: [message(Role.SYSTEM, "Be brief."), user(text)],
    });
    const { session } = await client.getSession({ sessionId: "s" });
    expect(session?.title).toBe("How does a cache plan work work work work work work work wo…");
    expect(session?.title).toHaveLength(60);
  });

  it("is deleted with its cache, is gone from the list, and may be made anew", async () => {
    const { tenant, client } = await talk();
    const sequenceId = await sequenceOf(tenant, "s");
    await client.deleteSession({ sessionId: "s" });
    await client.deleteSession({ sessionId: "s" });
    expect((await errorOf(client.getSession({ sessionId: "s" }))).code).toBe(Code.NotFound);
    expect((await client.listSessions({})).sessions).toEqual([]);
    await vi.waitFor(async () => expect(await scriptedEngine().released()).toContain(sequenceId));
    const turn = await runTurn(client, { sessionId: "s", turn: 1, messages: [scripted({})] });
    expect(turn.finished?.usage?.cachedTokens).toBe(0);
    await vi.waitFor(async () => expect((await client.listSessions({})).sessions).toHaveLength(1));
  });

  it("stops its running turn when it is deleted", async () => {
    const { key } = await newTenant();
    const client = sessionClient(key);
    const turn = await beginTurn(client, {
      sessionId: "s",
      turn: 1,
      messages: [scripted({ tokens: 300, delayMs: 10 }, "deleted")],
    });
    const ended = errorOf(turn.finish());
    await client.deleteSession({ sessionId: "s" });
    expect((await ended).code).toBe(Code.NotFound);
    const call = (await scriptedEngine().seenCalls()).find((c) =>
      c.messages[0]?.includes("deleted"),
    );
    expect(call?.drawn).toBeLessThan(200);
  });

  it("belongs to its tenant: for others it does not exist", async () => {
    await talk();
    const other = sessionClient((await newTenant()).key);
    const calls = [
      () => other.getSession({ sessionId: "s" }),
      () => other.listMessages({ sessionId: "s" }),
      () => other.cancelTurn({ sessionId: "s", turn: 1 }),
      () => other.forkSession({ sessionId: "s", turn: 1, newSessionId: "t" }),
      () => runTurn(other, { sessionId: "s", turn: 2, messages: [user("x")] }),
    ];
    for (const call of calls) {
      const error = await errorOf(call());
      expect([error.code, error.rawMessage]).toEqual([Code.NotFound, 'there is no session "s"']);
    }
  });

  it("is found under an id of any characters", async () => {
    const { key } = await newTenant();
    const client = sessionClient(key);
    const ids = ["a/b", "a%2Fb", "ä b", "…", "?x=1#y", "🙂".repeat(64)];
    for (const sessionId of ids)
      await client.createSession({ sessionId, title: sessionId.slice(0, 6) });
    for (const sessionId of ids) {
      const { session } = await client.getSession({ sessionId });
      expect(session).toMatchObject({ sessionId, title: sessionId.slice(0, 6) });
    }
  });

  it("refuses an unknown model and an over-long title", async () => {
    const { key } = await newTenant();
    const client = sessionClient(key);
    const unknown = await errorOf(client.createSession({ model: "gpt-9" }));
    expect([unknown.code, unknown.rawMessage]).toEqual([
      Code.NotFound,
      'there is no model "gpt-9"',
    ]);
    const long = await errorOf(client.createSession({ title: "x".repeat(201) }));
    expect([long.code, long.rawMessage]).toEqual([
      Code.InvalidArgument,
      "title is 201 characters long, at most 200 are allowed",
    ]);
  });
});

describe("a key", () => {
  it.each([
    [undefined, "the call carries no API key; send `authorization: Bearer KEY`"],
    ["wrong", "the API key is not valid"],
    ["x".repeat(300), "the API key is not valid"],
  ])("%s is refused", async (key, text) => {
    const error = await errorOf(sessionClient(key).getSession({ sessionId: "s" }));
    expect([error.code, error.rawMessage]).toEqual([Code.Unauthenticated, text]);
  });

  it("must be a bearer's", async () => {
    const response = await send(`${servicePath}/GetSession`, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: "Basic abc" },
      body: '{"sessionId":"s"}',
    });
    expect(response.status).toBe(401);
    expect(await response.json()).toMatchObject({
      code: "unauthenticated",
      message: "the authorization header must read `Bearer KEY`",
    });
  });

  it("of the configuration opens tenant dev", async () => {
    const { session } = await sessionClient("le-dev-test").createSession({ sessionId: "dev-1" });
    expect(session?.sessionId).toBe("dev-1");
    expect(await sequenceOf("dev", "dev-1")).not.toMatch(/\.0$/);
  });
});

describe("a turn", () => {
  it("streams its answer and says who gave it", async () => {
    const { key } = await newTenant();
    const turn = await runTurn(sessionClient(key), {
      sessionId: "first",
      turn: 1,
      messages: [scripted({ tokens: 7, acceptDelayMs: 200 })],
    });
    expect(turn.text).toBe(words(7));
    expect(turn.finished).toMatchObject({ finishReason: FinishReason.STOP, textBytes: 21n });
    expect(turn.finished?.usage).toMatchObject({ completionTokens: 7, cachedTokens: 0 });
    expect(turn.started[0]).toMatchObject({
      turn: 1,
      sessionId: "first",
      model: "scripted",
      resumed: false,
      backend: Backend.UNSPECIFIED,
    });
    expect(turn.started.at(-1)).toMatchObject({
      backend: Backend.REFERENCE,
      worker: "scripted:scripted/0",
      promptTokens: turn.finished?.usage?.promptTokens,
    });
  });

  it("names the prefix and sends the worker only what is new", async () => {
    const { tenant, client } = await talk();
    const second = await runTurn(client, { sessionId: "s", turn: 2, messages: [scripted({})] });
    const sequenceId = await sequenceOf(tenant, "s");
    const calls = (await scriptedEngine().seenCalls()).filter((c) => c.sequenceId === sequenceId);
    expect(calls[1]).toMatchObject({ logTokens: 0, outcome: "accepted", messages: ["!{}"] });
    expect(calls[1]?.prefixTokens).toBeGreaterThan(0);
    expect(second.finished?.usage?.cachedTokens).toBe(calls[1]?.prefixTokens);
    const { session } = await client.getSession({ sessionId: "s" });
    expect(session).toMatchObject({
      lastTurn: 2,
      runningTurn: 0,
      messageCount: 4,
      worker: "engine:scripted/0",
      bindingGeneration: 1n,
      tokenCount: (second.finished?.usage?.promptTokens ?? 0) + 5,
      cacheBytes: BigInt(16 * ((second.finished?.usage?.promptTokens ?? 0) + 5)),
    });
  });

  it("runs once: the same number again replays the stored answer", async () => {
    const { tenant, client } = await talk();
    const messages = [scripted({})];
    for (const offset of [0n, 3n, 15n]) {
      const again = await runTurn(client, {
        sessionId: "s",
        turn: 1,
        messages,
        resumeOffset: offset,
      });
      expect(again.text).toBe(words(5).slice(Number(offset)));
      expect(again.started[0]).toMatchObject({ resumed: true, offset, turn: 1 });
      expect(again.finished?.finishReason).toBe(FinishReason.STOP);
    }
    const sequenceId = await sequenceOf(tenant, "s");
    const calls = (await scriptedEngine().seenCalls()).filter((c) => c.sequenceId === sequenceId);
    expect(calls).toHaveLength(1);
    expect((await client.listMessages({ sessionId: "s" })).messages).toHaveLength(2);
  });

  it("runs once even if two clients start it at the same time", async () => {
    const { tenant, key } = await newTenant();
    const client = sessionClient(key);
    const messages = [scripted({ tokens: 20, delayMs: 5 })];
    const turns = await Promise.all(
      Array.from({ length: 5 }, () => runTurn(client, { sessionId: "s", turn: 1, messages })),
    );
    expect(turns.map((turn) => turn.text)).toEqual(Array.from({ length: 5 }, () => words(20)));
    const seeds = new Set(turns.map((turn) => turn.started[0]?.seed));
    expect(seeds.size).toBe(1);
    const sequenceId = await sequenceOf(tenant, "s");
    expect(
      (await scriptedEngine().seenCalls()).filter((c) => c.sequenceId === sequenceId),
    ).toHaveLength(1);
  });

  it("draws a seed where none is given, keeps it, and passes on the one that is", async () => {
    const { client } = await talk();
    const drawn = await runTurn(client, { sessionId: "s", turn: 2, messages: [scripted({})] });
    const replay = await runTurn(client, { sessionId: "s", turn: 2 });
    expect(drawn.started[0]?.seed).toBe(replay.started[0]?.seed);
    const given = await runTurn(client, {
      sessionId: "s",
      turn: 3,
      messages: [scripted({}, "seeded")],
      sampling: { seed: 2n ** 64n - 1n },
    });
    expect(given.started[0]?.seed).toBe(2n ** 64n - 1n);
    const call = (await scriptedEngine().seenCalls()).find((c) =>
      c.messages[0]?.includes("seeded"),
    );
    expect(call?.seed).toBe("18446744073709551615");
  });

  it("of number 0 takes the next one", async () => {
    const { client } = await talk();
    const turn = await runTurn(client, { sessionId: "s", messages: [scripted({})] });
    expect(turn.started[0]?.turn).toBe(2);
  });

  it("refuses other messages under a number that exists", async () => {
    const { client } = await talk();
    const error = await errorOf(
      runTurn(client, { sessionId: "s", turn: 1, messages: [user("other")] }),
    );
    expect([error.code, error.rawMessage]).toEqual([
      Code.AlreadyExists,
      "turn 1 exists with other messages",
    ]);
  });

  it("refuses a number out of order", async () => {
    const { client } = await talk();
    for (const turn of [3, 9]) {
      const error = await errorOf(runTurn(client, { sessionId: "s", turn, messages: [user("x")] }));
      expect([error.code, error.rawMessage]).toEqual([
        Code.FailedPrecondition,
        `turn ${turn} is not the next one, which is 2`,
      ]);
    }
  });

  it("refuses a new number while a turn runs", async () => {
    const { client } = await talk();
    const running = await beginTurn(client, {
      sessionId: "s",
      turn: 2,
      messages: [scripted({ tokens: 400, delayMs: 10 })],
    });
    const error = await errorOf(
      runTurn(client, { sessionId: "s", turn: 3, messages: [user("x")] }),
    );
    expect([error.code, error.rawMessage]).toEqual([
      Code.FailedPrecondition,
      "turn 2 is still running",
    ]);
    expect((await client.getSession({ sessionId: "s" })).session?.runningTurn).toBe(2);
    const { messages } = await client.listMessages({ sessionId: "s" });
    expect(messages.at(-1)).toMatchObject({ index: 3, finishReason: FinishReason.UNSPECIFIED });
    await client.cancelTurn({ sessionId: "s" });
    expect((await running.finish()).finished?.finishReason).toBe(FinishReason.CANCELLED);
  });

  it("refuses an unknown session and a changed model", async () => {
    const { client } = await talk();
    const missing = await errorOf(
      runTurn(client, { sessionId: "none", turn: 2, messages: [user("x")] }),
    );
    expect([missing.code, missing.rawMessage]).toEqual([
      Code.NotFound,
      'there is no session "none"',
    ]);
    const other = await errorOf(
      runTurn(client, { sessionId: "s", turn: 2, messages: [user("x")], model: "second" }),
    );
    expect([other.code, other.rawMessage]).toEqual([
      Code.FailedPrecondition,
      'the session\'s model is "scripted", the request names "second"',
    ]);
    const unknown = await errorOf(
      runTurn(client, { sessionId: "new", turn: 1, messages: [user("x")], model: "nope" }),
    );
    expect([unknown.code, unknown.rawMessage]).toEqual([Code.NotFound, 'there is no model "nope"']);
  });

  it("refuses a prompt that is longer than the window, and leaves nothing behind", async () => {
    const { client } = await talk();
    const error = await errorOf(
      runTurn(client, { sessionId: "s", turn: 2, messages: [user("x".repeat(scriptedWindow))] }),
    );
    expect(error.code).toBe(Code.InvalidArgument);
    expect(error.rawMessage).toMatch(/^the prompt has 4\d{3} tokens, the window has 4000$/);
    expect((await client.getSession({ sessionId: "s" })).session).toMatchObject({
      lastTurn: 1,
      messageCount: 2,
    });
  });

  it("refuses an answer that is longer than the window", async () => {
    const { client } = await talk();
    const error = await errorOf(
      runTurn(client, {
        sessionId: "s",
        turn: 2,
        messages: [user("x")],
        sampling: { maxTokens: scriptedWindow + 1 },
      }),
    );
    expect([error.code, error.rawMessage]).toEqual([
      Code.InvalidArgument,
      "max_tokens is 4001, the model's window is 4000 tokens",
    ]);
  });

  it("refuses an offset past the end and inside a character", async () => {
    const { key } = await newTenant();
    const client = sessionClient(key);
    const messages = [scripted({ text: "aé🙂" })];
    const turn = await runTurn(client, { sessionId: "s", turn: 1, messages });
    expect(turn).toMatchObject({ text: "aé🙂", finished: { textBytes: 7n } });
    const past = await errorOf(runTurn(client, { sessionId: "s", turn: 1, resumeOffset: 8n }));
    expect([past.code, past.rawMessage]).toEqual([
      Code.InvalidArgument,
      "resume_offset is 8, the answer has 7 bytes so far",
    ]);
    for (const offset of [2n, 4n, 5n, 6n]) {
      const inside = await errorOf(
        runTurn(client, { sessionId: "s", turn: 1, resumeOffset: offset }),
      );
      expect(inside.rawMessage).toBe(`resume_offset ${offset} is inside a character`);
    }
    expect((await runTurn(client, { sessionId: "s", turn: 1, resumeOffset: 3n })).text).toBe("🙂");
  });

  it.each([
    ["no messages", [], "messages is empty, a new turn needs at least 1"],
    ["an empty message", [user("")], "messages[0].text is empty"],
    ["an answer at the end", [message(Role.ASSISTANT, "x")], "the last message must be ROLE_USER"],
    [
      "instructions in the middle",
      [user("x"), message(Role.SYSTEM, "y"), user("z")],
      "messages[1].role is ROLE_SYSTEM, which is allowed only for the first message of a session",
    ],
    [
      "no role",
      [message(Role.UNSPECIFIED, "x")],
      "messages[0].role is 0, it must be ROLE_SYSTEM, ROLE_USER or ROLE_ASSISTANT",
    ],
  ])("refuses %s", async (_what, messages, text) => {
    const { key } = await newTenant();
    const error = await errorOf(runTurn(sessionClient(key), { sessionId: "s", turn: 1, messages }));
    expect([error.code, error.rawMessage]).toEqual([Code.InvalidArgument, text]);
  });

  it.each([
    [{ temperature: 2.1 }, "temperature is 2.1, it must be 0 to 2"],
    [{ temperature: -0.1 }, "temperature is -0.1, it must be 0 to 2"],
    [{ temperature: Number.NaN }, "temperature is NaN, it must be 0 to 2"],
    [{ topP: 0 }, "top_p is 0, it must be above 0 to 1"],
    [{ topK: 1001 }, "top_k is 1001, it must be 0 to 1000"],
    [{ minP: 1.5 }, "min_p is 1.5, it must be 0 to 1"],
    [{ repetitionPenalty: 0 }, "repetition_penalty is 0, it must be above 0 to 2"],
    [{ repetitionWindow: 4097 }, "repetition_window is 4097, it must be 1 to 4096"],
    [{ maxTokens: 0 }, "max_tokens is 0, at least 1 is needed"],
    [{ stop: [""] }, "stop[0] is 0 bytes long, 1 to 256 are allowed"],
    [{ stop: Array.from({ length: 9 }, () => "x") }, "stop has 9 strings, at most 8 are allowed"],
  ])("refuses the sampling %j", async (sampling, text) => {
    const { key } = await newTenant();
    const error = await errorOf(
      runTurn(sessionClient(key), { sessionId: "s", turn: 1, messages: [user("x")], sampling }),
    );
    expect([error.code, error.rawMessage]).toEqual([Code.InvalidArgument, text]);
  });

  it.each([
    ["", "session_id is empty"],
    ["x".repeat(257), "session_id is 257 bytes long, at most 256 are allowed"],
    ["a\u0000b", "session_id holds control characters"],
    ["a\u0085b", "session_id holds control characters"],
  ])("refuses the session id %j", async (sessionId, text) => {
    const { key } = await newTenant();
    const error = await errorOf(
      runTurn(sessionClient(key), { sessionId, turn: 1, messages: [user("x")] }),
    );
    expect([error.code, error.rawMessage]).toEqual([Code.InvalidArgument, text]);
  });

  it("imports an earlier conversation in the first turn only", async () => {
    const { key } = await newTenant();
    const client = sessionClient(key);
    const history = [user("one"), message(Role.ASSISTANT, "two"), scripted({})];
    expect((await runTurn(client, { sessionId: "s", turn: 1, messages: history })).text).toBe(
      words(5),
    );
    const error = await errorOf(runTurn(client, { sessionId: "s", turn: 2, messages: history }));
    expect(error.rawMessage).toBe(
      "messages[1].role is ROLE_ASSISTANT, which is allowed only in the first turn of a session",
    );
  });
});

describe("CancelTurn", () => {
  it("knows turns that ended, that run not, and that never were", async () => {
    const { client } = await talk();
    expect((await client.cancelTurn({ sessionId: "s", turn: 1 })).cancelled).toBe(false);
    expect((await client.cancelTurn({ sessionId: "s", turn: 0 })).cancelled).toBe(false);
    const error = await errorOf(client.cancelTurn({ sessionId: "s", turn: 2 }));
    expect([error.code, error.rawMessage]).toEqual([Code.NotFound, 'session "s" has no turn 2']);
  });
});

describe("ForkSession", () => {
  it("copies up to a turn, and the copy goes its own way", async () => {
    const { client } = await talk();
    await runTurn(client, { sessionId: "s", turn: 2, messages: [scripted({ tokens: 2 })] });
    const { session } = await client.forkSession({ sessionId: "s", turn: 1, newSessionId: "f" });
    expect(session).toMatchObject({
      sessionId: "f",
      forkedFrom: "s",
      lastTurn: 1,
      messageCount: 2,
      model: "scripted",
    });
    expect(await client.forkSession({ sessionId: "s", turn: 1, newSessionId: "f" })).toMatchObject({
      session: { sessionId: "f" },
    });
    const turn = await runTurn(client, {
      sessionId: "f",
      turn: 2,
      messages: [scripted({ tokens: 3 })],
    });
    expect(turn.text).toBe(words(3));
    expect((await runTurn(client, { sessionId: "f", turn: 1 })).text).toBe(words(5));
    expect((await runTurn(client, { sessionId: "s", turn: 2 })).text).toBe(words(2));
    const empty = await client.forkSession({ sessionId: "s", turn: 0 });
    expect(empty.session).toMatchObject({ lastTurn: 0, messageCount: 0 });
  });

  it("refuses what it cannot copy, and a name that is taken", async () => {
    const { client } = await talk();
    const running = await beginTurn(client, {
      sessionId: "s",
      turn: 2,
      messages: [scripted({ tokens: 400, delayMs: 10 })],
    });
    await client.createSession({ sessionId: "taken" });
    const cases = [
      [{ turn: 2, newSessionId: "f" }, Code.FailedPrecondition, "turn 2 has not ended"],
      [
        { turn: 3, newSessionId: "f" },
        Code.FailedPrecondition,
        "turn 3 does not exist, the last turn is 2",
      ],
      [
        { turn: 1, newSessionId: "taken" },
        Code.AlreadyExists,
        'session "taken" exists and is no fork of turn 1',
      ],
      [
        { turn: 1, newSessionId: "s" },
        Code.AlreadyExists,
        'session "s" cannot be forked into itself',
      ],
    ] as const;
    for (const [request, code, text] of cases) {
      const error = await errorOf(client.forkSession({ sessionId: "s", ...request }));
      expect([error.code, error.rawMessage]).toEqual([code, text]);
    }
    await client.cancelTurn({ sessionId: "s" });
    await running.finish();
  });
});

describe("lists", () => {
  it("page through the messages of a session", async () => {
    const { client } = await talk();
    await runTurn(client, { sessionId: "s", turn: 2, messages: [scripted({ tokens: 1 })] });
    const texts: string[] = [];
    let pageToken = "";
    let pages = 0;
    do {
      const page = await client.listMessages({ sessionId: "s", pageSize: 3, pageToken });
      texts.push(...page.messages.map((entry) => entry.message?.text ?? ""));
      pageToken = page.nextPageToken;
      pages++;
    } while (pageToken !== "");
    expect(texts).toEqual(["!{}", words(5), '!{"tokens":1}', words(1)]);
    expect(pages).toBe(2);
  });

  it("page through the sessions of a tenant, latest first", async () => {
    const { key } = await newTenant();
    const client = sessionClient(key);
    for (const sessionId of ["a", "b", "c", "d", "e"]) {
      await client.createSession({ sessionId });
      await new Promise((resolve) => setTimeout(resolve, 3));
    }
    await runTurn(client, { sessionId: "b", turn: 1, messages: [scripted({})] });
    await vi.waitFor(async () => {
      const { sessions } = await client.listSessions({});
      expect(sessions.map((session) => session.sessionId)).toEqual(["b", "e", "d", "c", "a"]);
      expect(sessions[0]).toMatchObject({ lastTurn: 1, runningTurn: 0, messageCount: 2 });
    });
    const first = await client.listSessions({ pageSize: 2 });
    const second = await client.listSessions({ pageSize: 2, pageToken: first.nextPageToken });
    const third = await client.listSessions({ pageSize: 2, pageToken: second.nextPageToken });
    expect(
      [first, second, third].map((page) => page.sessions.map((session) => session.sessionId)),
    ).toEqual([["b", "e"], ["d", "c"], ["a"]]);
    expect(third.nextPageToken).toBe("");
  });

  it("refuse tokens that are not theirs, and pages that are too large", async () => {
    const { client } = await talk();
    const foreign = await client.listMessages({ sessionId: "s", pageSize: 1 });
    for (const pageToken of ["x", "%%%", "e30", foreign.nextPageToken, "a".repeat(600)]) {
      const error = await errorOf(client.listSessions({ pageToken }));
      expect([error.code, error.rawMessage]).toEqual([
        Code.InvalidArgument,
        "page_token was not given out by this list",
      ]);
    }
    const error = await errorOf(client.listSessions({ pageSize: 1001 }));
    expect(error.rawMessage).toBe("page_size is 1001, it must be 0 to 1000");
  });
});

describe("what is not a request", () => {
  async function post(
    key: string,
    method: string,
    type: string,
    body: RequestInit["body"],
  ): Promise<{ readonly status: number; readonly code: unknown; readonly message: unknown }> {
    const response = await send(`${servicePath}/${method}`, {
      method: "POST",
      headers: { "content-type": type, authorization: `Bearer ${key}` },
      body: body ?? null,
    });
    const json = await response.json<{ code: unknown; message: unknown }>();
    return { status: response.status, code: json.code, message: json.message };
  }

  it("is refused: a body above 1 MiB, whether or not it says its length", async () => {
    const { key } = await newTenant();
    const large = new TextEncoder().encode(`{"sessionId":"${"x".repeat(10 * 1024 * 1024)}"}`);
    const told = await post(key, "GetSession", "application/json", large);
    expect([told.status, told.code]).toEqual([429, "resource_exhausted"]);
    const chunks = new ReadableStream<Uint8Array>({
      start(controller) {
        for (let at = 0; at < large.byteLength; at += 65_536) {
          controller.enqueue(large.slice(at, at + 65_536));
        }
        controller.close();
      },
    });
    const chunked = await post(key, "GetSession", "application/json", chunks);
    expect([chunked.status, chunked.code]).toEqual([429, "resource_exhausted"]);
    expect(String(chunked.message)).toContain("1048576");
  });

  it("is refused: JSON, protobuf and UTF-8 that are none", async () => {
    const { key } = await newTenant();
    const json = await post(key, "GetSession", "application/json", "{");
    expect([json.status, json.code]).toEqual([400, "invalid_argument"]);
    const type = await post(key, "GetSession", "application/json", '{"sessionId":5}');
    expect([type.status, type.code]).toEqual([400, "invalid_argument"]);
    const truncated = await post(
      key,
      "GetSession",
      "application/proto",
      new Uint8Array([10, 9, 65]),
    );
    expect([truncated.status, truncated.code]).toEqual([400, "invalid_argument"]);
    const utf8 = new Uint8Array([10, 2, 0xff, 0xfe]);
    const text = await post(key, "GetSession", "application/proto", utf8);
    expect([text.status, text.code]).toEqual([400, "invalid_argument"]);
  });
});
