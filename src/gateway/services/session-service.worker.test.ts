import { describe, expect, it } from "vitest";
import { Backend, FinishReason, Role } from "../../gen/leanedge/v1/session_pb.js";
import {
  newTenant,
  runTurn,
  scripted,
  scriptedEngine,
  sessionClient,
  sessionObject,
  words,
} from "../testing/gateway-clients.js";

describe("SessionService", () => {
  it("creates a session and streams the answer of a turn", async () => {
    const { key } = await newTenant();
    const client = sessionClient(key);
    const { session } = await client.createSession({ sessionId: "first", title: "A talk" });
    expect(session).toMatchObject({ sessionId: "first", model: "scripted", title: "A talk" });
    const turn = await runTurn(client, {
      sessionId: "first",
      turn: 1,
      messages: [scripted({ tokens: 7 })],
    });
    expect(turn.text).toBe(words(7));
    expect(turn.finished).toMatchObject({ finishReason: FinishReason.STOP });
    expect(turn.finished?.usage).toMatchObject({ completionTokens: 7, cachedTokens: 0 });
    expect(turn.started[0]).toMatchObject({ turn: 1, sessionId: "first", resumed: false });
    expect(turn.started.at(-1)).toMatchObject({ backend: Backend.REFERENCE });
    expect(turn.started.at(-1)?.promptTokens).toBeGreaterThan(0);
  });

  it("names the prefix in the second turn and sends only what is new", async () => {
    const { tenant, key } = await newTenant();
    const client = sessionClient(key);
    const first = await runTurn(client, { sessionId: "s", turn: 1, messages: [scripted({})] });
    const second = await runTurn(client, { sessionId: "s", turn: 2, messages: [scripted({})] });
    const sequenceId = await sessionObject(tenant, "s").sequenceId();
    const call = (await scriptedEngine().seenCalls()).findLast((c) => c.sequenceId === sequenceId);
    const before = (first.finished?.usage?.promptTokens ?? 0) + 5;
    expect(call).toMatchObject({ prefixTokens: before, logTokens: 0, outcome: "accepted" });
    expect(second.finished?.usage?.cachedTokens).toBe(before);
    const { messages } = await client.listMessages({ sessionId: "s" });
    expect(messages.map((message) => message.message?.role)).toEqual([
      Role.USER,
      Role.ASSISTANT,
      Role.USER,
      Role.ASSISTANT,
    ]);
  });
});
