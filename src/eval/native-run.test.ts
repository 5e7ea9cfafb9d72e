/**
 * An evaluation through the Node addon, proven without a GPU: the scalar reference as a library answers what the WASM
 * module answers, many samples side by side, and goes on where it was stopped.
 */
import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { randomModelBytes } from "../../test/oracle/random-model.js";
import { SeededRandom } from "../../test/oracle/random.js";
import { needsCompiler } from "../../test/support/requirement.js";
import { tinyModel } from "../../test/support/tiny-model.js";
import { packagePath } from "../cli/repository.js";
import { choiceDefault, runEvaluation, type EngineChoice, type RunRequest } from "./index.js";
import { readResults, sampleLine, type ResultLine } from "./samples-file.js";
import type { SampleSegment } from "./sample.js";

const build = packagePath("gpu-worker/build/addon");
const native = {
  name: "cuda",
  paths: {
    addon: join(build, "leanedge.node"),
    library: join(build, "libleanedge_reference.so"),
  },
} as const satisfies EngineChoice;
/** Compiling both takes about a minute on two slow cores, nothing where they stand already. */
const buildMsMax = 240_000;
/** Ten times what a run takes beside other work. */
const runMsMax = 120_000;

/** Heads as wide as widths may be chosen in, and a window that leaves room for pages. */
const model = { ...tinyModel, headDim: 32, context: 640 };
const methods = [
  "k4+v4",
  "low-50",
  "think-50",
  "low-50+quest-2",
  "sink",
  "k8",
  "v2",
  "k2+v2",
  "v8",
];
const samples = 4;
/** Share of replies that are the same to the letter: a random model's best two tokens lie close together now and then. */
const alikeMin = 0.95;
/** Losses of the two implementations are this close, of about 5 over five targets. */
const lossDifferenceMax = 0.1;

describe.skipIf(needsCompiler.missing)(
  `an evaluation through the addon${needsCompiler.note}`,
  () => {
    let folder = "";
    let request: RunRequest;

    beforeAll(async () => {
      await promisify(execFile)(packagePath("scripts/build-addon.sh"));
      folder = await mkdtemp(join(tmpdir(), "leanedge-eval-native-"));
      const modelPath = join(folder, "tiny.gguf");
      await writeFile(modelPath, randomModelBytes(model));
      const samplesPath = join(folder, "samples.jsonl");
      await writeFile(samplesPath, sampleLines());
      request = {
        modelPath,
        methods,
        plans: new Map(),
        choice: choiceDefault,
        samplesPath,
        out: join(folder, "unused.jsonl"),
        memoryBytesMax: 64 * 1024 * 1024,
      };
    }, buildMsMax);

    afterAll(async () => {
      await rm(folder, { recursive: true, force: true });
    });

    const replies = async (path: string): Promise<Map<string, ResultLine>> =>
      new Map(
        readResults(await readFile(path, "utf8"), path).results.map((line) => [
          `${line.method}/${line.task}/${line.seed}`,
          line,
        ]),
      );

    it(
      "gives WASM's answers, side by side and alone, and goes on where it was stopped",
      { timeout: runMsMax },
      async () => {
        const wasm = join(folder, "wasm.jsonl");
        const total = (methods.length + 1) * samples;
        expect(await runEvaluation({ ...request, out: wasm })).toBe(total);

        const alone = join(folder, "alone.jsonl");
        expect(await runEvaluation({ ...request, engine: native, out: alone })).toBe(total);

        const out = join(folder, "batch.jsonl");
        const stop = new AbortController();
        const stopped = runEvaluation({
          ...request,
          engine: native,
          batch: 4,
          out,
          signal: stop.signal,
          onProgress: (done) => {
            if (done === 12) stop.abort(new Error("stopped by the test"));
          },
        });
        await expect(stopped).rejects.toThrow("stopped by the test");
        const kept = (await replies(out)).size;
        expect(kept).toBeGreaterThanOrEqual(12);
        expect(kept).toBeLessThan(total);
        expect(await runEvaluation({ ...request, engine: native, batch: 4, out })).toBe(
          total - kept,
        );

        const [onWasm, onAlone, onBatch] = await Promise.all([wasm, alone, out].map(replies));
        expect(onBatch).toEqual(onAlone);
        expect(onBatch?.size).toBe(total);
        let alike = 0;
        for (const [name, { text, loss, sample }] of onWasm ?? []) {
          const other = onBatch?.get(name);
          expect(other?.sample, name).toBe(sample);
          if (other?.text === text) alike++;
          if (loss !== undefined) {
            expect(Math.abs((other?.loss ?? NaN) - loss), name).toBeLessThan(lossDifferenceMax);
          }
        }
        expect(alike / total).toBeGreaterThan(alikeMin);
        const { methods: lines } = readResults(await readFile(out, "utf8"), out);
        expect(new Set(lines.map(({ backend }) => backend))).toEqual(new Set(["reference"]));
        expect(new Set(lines.map(({ method }) => method))).toEqual(new Set(["full", ...methods]));
      },
    );

    it("goes on with no file of another engine", async () => {
      const out = join(folder, "other.jsonl");
      const one = { ...request, methods: ["k4+v4"], out };
      await runEvaluation(one);
      await expect(runEvaluation({ ...one, engine: native })).rejects.toThrow(
        /full has backend "wasm" there, and "reference" now: name another file/,
      );
    });

    it(
      "runs stage after stage as a program of its own, and tells what it leaves out",
      { timeout: runMsMax },
      async () => {
        const out = join(folder, "stages");
        await mkdir(out);
        const { modelPath, samplesPath = "" } = request;
        const missing = join(folder, "absent.jsonl");
        const arguments_ = ["--import", "tsx", packagePath("gpu-worker/device/eval-run.ts")];
        for (const [name, value] of [
          ["addon", native.paths.addon],
          ["library", native.paths.library],
          ["model", modelPath],
          ["out", out],
          ["batch", "4"],
          ["memory", "64"],
          ["stage", `${samplesPath} low-50,leank-70`],
          ["stage", `${missing} k4`],
          ["stage", `${samplesPath} k4+v4 1024`],
        ] as const) {
          arguments_.push(`--${name}`, value);
        }
        const ended = promisify(execFile)(process.execPath, arguments_);
        await expect(ended).rejects.toMatchObject({
          code: 1,
          stdout: expect.stringMatching(
            /left out leank-70: .*\n[^]*ok {3}samples: 8 new replies[^]*FAIL absent: [^]*ENOENT[^]*ok {3}samples: 4 new replies[^]*2 passed, 1 failed\n$/,
          ) as string,
        });
        expect((await replies(join(out, "eval-samples.jsonl"))).size).toBe(3 * samples);
      },
    );

    it("stretches a window that is named", async () => {
      const samplesPath = join(folder, "long.jsonl");
      const prompt = { kind: "prompt", ids: randomIds("long", 700) } as const;
      await writeFile(samplesPath, sampleLine({ ...sampleOf([prompt]), length: 700 }));
      const out = join(folder, "long-results.jsonl");
      const long = { ...request, methods: ["k4+v4"], engine: native, samplesPath, out };
      await expect(runEvaluation(long)).rejects.toThrow(
        "made-up/700/0 takes 710 tokens, the model's context is 640",
      );
      expect(await runEvaluation({ ...long, contextTokensMax: 1_024 })).toBe(2);
    });
  },
);

/** Ids of plain words of the tiny vocabulary. */
function randomIds(name: string, count: number): number[] {
  const random = SeededRandom.named(7, name);
  return Array.from({ length: count }, () => 270 + random.below(120));
}

function sampleOf(segments: readonly SampleSegment[]): Parameters<typeof sampleLine>[0] {
  return {
    task: "made-up",
    length: 300,
    seed: 0,
    segments,
    answers: ["a"],
    score: "all",
    maxTokens: 10,
  };
}

/** Prompts, a session of three segments, and a text whose last ids are targets. */
function sampleLines(): string {
  const lines = Array.from({ length: samples - 2 }, (_, seed) => {
    const ids = randomIds(`prompt ${seed}`, 250 + 31 * seed);
    return sampleLine({ ...sampleOf([{ kind: "prompt", ids }]), seed });
  });
  const session = [
    { kind: "prompt", ids: randomIds("first", 180) },
    { kind: "generated", ids: randomIds("said", 25) },
    { kind: "prompt", ids: randomIds("then", 70) },
  ] as const;
  lines.push(sampleLine({ ...sampleOf(session), task: "session" }, true));
  const text = { task: "perplexity", length: 260, seed: 0, answers: [], score: "loss" };
  lines.push(`${JSON.stringify({ ...text, ids: randomIds("text", 260), max_tokens: 6 })}\n`);
  return lines.join("");
}
