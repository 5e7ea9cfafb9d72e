import { beforeAll, describe, expect, it } from "vitest";
import { embeddedFile } from "../embedded-model.js";
import { packagePath } from "../cli/repository.js";
import { openFileSource } from "../engine/gguf/file-source.js";
import { readModelFile } from "../engine/gguf/index.js";
import { modelText } from "../engine/load-engine.js";
import { sampleIds, sessionSample, taskSample, type SampleCodec } from "./sample.js";
import { tasks, taskOf } from "./tasks/index.js";

let codec: SampleCodec;

beforeAll(async () => {
  const source = await openFileSource(packagePath(embeddedFile));
  codec = modelText(await readModelFile(source));
  await source.close();
});

describe("samples", () => {
  it.each(tasks.map((task) => [task.name, task] as const))(
    "%s: fills 1K and 4K tokens, and no more",
    (_, task) => {
      for (const tokens of [1_024, 4_096]) {
        const sample = taskSample(codec, task, tokens, "test", 3);
        const used = sampleIds(sample).length + task.maxTokens;
        expect(used).toBeLessThanOrEqual(tokens);
        expect(used).toBeGreaterThan(0.95 * tokens);
        const text = codec.tokenizer.decode(sampleIds(sample));
        for (const answer of sample.answers) expect(text).toContain(answer);
      }
    },
  );

  it("fills 32K tokens", () => {
    for (const name of ["single-1", "multi-key-3", "common-words"]) {
      const sample = taskSample(codec, taskOf(name), 32_768, "test", 0);
      expect(sampleIds(sample).length).toBeGreaterThan(0.98 * 32_768);
      expect(sampleIds(sample).length).toBeLessThanOrEqual(32_768 - 96);
    }
  });

  it("are the same again, and others for another seed or series", () => {
    const make = (series: string, seed: number): number[] =>
      sampleIds(taskSample(codec, taskOf("multi-value"), 512, series, seed));
    expect(make("a", 1)).toEqual(make("a", 1));
    expect(make("a", 1)).not.toEqual(make("a", 2));
    expect(make("a", 1)).not.toEqual(make("b", 1));
  });

  it("refuses lengths out of bounds, and lengths that a task does not fit", () => {
    const make = (name: string, tokens: number): unknown =>
      taskSample(codec, taskOf(name), tokens, "test", 0);
    expect(() => make("single-1", 255)).toThrow("length of 255 tokens, 256 to 32768 expected");
    expect(() => make("single-1", 32_769)).toThrow("length of 32769 tokens");
    expect(() => make("multi-key-3", 256)).toThrow(/^multi-key-3 needs \d+ tokens at least, 256/);
  });

  it("has a session's log: prompts and answers in turn, as the chat template writes them", () => {
    const { segments, answers, length } = sessionSample(codec, 10, "test", 0);
    expect(length).toBe(10);
    expect(segments.length % 2).toBe(1);
    expect(segments.map(({ kind }) => kind)).toEqual(
      segments.map((_, index) => (index % 2 === 0 ? "prompt" : "generated")),
    );
    const shown = codec.tokenizer.decode(sampleIds({ segments }), { special: true });
    expect(shown).toContain(answers[0]);
    expect(shown.match(/<\|user\|>/g)).toHaveLength((segments.length + 1) / 2);
    expect(shown.match(/<\|assistant\|>/g)).toHaveLength((segments.length + 1) / 2);
    expect(shown.endsWith("<|assistant|>")).toBe(true);
  });
});
