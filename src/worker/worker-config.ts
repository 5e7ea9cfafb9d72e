/** What a worker serves: one model under its plans on one engine. */
import type { Engine } from "../engine/engine.js";
import type { ModelGeometry } from "../engine/plan/allocation.js";
import type { CachePlan } from "../engine/plan/plan.js";
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { ModelInfoSchema } from "../gen/leanedge/v1/model_pb.js";
import type { KeepCache } from "./sequence-table.js";
import type { TextCodec } from "./text-codec.js";

/** See the head of this file. */
export interface WorkerConfig {
  /** Name of the worker, shown to clients. */
  readonly name: string;
  /** Id of the model that requests name. */
  readonly model: string;
  readonly engine: Engine;
  readonly codec: TextCodec;
  /** Shape of the model's cache and hidden states. */
  readonly geometry: ModelGeometry;
  /** Plans that the engine was loaded with besides the identity plan, in the same order: a new sequence gets the
   * first whose context range holds the tokens that its first answer can reach, the identity plan if none does. */
  readonly plans: readonly CachePlan[];
  /** SHA-256 of the model file, lower-case hexadecimal. */
  readonly modelFingerprint: string;
  /** What ModelService reports of the model, as far as the worker knows it. */
  readonly info: MessageInitShape<typeof ModelInfoSchema>;
  /**
   * Frees cache memory that other users of the same engine could spare; false if there is none.
   * Unset: the worker has the engine for itself.
   */
  readonly relieve?: (() => boolean) | undefined;
  /** As `relieve`, where the engine's table of sequences is full: frees an idle sequence of others. */
  readonly relieveTable?: (() => boolean) | undefined;
  /**
   * Asks the owner of an idle sequence to save its cache (with Snapshot), since it must go for others.
   * Unset: it goes unsaved, and is replayed.
   */
  readonly keepCache?: KeepCache | undefined;
  /** Returns to the host's event loop until it has done what waits there. */
  readonly yieldToHost: () => Promise<void>;
  /** Microseconds on a clock that never goes back; may stand still. */
  readonly nowUs: () => number;
}
