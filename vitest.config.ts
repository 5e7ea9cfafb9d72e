import { defineConfig } from "vitest/config";

/**
 * One run, two projects: `node` for everything that needs no workerd, `workers` for tests inside
 * workerd itself. The last line is `N passed, N failed, N skipped`, over both.
 */
export default defineConfig({
  test: {
    projects: ["vitest.node.config.ts", "vitest.workers.config.ts", "vitest.clients.config.ts"],
    reporters: ["default", "./scripts/summary-reporter.ts"],
    // Servers and engines under test use several threads themselves.
    maxWorkers: 2,
  },
});
