import { cloudflareTest } from "@cloudflare/vitest-plugin";
import { defineConfig } from "vitest/config";

export default defineConfig({
  plugins: [cloudflareTest({ wrangler: { configPath: "./wrangler.toml" } })],
  test: {
    name: "workers",
    include: ["src/gateway/**/*.worker.test.ts"],
    testTimeout: 30_000,
    hookTimeout: 60_000,
  },
});
