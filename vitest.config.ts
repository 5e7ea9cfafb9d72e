import { defineConfig } from "vitest/config";

/**
 * One run, five projects: `node` for everything that needs no workerd, `workers` for tests inside
 * workerd itself, `shared` for those of them again whose sessions share objects, `clients` for real clients against one gateway, `e2e` for gateways that are killed,
 * filled and measured. The last line is `N passed, N failed, N skipped`, over all.
 */
export default defineConfig({
  test: {
    projects: [
      "vitest.node.config.ts",
      "vitest.workers.config.ts",
      "vitest.shared.config.ts",
      "vitest.clients.config.ts",
      "vitest.e2e.config.ts",
    ],
    reporters: ["default", "./scripts/summary-reporter.ts"],
    // Servers and engines under test use several threads themselves.
    maxWorkers: 2,
  },
});
