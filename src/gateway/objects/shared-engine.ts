/**
 * The WASM engines of this isolate, one a model, at module scope: several EngineObjects share one
 * copy of the weights. They only compute with it. The runtime forbids waiting for another object's
 * promise, so an object that comes while another one loads looks again a little later, and takes the
 * loading over if the loader has not moved for a while (its object may be gone).
 */
import { loadEngine, type LoadedEngine } from "../../engine/load-engine.js";
import { EngineError } from "../../engine/status.js";
import { checkShardManifest, shardSource } from "../../engine/gguf/index.js";
import { checkPlanFits } from "../../engine/plan/fit.js";
import { parsePlan } from "../../engine/plan/parse.js";
import type { CachePlan } from "../../engine/plan/plan.js";
import { chooseModule } from "../../engine/wasm/variants.js";
import relaxed from "../../../wasm/prebuilt/leanedge-relaxed.wasm";
import simd128 from "../../../wasm/prebuilt/leanedge-simd128.wasm";
import type { RunningWorker } from "../../worker/worker-service.js";
import type { ModelConfig } from "../config.js";
import { engineSequencesMax } from "../limits.js";

/** How often a waiting object looks again. */
const lookAgainMs = 25;
/** A loader that has not moved for this long is taken to be gone. */
const loaderSilenceMsMax = 10_000;

/** An engine with the plans that it was loaded with. */
export interface SharedEngine extends LoadedEngine {
  /** Besides the identity plan, in the engine's order. */
  readonly plans: readonly CachePlan[];
}

let module: WebAssembly.Module | undefined;

/** The faster of the two modules that this runtime computes rightly; asked once. */
function engineModule(): WebAssembly.Module {
  return (module ??= chooseModule(simd128, relaxed));
}

interface Slot {
  /** Counted up at each takeover: an overtaken loader's result is thrown away. */
  attempt: number;
  /** Clock of the loader's last step. */
  movedAtMs: number;
  loaded: SharedEngine | undefined;
}

const slots = new Map<string, Slot>();

/** Name of an engine's slot: a model under other plans is another engine. */
function slotKey({ manifest, plans }: ModelConfig): string {
  return [manifest, ...plans].join("\n");
}

/** Workers on each engine, by the name of their object. */
const workers = new WeakMap<LoadedEngine, Map<string, RunningWorker>>();

/**
 * Takes note of an object's worker. An earlier one of that name belongs to an object that was
 * evicted: its sequences are freed, or they would hold their memory for ever.
 */
export function registerWorker(loaded: LoadedEngine, name: string, worker: RunningWorker): void {
  const byName = workers.get(loaded) ?? new Map<string, RunningWorker>();
  byName.get(name)?.close();
  byName.set(name, worker);
  workers.set(loaded, byName);
}

/** Drops an idle cache of another object on the same engine, or frees an idle sequence; false if there is none. */
export function relieveElsewhere(
  loaded: LoadedEngine,
  name: string,
  what: "dropOldestIdleCache" | "releaseOldestIdle" = "dropOldestIdleCache",
): boolean {
  return [...(workers.get(loaded) ?? [])].some(
    ([owner, worker]) => owner !== name && worker[what](),
  );
}

/**
 * The engine of a model, loaded by the first who asks.
 * @param assets where its shards and plans are
 * @param memoryBytesMax weights, cache and scratch together
 * @throws ModelFileError, PlanError, EngineError if model or plans do not load; the next call tries again
 */
export async function sharedEngine(
  assets: Fetcher,
  model: ModelConfig,
  memoryBytesMax: number,
): Promise<SharedEngine> {
  for (;;) {
    const slot = slots.get(slotKey(model));
    if (slot?.loaded !== undefined) return slot.loaded;
    if (slot === undefined || Date.now() - slot.movedAtMs > loaderSilenceMsMax) {
      return load(assets, model, memoryBytesMax, (slot?.attempt ?? 0) + 1);
    }
    await new Promise((resolve) => setTimeout(resolve, lookAgainMs));
  }
}

/**
 * Forgets an engine that is lost (a trap leaves its memory in no known state): the next who asks
 * loads it anew. Sequences come back by replay.
 * @returns whether it was lost
 */
export function forgetIfLost(model: ModelConfig, loaded: LoadedEngine): boolean {
  try {
    loaded.engine.stats();
    return false;
  } catch (error) {
    if (!(error instanceof EngineError) || error.status !== "deviceLost") throw error;
    if (slots.get(slotKey(model))?.loaded === loaded) slots.delete(slotKey(model));
    return true;
  }
}

async function load(
  assets: Fetcher,
  model: ModelConfig,
  memoryBytesMax: number,
  attempt: number,
): Promise<SharedEngine> {
  const { manifest } = model;
  const key = slotKey(model);
  const slot: Slot = { attempt, movedAtMs: Date.now(), loaded: undefined };
  slots.set(key, slot);
  const fetchAsset = async (path: string): Promise<Response> => {
    slot.movedAtMs = Date.now();
    const response = await assets.fetch(new URL(path, "https://assets"));
    if (!response.ok) {
      throw new Error(`asset ${path} answers ${response.status}; has "leanedge build" been run?`);
    }
    return response;
  };
  try {
    const plans: CachePlan[] = [];
    for (const path of model.plans) {
      const stem = path.slice(path.lastIndexOf("/") + 1).replace(/\.json$/, "");
      plans.push(parsePlan(await (await fetchAsset(path)).text(), stem));
    }
    const shards = await checkShardManifest(await (await fetchAsset(manifest)).json());
    const folder = manifest.slice(0, manifest.lastIndexOf("/") + 1);
    const engine = await loadEngine({
      source: shardSource(shards, (shard) => fetchAsset(folder + shard.path)),
      fingerprint: shards.fingerprint,
      module: engineModule(),
      memoryBytesMax,
      sequencesMax: engineSequencesMax,
      plans,
    });
    const { config, name } = engine.modelFile;
    const names = name === undefined ? [model.model] : [model.model, name];
    for (const plan of plans) {
      checkPlanFits(plan, { ...config, names, fingerprint: engine.fingerprint });
    }
    const loaded = { ...engine, plans };
    const current = slots.get(key);
    if (current !== slot && current?.loaded !== undefined) return current.loaded;
    slot.loaded = loaded;
    slots.set(key, slot);
    return loaded;
  } catch (error) {
    if (slots.get(key) === slot) slots.delete(key);
    throw error;
  }
}
