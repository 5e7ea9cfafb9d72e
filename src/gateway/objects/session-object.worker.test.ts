import { evictDurableObject, runInDurableObject } from "cloudflare:test";
import { Code } from "@connectrpc/connect";
import { describe, expect, it, vi } from "vitest";
import { FinishReason, Role } from "../../gen/leanedge/v1/session_pb.js";
import type { GenerateResponse } from "../../gen/leanedge/v1/session_pb.js";
import { runTurn as runClientTurn } from "../../client/run-turn.js";
import { orphanedTurnMs } from "../limits.js";
import {
  beginTurn,
  collect,
  errorOf,
  inStorage,
  inStore,
  newTenant,
  ringAlarm,
  runTurn,
  scripted,
  scriptedEngine,
  sequenceOf,
  sessionClient,
  sessionObject,
  user,
  words,
} from "../testing/gateway-clients.js";
import type { ScriptedCall } from "../testing/scripted-engine.js";

/** Calls of one session that the scripted worker saw. */
async function callsOf(tenant: string, sessionId: string): Promise<ScriptedCall[]> {
  const sequenceId = await sequenceOf(tenant, sessionId);
  return (await scriptedEngine().seenCalls()).filter((call) => call.sequenceId === sequenceId);
}

/** Ends the object at once, as a crash does: no request is waited for. */
async function crash(tenant: string, sessionId: string): Promise<void> {
  const stub = sessionObject(tenant, sessionId);
  await runInDurableObject(stub, (_instance, state) => {
    state.abort("a crash, as the test wants it");
  }).catch(() => undefined);
}

/** Resolves once something of the running answer is stored. */
async function answerStored(tenant: string, sessionId: string): Promise<void> {
  await expect
    .poll(() => inStore(tenant, sessionId, (store) => store.pieces().length))
    .toBeGreaterThan(0);
}

/** Reads events until the answer has this many bytes. */
async function readBytes(
  iterator: AsyncIterator<GenerateResponse>,
  bytes: number,
): Promise<string> {
  let text = "";
  while (text.length < bytes) {
    const result = await iterator.next();
    if (result.done === true) break;
    if (result.value.event.case === "delta") text += result.value.event.value.text;
  }
  return text;
}

describe("a turn and its clients", () => {
  it("stops the worker when the only client leaves, and keeps the text so far", async () => {
    const { tenant, key } = await newTenant();
    const client = sessionClient(key);
    const leave = new AbortController();
    const stream = client.generate(
      { sessionId: "s", turn: 1, messages: [scripted({ tokens: 200, delayMs: 10 })] },
      { signal: leave.signal },
    );
    const seen = await readBytes(stream[Symbol.asyncIterator](), 9);
    leave.abort();
    await vi.waitFor(async () => {
      const [call] = await callsOf(tenant, "s");
      expect(call?.end).toBe("left");
    });
    const [call] = await callsOf(tenant, "s");
    const drawn = call?.drawn ?? 0;
    await new Promise((resolve) => setTimeout(resolve, 60));
    expect((await callsOf(tenant, "s"))[0]?.drawn).toBe(drawn);
    expect(drawn).toBeLessThan(100);
    await vi.waitFor(async () => {
      const { messages } = await client.listMessages({ sessionId: "s" });
      expect(messages[1]?.finishReason).toBe(FinishReason.CANCELLED);
      expect(words(200).startsWith(messages[1]?.message?.text ?? "?")).toBe(true);
      expect(messages[1]?.message?.text.startsWith(seen)).toBe(true);
    });
  });

  it("goes on without its client when it is detached, and replays to who comes back", async () => {
    const { tenant, key } = await newTenant();
    const client = sessionClient(key);
    const leave = new AbortController();
    const messages = [scripted({ tokens: 30, delayMs: 10 })];
    const stream = client.generate(
      { sessionId: "s", turn: 1, messages, detach: true },
      { signal: leave.signal },
    );
    const seen = await readBytes(stream[Symbol.asyncIterator](), 9);
    leave.abort();
    await vi.waitFor(async () => expect((await callsOf(tenant, "s"))[0]?.end).toBe("finished"));
    const rest = await runTurn(client, {
      sessionId: "s",
      turn: 1,
      resumeOffset: BigInt(seen.length),
    });
    expect(seen + rest.text).toBe(words(30));
    expect(rest.started[0]?.resumed).toBe(true);
    expect(rest.finished?.finishReason).toBe(FinishReason.STOP);
    expect(await callsOf(tenant, "s")).toHaveLength(1);
  });

  it("goes on for a second client when the first one leaves", async () => {
    const { tenant, key } = await newTenant();
    const client = sessionClient(key);
    const leave = new AbortController();
    const messages = [scripted({ tokens: 150, delayMs: 10 })];
    const request = { sessionId: "s", turn: 1, messages };
    await beginTurn(client, request, { signal: leave.signal });
    const second = await beginTurn(client, request);
    leave.abort();
    expect((await second.finish()).text).toBe(words(150));
    expect(await callsOf(tenant, "s")).toHaveLength(1);
  });

  it("gives two clients the same bytes while it runs", async () => {
    const { key } = await newTenant();
    const client = sessionClient(key);
    const messages = [scripted({ tokens: 100, delayMs: 10 })];
    const first = await beginTurn(client, { sessionId: "s", turn: 1, messages });
    const second = await runTurn(client, { sessionId: "s", turn: 1, resumeOffset: 3n });
    expect((await first.finish()).text).toBe(words(100));
    expect(second.text).toBe(words(100).slice(3));
    expect(second.offsets[0]).toBe(3);
  });

  it("is stopped at its client's deadline", async () => {
    const { tenant, key } = await newTenant();
    const client = sessionClient(key);
    const error = await errorOf(
      runTurn(
        client,
        { sessionId: "s", turn: 1, messages: [scripted({ tokens: 500, delayMs: 10 })] },
        { timeoutMs: 1_500 },
      ),
    );
    expect(error.code).toBe(Code.DeadlineExceeded);
    await vi.waitFor(async () => {
      const { messages } = await client.listMessages({ sessionId: "s" });
      expect(messages[1]?.finishReason).toBe(FinishReason.CANCELLED);
    });
    const [call] = await callsOf(tenant, "s");
    expect(call?.end).toBe("left");
    expect(call?.drawn).toBeLessThan(200);
  });

  it("is stopped by CancelTurn, once", async () => {
    const { tenant, key } = await newTenant();
    const client = sessionClient(key);
    const messages = [scripted({ tokens: 200, delayMs: 10 })];
    const turn = await beginTurn(client, { sessionId: "s", turn: 1, messages });
    expect(await client.cancelTurn({ sessionId: "s", turn: 1 })).toMatchObject({ cancelled: true });
    expect(await client.cancelTurn({ sessionId: "s", turn: 1 })).toMatchObject({
      cancelled: false,
    });
    expect((await turn.finish()).finished?.finishReason).toBe(FinishReason.CANCELLED);
    await vi.waitFor(async () => expect((await callsOf(tenant, "s"))[0]?.end).toBe("left"));
    const next = await runTurn(client, { sessionId: "s", turn: 2, messages: [scripted({})] });
    expect(next.text).toBe(words(5));
  });

  it("reports the progress of a long prompt as heartbeats", async () => {
    const { key } = await newTenant();
    const turn = await runTurn(sessionClient(key), {
      sessionId: "s",
      turn: 1,
      messages: [scripted({ progress: 4, delayMs: 40, tokens: 2 })],
    });
    expect(turn.heartbeats).toBeGreaterThanOrEqual(2);
    expect(turn.text).toBe(words(2));
  });
});

describe("a worker that fails", () => {
  it("in the middle of an answer is asked to go on: nothing repeated, nothing lost", async () => {
    const { tenant, key } = await newTenant();
    const turn = await runTurn(sessionClient(key), {
      sessionId: "s",
      turn: 1,
      messages: [scripted({ tokens: 12, failAt: 6, delayMs: 5 })],
    });
    expect(turn.text).toBe(words(12));
    expect(turn.finished?.usage?.completionTokens).toBe(12);
    const calls = await callsOf(tenant, "s");
    expect(calls.map((call) => call.resumedTokens)).toEqual([undefined, 6]);
    expect(calls[1]?.generation).toBeGreaterThan(calls[0]?.generation ?? 0);
  });

  it("again and again without a new token ends the turn with an error that names the bound", async () => {
    const { tenant, key } = await newTenant();
    const client = sessionClient(key);
    const turn = await runTurn(client, {
      sessionId: "s",
      turn: 1,
      messages: [scripted({ tokens: 12, failAt: 3, failTimes: 100 })],
    });
    expect(turn.finished).toMatchObject({
      finishReason: FinishReason.ERROR,
      errorMessage: "no worker completed turn 1 in 5 attempts",
    });
    expect(turn.text).toBe(words(3));
    expect(await callsOf(tenant, "s")).toHaveLength(6);
    const next = await runTurn(client, { sessionId: "s", turn: 2, messages: [scripted({})] });
    expect(next.text).toBe(words(5));
  });

  it("before it accepted leaves no turn behind, and shows nothing of itself", async () => {
    const { tenant, key } = await newTenant();
    const client = sessionClient(key);
    await client.createSession({ sessionId: "s" });
    const error = await errorOf(
      runTurn(client, { sessionId: "s", turn: 1, messages: [scripted({ crash: true })] }),
    );
    expect(error.code).toBe(Code.Unavailable);
    expect(error.rawMessage).toBe("no worker completed turn 1 in 5 attempts");
    expect(await callsOf(tenant, "s")).toHaveLength(5);
    const { session } = await client.getSession({ sessionId: "s" });
    expect(session).toMatchObject({ lastTurn: 0, messageCount: 0 });
    const turn = await runTurn(client, { sessionId: "s", turn: 1, messages: [scripted({})] });
    expect(turn.text).toBe(words(5));
  });

  it("that has no memory refuses the turn at once", async () => {
    const { key } = await newTenant();
    const refuse = { code: Code.ResourceExhausted, message: "no page of 64 is free" };
    const error = await errorOf(
      runTurn(sessionClient(key), { sessionId: "s", turn: 1, messages: [scripted({ refuse })] }),
    );
    expect(error.code).toBe(Code.ResourceExhausted);
    expect(error.rawMessage).toBe("no page of 64 is free");
    expect(
      (await scriptedEngine().seenCalls()).filter((call) => call.messages[0]?.includes("of 64")),
    ).toHaveLength(1);
    await vi.waitFor(async () => {
      const missing = await errorOf(sessionClient(key).getSession({ sessionId: "s" }));
      expect(missing.code).toBe(Code.NotFound);
    });
  });

  it("that lost its cache gets the log, and answers as if nothing had been", async () => {
    const { tenant, key } = await newTenant();
    const client = sessionClient(key);
    await runTurn(client, { sessionId: "s", turn: 1, messages: [scripted({})] });
    await scriptedEngine().forgetSequence(await sequenceOf(tenant, "s"));
    const turn = await runTurn(client, { sessionId: "s", turn: 2, messages: [scripted({})] });
    expect(turn.text).toBe(words(5));
    expect(turn.finished?.usage?.cachedTokens).toBe(0);
    const calls = await callsOf(tenant, "s");
    expect(calls.map((call) => call.outcome)).toEqual(["accepted", "missing", "accepted"]);
    expect(calls[2]).toMatchObject({ prefixTokens: 0, logTokens: calls[1]?.prefixTokens });
  });

  it("that changed its template gets the transcript's text instead of its ids", async () => {
    const { tenant, key } = await newTenant();
    const client = sessionClient(key);
    const model = "second";
    await runTurn(client, { sessionId: "s", turn: 1, model, messages: [user("one")] });
    const { session } = await client.getSession({ sessionId: "s" });
    const name = (session?.worker ?? "").replace("engine:", "");
    await scriptedEngine(name).changeTemplate("template-2");
    const turn = await runTurn(client, { sessionId: "s", turn: 2, messages: [user("two")] });
    expect(turn.text).toBe(words(5));
    const sequenceId = await sequenceOf(tenant, "s");
    const calls = (await scriptedEngine(name).seenCalls()).filter(
      (call) => call.sequenceId === sequenceId,
    );
    expect(calls.at(-1)).toMatchObject({
      prefixTokens: 0,
      logTokens: 0,
      messages: ["one", words(5), "two"],
    });
    await scriptedEngine(name).changeTemplate("template-1");
  });

  it.each(["gap", "end"] as const)("that breaks the protocol (%s) is not believed", async (lie) => {
    const { key } = await newTenant();
    const turn = await runTurn(sessionClient(key), {
      sessionId: "s",
      turn: 1,
      messages: [scripted({ lie, tokens: 4 })],
    });
    expect(turn.finished).toMatchObject({
      finishReason: FinishReason.ERROR,
      errorMessage: "no worker completed turn 1 in 5 attempts",
    });
    expect(turn.text).toBe(words(lie === "gap" ? 2 : 4));
  });

  it("that miscounts the prompt is not believed", async () => {
    const { key } = await newTenant();
    const error = await errorOf(
      runTurn(sessionClient(key), {
        sessionId: "s",
        turn: 1,
        messages: [scripted({ lie: "prompt" })],
      }),
    );
    expect(error.code).toBe(Code.Unavailable);
  });

  it("that names another log at the end is unbound, and gets everything the next time", async () => {
    const { tenant, key } = await newTenant();
    const client = sessionClient(key);
    const turn = await runTurn(client, {
      sessionId: "s",
      turn: 1,
      messages: [scripted({ lie: "finished" })],
    });
    expect(turn.text).toBe(words(5));
    expect((await client.getSession({ sessionId: "s" })).session?.worker).toBe("");
    const sequenceId = await sequenceOf(tenant, "s");
    await vi.waitFor(async () => expect(await scriptedEngine().released()).toContain(sequenceId));
    const next = await runTurn(client, { sessionId: "s", turn: 2, messages: [scripted({})] });
    expect(next.finished?.usage?.cachedTokens).toBe(0);
    expect(next.text).toBe(words(5));
  });

  it("that says it holds what it cannot hold gets the whole log", async () => {
    const { tenant, key } = await newTenant();
    const client = sessionClient(key);
    await runTurn(client, { sessionId: "s", turn: 1, messages: [scripted({})] });
    const turn = await runTurn(client, {
      sessionId: "s",
      turn: 2,
      messages: [scripted({ lie: "have" })],
    });
    expect(turn.text).toBe(words(5));
    const calls = await callsOf(tenant, "s");
    expect(calls.slice(1).map((call) => call.outcome)).toEqual(["missing", "accepted"]);
    expect(calls[2]?.prefixTokens).toBe(0);
  });
});

describe("an object that loses its memory", () => {
  it("keeps transcript, log and binding over an eviction", async () => {
    const { tenant, key } = await newTenant();
    const client = sessionClient(key);
    await runTurn(client, { sessionId: "s", turn: 1, messages: [scripted({ tokens: 3 })] });
    const before = await client.getSession({ sessionId: "s" });
    await evictDurableObject(sessionObject(tenant, "s"));
    expect(await client.getSession({ sessionId: "s" })).toEqual(before);
    const replay = await runTurn(client, { sessionId: "s", turn: 1 });
    expect(replay.text).toBe(words(3));
    const turn = await runTurn(client, { sessionId: "s", turn: 2, messages: [scripted({})] });
    expect(turn.finished?.usage?.cachedTokens).toBeGreaterThan(0);
    const calls = await callsOf(tenant, "s");
    expect(calls.map((call) => call.outcome)).toEqual(["accepted", "accepted"]);
    expect(calls[1]?.generation).toBe(calls[0]?.generation);
  });

  it("goes on with the same answer after a crash: a stream of JSON by itself", async () => {
    const { tenant, key } = await newTenant();
    const client = sessionClient(key, true);
    const messages = [scripted({ tokens: 200, delayMs: 10 })];
    const stream = client.generate({ sessionId: "s", turn: 1, messages });
    const iterator = stream[Symbol.asyncIterator]();
    const seen = await readBytes(iterator, 30);
    await answerStored(tenant, "s");
    await crash(tenant, "s");
    // The gateway reconnects below the RPC: the stream goes on.
    let rest = "";
    for (;;) {
      const result = await iterator.next();
      if (result.done === true) break;
      if (result.value.event.case === "delta") rest += result.value.event.value.text;
    }
    expect(seen + rest).toBe(words(200));
    const calls = await callsOf(tenant, "s");
    expect(calls.length).toBeGreaterThanOrEqual(2);
    expect(calls.at(-1)?.resumedTokens).toBeGreaterThan(0);
    const { messages: transcript } = await client.listMessages({ sessionId: "s" });
    expect(transcript).toHaveLength(2);
    expect(transcript[1]?.message?.text).toBe(words(200));
  });

  it("goes on with the same answer after a crash for the client that joins it again", async () => {
    const { tenant, key } = await newTenant();
    const messages = [scripted({ tokens: 60, delayMs: 10 })];
    const [text] = messages.map((message) => message.text);
    let seen = "";
    let crashed = false;
    const types: string[] = [];
    for await (const event of runClientTurn(sessionClient(key), {
      ...{ sessionId: "s", turn: 1, text: text ?? "" },
      reconnect: { attemptsMax: 20, firstWaitMs: 10, waitMsMax: 100 },
    })) {
      if (event.type !== "delta") {
        types.push(event.type);
        continue;
      }
      seen += event.text;
      if (!crashed && seen.length > 30) {
        crashed = true;
        await crash(tenant, "s");
      }
    }
    expect(seen).toBe(words(60));
    expect(types).toContain("reconnecting");
    expect(types.at(-1)).toBe("finished");
  });

  it("takes up a detached turn by its alarm", async () => {
    const { tenant, key } = await newTenant();
    const client = sessionClient(key);
    const leave = new AbortController();
    const stream = client.generate(
      {
        sessionId: "s",
        turn: 1,
        messages: [scripted({ tokens: 200, delayMs: 10 })],
        detach: true,
      },
      { signal: leave.signal },
    );
    await readBytes(stream[Symbol.asyncIterator](), 20);
    leave.abort();
    await answerStored(tenant, "s");
    await crash(tenant, "s");
    expect((await client.getSession({ sessionId: "s" })).session?.runningTurn).toBe(1);
    expect(await ringAlarm(tenant, "s")).toBe(true);
    await vi.waitFor(
      async () => {
        const { messages } = await client.listMessages({ sessionId: "s" });
        expect(messages[1]?.finishReason).toBe(FinishReason.STOP);
      },
      { timeout: 15_000 },
    );
    const replay = await runTurn(client, { sessionId: "s", turn: 1 });
    expect(replay.text).toBe(words(200));
  });

  it("ends a turn that nobody comes back for", async () => {
    const { tenant, key } = await newTenant();
    const client = sessionClient(key);
    const leave = new AbortController();
    const stream = client.generate(
      {
        sessionId: "s",
        turn: 1,
        messages: [scripted({ tokens: 400, delayMs: 10 })],
        detach: true,
      },
      { signal: leave.signal },
    );
    await readBytes(stream[Symbol.asyncIterator](), 12);
    leave.abort();
    await answerStored(tenant, "s");
    await crash(tenant, "s");
    // As if its client had left while the object was down.
    await inStorage(tenant, "s", ({ sql }, number) => {
      sql.exec("UPDATE turn SET detach = 0 WHERE session = ?", number);
    });
    await ringAlarm(tenant, "s");
    const refused = await errorOf(
      runTurn(client, { sessionId: "s", turn: 2, messages: [user("next")] }),
    );
    expect(refused.code).toBe(Code.FailedPrecondition);
    expect(refused.rawMessage).toBe("turn 1 is still running");
    const realNow = Date.now;
    try {
      Date.now = () => realNow() + orphanedTurnMs + 1;
      await ringAlarm(tenant, "s");
    } finally {
      Date.now = realNow;
    }
    const { messages } = await client.listMessages({ sessionId: "s" });
    expect(messages[1]?.finishReason).toBe(FinishReason.CANCELLED);
    const next = await runTurn(client, { sessionId: "s", turn: 2, messages: [scripted({})] });
    expect(next.text).toBe(words(5));
  });

  it("believes its storage, not what its memory said", async () => {
    const { tenant, key } = await newTenant();
    const client = sessionClient(key);
    await runTurn(client, { sessionId: "s", turn: 1, messages: [scripted({})] });
    const stub = sessionObject(tenant, "s");
    await runInDurableObject(stub, (instance) => {
      // What an instance holds in memory must not matter after an eviction.
      Object.assign(instance, { fetch: () => Promise.resolve(new Response("corrupt")) });
    });
    await evictDurableObject(stub);
    const { messages } = await client.listMessages({ sessionId: "s" });
    expect(messages.map((message) => message.message?.text)).toEqual(["!{}", words(5)]);
    await collect(client.generate({ sessionId: "s", turn: 1 }));
  });
});

describe("a transcript", () => {
  it("comes in pages that one RPC message can carry, however large its messages", async () => {
    const { tenant, key } = await newTenant();
    const client = sessionClient(key);
    await client.createSession({ sessionId: "s" });
    const text = "é".repeat(500_000);
    await inStore(tenant, "s", (store) => {
      for (let index = 0; index < 3; index++) store.insertMessage(1, Role.USER, text, false, 0);
    });
    // Its memory knows nothing of what was written beside it.
    await evictDurableObject(sessionObject(tenant, "s"));
    const first = await client.listMessages({ sessionId: "s" });
    expect(first.messages.map((entry) => entry.index)).toEqual([0, 1]);
    const second = await client.listMessages({ sessionId: "s", pageToken: first.nextPageToken });
    expect(second.messages.map((entry) => entry.index)).toEqual([2]);
    expect(second.messages[0]?.message?.text).toBe(text);
    expect(second.nextPageToken).toBe("");
  });
});
