/**
 * Engines for any number of methods. An engine takes seven plans besides the identity plan, fixed
 * when it is loaded; so there are several of them, and one more for each prompt under a method that
 * chooses channels by the prompt.
 */
import { plansMax } from "../engine/boundary/abi.js";
import { BoundaryEngine } from "../engine/boundary/boundary-engine.js";
import { openFileSource } from "../engine/gguf/file-source.js";
import { loadEngine, type LoadedEngine } from "../engine/load-engine.js";
import { planCost } from "../engine/plan/cost.js";
import { planFingerprint } from "../engine/plan/fingerprint.js";
import type { CachePlan } from "../engine/plan/plan.js";
import { thinkPlan, thinkQueries } from "../engine/plan/think.js";
import { readEngineModule } from "../engine/wasm/node-module.js";
import { fullMethod, parseMethod, type Method } from "./methods.js";
import { advance, type OpenPlan, type RunMethod } from "./run.js";
import type { Sample } from "./sample.js";

/** Plans of one engine besides the identity plan. */
const plansPerEngine = plansMax - 1;

/** Most methods of one run: each seven of them hold the weights once more. */
export const methodsMax = 49;

/** What engines are loaded with. */
export interface EnginesOptions {
  readonly modelPath: string;
  /** Methods besides the full cache. */
  readonly methods: readonly Method[];
  /** Memory of one engine, in bytes. */
  readonly memoryBytesMax: number;
  /** Name of the model, for results. */
  readonly model: string;
  /** Names the series of samples, for results. */
  readonly series: string;
}

type Module = Awaited<ReturnType<typeof readEngineModule>>;

/** See the head of this file. */
export class MethodEngines {
  readonly #options: EnginesOptions;
  readonly #module: Module;
  readonly #engines: LoadedEngine[] = [];
  /** The full cache first. */
  readonly methods: RunMethod[] = [];

  private constructor(options: EnginesOptions, module: Module) {
    this.#options = options;
    this.#module = module;
  }

  /** Loads engines. @throws Error if there are more than methodsMax methods */
  static async load(options: EnginesOptions): Promise<MethodEngines> {
    const { methods } = options;
    if (methods.length > methodsMax) {
      throw new Error(`${methods.length} methods, at most ${methodsMax} at once`);
    }
    const engines = new MethodEngines(options, await readEngineModule());
    try {
      const fixed = methods.filter(({ promptWidth }) => promptWidth === undefined);
      for (let at = 0; at === 0 || at < fixed.length; at += plansPerEngine) {
        await engines.#add(fixed.slice(at, at + plansPerEngine));
      }
      for (const method of methods) {
        if (method.promptWidth !== undefined) await engines.#addPerPrompt(method);
      }
    } catch (error) {
      engines.close();
      throw error;
    }
    return engines;
  }

  /** The first engine: its tokenizer, its template and its full cache. */
  get first(): LoadedEngine {
    const [first] = this.#engines;
    if (first === undefined) throw new Error("no engine is loaded");
    return first;
  }

  /** Ends all engines. */
  close(): void {
    for (const { engine } of this.#engines) engine.close();
  }

  async #load(plans: readonly CachePlan[]): Promise<LoadedEngine> {
    const { modelPath, memoryBytesMax } = this.#options;
    const fingerprint = this.#engines[0]?.fingerprint;
    const source = await openFileSource(modelPath);
    return loadEngine({
      source,
      module: this.#module,
      plans,
      memoryBytesMax,
      // One sequence at a time.
      sequencesMax: 1,
      ...(fingerprint === undefined ? {} : { fingerprint }),
    }).finally(() => source.close());
  }

  async #add(methods: readonly Method[]): Promise<void> {
    const loaded = await this.#load(methods.map(({ plan }) => plan));
    const isFirst = this.#engines.length === 0;
    this.#engines.push(loaded);
    const { engine } = loaded;
    const opens =
      (plan: number): OpenPlan =>
      () =>
        Promise.resolve({ engine, plan, close: () => undefined });
    const [identity] = engine.plans;
    if (isFirst && identity !== undefined) {
      const full = parseMethod(fullMethod, loaded.modelFile.config, new Map());
      this.methods.push(this.#method(full, identity.fingerprint, opens(0)));
    }
    for (const [index, method] of methods.entries()) {
      const plan = engine.plans[index + 1];
      if (plan === undefined) throw new Error(`the engine has no plan for ${method.name}`);
      this.methods.push(this.#method(method, plan.fingerprint, opens(plan.index)));
    }
  }

  async #addPerPrompt(method: Method): Promise<void> {
    const width = method.promptWidth ?? 0;
    const fingerprint = await planFingerprint(method.plan);
    const open: OpenPlan = async (sample, signal) => {
      const { engine } = await this.#load([
        await this.#planFor(method.plan, width, sample, signal),
      ]);
      return { engine, plan: 1, close: () => engine.close() };
    };
    this.methods.push(this.#method(method, fingerprint, open));
  }

  /** Reads a prompt densely and chooses `width` channels of each head by it. */
  async #planFor(
    base: CachePlan,
    width: number,
    sample: Sample,
    signal: AbortSignal | undefined,
  ): Promise<CachePlan> {
    const { engine } = this.first;
    if (!(engine instanceof BoundaryEngine)) {
      throw new Error("this engine does not observe prompts");
    }
    const sequence = engine.createSequence(0);
    try {
      let tokens = 0;
      for (const { kind, ids } of sample.segments) {
        engine.append(sequence, kind, ids);
        tokens += ids.length;
      }
      engine.observe(sequence, Math.max(0, tokens - thinkQueries));
      let pending = tokens;
      while (pending > 0) {
        signal?.throwIfAborted();
        pending = (await advance(engine, sequence, false)).rowsPending;
      }
      return { ...thinkPlan(base, engine.observed(), width), name: base.name };
    } finally {
      engine.freeSequence(sequence);
    }
  }

  #method({ name, origin, plan }: Method, fingerprint: string, open: OpenPlan): RunMethod {
    const { engine, fingerprint: modelFingerprint } = this.first;
    const cost = planCost(plan);
    return {
      open,
      method: name,
      model: this.#options.model,
      modelFingerprint,
      planFingerprint: fingerprint,
      backend: engine.backend,
      bytesPerToken: cost.archiveBytesPerToken,
      denseBytesPerToken: cost.denseBytesPerToken,
      keptFraction: cost.keptFraction,
      sink: plan.sink,
      recent: plan.recent,
      pagesPerStep: plan.pageSelection?.pagesPerStep ?? 0,
      origin,
      series: this.#options.series,
    };
  }
}
