/**
 * Owns the engine of a worker process: loads it, and loads it again when it is lost (a trap leaves its memory in no known
 * state). Sequences are gone then; gateways bring their logs with the next turn. An engine that is lost again and again
 * is given up, so that whoever watches over the process sees it end.
 */
import type { Engine } from "../../engine/engine.js";
import type { EngineError } from "../../engine/status.js";
import type { WorkerConfig } from "../worker-config.js";
import type { RunningWorker } from "../worker-service.js";
import { restartWindowMs, restartsMax } from "./limits.js";
import { restartingError } from "./unavailable.js";
import { watchEngine, type EngineWatcher } from "./watched-engine.js";

/** A model in an engine, as a worker serves it. */
export type LoadedModel = Pick<
  WorkerConfig,
  "engine" | "codec" | "geometry" | "plans" | "modelFingerprint" | "info"
>;

/** What a host works with. */
export interface EngineHostOptions {
  /** Loads the model; again after its engine was lost. */
  readonly load: () => Promise<LoadedModel>;
  /** Starts a worker over it. */
  readonly start: (model: LoadedModel) => RunningWorker;
  readonly metrics: EngineWatcher["metrics"] & { readonly engineRestarts: { inc(): void } };
  readonly nowSeconds: () => number;
  /** Told of losses and restarts. */
  readonly log: (line: string) => void;
}

interface Hosted {
  readonly engine: Engine;
  readonly worker: RunningWorker;
}

/** See the head of this file. */
export class EngineHost {
  readonly #options: EngineHostOptions;
  #hosted: Hosted | undefined;
  #closed = false;
  /** Clock of the latest restarts. */
  #restartedAt: number[] = [];
  #giveUp: (error: Error) => void = () => undefined;
  /** Rejects when the engine is given up; never resolves. */
  readonly givenUp: Promise<never>;

  private constructor(options: EngineHostOptions) {
    this.#options = options;
    this.givenUp = new Promise((_, reject) => {
      this.#giveUp = reject;
    });
    // Whoever waits for it sees the rejection; until somebody does it is no fault.
    this.givenUp.catch(() => undefined);
  }

  /**
   * Loads the engine for the first time.
   * @throws what `load` or `start` throws
   */
  static async open(options: EngineHostOptions): Promise<EngineHost> {
    const host = new EngineHost(options);
    await host.#load();
    return host;
  }

  /** Whether there is an engine to work with. */
  get ready(): boolean {
    return this.#hosted !== undefined;
  }

  /**
   * The worker over the engine.
   * @throws ConnectError Unavailable, with the reason, while there is none
   */
  get worker(): RunningWorker {
    if (this.#hosted === undefined) throw restartingError();
    return this.#hosted.worker;
  }

  /** Ends every call, frees every sequence and the engine. */
  close(): void {
    this.#closed = true;
    this.#end();
  }

  async #load(): Promise<void> {
    const { load, start, metrics, nowSeconds } = this.#options;
    const model = await load();
    const engine = watchEngine(model.engine, {
      metrics,
      nowSeconds,
      onLost: (error) => {
        this.#lost(engine, error);
      },
    });
    if (this.#closed) {
      engine.close();
      return;
    }
    this.#hosted = { engine, worker: start({ ...model, engine }) };
  }

  #lost(engine: Engine, error: EngineError): void {
    if (this.#hosted?.engine !== engine) return;
    const { metrics, nowSeconds, log } = this.#options;
    const nowMs = nowSeconds() * 1000;
    this.#restartedAt = this.#restartedAt.filter((at) => nowMs - at < restartWindowMs);
    log(`engine lost: ${error.message}`);
    // The step that lost it tells its own sequences first; what is left is ended after that.
    setImmediate(() => {
      this.#end();
      if (this.#restartedAt.length >= restartsMax) {
        this.#giveUp(
          new Error(`the engine was lost more than ${restartsMax} times in ${restartWindowMs} ms`, {
            cause: error,
          }),
        );
        return;
      }
      this.#restartedAt.push(nowMs);
      metrics.engineRestarts.inc();
      this.#load().then(
        () => log("engine started again"),
        (cause: unknown) => this.#giveUp(new Error("the engine does not start again", { cause })),
      );
    });
  }

  #end(): void {
    const hosted = this.#hosted;
    this.#hosted = undefined;
    if (hosted === undefined) return;
    try {
      hosted.worker.close();
    } catch {
      // A lost engine refuses to free sequences; its memory goes as a whole.
    }
    hosted.engine.close();
  }
}
