/** Bundles the gateway for the open Workers runtime: one module, and the WASM modules that it imports beside it. */
import { mkdir, rm } from "node:fs/promises";
import { builtinModules } from "node:module";
import { join } from "node:path";
import { build } from "esbuild";
import { packagePath } from "./repository.js";

/** Packages name Node's modules without the prefix that workerd wants. */
const nodeNames = Object.fromEntries(
  builtinModules
    .filter((name) => /^[a-z][a-z0-9_]*$/.test(name))
    .map((name) => [name, `node:${name}`]),
);

/** Writes the bundle, `index.js` and what it imports, into a folder, and removes what was there. */
export async function bundleGateway(folder: string): Promise<void> {
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true });
  await build({
    entryPoints: [packagePath("src/gateway/index.ts")],
    outfile: join(folder, "index.js"),
    absWorkingDir: packagePath("."),
    bundle: true,
    format: "esm",
    target: "es2024",
    // As `wrangler deploy` resolves packages.
    conditions: ["workerd", "worker", "browser"],
    mainFields: ["browser", "module", "main"],
    external: ["node:*", "cloudflare:*"],
    alias: nodeNames,
    loader: { ".wasm": "copy" },
    assetNames: "[name]",
    define: { "process.env.NODE_ENV": '"production"' },
    logLevel: "error",
  });
}
