/** The object that adds up what isolates count: what it keeps, and that a reader never sees a sum fall. */
import { evictDurableObject, runInDurableObject } from "cloudflare:test";
import { describe, expect, it } from "vitest";
import { testEnv } from "../testing/gateway-clients.js";
import type { MetricsObject } from "./metrics-object.js";

function newObject(): DurableObjectStub<MetricsObject> {
  if (testEnv.METRICS === undefined) throw new Error("wrangler.toml binds no METRICS");
  return testEnv.METRICS.getByName(crypto.randomUUID());
}

describe("sums of all isolates", () => {
  it("are what was added, whoever added it", async () => {
    const stub = newObject();
    await stub.add({ a: 1, b: 2 });
    await stub.add({ a: 3 });
    expect(await stub.sums()).toEqual({ a: 4, b: 2 });
  });

  it("survive an eviction once somebody has seen them, and lose no more than came since", async () => {
    const stub = newObject();
    await stub.add({ a: 1 });
    expect(await stub.sums()).toEqual({ a: 1 });
    await stub.add({ a: 5 });
    await evictDurableObject(stub);
    const after = (await stub.sums())["a"] ?? 0;
    expect([1, 6]).toContain(after);
  });

  it("are stored by the alarm that the first of them sets", async () => {
    const stub = newObject();
    await stub.add({ a: 2 });
    await runInDurableObject(stub, async (instance, state) => {
      expect(await state.storage.getAlarm()).not.toBeNull();
      await instance.alarm();
    });
    await evictDurableObject(stub);
    expect(await stub.sums()).toEqual({ a: 2 });
  });
});
