/** Readers that stop reading, and come back when what they read is gone. */
import type { Client } from "@connectrpc/connect";
import { Code } from "@connectrpc/connect";
import { beforeEach, describe, expect, it, vi } from "vitest";
import type { GenerateResponse, SessionService } from "../../gen/leanedge/v1/session_pb.js";
import type { Script } from "../testing/scripted-engine.js";
import {
  errorOf,
  newTenant,
  runTurn,
  scripted,
  sessionClient,
} from "../testing/gateway-clients.js";

let client: Client<typeof SessionService>;

beforeEach(async () => {
  client = sessionClient((await newTenant()).key);
});

/** Reads a turn's first event. */
async function begin(script: Script): Promise<AsyncIterator<GenerateResponse>> {
  const messages = [scripted(script)];
  const stream = client.generate({ sessionId: "s", model: "scripted", turn: 1, messages });
  const events = stream[Symbol.asyncIterator]();
  await events.next();
  return events;
}

/** Reads on: what text there was, and how it ended. */
async function rest(
  events: AsyncIterator<GenerateResponse>,
): Promise<{ readonly text: string; readonly code: Code }> {
  let text = "";
  const all = async (): Promise<void> => {
    for (;;) {
      const next = await events.next();
      if (next.done === true) return;
      const { event } = next.value;
      if (event.case === "delta") text += event.value.text;
    }
  };
  const { code } = await errorOf(all());
  return { text, code };
}

describe("a reader that stopped", () => {
  it("reads nothing of another session that has the id since", async () => {
    const events = await begin({ text: "a".repeat(500) });
    await vi.waitFor(async () =>
      expect((await client.getSession({ sessionId: "s" })).session?.runningTurn).toBe(0),
    );
    await client.deleteSession({ sessionId: "s" });
    const messages = [scripted({ text: "b".repeat(500) })];
    await runTurn(client, { sessionId: "s", model: "scripted", turn: 1, messages });
    expect(await rest(events)).toEqual({ text: "", code: Code.NotFound });
  });
});
