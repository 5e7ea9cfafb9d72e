/** A gateway that restarts while its sessions are idle: the second process goes on from what the first one saved. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { embedded, embeddedPlanFile } from "../../src/embedded-model.js";
import { createLeanedgeClient, type LeanedgeClient } from "../../src/client/index.js";
import { FinishReason } from "../../src/gen/leanedge/v1/session_pb.js";
import { startGateway, type RunningGateway } from "../support/running-gateway.js";
import { engineStatus, statusWhen } from "./engine-status.js";
import { runOne, type TurnPlan } from "./talk.js";

const sampling = { temperature: 0 };
/** More than 800 tokens in any vocabulary: more than twenty pages. */
const opening: TurnPlan = {
  text: Array.from({ length: 120 }, (_, line) => `In line ${line} it says ${line * 31}.`).join(" "),
  maxTokens: 16,
};
const goOn: TurnPlan = { text: "What did it say in the last line?", maxTokens: 16 };

let gateway: RunningGateway;
let client: LeanedgeClient;

beforeAll(async () => {
  gateway = await startGateway("--snapshot-idle", "0.5");
  client = createLeanedgeClient({ baseUrl: gateway.url, key: gateway.key });
});

afterAll(() => gateway.close());

describe("a session that was idle when its gateway restarted", () => {
  it("goes on from its saved cache: the new process computes the new rows only", async () => {
    await runOne(client, "calm", 1, opening, sampling);
    const calm = await runOne(client, "calm", 2, goOn, sampling);
    const first = await runOne(client, "s", 1, opening, sampling);
    const { session } = await client.sessions.getSession({ sessionId: "s" });
    expect(session?.plan).toBe(embedded.plan);
    expect(session?.cachePages).toBeGreaterThan(20);
    const saved = await statusWhen(gateway, (status) => status.snapshots_saved >= 2, 60_000);
    // Rows in full, pages in a fifth of their size.
    expect(saved.snapshot_bytes_saved).toBeLessThan(first.promptTokens * 2 * 8_192);

    await gateway.restart();
    const fresh = await engineStatus(gateway);
    expect(fresh).toMatchObject({ rows: 0, sequences: 0, snapshots_restored: 0 });
    const second = await runOne(client, "s", 2, goOn, sampling);
    const after = await engineStatus(gateway);
    expect(second.text).toBe(calm.text);
    expect(second.cachedTokens).toBe(calm.cachedTokens);
    expect(second.cachedTokens).toBeGreaterThan(first.promptTokens);
    expect(after.snapshots_restored).toBe(1);
    // The last token of an answer that was cut off was drawn, but never computed.
    const drawn = second.completionTokens - (second.finishReason === FinishReason.LENGTH ? 1 : 0);
    expect(after.rows).toBe(second.promptTokens - second.cachedTokens + drawn);
    expect(after).toMatchObject({ snapshots_stale: 0, snapshots_broken: 0 });
  });

  it("goes on by replay where the plan has changed, and the lost snapshot is counted", async () => {
    // The same storage under another configuration: the session was begun under a plan that is gone.
    await gateway.restart("--plan", "none");
    const third = await runOne(client, "s", 3, goOn, sampling);
    expect(third.cachedTokens).toBe(0);
    expect(third.completionTokens).toBeGreaterThan(0);
    const after = await engineStatus(gateway);
    expect(after).toMatchObject({ snapshots_stale: 1, snapshots_restored: 0 });
    const { session } = await client.sessions.getSession({ sessionId: "s" });
    expect(session).toMatchObject({ plan: "identity", lastTurn: 3, messageCount: 6 });
  });
});

describe("leanedge dev --plan", () => {
  it("refuses a plan that does not fit at the start, with the reason", async () => {
    await expect(startGateway("--plan", "../shared/plans/none-such.json")).rejects.toThrow(
      /none-such\.json/,
    );
    await expect(
      startGateway("--plan", embeddedPlanFile("leank-70"), "--plan", "none"),
    ).rejects.toThrow('"--plan none" goes with no other plan');
  });
});
