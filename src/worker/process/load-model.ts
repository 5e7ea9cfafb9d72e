/** A model file and its plans, ready to be loaded into an engine as often as it takes. */
import { basename } from "node:path";
import { readFile } from "node:fs/promises";
import { openFileSource } from "../../engine/gguf/file-source.js";
import { loadEngine } from "../../engine/load-engine.js";
import { parsePlan } from "../../engine/plan/parse.js";
import type { CachePlan } from "../../engine/plan/plan.js";
import { readEngineModule } from "../../engine/wasm/node-module.js";
import { createModelCodec } from "../model-codec.js";
import { modelInfo } from "../model-info.js";
import type { LoadedModel } from "./engine-host.js";

/** What to load, and how large. */
export interface LoadModelOptions {
  /** GGUF file. */
  readonly modelPath: string;
  /** Plan files, in the order in which they are looked at for a new sequence. */
  readonly planPaths: readonly string[];
  readonly engine: "wasm" | "cuda";
  /** Threads that the engine computes on, this one included; 1 to 8. */
  readonly threads: number;
  /** Weights, cache and scratch together, bytes. */
  readonly memoryBytesMax: number;
  /** Most sequences at once. */
  readonly sequencesMax: number;
  /** Longest context in tokens; undefined: the model's window. */
  readonly contextTokensMax: number | undefined;
}

/**
 * Reads the plans, and looks whether the backend is there.
 *
 * @returns what loads the model; again after its engine was lost
 * @throws PlanError for a bad plan, Error for a file that cannot be read or a backend that this build lacks
 */
export async function openModel(options: LoadModelOptions): Promise<() => Promise<LoadedModel>> {
  if (options.engine === "cuda") {
    throw new Error("this build has no CUDA engine: use --engine wasm");
  }
  const plans: CachePlan[] = [];
  for (const path of options.planPaths) {
    const text = await readFile(path, "utf8");
    try {
      plans.push(parsePlan(text, basename(path, ".json")));
    } catch (cause) {
      const message = cause instanceof Error ? cause.message : String(cause);
      throw new Error(`plan ${path} cannot be used: ${message}`, { cause });
    }
  }
  // What the last step gave is sent while the next one is computed.
  const module = await readEngineModule("wasm", options.threads, true);
  return async () => {
    const source = await openFileSource(options.modelPath);
    try {
      const { contextTokensMax } = options;
      const loaded = await loadEngine({
        source,
        module,
        plans,
        memoryBytesMax: options.memoryBytesMax,
        sequencesMax: options.sequencesMax,
        threads: options.threads,
        stepThread: true,
        ...(contextTokensMax === undefined ? {} : { contextTokensMax }),
      });
      const { layers, kvHeads, headDim, dim } = loaded.modelFile.config;
      return {
        engine: loaded.engine,
        codec: createModelCodec(loaded),
        geometry: { layers, kvHeads, headDim, dim },
        plans,
        modelFingerprint: loaded.fingerprint,
        info: modelInfo(loaded),
      };
    } finally {
      await source.close();
    }
  };
}
