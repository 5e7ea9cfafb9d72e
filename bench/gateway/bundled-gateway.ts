/** The gateway of this repository, bundled into a folder of its own. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { bundleGateway } from "../../src/cli/bundle-gateway.js";
import { packagePath } from "../../src/cli/repository.js";
import { writeWorkerdConfig } from "../../src/cli/workerd-config.js";
import { configOf, gatewayVariables, type GatewayProgram } from "./serve-gateway.js";

/** A bundle that its maker removes. */
export type BundledGateway = GatewayProgram & { remove(): Promise<void> };

/**
 * Writes the bundle, and a configuration for each number of processes, into a folder, which is made anew; where it listens
 * and stores is said when it starts.
 */
export async function writeGateway(folder: string, processes: readonly number[]): Promise<void> {
  await bundleGateway(folder);
  for (const count of processes) {
    await writeWorkerdConfig({
      ...{ bundle: folder, storage: folder, listen: "127.0.0.1:0" },
      // Nobody asks for the page.
      ...{ assets: folder, variables: gatewayVariables },
      ...{ file: configOf(count), processes: count },
    });
  }
}

/** Bundles the gateway into a temporary folder, to be served by one process or by `processes` of them. */
export async function bundledGateway(processes: number): Promise<BundledGateway> {
  const folder = await mkdtemp(join(tmpdir(), "leanedge-gateway-"));
  const remove = (): Promise<void> => rm(folder, { recursive: true, force: true });
  try {
    await writeGateway(folder, [1, processes]);
  } catch (error) {
    await remove();
    throw error;
  }
  return { folder, workerd: packagePath("node_modules/.bin/workerd"), processes, remove };
}
