/** `leanedge bundle`: all that workerd needs to serve the gateway on a machine of one's own. */
import { writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { build } from "esbuild";
import { bundleGateway } from "./bundle-gateway.js";
import { packagePath } from "./repository.js";
import { startFile, type BundleStart } from "./bundle-start.js";
import { processVariable } from "./gateway-processes.js";
import { sessionObjectsVariable } from "../gateway/objects/shared-name.js";
import { askedSessionObjects, objectsInWords, settleSessionObjects } from "./session-objects.js";
import { refuseHeld } from "./storage-hold.js";
import { listenedAddress, writeWorkerdConfig } from "./workerd-config.js";

/** Variables that the bundle gives itself. */
const ownVariables = [processVariable, sessionObjectsVariable];

/** Options of the command. */
export interface BundleOptions {
  /** Folder to write; what is in it is removed. */
  readonly out: string;
  /** Folder that `leanedge build` wrote. */
  readonly assets: string;
  /** Folder that keeps sessions, keys and pools; it is made if need be. */
  readonly storage: string;
  /** Host and port that workerd listens on. */
  readonly listen: string;
  /** Processes that serve together, 1 to 64. */
  readonly processes: number;
  /** How many objects hold the sessions, 0 (one a session) to 1024; unset: what the environment says, or else the storage (session-objects.ts). */
  readonly sessionObjects: number | undefined;
}

/**
 * Writes the bundle and its configuration. Of the environment it takes the names of the variables that begin with
 * `LEANEDGE_`; workerd reads their values when it starts.
 * @returns a line for each thing that was written
 * @throws Error where the storage's sessions are in another number of objects than is asked for
 */
export async function bundle(options: BundleOptions): Promise<string[]> {
  const { out, storage, processes } = options;
  const variables = Object.keys(process.env)
    .filter((name) => /^LEANEDGE_[A-Z_]+$/.test(name) && !ownVariables.includes(name))
    .sort();
  const asked = options.sessionObjects ?? askedSessionObjects(process.env);
  await refuseHeld(storage, "spread");
  const objects = await settleSessionObjects(storage, asked, processes);
  await bundleGateway(out);
  // One process has it in its configuration, for a workerd that is started without the starter; several are told by that.
  const [sessionObjects, started] = processes === 1 ? [objects, objects] : [undefined, asked];
  const config = await writeWorkerdConfig({ bundle: out, ...options, sessionObjects, variables });
  const starter = await writeStarter({ ...options, sessionObjects: started });
  return [
    `gateway: ${config}`,
    `variables: ${variables.join(", ") || "none"}`,
    `sessions: ${objects === 0 ? "" : "in "}${objectsInWords(objects)}`,
    `start: npx --package workerd node ${starter}`,
  ];
}

/** Writes what starts the processes, and with what (start-bundle.ts). Returns its path. */
async function writeStarter(options: BundleOptions): Promise<string> {
  const { out, storage, listen, processes, sessionObjects } = options;
  const start: BundleStart = {
    ...{ processes, storage: resolve(storage), sessionObjects },
    ...listenedAddress(listen),
  };
  await writeFile(join(out, startFile), `${JSON.stringify(start, null, 2)}\n`);
  const path = join(out, "start.mjs");
  await build({
    entryPoints: [packagePath("src/cli/start-bundle.ts")],
    outfile: path,
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node20",
    logLevel: "error",
  });
  return path;
}
