/** The gateway inside workerd, as a project of tests. */
import { cloudflareTest } from "@cloudflare/vitest-plugin";
import { defineProject, type UserWorkspaceConfig } from "vitest/config";
import { patienceMs } from "./patience-ms.js";
import { tinyModelBytes } from "./tiny-model.js";

/**
 * The gateway with a scripted worker instead of an engine, so that no test waits for a model; model `tiny` has a real one, of
 * random weights.
 *
 * @param files patterns of tests that are and that are not its
 * @param bindings of the gateway, beside those that every test has
 */
export function gatewayProject(
  name: string,
  files: { readonly include: string[]; readonly exclude?: string[] },
  bindings: Readonly<Record<string, string>> = {},
): UserWorkspaceConfig {
  return defineProject({
    plugins: [
      cloudflareTest({
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
            ...bindings,
          },
        },
      }),
    ],
    test: {
      name,
      setupFiles: ["test/support/patience.ts"],
      expect: { poll: { timeout: patienceMs } },
      ...files,
      testTimeout: 30_000,
      hookTimeout: 60_000,
    },
  });
}
