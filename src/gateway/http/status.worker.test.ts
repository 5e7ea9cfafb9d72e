import { describe, expect, it } from "vitest";
import { engineDirectory } from "../worker-client/directory.js";
import type { WorkerDirectory } from "../worker-client/directory.js";
import { newTenant, send, testEnv, testUrl } from "../testing/gateway-clients.js";
import { gatewayStatus } from "./status.js";

function status(key?: string): Promise<Response> {
  return send(
    `${testUrl}/v1/status`,
    key === undefined ? {} : { headers: { authorization: `Bearer ${key}` } },
  );
}

describe("GET /v1/status", () => {
  it("lists the workers of all models in the order of the configuration", async () => {
    const { key } = await newTenant();
    const response = await status(key);
    expect(response.status).toBe(200);
    expect(response.headers.get("cache-control")).toBe("no-store");
    const body: unknown = await response.json();
    const scripted = {
      worker: "scripted",
      backend: "reference",
      draining: false,
      models: expect.arrayContaining([
        {
          model: "scripted",
          context_tokens_max: 4_000,
          page_bytes: 1024,
          sequence_bytes: 2048,
          plans: [],
        },
      ]) as unknown,
      running: 0,
      queued: 0,
      sequences: 0,
      pages: 0,
      pages_free: 0,
      memory_bytes: 0,
      memory_bytes_max: 0,
      steps: 0,
      prompt_tokens: 0,
      generated_tokens: 0,
      cached_tokens: 0,
      rows: 0,
      cache_bytes: 0,
      cache_bytes_free: 0,
      snapshots_saved: 0,
      snapshots_restored: 0,
      snapshots_stale: 0,
      snapshots_broken: 0,
      snapshot_bytes_saved: 0,
      snapshot_bytes_restored: 0,
    };
    // One engine of the first model, three of the second.
    expect(body).toEqual({
      object: "status",
      workers: [scripted, scripted, scripted, scripted, expect.anything()],
    });
  });

  it("says what a real engine computed, holds and could hold under each plan", async () => {
    const { key } = await newTenant();
    const body: { workers: unknown[] } = await (await status(key)).json();
    const real = body.workers.at(-1);
    expect(real).toMatchObject({
      worker: "engine:tiny/0",
      backend: "wasm",
      models: [
        {
          model: "tiny",
          context_tokens_max: 768,
          plans: [
            { plan: "lean", pages_max: Math.floor((768 - 36) / 32) },
            // 2 layers, 3 heads of 16 channels, K and V of 2 bytes.
            { plan: "identity", archive_bytes_per_token: 384, page_bytes: 384 * 32 },
          ],
        },
      ],
    });
  });

  it("is refused without a key and with a wrong one", async () => {
    for (const key of [undefined, "wrong"]) {
      const response = await status(key);
      expect(response.status).toBe(401);
      expect(await response.json()).toMatchObject({ error: { code: "invalid_api_key" } });
    }
  });

  it("names a worker that does not answer, and shows the others", async () => {
    const real = engineDirectory(testEnv);
    const directory: WorkerDirectory = {
      ...real,
      workers: () => ["gone", "engine:scripted/0"].map((worker) => ({ worker, address: "" })),
      open: (worker) => (worker === "gone" ? undefined : real.open(worker, "")),
    };
    expect(await gatewayStatus(directory)).toMatchObject({
      object: "status",
      workers: [
        { worker: "gone", error: "the worker is not known any more" },
        { worker: "scripted", backend: "reference" },
      ],
    });
  });
});
