import { cloudflareTest } from "@cloudflare/vitest-plugin";
import { defineConfig } from "vitest/config";
import { patienceMs } from "./test/support/patience-ms.js";
import { tinyModelBytes } from "./test/support/tiny-model.js";

export default defineConfig({
  plugins: [
    cloudflareTest({
      // The gateway with a scripted worker instead of an engine, so that no test waits for a model; model `tiny` has a
      // real one, of random weights.
      main: "./src/gateway/testing/gateway-worker.ts",
      wrangler: { configPath: "./wrangler.toml" },
      miniflare: {
        bindings: {
          LEANEDGE_DEV_KEY: "le-dev-test",
          LEANEDGE_ADMIN_TOKEN: "admin-token-of-the-tests",
          LEANEDGE_MODELS: [
            { model: "scripted" },
            { model: "second", engines: 3 },
            { model: "tiny", plans: ["lean.json"] },
          ],
          LEANEDGE_ENGINE_MEMORY_MIB: "3",
          TINY_MODEL: Buffer.from(tinyModelBytes()).toString("base64"),
        },
      },
    }),
  ],
  test: {
    name: "workers",
    setupFiles: ["test/support/patience.ts"],
    expect: { poll: { timeout: patienceMs } },
    include: ["src/gateway/**/*.worker.test.ts"],
    testTimeout: 30_000,
    hookTimeout: 60_000,
  },
});
