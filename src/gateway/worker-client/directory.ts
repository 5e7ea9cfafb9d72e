/** Which workers there are, how they are reached, and which one a session goes to first. */
import type { GatewayEnv } from "../bindings.js";
import { gatewayConfig, findModel } from "../config.js";
import type { GatewayConfig, ModelConfig } from "../config.js";
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
const remotePrefix = "worker:";

/**
 * The workers of the configuration. An EngineObject's name is `engine:MODEL/INDEX`, that of a worker in a process of its
 * own `worker:MODEL/INDEX`; a model that has any of those has no EngineObject.
 */
export function engineDirectory(env: GatewayEnv): WorkerDirectory {
  const config = gatewayConfig(env);
  return {
    workers: () => config.models.flatMap((entry) => workersOf(config, entry)),
    place(model, sessionKey) {
      const entry = findModel(config, model);
      if (entry === undefined) {
        throw notFound(`there is no model "${model}"`);
      }
      return highestWeight(workersOf(config, entry), sessionKey);
    },
    open(worker) {
      const [, prefix, model = "", digits] = namePattern.exec(worker) ?? [];
      const entry = findModel(config, model);
      if (entry === undefined || !workersOf(config, entry).includes(worker)) {
        return undefined;
      }
      if (prefix === remotePrefix) {
        const url = config.workers.get(model)?.[Number(digits)] ?? "";
        return openWorker(
          { fetch: (address, init) => fetch(address, init) },
          url,
          config.workerToken,
        );
      }
      const stub = env.ENGINE.getByName(`${model}/${digits ?? ""}`);
      return openWorker({ fetch: (url, init) => stub.fetch(url, init) }, "http://engine");
    },
  };
}

const namePattern = /^(engine:|worker:)([^/]+)\/(\d+)$/;

/** Names of a model's workers, in the order of the configuration; at least one. */
export function workersOf(config: GatewayConfig, { model, engines }: ModelConfig): string[] {
  const remote = config.workers.get(model);
  const prefix = remote === undefined ? enginePrefix : remotePrefix;
  const count = remote?.length ?? engines;
  return Array.from({ length: count }, (_, index) => `${prefix}${model}/${index}`);
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
