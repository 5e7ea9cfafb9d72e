/**
 * An engine for tests whose steps end later, as a device's do. Whatever but `stats` is called while
 * a step is pending is refused, and noted.
 */
import type { Engine, StepEntry, StepResult } from "../../engine/engine.js";

/** What may be touched at any time: properties that never change, and `stats`. */
const alwaysAllowed: ReadonlySet<PropertyKey> = new Set([
  "backend",
  "vocabSize",
  "layers",
  "contextTokensMax",
  "sequencesMax",
  "plans",
  "snapshots",
  "stepSync",
  "stats",
]);

/** See the head of this file. */
export interface LateEngine {
  readonly engine: Engine;
  /** Names of what was called while a step was pending. */
  readonly violations: readonly string[];
  /** Whether a step is pending. */
  stepping(): boolean;
}

/**
 * Puts an engine behind steps that take their time.
 * @param stepMs from the call of a step to its results
 */
export function lateEngine(inner: Engine, stepMs: number): LateEngine {
  const violations: string[] = [];
  let pending = false;
  const step = async (entries: readonly StepEntry[]): Promise<readonly StepResult[]> => {
    pending = true;
    try {
      await new Promise((resolve) => setTimeout(resolve, stepMs));
      return await inner.step(entries);
    } finally {
      pending = false;
    }
  };
  const engine = new Proxy(inner, {
    get(target, name): unknown {
      if (name === "step") {
        if (pending) violations.push("step");
        return step;
      }
      if (name === "stepSync") return undefined;
      if (pending && !alwaysAllowed.has(name)) violations.push(String(name));
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === "function" ? (value.bind(target) as unknown) : value;
    },
  });
  return { engine, violations, stepping: () => pending };
}
