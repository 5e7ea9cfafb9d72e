/**
 * The way to a native engine, proven without a GPU: the addon and the scalar reference as a library, both built
 * here, hold the suite that every engine holds.
 */
import { execFile } from "node:child_process";
import { copyFile, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { randomModelBytes } from "../../../test/oracle/random-model.js";
import { needsCompiler } from "../../../test/support/requirement.js";
import {
  allWork,
  drawMany,
  openEngine,
  openSequence,
  randomIds,
  tinyModel,
} from "../conformance/engine-bench.js";
import { runEngineConformance } from "../conformance/engine-conformance.js";
import { memorySource } from "../gguf/memory-source.js";
import { loadEngine } from "../load-engine.js";
import { EngineError } from "../status.js";
import { readEngineModule } from "../wasm/node-module.js";
import { loadAddon, nativePaths, type NativePaths } from "./addon.js";
import { NativeBoundary } from "./native-boundary.js";

const root = fileURLToPath(new URL("../../../", import.meta.url));
const folder = join(root, "gpu-worker/build/addon");
const paths: NativePaths = {
  addon: join(folder, "leanedge.node"),
  library: join(folder, "libleanedge_reference.so"),
};
const memoryBytesMax = 24 * 1024 * 1024;
/** Compiling both takes about a minute on two slow cores, nothing where they stand already. */
const buildMsMax = 240_000;

async function refusal(call: () => unknown): Promise<EngineError> {
  try {
    await call();
  } catch (error) {
    if (error instanceof EngineError) return error;
    throw error;
  }
  throw new RangeError("nothing was refused");
}

describe.skipIf(needsCompiler.missing)(`the native addon${needsCompiler.note}`, () => {
  let scratch = "";

  beforeAll(async () => {
    await promisify(execFile)(join(root, "scripts/build-addon.sh"));
    scratch = await mkdtemp(join(tmpdir(), "leanedge-addon-"));
  }, buildMsMax);

  afterAll(async () => {
    await rm(scratch, { recursive: true, force: true });
  });

  runEngineConformance("the native reference", () => Promise.resolve(paths));

  it("computes the WASM reference's bits", async () => {
    const ids = randomIds(120, 30);
    const drawn = [];
    for (const module of [paths, await readEngineModule("reference")]) {
      const engine = await openEngine(module, tinyModel);
      const sequence = openSequence(engine, [{ kind: "prompt", ids }]);
      drawn.push(await drawMany(engine, sequence, 8));
    }
    expect(drawn[0]).toEqual(drawn[1]);
  });

  it("keeps the event loop free while it computes", async () => {
    const engine = await openEngine(paths, tinyModel);
    expect(engine.stepSync).toBeUndefined();
    const sequence = openSequence(engine, [{ kind: "prompt", ids: randomIds(700, 4) }]);
    let turns = 0;
    let done = false;
    const step = engine.step([{ sequence, workMax: allWork, sample: true }]).finally(() => {
      done = true;
    });
    const count = (): void => {
      turns += 1;
      if (!done) setImmediate(count);
    };
    setImmediate(count);
    await step;
    // A loop that was blocked would turn once.
    expect(turns).toBeGreaterThan(10);
  });

  it("refuses other calls while a step is pending, but for its numbers", async () => {
    const engine = await openEngine(paths, tinyModel);
    const sequence = openSequence(engine, [{ kind: "prompt", ids: randomIds(50, 4) }]);
    const before = engine.stats();
    const step = engine.step([{ sequence, workMax: allWork, sample: true }]);
    expect((await refusal(() => engine.createSequence())).status).toBe("wrongState");
    expect((await refusal(() => engine.step([]))).status).toBe("wrongState");
    expect(engine.stats()).toEqual(before);
    expect((await step)[0]?.token).toBeDefined();
    expect(engine.stats().steps).toBe(before.steps + 1);
  });

  it("may be closed in the middle of a step", async () => {
    const engine = await openEngine(paths, tinyModel);
    const sequence = openSequence(engine, [{ kind: "prompt", ids: randomIds(700, 4) }]);
    const step = engine.step([{ sequence, workMax: allWork, sample: true }]);
    engine.close();
    expect((await refusal(() => step)).status).toBe("deviceLost");
    expect((await refusal(() => engine.createSequence())).status).toBe("wrongState");
  });

  it("holds several engines at once, and opens others when they are closed", async () => {
    const engines = await Promise.all([1, 2, 3].map(() => openEngine(paths, tinyModel)));
    const ids = randomIds(20, 8);
    const answers = [];
    for (const engine of engines) {
      const sequence = openSequence(engine, [{ kind: "prompt", ids }]);
      answers.push((await drawMany(engine, sequence, 3)).map(({ token }) => token));
    }
    expect(answers[1]).toEqual(answers[0]);
    expect(answers[2]).toEqual(answers[0]);
    for (let round = 0; round < 80; round++) {
      const boundary = await NativeBoundary.open(paths, memoryBytesMax);
      boundary.close();
    }
  });

  it("says when a closed engine's memory is free, and refuses calls at once", async () => {
    const memory = new ArrayBuffer(1 << 20);
    const engine = await loadAddon(paths.addon).open(paths.library, memory, 64);
    const closing = engine.close();
    expect(() => engine.le_sequence_create(0)).toThrow(/closed/);
    expect(engine.close()).toBeUndefined();
    await expect(closing).resolves.toBe(0);
  });

  it("loads a model file with tokenizer and template through the same door", async () => {
    const source = memorySource(randomModelBytes(tinyModel));
    const boundary = await NativeBoundary.open(paths, memoryBytesMax);
    const { engine, fingerprint } = await loadEngine({ source, boundary });
    onTestFinished(() => {
      engine.close();
    });
    expect(engine.backend).toBe("reference");
    expect(fingerprint).toMatch(/^[0-9a-f]{64}$/);
  });

  it("says what is missing", async () => {
    const { addon } = paths;
    expect((await refusal(() => nativePaths(undefined))).message).toMatch(/LEANEDGE_CUDA_ADDON/);
    const absent = join(scratch, "absent.node");
    const missing = await refusal(() => nativePaths(absent));
    expect(missing.status).toBe("unimplemented");
    expect(missing.message).toContain(absent);
    expect((await refusal(() => nativePaths(addon))).message).toMatch(/libleanedge_cuda\.so/);
    expect(nativePaths(addon, paths.library)).toEqual(paths);

    const broken = join(scratch, "broken.node");
    await writeFile(broken, "no library");
    const refused = await refusal(() => loadAddon(broken));
    expect(refused.status).toBe("unimplemented");
    expect(refused.message).toContain("cannot be loaded");
    for (const [library, reason] of [
      [broken, /cannot be loaded: .*broken\.node/],
      [addon, /no function le_abi_version/],
      [absent, /absent\.node/],
    ] as const) {
      const error = await refusal(() =>
        NativeBoundary.open({ addon: paths.addon, library }, memoryBytesMax),
      );
      expect(error.status).toBe("unimplemented");
      expect(error.message).toMatch(reason);
    }
    // A library that was refused is in nobody's way.
    const copy = join(scratch, "copy.so");
    await copyFile(paths.library, copy);
    const boundary = await NativeBoundary.open({ addon, library: copy }, memoryBytesMax);
    boundary.close();
    expect((await refusal(() => boundary.check((x) => x.le_engine_stats(64)))).status).toBe(
      "deviceLost",
    );
  });

  it("refuses arguments outside of the memory that both sides see", async () => {
    const boundary = await NativeBoundary.open(paths, memoryBytesMax);
    for (const offset of [-1, boundary.buffer.byteLength, 2 ** 40]) {
      expect(() => boundary.run((x) => x.le_engine_stats(offset)), String(offset)).toThrow(
        /outside of the memory/,
      );
    }
    expect(() => boundary.run((x) => x.le_snapshot_begin(0, -1n))).toThrow(/wrong kind/);
    boundary.close();
  });
});
