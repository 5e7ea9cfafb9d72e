import { defineConfig } from "vitest/config";
import { patienceMs } from "./test/support/patience-ms.js";

export default defineConfig({
  test: {
    name: "node",
    setupFiles: ["test/support/patience.ts"],
    expect: { poll: { timeout: patienceMs } },
    environment: "node",
    include: ["src/**/*.test.ts", "test/**/*.test.ts", "bench/**/*.test.ts"],
    exclude: ["**/node_modules/**", "src/**/*.worker.test.ts", "test/clients/**", "test/e2e/**"],
    // Several tests start whole servers, and CI machines have two slow cores.
    testTimeout: 30_000,
    hookTimeout: 60_000,
  },
});
