import { gatewayProject } from "./test/support/gateway-project.js";

export default gatewayProject("workers", {
  include: ["src/gateway/**/*.worker.test.ts"],
  // Those of vitest.shared.config.ts alone.
  exclude: ["**/shared-*.worker.test.ts"],
});
