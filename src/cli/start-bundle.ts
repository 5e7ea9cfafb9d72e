/**
 * Starts the processes of a bundle, in whose folder it lies: `node start.mjs`. It needs Node and `workerd` on the PATH, and
 * ends, with them, when one of them does: what watches over services starts all of them again.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { startFile, type BundleStart } from "./bundle-start.js";
import { startGatewayProcesses } from "./gateway-processes.js";
import { runProgram } from "./run-program.js";

const folder = fileURLToPath(new URL(".", import.meta.url));
const start = JSON.parse(await readFile(join(folder, startFile), "utf8")) as BundleStart;
await runProgram(async () => {
  const starting = startGatewayProcesses({
    ...start,
    workerd: process.env["LEANEDGE_WORKERD"] ?? "workerd",
    config: join(folder, "workerd.capnp"),
    env: process.env,
    output: "inherit",
  });
  // Also while they start: none may be left behind.
  for (const name of ["SIGINT", "SIGTERM"] as const) {
    process.once(name, () => {
      void starting.then((started) => started.stop()).finally(() => process.exit(0));
    });
  }
  const gateway = await starting;
  const processes = start.processes === 1 ? "1 process" : `${start.processes} processes`;
  console.log(`leanedge listens on ${start.host}, port ${gateway.port}, with ${processes}`);
  process.exitCode = (await gateway.exited) ?? 1;
});
