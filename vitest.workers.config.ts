import { cloudflareTest } from "@cloudflare/vitest-plugin";
import { defineConfig } from "vitest/config";

export default defineConfig({
  plugins: [
    cloudflareTest({
      // The gateway with a scripted worker instead of an engine, so that no test waits for a model.
      main: "./src/gateway/testing/gateway-worker.ts",
      wrangler: { configPath: "./wrangler.toml" },
      miniflare: {
        bindings: {
          LEANEDGE_DEV_KEY: "le-dev-test",
          LEANEDGE_MODELS: [{ model: "scripted" }, { model: "second", engines: 3 }],
        },
      },
    }),
  ],
  test: {
    name: "workers",
    include: ["src/gateway/**/*.worker.test.ts"],
    testTimeout: 30_000,
    hookTimeout: 60_000,
  },
});
