/** What a worker serves: one model under one plan on one engine. */
import type { Engine } from "../engine/engine.js";
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { ModelInfoSchema } from "../gen/leanedge/v1/model_pb.js";
import type { TextCodec } from "./text-codec.js";

/** See the head of this file. */
export interface WorkerConfig {
  /** Name of the worker, shown to clients. */
  readonly name: string;
  /** Id of the model that requests name. */
  readonly model: string;
  readonly engine: Engine;
  readonly codec: TextCodec;
  /** Index of the plan that new sequences get. */
  readonly plan: number;
  /** SHA-256 of the model file, lower-case hexadecimal. */
  readonly modelFingerprint: string;
  /** What ModelService reports of the model, as far as the worker knows it. */
  readonly info: MessageInitShape<typeof ModelInfoSchema>;
  /**
   * Frees cache memory that other users of the same engine could spare; false if there is none.
   * Unset: the worker has the engine for itself.
   */
  readonly relieve?: (() => boolean) | undefined;
  /** Returns to the host's event loop until it has done what waits there. */
  readonly yieldToHost: () => Promise<void>;
  /** Microseconds on a clock that never goes back; may stand still. */
  readonly nowUs: () => number;
}
