import { Code, ConnectError, createClient, createRouterTransport } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import {
  FinishReason,
  SessionService,
  type GenerateRequest,
} from "../gen/leanedge/v1/session_pb.js";
import { runTurn, type TurnEvent } from "./run-turn.js";

const answer = "grüße from the edge";
const bytes = new TextEncoder().encode(answer);
const reconnect = { attemptsMax: 3, firstWaitMs: 1, waitMsMax: 2 };

/** A gateway whose streams break after each of `cuts` bytes, then run to the end. */
function gateway(cuts: (number | ConnectError)[]) {
  const requests: GenerateRequest[] = [];
  const cancelled: number[] = [];
  const sessions = createClient(
    SessionService,
    createRouterTransport(({ service }) => {
      service(SessionService, {
        getSession: () => ({ session: { lastTurn: 4 } }),
        cancelTurn: ({ turn }) => {
          cancelled.push(turn);
          return { cancelled: true };
        },
        async *generate(request) {
          requests.push(request);
          const cut = cuts.shift();
          if (cut instanceof ConnectError) throw cut;
          yield { event: { case: "started", value: { turn: request.turn } } };
          let at = Number(request.resumeOffset);
          const end = cut ?? bytes.length;
          while (at < end) {
            // "ü" takes two bytes: pieces are whole characters.
            const size = bytes[at] === 0xc3 ? 2 : 1;
            const text = new TextDecoder().decode(bytes.subarray(at, at + size));
            yield { event: { case: "delta", value: { offset: BigInt(at), text } } };
            at += size;
            await Promise.resolve();
          }
          if (cut !== undefined) throw new ConnectError("connection lost", Code.Unavailable);
          yield {
            event: { case: "finished", value: { finishReason: FinishReason.STOP } },
          };
        },
      });
    }),
  );
  return { sessions, requests, cancelled };
}

/** What a client says of the answer's first bytes. */
async function resumeHashOf(end: number): Promise<number[]> {
  const hash = await crypto.subtle.digest("SHA-256", bytes.subarray(0, end));
  return [...new Uint8Array(hash, 0, 16)];
}

async function collect(
  events: AsyncIterable<TurnEvent>,
): Promise<{ text: string; types: string[] }> {
  let text = "";
  const types: string[] = [];
  for await (const event of events) {
    if (event.type === "delta") text += event.text;
    else types.push(event.type);
  }
  return { text, types };
}

describe("runTurn()", () => {
  it("asks for the next turn number, so that a retry is never a second question", async () => {
    const { sessions, requests } = gateway([]);
    const { text } = await collect(runTurn(sessions, { sessionId: "s", text: "hi" }));
    expect(text).toBe(answer);
    expect(requests[0]?.turn).toBe(5);
    expect(requests[0]?.detach).toBe(true);
  });

  it("goes on after the last byte it has when the stream breaks", async () => {
    const { sessions, requests } = gateway([4, 4, 9]);
    const { text, types } = await collect(
      runTurn(sessions, { sessionId: "s", text: "hi", reconnect }),
    );
    expect(text).toBe(answer);
    expect(requests.map((request) => Number(request.resumeOffset))).toEqual([0, 4, 4, 9]);
    expect(types.filter((type) => type === "reconnecting")).toHaveLength(3);
    const hashes = await Promise.all([4, 4, 9].map(resumeHashOf));
    expect(requests.map(({ resumeHash }) => [...resumeHash])).toEqual([[], ...hashes]);
  });

  it("says nothing of an answer whose start it has not seen", async () => {
    const { sessions, requests } = gateway([9]);
    const request = { sessionId: "s", turn: 5, text: "", resumeOffset: 4, reconnect };
    const { text } = await collect(runTurn(sessions, request));
    expect(text).toBe(new TextDecoder().decode(bytes.subarray(4)));
    expect(requests.map(({ resumeOffset }) => Number(resumeOffset))).toEqual([4, 9]);
    expect(requests.map(({ resumeHash }) => resumeHash.length)).toEqual([0, 0]);
  });

  it("ends where the gateway has another answer than the one that it gave out", async () => {
    const { sessions, requests } = gateway([
      4,
      new ConnectError("the answer was generated anew and differs", Code.DataLoss),
    ]);
    await expect(
      collect(runTurn(sessions, { sessionId: "s", text: "hi", reconnect })),
    ).rejects.toMatchObject({ code: Code.DataLoss });
    expect(requests).toHaveLength(2);
  });

  it("gives up after as many attempts in a row as its policy allows", async () => {
    const lost = () => new ConnectError("connection lost", Code.Unavailable);
    const { sessions, requests } = gateway([lost(), lost(), lost(), lost(), lost()]);
    await expect(
      collect(runTurn(sessions, { sessionId: "s", text: "hi", reconnect })),
    ).rejects.toThrow("connection lost");
    expect(requests).toHaveLength(4);
  });

  it("does not retry what the gateway refuses", async () => {
    const { sessions, requests } = gateway([
      new ConnectError("turn 5 is not the next one", Code.FailedPrecondition),
    ]);
    await expect(
      collect(runTurn(sessions, { sessionId: "s", text: "hi", reconnect })),
    ).rejects.toThrow("turn 5 is not the next one");
    expect(requests).toHaveLength(1);
  });

  it("stops the turn itself when the signal aborts", async () => {
    const { sessions, cancelled } = gateway([]);
    const controller = new AbortController();
    const events = runTurn(sessions, { sessionId: "s", text: "hi", signal: controller.signal });
    await events.next();
    controller.abort();
    await expect(collect(events)).rejects.toThrow("the turn was stopped");
    expect(cancelled).toEqual([5]);
  });
});
