import { evictDurableObject, runInDurableObject } from "cloudflare:test";
import { describe, expect, it } from "vitest";
import { turnLeaseMs } from "../limits.js";
import { testEnv } from "../testing/gateway-clients.js";
import type { LimitObject, TurnLease } from "./limit-object.js";

function limitObject(): DurableObjectStub<LimitObject> {
  return testEnv.LIMIT.getByName(crypto.randomUUID());
}

function turn(tokens = 0): TurnLease {
  return { lease: crypto.randomUUID(), tokens };
}

/** Lets time pass for an object: what it stored moves into the past. */
async function pass(stub: DurableObjectStub<LimitObject>, ms: number): Promise<void> {
  await runInDurableObject(stub, (_instance, state) => {
    state.storage.sql.exec("UPDATE bucket SET at_ms = at_ms - ?", ms);
    state.storage.sql.exec("UPDATE turn SET lapse_ms = lapse_ms - ?", ms);
  });
}

describe("LimitObject", () => {
  it("admits as many requests as its limit, then says when the next one may come", async () => {
    const stub = limitObject();
    const limits = { requestsPerMinute: 3 };
    for (const remaining of [2, 1, 0]) {
      const { states, refusal } = await stub.admit({ limits, requests: 1, turn: undefined });
      expect(refusal).toBeUndefined();
      expect(states.requests).toMatchObject({ limit: 3, remaining });
      expect(states.tokens).toBeUndefined();
    }
    const { states, refusal } = await stub.admit({ limits, requests: 1, turn: undefined });
    expect(refusal).toMatchObject({ limit: "requestsPerMinute", value: 4, bound: 3 });
    expect(refusal?.retryAfterMs).toBeGreaterThan(15_000);
    expect(refusal?.retryAfterMs).toBeLessThanOrEqual(20_000);
    expect(states.requests).toMatchObject({ limit: 3, remaining: 0 });
    await pass(stub, 20_000);
    expect((await stub.admit({ limits, requests: 1, turn: undefined })).refusal).toBeUndefined();
    expect((await stub.admit({ limits, requests: 1, turn: undefined })).refusal).toBeDefined();
    await pass(stub, 60_000);
    expect((await stub.admit({ limits, requests: 0, turn: undefined })).states.requests).toEqual({
      limit: 3,
      remaining: 3,
      fullInMs: 0,
    });
  });

  it("admits no more than its limit of many that come at once", async () => {
    const stub = limitObject();
    const limits = { requestsPerMinute: 10, tokensPerMinute: 1_000, turns: 100 };
    const answers = await Promise.all(
      Array.from({ length: 50 }, () => stub.admit({ limits, requests: 1, turn: turn(10) })),
    );
    // One more could have flowed in while they ran.
    const admitted = answers.filter(({ refusal }) => refusal === undefined).length;
    expect(admitted).toBeGreaterThanOrEqual(10);
    expect(admitted).toBeLessThanOrEqual(11);
  });

  it("lets no more turns run at once than its limit, and the next one when one has ended", async () => {
    const stub = limitObject();
    const limits = { turns: 2 };
    const first = turn();
    const all = [first, turn(), turn()];
    const answers = await Promise.all(
      all.map((one) => stub.admit({ limits, requests: 1, turn: one })),
    );
    expect(answers.map(({ refusal }) => refusal)).toEqual([
      undefined,
      undefined,
      { limit: "turns", value: 2, bound: 2, retryAfterMs: 1_000 },
    ]);
    // One that joins a turn needs no place.
    expect((await stub.admit({ limits, requests: 1, turn: undefined })).refusal).toBeUndefined();
    await stub.settle(first.lease, 5, undefined);
    expect((await stub.admit({ limits, requests: 1, turn: turn() })).refusal).toBeUndefined();
    expect((await stub.admit({ limits, requests: 1, turn: turn() })).refusal).toBeDefined();
  });

  it("takes nothing where it refuses", async () => {
    const stub = limitObject();
    const limits = { requestsPerMinute: 5, tokensPerMinute: 100, turns: 5 };
    expect(
      (await stub.admit({ limits, requests: 1, turn: turn(80) })).states.tokens?.remaining,
    ).toBe(20);
    const { states, refusal } = await stub.admit({ limits, requests: 1, turn: turn(80) });
    expect(refusal).toMatchObject({ limit: "tokensPerMinute", value: 160, bound: 100 });
    expect(states.requests?.remaining).toBe(4);
    expect(states.tokens?.remaining).toBeLessThanOrEqual(21);
    await runInDurableObject(stub, (_instance, state) => {
      expect(state.storage.sql.exec("SELECT * FROM turn").toArray()).toHaveLength(1);
    });
  });

  it("replaces what a turn was expected to take by what it took, once", async () => {
    const stub = limitObject();
    const limits = { tokensPerMinute: 6_000 };
    const tokens = async (): Promise<number> =>
      (await stub.admit({ limits, requests: 0, turn: undefined })).states.tokens?.remaining ?? 0;
    const cheap = turn(1_000);
    await stub.admit({ limits, requests: 1, turn: cheap });
    await stub.settle(cheap.lease, 100, 6_000);
    await stub.settle(cheap.lease, 5_000, 6_000);
    expect(await tokens()).toBeGreaterThanOrEqual(5_900);
    expect(await tokens()).toBeLessThan(6_000);
    const dear = turn(10);
    await stub.admit({ limits, requests: 1, turn: dear });
    await stub.settle(dear.lease, 9_000, 6_000);
    expect(await tokens()).toBe(0);
    // What it took beyond its bucket flows back first: 3,100 tokens are half a minute.
    const { refusal } = await stub.admit({ limits, requests: 1, turn: turn(1) });
    expect(refusal?.retryAfterMs).toBeGreaterThan(25_000);
    expect(refusal?.retryAfterMs).toBeLessThanOrEqual(31_010);
    await pass(stub, refusal?.retryAfterMs ?? 0);
    expect((await stub.admit({ limits, requests: 1, turn: turn(1) })).refusal).toBeUndefined();
  });

  it("admits a turn that asks for more than the whole bucket when that is full", async () => {
    const stub = limitObject();
    const limits = { tokensPerMinute: 100 };
    const huge = turn(512);
    expect((await stub.admit({ limits, requests: 1, turn: huge })).refusal).toBeUndefined();
    await stub.settle(huge.lease, 20, 100);
    expect((await stub.admit({ limits, requests: 1, turn: turn(512) })).refusal).toMatchObject({
      limit: "tokensPerMinute",
    });
    expect((await stub.admit({ limits, requests: 1, turn: turn(70) })).refusal).toBeUndefined();
  });

  it("expects no turn to take more than a full bucket, and gives back no more", async () => {
    const stub = limitObject();
    const limits = { tokensPerMinute: 100 };
    const huge = turn(10_000);
    const { states } = await stub.admit({ limits, requests: 1, turn: huge });
    expect(states.tokens).toMatchObject({ remaining: 0, fullInMs: 60_000 });
    const { refusal } = await stub.admit({ limits, requests: 1, turn: turn(1) });
    expect(refusal?.retryAfterMs).toBeLessThanOrEqual(600);
    expect(refusal?.value).toBe(101);
    await stub.settle(huge.lease, 80, 100);
    const after = await stub.admit({ limits, requests: 0, turn: undefined });
    expect(after.states.tokens?.remaining).toBeGreaterThanOrEqual(20);
    expect(after.states.tokens?.remaining).toBeLessThanOrEqual(22);
    // One that lapsed and is renewed gives back what it took, too.
    const lost = turn(10_000);
    await pass(stub, 60_000);
    await stub.admit({ limits, requests: 1, turn: lost });
    await runInDurableObject(stub, (_instance, state) => {
      state.storage.sql.exec("DELETE FROM turn");
    });
    await stub.renew(lost);
    await stub.settle(lost.lease, 80, 100);
    const renewed = await stub.admit({ limits, requests: 0, turn: undefined });
    expect(renewed.states.tokens?.remaining).toBeLessThanOrEqual(22);
  });

  it("names the limit that is to be waited for longest, and for how long", async () => {
    const stub = limitObject();
    const limits = { requestsPerMinute: 60, tokensPerMinute: 100 };
    const calls = Array.from({ length: 59 }, () => ({ limits, requests: 1 as const }));
    for (const call of calls) {
      await stub.admit({ ...call, turn: undefined });
    }
    await stub.admit({ limits, requests: 1, turn: turn(100) });
    // A request flows in within a second, the tokens of a turn within a minute.
    const { refusal } = await stub.admit({ limits, requests: 1, turn: turn(100) });
    expect(refusal).toMatchObject({ limit: "tokensPerMinute", value: 200, bound: 100 });
    expect(refusal?.retryAfterMs).toBeGreaterThan(50_000);
    // The end of a turn may give back what it was expected to take.
    const busy = { ...limits, turns: 1 };
    const second = await stub.admit({ limits: busy, requests: 1, turn: turn(100) });
    expect(second.refusal).toMatchObject({ limit: "turns", retryAfterMs: 1_000 });
  });

  it("gives back the place of a turn that was lost, unless it is renewed", async () => {
    const stub = limitObject();
    const limits = { turns: 2 };
    const [lost, kept] = [turn(), turn()];
    await stub.admit({ limits, requests: 1, turn: lost });
    await stub.admit({ limits, requests: 1, turn: kept });
    await pass(stub, turnLeaseMs / 2);
    await stub.renew(kept);
    await pass(stub, turnLeaseMs / 2);
    expect((await stub.admit({ limits, requests: 1, turn: turn() })).refusal).toBeUndefined();
    expect((await stub.admit({ limits, requests: 1, turn: turn() })).refusal).toMatchObject({
      value: 2,
    });
  });

  it("gives back the place of a lost turn a minute after the clock was set back", async () => {
    const stub = limitObject();
    const limits = { turns: 1 };
    await stub.admit({ limits, requests: 1, turn: turn() });
    await pass(stub, -3_600_000);
    expect((await stub.admit({ limits, requests: 1, turn: turn() })).refusal).toBeDefined();
    await pass(stub, turnLeaseMs);
    expect((await stub.admit({ limits, requests: 1, turn: turn() })).refusal).toBeUndefined();
  });

  it("survives an eviction", async () => {
    const stub = limitObject();
    const limits = { requestsPerMinute: 2, tokensPerMinute: 1_000, turns: 2 };
    await stub.admit({ limits, requests: 1, turn: turn(300) });
    await stub.admit({ limits, requests: 1, turn: turn(300) });
    await runInDurableObject(stub, (instance) => {
      Object.assign(instance, { admit: () => "corrupt" });
    });
    await evictDurableObject(stub);
    const { states } = await stub.admit({ limits, requests: 0, turn: undefined });
    expect(states.requests?.remaining).toBe(0);
    expect(states.tokens?.remaining).toBeLessThanOrEqual(500);
    expect((await stub.admit({ limits, requests: 0, turn: turn() })).refusal).toMatchObject({
      limit: "turns",
      value: 2,
    });
  });
});
