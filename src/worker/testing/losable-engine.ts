/** An engine that can be lost: from a moment on it refuses all calls. */
import type { Engine } from "../../engine/engine.js";
import type { EngineError } from "../../engine/status.js";

/** See the head of this file. */
export interface LosableEngine {
  readonly engine: Engine;
  /** Has it refuse with `error`; undefined: has it answer again. */
  readonly lose: (error: EngineError | undefined) => void;
}

/** Makes one of an engine. */
export function losableEngine(inner: Engine): LosableEngine {
  let lost: EngineError | undefined;
  const engine = new Proxy(inner, {
    get(target, name): unknown {
      const value: unknown = Reflect.get(target, name, target);
      if (typeof value !== "function") return value;
      return (...args: unknown[]): unknown => {
        if (lost !== undefined) throw lost;
        return Reflect.apply(value, target, args) as unknown;
      };
    },
  });
  return {
    engine,
    lose: (error) => {
      lost = error;
    },
  };
}
