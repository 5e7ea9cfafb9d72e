/**
 * The child process that holds the Workers runtime (wrangler-process.ts starts it). It tells its
 * parent over IPC when it is ready, and ends when the parent is gone.
 *
 * wrangler's own command watches the sources and reloads in the middle of a conversation; a gateway that
 * is used, not developed, must not.
 */
import { unstable_dev } from "wrangler";
import { packagePath } from "./repository.js";
import type { WranglerOptions } from "./wrangler-process.js";

const options = JSON.parse(process.argv[2] ?? "") as WranglerOptions;

process.once("disconnect", () => {
  process.exit(0);
});

const worker = await unstable_dev(packagePath("src/gateway/index.ts"), {
  config: packagePath("wrangler.toml"),
  ip: options.host,
  port: options.port,
  inspect: false,
  persist: true,
  persistTo: options.persistTo,
  assets: options.assets,
  vars: options.vars,
  logLevel: process.env["LEANEDGE_LOG"] === "debug" ? "debug" : "error",
  local: true,
  experimental: {
    watch: options.watch,
    disableExperimentalWarning: true,
    showInteractiveDevSession: false,
    disableDevRegistry: true,
  },
});

process.once("SIGTERM", () => {
  worker.stop().then(
    () => process.exit(0),
    () => process.exit(1),
  );
});
process.send?.("ready");
