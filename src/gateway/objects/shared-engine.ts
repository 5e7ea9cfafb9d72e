/**
 * The WASM engines of this isolate, one a model, at module scope: several EngineObjects share one
 * copy of the weights. They only compute with it. The runtime forbids waiting for another object's
 * promise, so an object that comes while another one loads looks again a little later, and takes the
 * loading over if the loader has not moved for a while (its object may be gone).
 */
import { loadEngine, type LoadedEngine } from "../../engine/load-engine.js";
import { checkShardManifest, shardSource } from "../../engine/gguf/index.js";
import simd128 from "../../../wasm/prebuilt/leanedge-simd128.wasm";
import { engineSequencesMax } from "../limits.js";

/** How often a waiting object looks again. */
const lookAgainMs = 25;
/** A loader that has not moved for this long is taken to be gone. */
const loaderSilenceMsMax = 10_000;

interface Slot {
  /** Counted up at each takeover: an overtaken loader's result is thrown away. */
  attempt: number;
  /** Clock of the loader's last step. */
  movedAtMs: number;
  loaded: LoadedEngine | undefined;
}

const slots = new Map<string, Slot>();

/**
 * The engine of a model, loaded by the first who asks.
 * @param manifest path of the model's shard manifest among the static assets
 * @param memoryBytesMax weights, cache and scratch together
 * @throws ModelFileError, EngineError if the model does not load; the next call tries again
 */
export async function sharedEngine(
  assets: Fetcher,
  manifest: string,
  memoryBytesMax: number,
): Promise<LoadedEngine> {
  for (;;) {
    const slot = slots.get(manifest);
    if (slot?.loaded !== undefined) return slot.loaded;
    if (slot === undefined || Date.now() - slot.movedAtMs > loaderSilenceMsMax) {
      return load(assets, manifest, memoryBytesMax, (slot?.attempt ?? 0) + 1);
    }
    await new Promise((resolve) => setTimeout(resolve, lookAgainMs));
  }
}

async function load(
  assets: Fetcher,
  manifest: string,
  memoryBytesMax: number,
  attempt: number,
): Promise<LoadedEngine> {
  const slot: Slot = { attempt, movedAtMs: Date.now(), loaded: undefined };
  slots.set(manifest, slot);
  const fetchAsset = async (path: string): Promise<Response> => {
    slot.movedAtMs = Date.now();
    const response = await assets.fetch(new URL(path, "https://assets"));
    if (!response.ok) {
      throw new Error(`asset ${path} answers ${response.status}; has "leanedge build" been run?`);
    }
    return response;
  };
  try {
    const shards = await checkShardManifest(await (await fetchAsset(manifest)).json());
    const folder = manifest.slice(0, manifest.lastIndexOf("/") + 1);
    const loaded = await loadEngine({
      source: shardSource(shards, (shard) => fetchAsset(folder + shard.path)),
      fingerprint: shards.fingerprint,
      module: simd128,
      memoryBytesMax,
      sequencesMax: engineSequencesMax,
    });
    const current = slots.get(manifest);
    if (current !== slot && current?.loaded !== undefined) return current.loaded;
    slot.loaded = loaded;
    slots.set(manifest, slot);
    return loaded;
  } catch (error) {
    if (slots.get(manifest) === slot) slots.delete(manifest);
    throw error;
  }
}
