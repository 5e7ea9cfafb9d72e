/**
 * Engines for any number of methods. An engine takes seven plans besides the identity plan, fixed
 * when it is loaded; so there are several of them, and further ones for prompts under a method that
 * chooses channels by the prompt.
 */
import { plansMax } from "../engine/boundary/abi.js";
import type { BoundaryEngine } from "../engine/boundary/boundary-engine.js";
import { allocatedBytes, readingBytesMax } from "../engine/plan/allocation.js";
import { planCost } from "../engine/plan/cost.js";
import { planFingerprint } from "../engine/plan/fingerprint.js";
import { identityPlan, type CachePlan } from "../engine/plan/plan.js";
import { thinkPlan, thinkQueries, type ChannelSums } from "../engine/plan/think.js";
import type { EvalModel } from "./eval-engine.js";
import { fullMethod, parseMethod, type Method } from "./methods.js";
import { readSample } from "./reading.js";
import type { Job, Lane } from "./run.js";
import type { Sample } from "./sample.js";
import type { MethodLine } from "./samples-file.js";
import { sideBySide, Stepper } from "./stepper.js";

/** Plans of one engine besides the identity plan. */
const plansPerEngine = plansMax - 1;

/**
 * Engines that work side by side on a device, where methods are enough: one reads prompts while another decodes, and a
 * small model keeps no GPU busy alone. Each holds the weights once more.
 */
const enginesTogether = 4;

/** Most methods of one run: each seven of them hold the weights once more. */
export const methodsMax = 49;

/** What engines are loaded with. */
export interface EnginesOptions {
  readonly model: EvalModel;
  /** Methods besides the full cache. */
  readonly methods: readonly Method[];
  /** Name of the model, for results. */
  readonly modelName: string;
  /** Names the series of samples, for results. */
  readonly series: string;
}

/** Lanes of a run, and their engines. */
export interface MethodEngines {
  /** The full cache's first. */
  readonly lanes: readonly Lane[];
  /** Whether engines compute at the same time. */
  readonly together: boolean;
  /** Ends all engines. */
  readonly close: () => void;
}

/** A method with fixed channels, and the index of its plan in an engine. */
interface Placed {
  readonly method: Method;
  readonly plan: number;
}

/** Loads engines. @throws Error if there are more than methodsMax methods */
export async function loadMethodEngines(options: EnginesOptions): Promise<MethodEngines> {
  const { model, methods } = options;
  if (methods.length > methodsMax) {
    throw new Error(`${methods.length} methods, at most ${methodsMax} at once`);
  }
  const engines: BoundaryEngine[] = [];
  const lanes: Lane[] = [];
  const open = async (
    plans: readonly CachePlan[],
    sequencesMax?: number,
  ): Promise<BoundaryEngine> => {
    const engine = await model.open(plans, sequencesMax);
    engines.push(engine);
    // Others that were being opened beside it have failed.
    if (isClosed) engine.close();
    return engine;
  };
  let isClosed = false;
  const close = (): void => {
    isClosed = true;
    for (const engine of engines) engine.close();
  };
  try {
    const fixed = methods.filter(({ promptWidth }) => promptWidth === undefined);
    const full = parseMethod(fullMethod, model.file.config, new Map());
    const together = model.computesElsewhere;
    const shares = together ? Math.ceil((fixed.length + 1) / enginesTogether) : plansPerEngine;
    const each = Math.min(plansPerEngine, shares);
    const groups: (readonly Method[])[] = [];
    for (let at = 0; at === 0 || at < fixed.length; at += each) {
      groups.push(fixed.slice(at, at + each));
    }
    const found = await Promise.all(
      groups.map(async (some, at) => {
        const engine = await open(some.map(({ plan }) => plan));
        const placed = some.map((method, index) => ({ method, plan: index + 1 }));
        return fixedLane(
          options,
          engine,
          at === 0 ? [{ method: full, plan: 0 }, ...placed] : placed,
        );
      }),
    );
    lanes.push(...found);
    const chosen = methods.filter(({ promptWidth }) => promptWidth !== undefined);
    if (chosen.length > 0) {
      // An engine that computes elsewhere answers samples while others observe prompts.
      const observers = together
        ? await Promise.all(Array.from({ length: enginesTogether }, () => open([], 1)))
        : engines.slice(0, 1);
      lanes.push(await promptLane(options, observers, chosen));
    }
    return { lanes, together, close };
  } catch (error) {
    close();
    throw error;
  }
}

/** Methods whose channels are the same for all prompts, on one engine. */
async function fixedLane(
  options: EnginesOptions,
  engine: BoundaryEngine,
  placed: readonly Placed[],
): Promise<Lane> {
  const { model } = options;
  const stepper = new Stepper(engine);
  const byName = new Map(placed.map((one) => [one.method.name, one]));
  const methods = await Promise.all(
    placed.map(({ method }) => methodLine(options, engine, method)),
  );
  return {
    methods,
    async read(jobs, signal) {
      const fits = atOnce(model, engine, jobs, ({ method }) => byName.get(method)?.method.plan);
      await sideBySide(jobs, fits, signal, async ({ sample, method, finish }, either) => {
        const plan = byName.get(method)?.plan ?? 0;
        await finish(await readSample(stepper, plan, model.tokenizer, sample, either));
      });
    },
  };
}

/** Methods that choose channels by each prompt: an engine for as many prompts as it takes plans, beside each observer. */
async function promptLane(
  options: EnginesOptions,
  observers: readonly BoundaryEngine[],
  chosen: readonly Method[],
): Promise<Lane> {
  const { model } = options;
  const [first] = observers;
  if (first === undefined) throw new Error("no engine observes prompts");
  const free = observers.map((observer) => new Stepper(observer));
  const byName = new Map(chosen.map((method) => [method.name, method]));
  const methods = await Promise.all(chosen.map((method) => methodLine(options, first, method)));
  const size = Math.min(plansPerEngine, model.sequencesMax);
  return {
    methods,
    async read(jobs, signal) {
      const groups: (readonly Job[])[] = [];
      for (let at = 0; at < jobs.length; at += size) groups.push(jobs.slice(at, at + size));
      await sideBySide(groups, observers.length, signal, async (group, either) => {
        const watching = free.pop();
        if (watching === undefined) throw new Error("no observer is free");
        try {
          const plans = await plansByPrompt(watching, group, byName, either);
          await readGroup(model, group, plans, either);
        } finally {
          free.push(watching);
        }
      });
    },
  };
}

/** The plan of each of some replies, its channels chosen by what an engine observes of the prompt. */
async function plansByPrompt(
  watching: Stepper<BoundaryEngine>,
  jobs: readonly Job[],
  byName: ReadonlyMap<string, Method>,
  signal: AbortSignal,
): Promise<CachePlan[]> {
  let seen: { readonly sample: Sample; readonly sums: readonly ChannelSums[] } | undefined;
  const plans: CachePlan[] = [];
  for (const { sample, method: name } of jobs) {
    const method = byName.get(name);
    if (method === undefined) throw new Error(`${name} chooses no channels by a prompt`);
    // Replies of several methods to a sample follow each other.
    if (seen?.sample !== sample) seen = { sample, sums: await observed(watching, sample, signal) };
    const plan = thinkPlan(method.plan, seen.sums, method.promptWidth ?? 0);
    plans.push({ ...plan, name: method.plan.name });
  }
  return plans;
}

/** Makes replies side by side on an engine of their own, each under its plan. */
async function readGroup(
  model: EvalModel,
  jobs: readonly Job[],
  plans: readonly CachePlan[],
  signal: AbortSignal,
): Promise<void> {
  const engine = await model.open(plans, jobs.length);
  try {
    const stepper = new Stepper(engine);
    const fits = atOnce(model, engine, jobs, () => plans[0]);
    await sideBySide([...jobs.entries()], fits, signal, async ([index, job], either) => {
      const { sample, finish } = job;
      await finish(await readSample(stepper, index + 1, model.tokenizer, sample, either));
    });
  } finally {
    engine.close();
  }
}

/** Reads a prompt densely and adds its channels up. */
async function observed(
  stepper: Stepper<BoundaryEngine>,
  { segments }: Sample,
  signal: AbortSignal,
): Promise<ChannelSums[]> {
  await stepper.turn();
  const { engine } = stepper;
  const sequence = engine.createSequence(0);
  try {
    let tokens = 0;
    for (const { kind, ids } of segments) {
      engine.append(sequence, kind, ids);
      tokens += ids.length;
    }
    engine.observe(sequence, Math.max(0, tokens - thinkQueries));
    for (let pending = tokens; pending > 0;) {
      signal.throwIfAborted();
      pending = (await stepper.advance(sequence, false)).rowsPending;
    }
    return engine.observed();
  } finally {
    engine.freeSequence(sequence);
  }
}

/** How many of some jobs an engine's memory holds at once, each as if it were the largest. */
function atOnce(
  { file: { config }, sequencesMax }: EvalModel,
  engine: BoundaryEngine,
  jobs: readonly Job[],
  planOf: (job: Job) => CachePlan | undefined,
): number {
  const context = engine.contextTokensMax;
  const bytes = jobs.map((job) => {
    const plan = planOf(job) ?? identityPlan(config);
    const { segments, targets = [], maxTokens } = job.sample;
    const lengths = segments.map(({ ids }) => ids.length);
    const tokens = lengths.reduce((sum, length) => sum + length, targets.length + maxTokens);
    const before = lengths.length - 1;
    const longest = Math.max(0, ...lengths);
    return (
      allocatedBytes(plan, Math.min(tokens, context), context) +
      readingBytesMax(plan, config, context, before, longest, false)
    );
  });
  const fits = Math.floor(engine.stats().cacheBytes / Math.max(1, ...bytes));
  return Math.max(1, Math.min(sequencesMax, fits));
}

async function methodLine(
  { model, modelName, series }: EnginesOptions,
  engine: BoundaryEngine,
  { name, origin, plan }: Method,
): Promise<MethodLine> {
  const cost = planCost(plan);
  return {
    method: name,
    model: modelName,
    modelFingerprint: model.fingerprint,
    planFingerprint: await planFingerprint(plan),
    backend: engine.backend,
    bytesPerToken: cost.archiveBytesPerToken,
    denseBytesPerToken: cost.denseBytesPerToken,
    keptFraction: cost.keptFraction,
    sink: plan.sink,
    recent: plan.recent,
    pagesPerStep: plan.pageSelection?.pagesPerStep ?? 0,
    origin,
    series,
    windowTokens: model.windowTokens,
  };
}
