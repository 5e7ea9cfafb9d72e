/** Refusals: each with its status, and a message that names thing, value and bound. */
import { describe, expect, it } from "vitest";
import { EngineError, type EngineStatusName } from "../status.js";
import { identityPlan } from "../plan/plan.js";
import type { BoundaryEngine } from "../boundary/boundary-engine.js";
import {
  allWork,
  benchMemoryBytes,
  drawMany,
  greedy,
  isNative,
  openEngine,
  openSequence,
  randomIds,
  tinyModel,
  type SuiteModule,
} from "./engine-bench.js";

/** The EngineError that `call` throws; anything else fails the test. */
async function refusal(call: () => unknown): Promise<EngineError> {
  try {
    await call();
  } catch (error) {
    if (error instanceof EngineError) return error;
    throw error;
  }
  throw new RangeError("nothing was refused");
}

const refusals: readonly {
  name: string;
  status: EngineStatusName;
  message: RegExp;
  call: (engine: BoundaryEngine) => unknown;
}[] = [
  {
    name: "an id beyond the vocabulary",
    status: "invalidArgument",
    message: /397/,
    call: (engine) => engine.append(engine.createSequence(), "prompt", [1, 397]),
  },
  {
    name: "a negative id",
    status: "invalidArgument",
    message: /-1/,
    call: (engine) => engine.append(engine.createSequence(), "prompt", [-1]),
  },
  {
    name: "an id that is no integer",
    status: "invalidArgument",
    message: /-1/,
    call: (engine) => engine.append(engine.createSequence(), "prompt", [2 ** 32 + 1]),
  },
  {
    name: "a log longer than the window",
    status: "contextFull",
    message: /769.*768/,
    call: (engine) => engine.append(engine.createSequence(), "prompt", randomIds(769, 1)),
  },
  {
    name: "more ids than pass at once",
    status: "invalidArgument",
    message: /65537 ids in one segment, at most 65536/,
    call: (engine) => engine.append(engine.createSequence(), "prompt", new Uint32Array(65537)),
  },
  {
    name: "a handle that does not exist",
    status: "invalidArgument",
    message: /sequence 3/,
    call: (engine) => engine.truncate(3, 0),
  },
  {
    name: "a plan that does not exist",
    status: "invalidArgument",
    message: /plan 1/,
    call: (engine) => engine.createSequence(1),
  },
  {
    name: "more sequences than the table has",
    status: "tooManySequences",
    message: /4/,
    call: (engine) => {
      for (let i = 0; i < 5; i++) engine.createSequence();
    },
  },
  {
    name: "a temperature out of range",
    status: "invalidArgument",
    message: /temperature/,
    call: (engine) => engine.setSampling(engine.createSequence(), { ...greedy, temperature: 2.5 }),
  },
  {
    name: "a temperature that is not a number",
    status: "invalidArgument",
    message: /temperature/,
    call: (engine) => engine.setSampling(engine.createSequence(), { ...greedy, temperature: NaN }),
  },
  {
    name: "logits that were not computed",
    status: "wrongState",
    message: /sequence 0 has no logits/,
    call: (engine) => engine.logits(engine.createSequence()),
  },
  {
    name: "ids beyond the log",
    status: "invalidArgument",
    message: /1/,
    call: (engine) => engine.ids(engine.createSequence(), 0, 1),
  },
  {
    name: "a truncation to more than the log has",
    status: "invalidArgument",
    message: /1/,
    call: (engine) => engine.truncate(engine.createSequence(), 1),
  },
  {
    name: "more entries than a step takes",
    status: "invalidArgument",
    message: /257 entries in one step, at most 256/,
    call: (engine) =>
      engine.step(Array.from({ length: 257 }, () => ({ sequence: 0, workMax: 1, sample: false }))),
  },
  {
    name: "a snapshot that is none",
    status: "invalidSnapshot",
    message: /\d/,
    call: (engine) => engine.restore(0, new Uint8Array(300)),
  },
];

/** Runs the suite on a module. */
export function runErrorSuite(module: () => Promise<SuiteModule>): void {
  describe("refuses", () => {
    it.each(refusals)("$name", async ({ status, message, call }) => {
      const engine = await openEngine(await module(), tinyModel, { sequencesMax: 4 });
      const error = await refusal(() => call(engine));
      expect(error.status).toBe(status);
      expect(error.message).toMatch(message);
      // What was refused left nothing behind that is in the way.
      for (let handle = 0; handle < 4; handle++) {
        try {
          engine.freeSequence(handle);
        } catch {
          break;
        }
      }
      const sequence = openSequence(engine, [{ kind: "prompt", ids: [1, 2, 3] }]);
      expect(await drawMany(engine, sequence, 2)).toHaveLength(2);
    });

    it("single entries of a step, and goes on with the others", async () => {
      const engine = await openEngine(await module(), tinyModel);
      const sequence = openSequence(engine, [{ kind: "prompt", ids: [1, 2, 3] }]);
      const results = await engine.step([
        { sequence: 9, workMax: allWork, sample: true },
        { sequence, workMax: allWork, sample: true },
        { sequence, workMax: 0, sample: true },
      ]);
      expect(results.map(({ error }) => error?.status)).toEqual([
        "invalidArgument",
        undefined,
        "invalidArgument",
      ]);
      expect(results[1]?.token).toBeDefined();
      expect(results[0]?.error?.message).toBe("entry 0, sequence 9: invalidArgument");
      const [alone] = await engine.step([{ sequence: 9, workMax: allWork, sample: true }]);
      expect(alone?.error?.message).toBe("entry 0 names sequence 9, which does not exist");
    });

    it("a step whose cache does not fit, and goes on when others are freed", async () => {
      const memoryBytesMax = 1536 * 1024;
      const engine = await openEngine(await module(), tinyModel, {
        // Stacks and scratch of threads would leave no room for two sequences.
        threads: 1,
        memoryBytesMax,
        sequencesMax: 16,
        batchRowsMax: 8,
      });
      const sequences: number[] = [];
      let refused: EngineError | undefined;
      while (refused === undefined && sequences.length < 16) {
        const sequence = openSequence(engine, [{ kind: "prompt", ids: randomIds(700, 6) }]);
        sequences.push(sequence);
        refused = await drawMany(engine, sequence, 1).then(
          () => undefined,
          (error: unknown) => error as EngineError,
        );
      }
      expect(refused?.status).toBe("outOfPages");
      const last = sequences.at(-1) ?? 0;
      const first = sequences[0] ?? 0;
      expect(first).not.toBe(last);
      engine.dropCache(first);
      expect(await drawMany(engine, last, 2)).toHaveLength(2);
      expect(engine.stats().memoryBytes).toBeLessThanOrEqual(memoryBytesMax);
    });

    it("a model that does not fit its memory", async () => {
      const tightBytes = 1024 * 1024 + 65536;
      const error = await refusal(async () =>
        openEngine(await module(), tinyModel, {
          memoryBytesMax: tightBytes,
          batchRowsMax: 512,
        }),
      );
      expect(error.status).toBe("outOfMemory");
      expect(error.message).toMatch(/\d+ bytes .*\d+/);
      // A module counts what it takes itself.
      expect(error.bound).toBeLessThanOrEqual(tightBytes - (isNative(await module()) ? 0 : 65536));
    });

    it("limits and plans out of range", async () => {
      const { layers, headDim } = tinyModel;
      const cases = [
        { options: { sequencesMax: 0 }, status: "invalidArgument" },
        { options: { sequencesMax: 1025 }, status: "invalidArgument" },
        { options: { batchRowsMax: 0 }, status: "invalidArgument" },
        { options: { contextTokensMax: 769 }, status: "invalidArgument" },
        { options: { recent: 0 }, status: "invalidArgument" },
        {
          options: { plans: [identityPlan({ layers, kvHeads: 1, headDim })] },
          status: "invalidPlan",
        },
        // 399,760 bytes as a block; what passes to the engine has 262,144.
        {
          options: { plans: [identityPlan({ layers: 40, kvHeads: 32, headDim: 128 })] },
          status: "invalidPlan",
        },
      ] as const;
      for (const { options, status } of cases) {
        const error = await refusal(async () => openEngine(await module(), tinyModel, options));
        expect(error.status, JSON.stringify(options)).toBe(status);
      }
    });

    it("everything once it is closed", async () => {
      const engine = await openEngine(await module(), tinyModel);
      engine.close();
      expect((await refusal(() => engine.createSequence())).status).toBe("wrongState");
      expect((await refusal(() => engine.step([]))).status).toBe("wrongState");
      expect((await refusal(() => engine.stats())).status).toBe("wrongState");
    });
  });

  describe("memory", () => {
    it("is the host's maximum at most, rounded down to whole pages in WebAssembly", async () => {
      const compiled = await module();
      const memoryBytesMax = benchMemoryBytes + 1234;
      const engine = await openEngine(compiled, tinyModel, { memoryBytesMax });
      const stats = engine.stats();
      expect(stats.memoryBytesMax).toBe(isNative(compiled) ? memoryBytesMax : benchMemoryBytes);
      expect(stats.memoryBytes).toBeLessThanOrEqual(benchMemoryBytes);
      expect(stats.weightBytes).toBeGreaterThan(0);
      expect(stats.weightBytesPerRow).toBeLessThanOrEqual(stats.weightBytes);
    });

    it("holds the weights once: loading needs no more than running", async () => {
      const wide = {
        ...tinyModel,
        type: "F32",
        embeddingType: "F32",
        dim: 256,
        layers: 4,
      } as const;
      const roomy = await openEngine(await module(), wide, { batchRowsMax: 1, sequencesMax: 1 });
      const { weightBytes, scratchBytes } = roomy.stats();
      // Statics and stack, weights, scratch, and a cache of 256 KiB.
      const memoryBytesMax = 1024 * 1024 + weightBytes + scratchBytes + 256 * 1024;
      expect(weightBytes).toBeGreaterThan(3 * 1024 * 1024);
      const tight = await openEngine(await module(), wide, {
        batchRowsMax: 1,
        sequencesMax: 1,
        memoryBytesMax,
      });
      const sequence = openSequence(tight, [{ kind: "prompt", ids: [1, 2, 3] }]);
      expect(await drawMany(tight, sequence, 2)).toHaveLength(2);
    });
  });
}

/** What only modules have: memory of their own that the host's maximum has to hold. */
export function runModuleMemorySuite(
  name: string,
  module: () => Promise<WebAssembly.Module>,
): void {
  describe(`the memory of ${name}`, () => {
    it("is refused where it is less than the module itself takes", async () => {
      const error = await refusal(async () =>
        openEngine(await module(), tinyModel, { memoryBytesMax: 1024 * 1024 - 1 }),
      );
      expect(error.status).toBe("outOfMemory");
      expect(error.message).toMatch(/1048575 bytes.*1048576/);
    });
  });
}
