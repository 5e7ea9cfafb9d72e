/** Which workers there are, how they are reached, and which one a session goes to first. */
import type { GatewayEnv } from "../bindings.js";
import { gatewayConfig, findModel } from "../config.js";
import type { ModelConfig } from "../config.js";
import { notFound } from "../errors.js";
import { openWorker } from "./worker-client.js";
import type { WorkerClient } from "./worker-client.js";

/** The workers that a gateway knows. */
export interface WorkerDirectory {
  /** Names of all workers, in the order of the configuration. */
  workers(): readonly string[];
  /** Name of the worker that a new session goes to. Throws NOT_FOUND for an unknown model. */
  place(model: string, sessionKey: string): string;
  /** Client of a worker; undefined if its name is not known any more. */
  open(worker: string): WorkerClient | undefined;
}

const enginePrefix = "engine:";

/** The EngineObjects of the configuration. A worker's name is `engine:MODEL/INDEX`. */
export function engineDirectory(env: GatewayEnv): WorkerDirectory {
  const config = gatewayConfig(env);
  return {
    workers: () => config.models.flatMap(workerNames),
    place(model, sessionKey) {
      const entry = findModel(config, model);
      if (entry === undefined) {
        throw notFound(`there is no model "${model}"`);
      }
      return highestWeight(workerNames(entry), sessionKey);
    },
    open(worker) {
      if (!worker.startsWith(enginePrefix)) {
        return undefined;
      }
      const name = worker.slice(enginePrefix.length);
      const slash = name.lastIndexOf("/");
      const entry = findModel(config, name.slice(0, slash));
      const index = Number(name.slice(slash + 1));
      if (slash < 1 || entry === undefined || !(index < entry.engines)) {
        return undefined;
      }
      const stub = env.ENGINE.getByName(name);
      return openWorker({ fetch: (url, init) => stub.fetch(url, init) }, "http://engine");
    },
  };
}

function workerNames(entry: ModelConfig): string[] {
  return Array.from(
    { length: entry.engines },
    (_, index) => `${enginePrefix}${entry.model}/${index}`,
  );
}

/** Rendezvous hashing: adding or removing a name moves only the sessions of that name. */
function highestWeight(names: readonly string[], key: string): string {
  let best = "";
  let bestWeight = -1;
  for (const name of names) {
    const weight = fnv1a(`${name}\n${key}`);
    if (weight > bestWeight) {
      best = name;
      bestWeight = weight;
    }
  }
  return best;
}

/** FNV-1a, 32 bits, with a final mix so that names that differ in the last character spread. */
function fnv1a(text: string): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < text.length; index++) {
    hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193);
  }
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
