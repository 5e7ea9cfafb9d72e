import js from "@eslint/js";
import { defineConfig, globalIgnores } from "eslint/config";
import tseslint from "typescript-eslint";

/** A folder of the architecture and what its code must not import, with the reason. */
function layer(files, group, message) {
  return {
    files: [files],
    rules: {
      "@typescript-eslint/no-restricted-imports": ["error", { patterns: [{ group, message }] }],
    },
  };
}

const gateway = ["**/gateway/**"];
const engine = ["**/engine/**"];
const workers = ["hono", "hono/*", "cloudflare:*"];
const network = ["@connectrpc/*", "node:http", "node:http2", "node:https", "node:net"];

export default defineConfig(
  globalIgnores([
    "**/node_modules/",
    "src/gen/",
    "**/build/",
    "dist/",
    ".leanedge/",
    "coverage/",
    "**/.wrangler/",
    ".cache/",
    "**/.venv/",
    "wasm/prebuilt/",
  ]),
  js.configs.recommended,
  {
    files: ["**/*.ts"],
    extends: [tseslint.configs.strictTypeChecked],
    languageOptions: { parserOptions: { project: "./tsconfig.json" } },
    rules: {
      "@typescript-eslint/consistent-type-imports": "error",
      "@typescript-eslint/explicit-module-boundary-types": "error",
      "@typescript-eslint/no-confusing-void-expression": ["error", { ignoreArrowShorthand: true }],
      // Spreading a string is how its code points are counted.
      "@typescript-eslint/no-misused-spread": ["error", { allow: ["string"] }],
      "@typescript-eslint/no-unused-vars": ["error", { argsIgnorePattern: "^_" }],
      // An async function that awaits nothing turns throws into rejections: interfaces need that.
      "@typescript-eslint/require-await": "off",
      // Numbers in messages are what messages are for.
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true }],
      "@typescript-eslint/switch-exhaustiveness-check": [
        "error",
        { considerDefaultExhaustiveForUnions: true },
      ],
      "no-restricted-syntax": [
        "error",
        { selector: "ExportAllDeclaration", message: "Name what is exported." },
        { selector: "ExportDefaultDeclaration", message: "Export by name." },
      ],
      eqeqeq: "error",
    },
  },
  {
    files: ["src/gateway/**/*.ts"],
    ignores: ["src/gateway/**/testing/**", "src/gateway/**/*.test.ts"],
    languageOptions: { parserOptions: { project: "./tsconfig.workers.json" } },
  },
  {
    files: ["src/gateway/**/*.worker.test.ts", "src/gateway/testing/**/*.ts"],
    languageOptions: { parserOptions: { project: "./tsconfig.workers-test.json" } },
  },
  {
    // Their hosts ask for a default export.
    files: [
      "src/gateway/index.ts",
      "src/gateway/testing/gateway-worker.ts",
      "**/wasm-modules.d.ts",
      "src/gateway/testing/gateway-worker.ts",
      "test/**/worker.ts",
      "bench/**/worker.ts",
      "test/support/gateway-setup.ts",
      "*.config.ts",
      "scripts/summary-reporter.ts",
    ],
    rules: { "no-restricted-syntax": "off" },
  },
  layer(
    "src/engine/**/*.ts",
    [...workers, ...network, ...gateway],
    "An engine does not know the network.",
  ),
  layer(
    "src/worker/**/*.ts",
    [...workers, ...gateway],
    "A worker knows neither Hono nor Durable Objects.",
  ),
  layer(
    "src/client/**/*.ts",
    [...engine, ...gateway, "node:*"],
    "The client library runs in browsers.",
  ),
  layer(
    "src/page/**/*.ts",
    [...engine, ...gateway, "node:*"],
    "The page is a client like any other.",
  ),
  layer(
    "src/front/**/*.ts",
    [...engine, ...gateway, ...workers],
    "The front passes frames on and knows no service.",
  ),
  {
    files: ["src/cli/**/*.ts"],
    rules: {
      "@typescript-eslint/no-restricted-imports": [
        "error",
        {
          patterns: [
            {
              regex: "/engine/(?!gguf/|plan/)",
              message:
                "The command reads model files and plans and starts programs; it owns no engine.",
            },
          ],
        },
      ],
    },
  },
  {
    files: ["bin/**/*.js", "*.js"],
    languageOptions: { globals: { process: "readonly", console: "readonly" } },
  },
);
