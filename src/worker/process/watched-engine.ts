/**
 * An engine as it is, with somebody looking on: how long steps take, when tokens are drawn, and whether it is lost.
 * The worker above it knows of none of this.
 */
import type { Engine, SequenceHandle, StepEntry, StepResult } from "../../engine/engine.js";
import { EngineError } from "../../engine/status.js";
import type { WorkerMetrics } from "../metrics.js";

/** Who looks on. */
export interface EngineWatcher {
  readonly metrics: Pick<WorkerMetrics, "step"> & {
    readonly interTokenLatency: { observe(seconds: number): void };
  };
  /** Seconds on a clock that never goes back. */
  readonly nowSeconds: () => number;
  /** The engine is lost: every call fails from now on. Called once. */
  onLost(error: EngineError): void;
}

/** Wraps an engine; it is used through the wrapper only. */
export function watchEngine(engine: Engine, watcher: EngineWatcher): Engine {
  const { metrics, nowSeconds } = watcher;
  /** When each running answer got its latest token. */
  const drawnAt = new Map<SequenceHandle, number>();
  let lost = false;
  /** The step that a device computes now. */
  let pending: Promise<unknown> | undefined;

  const guard = <T>(call: () => T): T => {
    try {
      return call();
    } catch (error) {
      notice(error);
      throw error;
    }
  };
  const notice = (error: unknown): void => {
    if (lost || !(error instanceof EngineError) || error.status !== "deviceLost") return;
    lost = true;
    watcher.onLost(error);
  };
  const measure = (
    startSeconds: number,
    entries: readonly StepEntry[],
    results: readonly StepResult[],
  ): readonly StepResult[] => {
    const now = nowSeconds();
    metrics.step(now - startSeconds, entries, results, engine.layers);
    results.forEach((result, index) => {
      const entry = entries[index];
      if (entry === undefined) return;
      if (result.error !== undefined) notice(result.error);
      if (result.token === undefined) return;
      const before = drawnAt.get(entry.sequence);
      if (before !== undefined) metrics.interTokenLatency.observe(now - before);
      drawnAt.set(entry.sequence, now);
    });
    return results;
  };

  const { stepSync } = engine;
  const watched: Partial<Engine> = {
    // Called once at the start of every answer.
    setSampling: (sequence, sampling) => {
      drawnAt.delete(sequence);
      guard(() => engine.setSampling(sequence, sampling));
    },
    freeSequence: (sequence) => {
      drawnAt.delete(sequence);
      guard(() => engine.freeSequence(sequence));
    },
    step: async (entries) => {
      const start = nowSeconds();
      try {
        const step = engine.step(entries);
        pending = step;
        return measure(start, entries, await step);
      } catch (error) {
        notice(error);
        throw error;
      } finally {
        pending = undefined;
      }
    },
    // A device that computes is let finish; who waits for its result, to free sequences, comes first.
    close: () => {
      if (pending === undefined) engine.close();
      else {
        const close = (): void => {
          setImmediate(() => engine.close());
        };
        pending.then(close, close);
      }
    },
    stepSync:
      stepSync &&
      ((entries) => {
        const start = nowSeconds();
        return measure(
          start,
          entries,
          guard(() => stepSync(entries)),
        );
      }),
  };
  const guarded = new Map<PropertyKey, unknown>(Object.entries(watched));
  return new Proxy(engine, {
    get(target, name) {
      if (guarded.has(name)) return guarded.get(name);
      // An engine keeps its state in private fields: its methods must be called on itself.
      const value: unknown = Reflect.get(target, name, target);
      if (typeof value !== "function") return value;
      const method = (...args: unknown[]): unknown =>
        guard(() => Reflect.apply(value, target, args) as unknown);
      guarded.set(name, method);
      return method;
    },
  });
}
