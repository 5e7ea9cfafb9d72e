/**
 * Names of workers in bindings: `engine:MODEL/INDEX` is an EngineObject, `worker:MODEL/INDEX` a worker of the
 * configuration, `pool:POOL/NAME` one that registered.
 */
import type { GatewayConfig, ModelConfig } from "../config.js";

/** A name taken apart. */
export type WorkerName =
  | { readonly kind: "engine" | "worker"; readonly model: string; readonly index: number }
  | { readonly kind: "pool"; readonly pool: string; readonly name: string };

/** Takes a name apart; undefined if it is none. */
export function parseWorkerName(worker: string): WorkerName | undefined {
  const [, kind, head = "", tail = ""] = /^(engine|worker|pool):([^/]+)\/(.+)$/.exec(worker) ?? [];
  switch (kind) {
    case "engine":
    case "worker":
      return /^\d+$/.test(tail) ? { kind, model: head, index: Number(tail) } : undefined;
    case "pool":
      return { kind, pool: head, name: tail };
    default:
      return undefined;
  }
}

/** Names of a model's workers of the configuration, in its order. */
export function remoteNames(config: GatewayConfig, model: string): string[] {
  return (config.workers.get(model) ?? []).map((_, index) => `worker:${model}/${index}`);
}

/** Names of a model's embedded engines. */
export function engineNames({ model, engines }: ModelConfig): string[] {
  return Array.from({ length: engines }, (_, index) => `engine:${model}/${index}`);
}

/** Names of all workers of a model that the configuration has, the last resort last. */
export function configuredNames(config: GatewayConfig, entry: ModelConfig): string[] {
  return [...remoteNames(config, entry.model), ...engineNames(entry)];
}
