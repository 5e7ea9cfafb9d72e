import { describe, expect, it } from "vitest";
import {
  beginTurn,
  newTenant,
  runTurn,
  scripted,
  scriptedEngine,
  sessionClient,
  words,
} from "../testing/gateway-clients.js";

/** What the worker was asked for by the turn that `note` names. */
async function askedFor(note: string): Promise<number[]> {
  return (await scriptedEngine().seenCalls())
    .filter(({ messages }) => messages.some((message) => message.includes(`"note":"${note}"`)))
    .map(({ textIntervalMs }) => textIntervalMs);
}

describe("workers are asked for fewer, larger events of text", () => {
  it("the more turns run, from the eighth on, and no longer once they have ended", async () => {
    const { key } = await newTenant();
    const client = sessionClient(key);
    const ask = (note: string, delayMs: number) => ({
      ...{ sessionId: `s-${note}`, turn: 1 },
      messages: [scripted({ tokens: 8, delayMs }, note)],
    });
    const notes = Array.from({ length: 10 }, (_, index) => `turn ${index}`);
    const running = await Promise.all(notes.map((note) => beginTurn(client, ask(note, 300))));
    const intervals = (await Promise.all(notes.map(askedFor))).flat();
    expect(intervals.sort((a, b) => a - b)).toEqual([0, 0, 0, 0, 0, 0, 0, 8, 9, 10]);
    for (const turn of running) expect((await turn.finish()).text).toBe(words(8));
    expect((await runTurn(client, ask("after", 0))).text).toBe(words(8));
    expect(await askedFor("after")).toEqual([0]);
  });

  it("counts a turn once, however many attempts it took, and not after a failure", async () => {
    const { key } = await newTenant();
    const client = sessionClient(key);
    for (let index = 1; index <= 8; index++) {
      const messages = [scripted({ failAt: 2, tokens: 4 }, `fails ${index}`)];
      const turn = await runTurn(client, { sessionId: `f-${index}`, turn: 1, messages });
      expect(turn.text).toBe(words(4));
    }
    const messages = [scripted({}, "then")];
    await runTurn(client, { sessionId: "then", turn: 1, messages });
    expect(await askedFor("then")).toEqual([0]);
  });
});
