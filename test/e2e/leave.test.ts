/**
 * Clients that leave in the middle of an answer. What stops is counted in steps of the engine, through GET /v1/status:
 *
 * 1. the client reads some pieces of an endless answer, asks for the status and leaves at once;
 * 2. the status is asked for until nothing runs; steps and time from 1 to here hold everything: the way of the two
 *    status answers, the network's notice that the client is gone, and the gateway's work;
 * 3. after a pause the steps are still the same;
 * 4. the transcript has the tokens that the session had when it stopped the turn; what the engine generated beyond
 *    that was on its way, or was its last step.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createLeanedgeClient, type LeanedgeClient } from "../../src/client/index.js";
import { FinishReason } from "../../src/gen/leanedge/v1/session_pb.js";
import { longStory } from "../support/conversation.js";
import { startGateway, type RunningGateway } from "../support/running-gateway.js";
import { engineStatus, isIdle, statusWhen } from "./engine-status.js";
import { protocols, rpcProtocols, type Protocol } from "./protocols.js";

/** Pieces that a client reads before it leaves. */
const piecesRead = 6;
/** Steps between the status before leaving and the stop: four to six were seen on a busy machine, in each protocol. */
const stepsUntilStoppedMax = 10;
/** The same in time; a step takes 15 ms on a quiet machine and 80 ms on a busy one. */
const msUntilStoppedMax = 2_000;
/** Longest wait for an engine with nothing to do, however busy the machine is; an endless answer takes longer. */
const idleMsMax = 30_000;
/** Tokens generated that the session did not take: one on its way when it stopped the turn, and one further step. */
const tokensLostMax = 2;
/** How long nothing may move afterwards. */
const quietMs = 500;
/** Far more than is read. */
const endlessTokens = 3_000;

let gateway: RunningGateway;
let client: LeanedgeClient;

beforeAll(async () => {
  gateway = await startGateway();
  client = createLeanedgeClient({ baseUrl: gateway.url, key: gateway.key });
  // The model loads at the first look.
  await engineStatus(gateway);
});

afterAll(() => gateway.close());

/** The answer as it is stored. */
async function storedAnswer(sessionId: string) {
  const { messages } = await client.sessions.listMessages({ sessionId });
  const [, answer] = messages;
  if (answer === undefined) throw new Error(`session ${sessionId} has no answer`);
  return {
    text: answer.message?.text ?? "",
    finishReason: answer.finishReason,
    completionTokens: answer.usage?.completionTokens ?? 0,
  };
}

/** Reads some pieces, then calls `leave` and reads what the client still gives out. */
async function readSome(
  pieces: AsyncIterable<string>,
  count: number,
  leave: () => Promise<void>,
): Promise<string> {
  let text = "";
  let read = 0;
  try {
    for await (const piece of pieces) {
      text += piece;
      if (++read === count) await leave();
    }
  } catch {
    // Each client has its own words for a stream that it closed itself.
  }
  expect(read).toBeGreaterThanOrEqual(count);
  return text;
}

/**
 * A fast machine does some more steps until it hears that the client is gone, a slow one takes some more time for its steps,
 * and a busy one may keep the client itself from leaving.
 */
function expectStoppedSoon(steps: number, ms: number): void {
  const soon = steps <= stepsUntilStoppedMax || ms <= msUntilStoppedMax;
  expect(soon, `${steps} steps, ${ms} ms`).toBe(true);
}

describe.each(protocols)(
  "%s: a client that leaves in the middle of an answer",
  (name, protocol) => {
    it("stops the engine", async () => {
      const sessionId = `left over ${name}`;
      const before = await statusWhen(gateway, isIdle, idleMsMax);
      const leaving = new AbortController();
      let atLeave = before;
      let leftAtMs = 0;
      const text = await readSome(
        protocol(gateway, { sessionId, text: longStory, maxTokens: endlessTokens }, leaving.signal),
        piecesRead,
        async () => {
          atLeave = await engineStatus(gateway);
          leftAtMs = performance.now();
          leaving.abort();
        },
      );
      expect(atLeave.running).toBe(1);

      const stopped = await statusWhen(gateway, isIdle, idleMsMax);
      const tookMs = performance.now() - leftAtMs;
      await sleep(quietMs);
      const later = await engineStatus(gateway);
      const answer = await storedAnswer(sessionId);

      expectStoppedSoon(stopped.steps - atLeave.steps, tookMs);
      expect(later.steps).toBe(stopped.steps);
      expect(answer.finishReason).toBe(FinishReason.CANCELLED);
      expect(answer.text.startsWith(text)).toBe(true);
      const generated = stopped.generated_tokens - before.generated_tokens;
      expect(answer.completionTokens).toBeLessThanOrEqual(generated);
      expect(generated - answer.completionTokens).toBeLessThanOrEqual(tokensLostMax);
    });
  },
);

describe("a client that leaves while its prompt is read", () => {
  it("stops the engine between two blocks of rows", async () => {
    const [, protocol] = protocols.find(([name]) => name === "gRPC-web binary") ?? [];
    if (protocol === undefined) throw new Error("there is no such protocol");
    const before = await statusWhen(gateway, isIdle, idleMsMax);
    const leaving = new AbortController();
    const text = `${longStory} `.repeat(150);
    const reading = readSome(
      protocol(gateway, { sessionId: "left early", text, maxTokens: 8 }, leaving.signal),
      0,
      () => Promise.resolve(),
    );
    const atLeave = await statusWhen(
      gateway,
      ({ steps, running }) => running === 1 && steps >= before.steps + 2,
      30_000,
    );
    leaving.abort();
    const leftAtMs = performance.now();
    const stopped = await statusWhen(gateway, isIdle, idleMsMax);
    const tookMs = performance.now() - leftAtMs;
    await reading;
    await sleep(quietMs);
    // The gateway hears of it by its second sign of life (worker/limits.ts), which waits for the end of a step.
    expectStoppedSoon(stopped.steps - atLeave.steps, tookMs);
    expect(stopped.generated_tokens).toBe(before.generated_tokens);
    expect((await engineStatus(gateway)).steps).toBe(stopped.steps);
    const answer = await storedAnswer("left early");
    expect(answer).toEqual({
      text: "",
      finishReason: FinishReason.CANCELLED,
      completionTokens: 0,
    });
  });
});

describe("a client that leaves a detached turn", () => {
  const maxTokens = 40;
  let whole = "";

  async function readAll(protocol: Protocol, sessionId: string): Promise<string> {
    let text = "";
    const ask = { sessionId, text: longStory, maxTokens };
    for await (const piece of protocol(gateway, ask, new AbortController().signal)) text += piece;
    return text;
  }

  beforeAll(async () => {
    const [first] = rpcProtocols;
    if (first === undefined) throw new Error("there is no protocol");
    whole = await readAll(first[1], "stayed");
  });

  it.each(rpcProtocols)(
    "%s: the turn goes on and ends, and is replayed",
    async (name, protocol) => {
      const sessionId = `detached over ${name}`;
      const leaving = new AbortController();
      const ask = { sessionId, text: longStory, maxTokens, detach: true };
      const text = await readSome(protocol(gateway, ask, leaving.signal), 2, () => {
        leaving.abort();
        return Promise.resolve();
      });
      await statusWhen(gateway, isIdle, idleMsMax);
      await expect
        .poll(() => storedAnswer(sessionId), { timeout: idleMsMax })
        .toEqual({ text: whole, finishReason: FinishReason.LENGTH, completionTokens: maxTokens });
      // It was left before its end, and the same turn again gives all of it.
      expect(text.length).toBeLessThan(whole.length);
      expect(whole.startsWith(text)).toBe(true);
      expect(await readAll(protocol, sessionId)).toBe(whole);
    },
  );
});
