/** A sequence is a replayable log: every way of having a cache gives the same bits. */
import { describe, expect, it } from "vitest";
import type { Engine, LogSegment, SequenceHandle } from "../engine.js";
import { identityPlan, type CachePlan } from "../plan/plan.js";
import {
  answerTokens,
  drawMany,
  greedy,
  lively,
  openEngine,
  openSequence,
  playTurns,
  randomIds,
  smallZones,
  tinyModel,
  turnPrompts,
  type Drawn,
  type SuiteModule,
} from "./engine-bench.js";
import { firstDifference } from "./expectations.js";

const turns = 20;
/** Tokens that are compared after a cache was rebuilt. */
const after = 8;

/** Half of the channels, in bytes and nibbles: an archive that differs from the zones. */
function leanPlan(): CachePlan {
  const { layers, kvHeads, headDim } = tinyModel;
  return {
    ...identityPlan({ layers, kvHeads, headDim }, smallZones),
    name: "lean",
    storage: { k: "int8", v: "int4" },
  };
}

function expectSame(actual: readonly Drawn[], expected: readonly Drawn[]): void {
  expect(actual.map(({ token }) => token)).toEqual(expected.map(({ token }) => token));
  actual.forEach(({ logits, logprob }, i) => {
    expect(firstDifference(logits, expected[i]?.logits ?? [])).toBe(-1);
    expect(logprob).toBe(expected[i]?.logprob);
  });
}

/** Runs the suite on a module. */
export function runReplaySuite(module: () => Promise<SuiteModule>): void {
  describe.each([
    { plan: 0, name: "identity" },
    { plan: 1, name: "lean" },
  ])("a session of 20 turns under the $name plan", ({ plan }) => {
    /** What comes next where nothing disturbs the session; the same for all tests. */
    let undisturbed: Promise<Drawn[]> | undefined;

    async function playUndisturbed(): Promise<Drawn[]> {
      const { engine, sequence } = await start();
      await playTurns(engine, sequence, turnPrompts(turns, 3));
      return drawMany(engine, sequence, after);
    }

    async function start(): Promise<{ engine: Engine; sequence: SequenceHandle }> {
      const engine = await openEngine(await module(), tinyModel, { plans: [leanPlan()] });
      return { engine, sequence: openSequence(engine, [], lively, plan) };
    }

    /** Plays the session once more. */
    async function play(): Promise<{
      engine: Engine;
      sequence: SequenceHandle;
      log: LogSegment[];
      next: Drawn[];
    }> {
      undisturbed ??= playUndisturbed();
      const { engine, sequence } = await start();
      const log = await playTurns(engine, sequence, turnPrompts(turns, 3));
      return { engine, sequence, log, next: await undisturbed };
    }

    it("is continued alike after its cache was dropped", async () => {
      const { engine, sequence, next } = await play();
      expect(engine.sequenceStats(sequence).pages).toBeGreaterThan(5);
      engine.dropCache(sequence);
      expect(engine.sequenceStats(sequence)).toMatchObject({
        computed: 0,
        pages: 0,
        cacheBytes: 0,
      });
      expectSame(await drawMany(engine, sequence, after), next);
    });

    it("is continued alike from its log, in another engine with other batches", async () => {
      const { log, next } = await play();
      const other = await openEngine(await module(), tinyModel, {
        plans: [leanPlan()],
        batchRowsMax: 7,
      });
      expectSame(await drawMany(other, openSequence(other, log, lively, plan), after), next);
    });

    it("is continued alike by a fork, and neither disturbs the other", async () => {
      const { engine, sequence, next } = await play();
      const fork = engine.fork(sequence, engine.sequenceStats(sequence).tokens);
      engine.setSampling(fork, { ...lively, seed: 5n });
      await drawMany(engine, fork, after);
      expectSame(await drawMany(engine, sequence, after), next);
      const second = engine.fork(sequence, engine.sequenceStats(sequence).tokens - after);
      engine.setSampling(second, lively);
      expectSame(await drawMany(engine, second, after), next);
    });

    it("is continued alike after it went on and was cut back", async () => {
      const { engine, sequence, next } = await play();
      const { tokens } = engine.sequenceStats(sequence);
      engine.append(sequence, "prompt", randomIds(50, 9));
      await drawMany(engine, sequence, 3);
      engine.truncate(sequence, tokens);
      expectSame(await drawMany(engine, sequence, after), next);
    });

    it("is continued alike from a snapshot, in another engine", async () => {
      const { engine, sequence, next } = await play();
      const snapshot = engine.snapshot(sequence);
      const other = await openEngine(await module(), tinyModel, { plans: [leanPlan()] });
      const restored = other.restore(plan, snapshot);
      other.setSampling(restored, lively);
      expect([...other.ids(restored, 0, other.sequenceStats(restored).tokens)]).toEqual([
        ...engine.ids(sequence, 0, engine.sequenceStats(sequence).tokens),
      ]);
      expect(other.sequenceStats(restored).computed).toBe(engine.sequenceStats(sequence).computed);
      expect(firstDifference(other.snapshot(restored), snapshot)).toBe(-1);
      expectSame(await drawMany(other, restored, after), next);
    });

    it("has the log that was appended and drawn", async () => {
      const { engine, sequence, log } = await play();
      const ids = log.flatMap((segment) => segment.ids);
      expect([...engine.ids(sequence, 0, ids.length)]).toEqual(ids);
      expect(engine.sequenceStats(sequence)).toMatchObject({
        tokens: ids.length,
        segments: 2 * turns,
      });
      expect(engine.sequenceCacheBytes(plan, ids.length)).toBeGreaterThanOrEqual(
        engine.sequenceStats(sequence).cacheBytes,
      );
    });
  });

  describe("noise", () => {
    it("is keyed by seed and position, and greedy takes none", async () => {
      const engine = await openEngine(await module(), tinyModel);
      const log: LogSegment[] = [{ kind: "prompt", ids: randomIds(30, 4) }];
      const tokens = async (sampling: typeof lively): Promise<number[]> => {
        const sequence = openSequence(engine, log, sampling);
        const drawn = await drawMany(engine, sequence, answerTokens);
        engine.freeSequence(sequence);
        return drawn.map(({ token }) => token);
      };
      const once = await tokens(lively);
      expect(await tokens(lively)).toEqual(once);
      expect(await tokens({ ...lively, seed: 78n })).not.toEqual(once);
      expect(await tokens({ ...greedy, seed: 2n })).toEqual(await tokens(greedy));
      const highBits = { ...lively, seed: lively.seed + (1n << 40n) };
      expect(await tokens(highBits)).not.toEqual(once);
    });
  });
}
