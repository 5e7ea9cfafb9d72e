/**
 * Random walks: sequences under every plan are appended to, stepped, cut, forked, saved, restored and
 * dropped, and always equal a fresh replay of their logs. The native tests (engine/test) walk longer.
 */
import { describe, expect, it } from "vitest";
import { SeededRandom } from "../../../test/oracle/random.js";
import type { Engine, LogSegment, Sampling, SequenceHandle } from "../engine.js";
import {
  allWork,
  draw,
  greedy,
  openEngine,
  openSequence,
  type SuiteModule,
} from "./engine-bench.js";
import { firstDifference } from "./expectations.js";
import { planCases, planZones, prunableModel } from "./plan-cases.js";

/** Steps of a walk of short logs. */
const stepsShort = 1500;
/** Steps of a walk of logs of more than 100 pages. */
const stepsLong = 60;
const live = 4;

/** A sequence and what its log should be. */
interface Walker {
  handle: SequenceHandle;
  plan: number;
  sampling: Sampling;
  log: LogSegment[];
}

/** Sizes of a walk. */
interface Course {
  readonly steps: number;
  /** Tokens of the prompt that a sequence begins with, less up to 99. */
  readonly firstMax: number;
  readonly tokensMax: number;
  /** Every so many drawn tokens are compared with a replay. */
  readonly replayEvery: number;
}

function tokensOf(log: readonly LogSegment[]): number {
  return log.reduce((sum, { ids }) => sum + ids.length, 0);
}

/** The log with `ids` appended: generated ids next to generated ones continue their segment. */
function appended(log: readonly LogSegment[], segment: LogSegment): LogSegment[] {
  const last = log.at(-1);
  if (last?.kind === "generated" && segment.kind === "generated") {
    return [...log.slice(0, -1), { kind: "generated", ids: [...last.ids, ...segment.ids] }];
  }
  return [...log, segment];
}

/** The first `tokens` tokens of a log. */
function shortened(log: readonly LogSegment[], tokens: number): LogSegment[] {
  const out: LogSegment[] = [];
  let left = tokens;
  for (const { kind, ids } of log) {
    if (left > 0) out.push({ kind, ids: ids.slice(0, left) });
    left -= ids.length;
  }
  return out;
}

class Walk {
  readonly #random: SeededRandom;
  readonly #walkers: (Walker | undefined)[] = Array.from({ length: live }, () => undefined);
  #drawn = 0;
  replays = 0;
  pagesMax = 0;

  constructor(
    private readonly engine: Engine,
    private readonly course: Course,
    seed: number,
  ) {
    this.#random = new SeededRandom(seed);
  }

  async run(): Promise<void> {
    for (let step = 0; step < this.course.steps; step++) {
      const slot = this.#random.below(live);
      const walker = (this.#walkers[slot] ??= this.#begin());
      await this.#move(slot, walker);
      for (const at of this.#walkers) if (at !== undefined) this.#check(at);
    }
    for (const walker of this.#walkers) {
      if (walker !== undefined) this.engine.freeSequence(walker.handle);
    }
  }

  #ids(count: number): number[] {
    return Array.from({ length: count }, () => this.#random.below(prunableModel.vocabulary));
  }

  #begin(): Walker {
    const plan = this.#random.below(this.engine.plans.length);
    const seed = BigInt(this.#random.below(1 << 30));
    const sampling = { ...greedy, temperature: this.#random.below(2), topK: 50, seed };
    const ids = this.#ids(this.course.firstMax - this.#random.below(100));
    const log: LogSegment[] = [{ kind: "prompt", ids }];
    return { handle: openSequence(this.engine, log, sampling, plan), plan, sampling, log };
  }

  async #move(slot: number, walker: Walker): Promise<void> {
    const { engine } = this;
    const choice = this.#random.below(100);
    const tokens = tokensOf(walker.log);
    if (choice < 20) {
      const ids = this.#ids(1 + this.#random.below(this.#random.below(3) === 0 ? 70 : 9));
      if (tokens + ids.length > this.course.tokensMax) return;
      const kind = this.#random.below(4) === 0 ? "generated" : "prompt";
      engine.append(walker.handle, kind, ids);
      walker.log = appended(walker.log, { kind, ids });
    } else if (choice < 28) {
      const back = this.#random.below(this.#random.below(3) === 0 ? tokens : 12);
      const kept = Math.max(1, tokens - back);
      engine.truncate(walker.handle, kept);
      walker.log = shortened(walker.log, kept);
    } else if (choice < 34) {
      const kept = 1 + this.#random.below(tokens);
      const handle = engine.fork(walker.handle, kept);
      this.#replace({ ...walker, handle, log: shortened(walker.log, kept) });
    } else if (choice < 41) {
      const handle = engine.restore(walker.plan, engine.snapshot(walker.handle));
      engine.setSampling(handle, walker.sampling);
      this.#replace({ ...walker, handle });
    } else if (choice < 44) {
      engine.dropCache(walker.handle);
    } else if (choice < 46) {
      engine.freeSequence(walker.handle);
      this.#walkers[slot] = undefined;
    } else {
      await this.#step();
    }
  }

  /** Puts a sequence into a random place. */
  #replace(walker: Walker): void {
    const slot = this.#random.below(live);
    const before = this.#walkers[slot];
    if (before !== undefined) this.engine.freeSequence(before.handle);
    this.#walkers[slot] = walker;
  }

  async #step(): Promise<void> {
    const entries = this.#walkers
      .filter((walker) => walker !== undefined)
      .filter(({ log }) => tokensOf(log) < this.course.tokensMax && this.#random.below(3) > 0)
      .map((walker) => ({
        walker,
        sequence: walker.handle,
        workMax: this.#random.below(3) === 0 ? 1 + this.#random.below(60) : allWork,
        sample: this.#random.below(5) > 0,
      }));
    if (entries.length === 0) return;
    const results = await this.engine.step(entries);
    const logits = entries.map(({ sequence }, i) =>
      results[i]?.token === undefined ? undefined : this.engine.logits(sequence),
    );
    for (const [i, { walker }] of entries.entries()) {
      const result = results[i];
      expect(result?.error).toBeUndefined();
      if (result?.token === undefined) continue;
      if (++this.#drawn % this.course.replayEvery === 0) {
        await this.#replay(walker, result.token, logits[i] ?? new Float32Array(0));
      }
      walker.log = appended(walker.log, { kind: "generated", ids: [result.token] });
    }
  }

  async #replay(walker: Walker, token: number, logits: Float32Array): Promise<void> {
    const fresh = openSequence(this.engine, walker.log, walker.sampling, walker.plan);
    const drawn = await draw(this.engine, fresh);
    this.engine.freeSequence(fresh);
    expect(drawn.token).toBe(token);
    expect(firstDifference(drawn.logits, new Uint32Array(logits.buffer))).toBe(-1);
    this.replays++;
  }

  #check(walker: Walker): void {
    const { tokens, segments, pages } = this.engine.sequenceStats(walker.handle);
    expect(tokens).toBe(tokensOf(walker.log));
    expect(segments).toBe(walker.log.length);
    this.pagesMax = Math.max(this.pagesMax, pages);
  }
}

/** Runs the suite on a module. */
export function runWalkSuite(module: () => Promise<SuiteModule>): void {
  describe("random walks under every plan", () => {
    it.each([
      {
        title: "of short logs",
        course: { steps: stepsShort, firstMax: 100, tokensMax: 260, replayEvery: 9 },
        pages: 6,
      },
      {
        title: "of logs of more than 100 pages",
        course: { steps: stepsLong, firstMax: 3330, tokensMax: 3500, replayEvery: 9 },
        pages: 101,
      },
    ])("equal replays: $title", { timeout: 60_000 }, async ({ course, pages }) => {
      const spec = { ...prunableModel, context: 3600, heads: 2, kvHeads: 2, dim: 32, ffDim: 32 };
      const engine = await openEngine(await module(), spec, {
        plans: planCases,
        ...planZones,
        batchRowsMax: 64,
        memoryBytesMax: 64 * 1024 * 1024,
      });
      const before = engine.stats();
      const walk = new Walk(engine, course, 21);
      await walk.run();
      expect(walk.pagesMax).toBeGreaterThanOrEqual(pages);
      expect(walk.replays).toBeGreaterThan(course.steps / 30);
      const after = engine.stats();
      expect(after.cacheBytesFree).toBe(before.cacheBytesFree);
      expect(after.allocations).toBe(0);
    });
  });
}
