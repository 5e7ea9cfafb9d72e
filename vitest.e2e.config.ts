import { defineConfig } from "vitest/config";
import { patienceMs } from "./test/support/patience-ms.js";

/** Whole gateways that are killed, filled up and left in the middle of an answer; each file starts its own. */
export default defineConfig({
  test: {
    name: "e2e",
    setupFiles: ["test/support/patience.ts"],
    expect: { poll: { timeout: patienceMs } },
    environment: "node",
    include: ["test/e2e/**/*.test.ts"],
    // They count steps and measure times: one gateway at a time, and nothing else beside it.
    fileParallelism: false,
    sequence: { groupOrder: 1 },
    // The embedded model runs on two slow cores; a start of the runtime takes up to a minute there.
    testTimeout: 180_000,
    hookTimeout: 180_000,
  },
});
