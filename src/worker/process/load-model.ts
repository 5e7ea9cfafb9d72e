/** A model file and its plans, ready to be loaded into an engine as often as it takes. */
import { basename } from "node:path";
import { readFile } from "node:fs/promises";
import type { WeightForm } from "../../engine/boundary/abi.js";
import { nativePaths } from "../../engine/cuda/addon.js";
import { deviceBatchRows, NativeBoundary } from "../../engine/cuda/native-boundary.js";
import { openFileSource } from "../../engine/gguf/file-source.js";
import {
  loadEngine,
  type LoadBoundaryOptions,
  type LoadEngineOptions,
} from "../../engine/load-engine.js";
import { parsePlan } from "../../engine/plan/parse.js";
import type { CachePlan } from "../../engine/plan/plan.js";
import { readEngineModule } from "../../engine/wasm/node-module.js";
import { hasStepThreads } from "../../engine/wasm/step-thread.js";
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
  /** With cuda: the addon's file; undefined: what LEANEDGE_CUDA_ADDON says. */
  readonly cudaAddon: string | undefined;
  /** How the engine holds the model's matrices; "fp8" with cuda only. */
  readonly weights: WeightForm;
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
 * @throws PlanError for a bad plan, EngineError where there is no CUDA engine, Error for a file that cannot be read
 */
export async function openModel(options: LoadModelOptions): Promise<() => Promise<LoadedModel>> {
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
  const backend = await openBackend(options);
  return async () => {
    const source = await openFileSource(options.modelPath);
    try {
      const { contextTokensMax } = options;
      const loaded = await loadEngine({
        ...(await backend()),
        source,
        plans,
        weights: options.weights,
        sequencesMax: options.sequencesMax,
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

/** Looks whether the backend is there. Returns what gives loadEngine what it computes with. */
async function openBackend({
  engine,
  cudaAddon,
  memoryBytesMax,
  threads,
}: LoadModelOptions): Promise<() => Promise<BackendOptions>> {
  if (engine === "cuda") {
    const paths = nativePaths(cudaAddon);
    return async () => ({
      boundary: await NativeBoundary.open(paths, memoryBytesMax),
      batchRowsMax: deviceBatchRows,
    });
  }
  // What the last step gave is sent while the next one is computed; early versions of Node 20 do both in turn.
  const stepThread = hasStepThreads();
  const module = await readEngineModule("wasm", threads, stepThread);
  return () => Promise.resolve({ module, memoryBytesMax, threads, stepThread });
}

/** The part of loadEngine's options that depends on the backend. */
type BackendOptions =
  | Pick<LoadBoundaryOptions, "boundary" | "batchRowsMax">
  | Pick<LoadEngineOptions, "module" | "memoryBytesMax" | "threads" | "stepThread">;
