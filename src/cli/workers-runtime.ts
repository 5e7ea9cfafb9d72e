/**
 * The child process that holds the Workers runtime (workers-process.ts starts it). It tells its parent over IPC when it
 * is ready, and ends when the parent is gone.
 *
 * It is workerd itself that serves, as in production. Only `leanedge dev --watch` has wrangler's development server before
 * it, which reloads in the middle of a conversation, and does not tell the gateway of a client that leaves before its
 * answer's head has come.
 */
import { join } from "node:path";
import workerd from "workerd";
import { bundleGateway } from "./bundle-gateway.js";
import { packagePath } from "./repository.js";
import { startGatewayProcesses } from "./gateway-processes.js";
import { listenAddress, writeWorkerdConfig } from "./workerd-config.js";
import type { WorkersOptions } from "./workers-process.js";

const options = JSON.parse(process.argv[2] ?? "") as WorkersOptions;
try {
  await (options.watch ? runWrangler() : runWorkerd());
} catch (error) {
  // Its parent shows it to a person.
  console.error(error instanceof Error ? error.message : error);
  process.exit(1);
}

async function runWorkerd(): Promise<void> {
  const bundle = join(options.state, "gateway");
  const storage = join(options.state, "objects");
  await bundleGateway(bundle);
  const { host, port, processes, sessionObjects, assets, vars } = options;
  const config = await writeWorkerdConfig({
    ...{ bundle, storage, assets, processes, variables: Object.keys(vars) },
    listen: listenAddress(host, port),
  });
  const starting = startGatewayProcesses({
    ...{ workerd: workerd.default, config, processes, sessionObjects, host, port, storage },
    env: { ...process.env, ...vars },
    output: "inherit",
  });
  const end = (): void => {
    void starting.then((started) => started.stop()).finally(() => process.exit(0));
  };
  process.once("disconnect", end);
  process.once("SIGTERM", end);
  if (!process.connected) end();
  const gateway = await starting;
  void gateway.exited.then((code) => process.exit(code ?? 1));
  process.send?.("ready");
}

async function runWrangler(): Promise<void> {
  const { unstable_startWorker: startWorker } = await import("wrangler");
  process.once("disconnect", () => {
    process.exit(0);
  });
  const worker = await startWorker({
    config: packagePath("wrangler.toml"),
    entrypoint: packagePath("src/gateway/index.ts"),
    assets: options.assets,
    bindings: Object.fromEntries(
      Object.entries(options.vars).map(([name, value]) => [name, { type: "plain_text", value }]),
    ),
    dev: {
      remote: false,
      // The older unstable_dev takes no heed of it.
      watch: true,
      server: { hostname: options.host, port: options.port },
      inspector: false,
      persist: options.state,
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
}
