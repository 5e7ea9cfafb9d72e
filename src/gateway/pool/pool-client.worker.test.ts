import { afterEach, describe, expect, it, vi } from "vitest";
import type { GatewayEnv } from "../bindings.js";
import { parseConfig } from "../config.js";
import { poolViewMs } from "../limits.js";
import { PoolClient } from "./pool-client.js";

afterEach(() => {
  vi.restoreAllMocks();
});

function setClock(nowMs: number): void {
  vi.spyOn(Date, "now").mockReturnValue(nowMs);
}

/** A client of one pool, which counts how often it was asked for a view. */
function bench(): { readonly client: PoolClient; readonly asked: () => number } {
  const name = `p${crypto.randomUUID().slice(0, 8)}`;
  let views = 0;
  const pool = {
    view: () => {
      views++;
      return Promise.resolve({ atMs: Date.now(), workers: [] });
    },
  };
  // All that a client asks of its bindings.
  const env = { POOL: { getByName: () => pool } } as unknown as GatewayEnv;
  const config = parseConfig({ LEANEDGE_POOLS: name });
  return { client: new PoolClient(env, config), asked: () => views };
}

describe("a view of a pool", () => {
  it("is renewed when it is old, and not before", async () => {
    setClock(10_000_000);
    const { client, asked } = bench();
    await client.refresh();
    expect(client.refresh()).toBeUndefined();
    setClock(10_000_000 + poolViewMs);
    await client.refresh();
    expect(asked()).toBe(2);
  });

  it("is renewed after the clock was set back, however far", async () => {
    setClock(10_000_000);
    const { client, asked } = bench();
    await client.refresh();
    setClock(6_400_000);
    await client.refresh();
    expect(asked()).toBe(2);
    expect(client.refresh()).toBeUndefined();
  });
});
