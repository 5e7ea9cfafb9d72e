import { defineConfig } from "vitest/config";
import { patienceMs } from "./test/support/patience-ms.js";

/** Real clients against one whole gateway, started once for all files (test/support/gateway-setup.ts). */
export default defineConfig({
  test: {
    name: "clients",
    setupFiles: ["test/support/patience.ts"],
    expect: { poll: { timeout: patienceMs } },
    environment: "node",
    include: ["test/clients/**/*.test.ts"],
    globalSetup: ["test/support/gateway-setup.ts"],
    // The embedded model shares two slow cores with whatever else runs.
    testTimeout: 90_000,
    hookTimeout: 120_000,
  },
});
