/**
 * A gateway on the bare Workers runtime and CPU workers with a small model of random weights, registered with its pool. All
 * of it needs so little that two cores serve many sessions at once.
 */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { randomModelBytes } from "../oracle/random-model.js";
import { poolTokenVars, poolWorkers, writePoolTokens, type PoolWorkers } from "./pool-workers.js";
import { tinyModel } from "./tiny-model.js";
import { startWorkerdGateway, type WorkerdGateway } from "./workerd-gateway.js";

/** Id of the model. */
export const poolModel = "tiny";
/** Its window, in tokens: longer than any answer takes to be stopped. */
const contextTokens = 65_536;

/** A gateway and its workers. */
export interface WorkerdPool extends PoolWorkers {
  readonly gateway: WorkerdGateway;
}

/** How to start one. */
export interface WorkerdPoolOptions {
  /** Names of the workers. */
  readonly names: readonly string[];
  /** Further variables of the gateway. */
  readonly vars?: Readonly<Record<string, string>>;
  /** Further Workers over the same objects (workerd-gateway.ts). */
  readonly others?: number;
  /** Processes of the gateway (workerd-gateway.ts). */
  readonly processes?: number;
  /** Objects that hold the sessions (workerd-gateway.ts). */
  readonly sessionObjects?: number;
  /** Further options of each worker. */
  readonly workerOptions?: readonly string[];
}

/** The gateway's variables: one model, which only workers serve; no cache is saved between turns. */
export const poolVars: Readonly<Record<string, string>> = {
  ...poolTokenVars,
  LEANEDGE_MODELS: JSON.stringify([{ model: poolModel, engines: 0 }]),
  LEANEDGE_SNAPSHOT_IDLE_SECONDS: "3600",
};

/** Writes the model into a folder; its answers are text, and end only at their longest. */
export async function writePoolModel(folder: string): Promise<string> {
  const path = join(folder, "tiny-q4_0.gguf");
  const spec = { ...tinyModel, context: contextTokens, tied: false, textOnly: true };
  await writeFile(path, randomModelBytes(spec));
  return path;
}

/** MiB of a worker, of which tests use little: so none ever holds so large a share of its pages that sessions leave it. */
const memoryMib = 1_024;

/** Options of `leanedge worker` that serve the model of a file. */
export function poolWorkerOptions(model: string): readonly string[] {
  return ["--model", model, "--model-id", poolModel, "--memory", String(memoryMib)];
}

/** Starts a gateway and its workers; closing it ends everything. */
export async function startWorkerdPool({
  names,
  vars = {},
  others = 0,
  processes = 1,
  sessionObjects,
  workerOptions = [],
}: WorkerdPoolOptions): Promise<WorkerdPool> {
  const tokens = await writePoolTokens();
  const model = await writePoolModel(tokens.folder);
  const gateway = await startWorkerdGateway({
    vars: { ...poolVars, ...vars },
    ...{ others, processes, sessionObjects },
  });
  const options = [...poolWorkerOptions(model), ...workerOptions];
  const workers = poolWorkers(gateway.url, tokens, options);
  const pool: WorkerdPool = {
    ...workers,
    gateway,
    async close() {
      await workers.close();
      await gateway.close();
    },
  };
  try {
    await Promise.all(names.map((name) => pool.start(name)));
  } catch (error) {
    await pool.close();
    throw error;
  }
  return pool;
}
