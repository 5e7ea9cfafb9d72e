/** `leanedge bundle`: all that workerd needs to serve the gateway on a machine of one's own. */
import { mkdir } from "node:fs/promises";
import { bundleGateway } from "./bundle-gateway.js";
import { writeWorkerdConfig } from "./workerd-config.js";

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
}

/**
 * Writes the bundle and its configuration. Of the environment it takes the names of the variables that begin with
 * `LEANEDGE_`; workerd reads their values when it starts.
 * @returns a line for each thing that was written
 */
export async function bundle({ out, assets, storage, listen }: BundleOptions): Promise<string[]> {
  const variables = Object.keys(process.env)
    .filter((name) => /^LEANEDGE_[A-Z_]+$/.test(name))
    .sort();
  await bundleGateway(out);
  await mkdir(storage, { recursive: true });
  const config = await writeWorkerdConfig({ bundle: out, assets, storage, listen, variables });
  return [
    `gateway: ${config}`,
    `variables: ${variables.join(", ") || "none"}`,
    `start: npx workerd serve ${config}`,
  ];
}
