/**
 * More sessions than an engine has memory for. The gateway runs with 40 MiB, of which the model leaves 72 pages: as
 * many sessions as with the default of 88 MiB would take four times the work to fill it. It keeps everything in f16:
 * under the model's own plan all of them would fit.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Code, ConnectError } from "@connectrpc/connect";
import { createLeanedgeClient, type LeanedgeClient } from "../../src/client/index.js";
import { FinishReason } from "../../src/gen/leanedge/v1/session_pb.js";
import { startGateway, type RunningGateway } from "../support/running-gateway.js";
import { engineStatus, isIdle, statusWhen } from "./engine-status.js";
import { runOne, type TurnPlan, type TurnSeen } from "./talk.js";

const memoryMib = 40;
const tokensPerPage = 32;
const sessions = 10;
/** About 310 tokens with the template's: ten such sessions need more pages than there are. */
const opening = (index: number): TurnPlan => ({
  text: `This is conversation number ${index}. `.concat(
    Array.from({ length: 30 }, (_, line) => `In line ${line} it says ${index * 31 + line}.`).join(
      " ",
    ),
  ),
  maxTokens: 6,
});
const goOn: TurnPlan = { text: "What did it say in the last line?", maxTokens: 6 };
const sampling = { temperature: 0 };

let gateway: RunningGateway;
let client: LeanedgeClient;

beforeAll(async () => {
  gateway = await startGateway("--engine-memory", String(memoryMib), "--plan", "none");
  client = createLeanedgeClient({ baseUrl: gateway.url, key: gateway.key });
});

afterAll(() => gateway.close());

/** The second turn of a session right after its first: what it answers while nothing was dropped. */
async function undisturbed(index: number): Promise<readonly [TurnSeen, TurnSeen]> {
  const first = await runOne(client, `calm-${index}`, 1, opening(index), sampling);
  return [first, await runOne(client, `calm-${index}`, 2, goOn, sampling)];
}

describe("sessions one after the other, more than fit", () => {
  it("answers all of them, saves and drops the oldest idle caches, and brings them back", async () => {
    const first: TurnSeen[] = [];
    for (let index = 0; index < sessions; index++) {
      first.push(await runOne(client, `one-${index}`, 1, opening(index), sampling));
    }
    const tokens = first.reduce((sum, turn) => sum + turn.promptTokens + turn.completionTokens, 0);
    const filled = await engineStatus(gateway);
    // The test is about something: they do not fit together, and idle caches are all that is held.
    expect(tokens / tokensPerPage).toBeGreaterThan(filled.pages);
    expect(filled).toMatchObject({ running: 0, queued: 0 });
    // Whoever had to go was saved first.
    expect(filled.snapshots_saved).toBeGreaterThan(0);
    expect(filled.sequences).toBeLessThan(sessions);
    expect(filled.snapshots_saved).toBeGreaterThanOrEqual(sessions - filled.sequences);
    expect(filled.pages_free).toBe(filled.pages);
    expect(filled.memory_bytes).toBeLessThanOrEqual(memoryMib * 1024 * 1024);

    // The latest still has its cache, the oldest gets it back.
    const kept = await runOne(client, `one-${sessions - 1}`, 2, goOn, sampling);
    const lost = await runOne(client, "one-0", 2, goOn, sampling);
    expect(kept.cachedTokens).toBeGreaterThan(0);
    expect(lost.cachedTokens).toBeGreaterThan(250);
    const after = await engineStatus(gateway);
    expect(after.snapshots_restored).toBe(1);
    expect(after.cached_tokens).toBe(filled.cached_tokens + kept.cachedTokens + lost.cachedTokens);
    // Nothing was computed twice: only the new prompts, and the answers but for a last token that was cut off.
    const computed = [kept, lost].map(
      ({ promptTokens, cachedTokens, completionTokens, finishReason }) =>
        promptTokens -
        cachedTokens +
        completionTokens -
        (finishReason === FinishReason.LENGTH ? 1 : 0),
    );
    expect(after.rows - filled.rows).toBe(computed.reduce((sum, rows) => sum + rows, 0));

    // Neither changes the answer.
    for (const [index, seen] of [
      [sessions - 1, kept],
      [0, lost],
    ] as const) {
      const [calmFirst, calmSecond] = await undisturbed(index);
      expect(first[index]?.text).toBe(calmFirst.text);
      expect(calmSecond.cachedTokens).toBeGreaterThan(0);
      expect(seen.text).toBe(calmSecond.text);
    }
  });
});

describe("sessions all at once, more than fit", () => {
  it("lets them wait for each other, and gives the same answers", async () => {
    const turns = Promise.all(
      Array.from({ length: sessions }, (_, index) =>
        runOne(
          client,
          `all-${index}`,
          1,
          { ...opening(index), maxTokens: 300 },
          {
            ...sampling,
            stop: ["\n"],
          },
        ),
      ),
    );
    // Each is admitted with the 300 tokens that its answer could have.
    const busy = await statusWhen(
      gateway,
      ({ queued, running }) => queued > 0 && running > 0,
      30_000,
    );
    expect(busy.running).toBeGreaterThan(0);
    const seen = await turns;
    expect(seen).toHaveLength(sessions);
    const idle = await statusWhen(gateway, isIdle, 30_000);
    expect(idle.memory_bytes).toBeLessThanOrEqual(memoryMib * 1024 * 1024);
    const again = await runOne(
      client,
      "alone",
      1,
      { ...opening(3), maxTokens: 300 },
      {
        ...sampling,
        stop: ["\n"],
      },
    );
    expect(seen[3]?.text).toBe(again.text);
  });
});

describe("a session that can never fit", () => {
  it("is refused at once, and leaves the others alone", async () => {
    const before = await engineStatus(gateway);
    const refusal = await runOne(
      client,
      "huge",
      1,
      { text: "hi", maxTokens: 4_000 },
      sampling,
    ).catch((error: unknown) => error);
    expect(refusal).toBeInstanceOf(ConnectError);
    if (!(refusal instanceof ConnectError)) return;
    expect(refusal.code).toBe(Code.ResourceExhausted);
    expect(refusal.rawMessage).toMatch(
      /^the sequence needs \d+ bytes of cache, the engine has \d+$/,
    );
    const after = await engineStatus(gateway);
    expect(after.steps).toBe(before.steps);
    expect(after).toMatchObject({ running: 0, queued: 0 });
    const response = await fetch(`${gateway.url}/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: `Bearer ${gateway.key}` },
      body: JSON.stringify({ messages: [{ role: "user", content: "hi" }], max_tokens: 4_000 }),
    });
    expect(response.status).toBe(429);
    expect(response.headers.get("retry-after")).toBe("1");
    expect(await response.json()).toMatchObject({
      error: { type: "rate_limit_error", message: refusal.rawMessage },
    });
    const next = await runOne(client, "huge", 1, { text: "hi", maxTokens: 4 }, sampling);
    expect(next.completionTokens).toBeGreaterThan(0);
  });
});
