/** What a fork has of its session, whatever became of that. */
import { Code } from "@connectrpc/connect";
import type { Client } from "@connectrpc/connect";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { SessionService } from "../../gen/leanedge/v1/session_pb.js";
import {
  errorOf,
  newTenant,
  runTurn,
  scripted,
  scriptedEngine,
  sequenceOf,
  sessionClient,
  words,
} from "../testing/gateway-clients.js";
import { SessionObject } from "./session-object.js";

let tenant: string;
let client: Client<typeof SessionService>;

beforeEach(async () => {
  const made = await newTenant();
  tenant = made.tenant;
  client = sessionClient(made.key);
});

afterEach(async () => {
  vi.restoreAllMocks();
  await scriptedEngine().changeTemplate("template-1");
});

function say(sessionId: string, turn: number, text: string): ReturnType<typeof runTurn> {
  return runTurn(client, { sessionId, model: "scripted", turn, messages: [scripted({}, text)] });
}

function said(text: string): string {
  return scripted({}, text).text;
}

/** What the worker was told in the last turn of a session, beyond what it knew. */
async function told(sessionId: string): Promise<readonly string[] | undefined> {
  const sequence = await sequenceOf(tenant, sessionId);
  const calls = await scriptedEngine().seenCalls();
  return calls.findLast((call) => call.sequenceId === sequence)?.messages;
}

describe("the model of a fork reads", () => {
  it("what its session said before the log was made anew", async () => {
    await say("from", 1, "one");
    await scriptedEngine().changeTemplate("template-2");
    await say("from", 2, "two");
    await client.forkSession({ sessionId: "from", turn: 1, newSessionId: "fork" });
    await say("fork", 2, "else");
    expect(await told("fork")).toEqual([said("one"), words(5), said("else")]);
  });

  it("what its session said in a turn that no worker accepted", async () => {
    await say("from", 1, "one");
    const messages = [scripted({ acceptDelayMs: 10_000 }, "two")];
    const unheard = runTurn(client, { sessionId: "from", turn: 2, messages });
    await vi.waitFor(async () =>
      expect((await client.cancelTurn({ sessionId: "from", turn: 2 })).cancelled).toBe(true),
    );
    await unheard;
    await say("from", 3, "three");
    await client.forkSession({ sessionId: "from", turn: 2, newSessionId: "fork" });
    await say("fork", 3, "else");
    expect(await told("fork")).toEqual([
      scripted({ acceptDelayMs: 10_000 }, "two").text,
      said("else"),
    ]);
  });
});

describe("a fork whose object is lost under the call", () => {
  it.each(["forkedFrom", "importCopy"] as const)("may be made again (%s)", async (method) => {
    await say("from", 1, "one");
    vi.spyOn(SessionObject.prototype, method).mockRejectedValueOnce(new Error("a crash"));
    const fork = { sessionId: "from", turn: 1, newSessionId: "fork" };
    expect((await errorOf(client.forkSession(fork))).code).toBe(Code.Unavailable);
    expect((await client.forkSession(fork)).session?.lastTurn).toBe(1);
  });
});

describe("a fork of a session that is deleted at the same time", () => {
  it("has all of it, or is not made", async () => {
    for (let round = 0; round < 5; round++) {
      const [from, to] = [`from-${round}`, `to-${round}`];
      await say(from, 1, "one");
      const forked = client.forkSession({ sessionId: from, turn: 1, newSessionId: to }).then(
        () => true,
        () => false,
      );
      await client.deleteSession({ sessionId: from });
      if (await forked) {
        const { messages } = await client.listMessages({ sessionId: to });
        expect(messages.map(({ message }) => message?.text)).toEqual([said("one"), words(5)]);
      } else {
        expect((await errorOf(client.getSession({ sessionId: to }))).code).toBe(Code.NotFound);
      }
    }
  });
});
