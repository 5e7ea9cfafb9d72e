/**
 * The child process that holds the Workers runtime (wrangler-process.ts starts it). It tells its
 * parent over IPC when it is ready, and ends when the parent is gone.
 *
 * wrangler's own command watches the sources and reloads in the middle of a conversation; a gateway that
 * is used, not developed, must not.
 */
import { unstable_startWorker } from "wrangler";
import { packagePath } from "./repository.js";
import type { WranglerOptions } from "./wrangler-process.js";

const options = JSON.parse(process.argv[2] ?? "") as WranglerOptions;

process.once("disconnect", () => {
  process.exit(0);
});

const worker = await unstable_startWorker({
  config: packagePath("wrangler.toml"),
  entrypoint: packagePath("src/gateway/index.ts"),
  assets: options.assets,
  bindings: Object.fromEntries(
    Object.entries(options.vars).map(([name, value]) => [name, { type: "plain_text", value }]),
  ),
  dev: {
    remote: false,
    // The older unstable_dev takes no heed of it.
    watch: options.watch,
    server: { hostname: options.host, port: options.port },
    inspector: false,
    persist: options.persistTo,
    logLevel: process.env["LEANEDGE_LOG"] === "debug" ? "debug" : "error",
  },
});
await worker.ready;

process.once("SIGTERM", () => {
  worker.dispose().then(
    () => process.exit(0),
    () => process.exit(1),
  );
});
process.send?.("ready");
