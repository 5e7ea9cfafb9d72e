import { describe, expect, it } from "vitest";
import type { Sample } from "./sample.js";
import {
  readResults,
  readSamples,
  resultLine,
  sampleHash,
  sampleLine,
  type MethodLine,
  type ResultLine,
} from "./samples-file.js";

const sample: Sample = {
  task: "single-1",
  length: 1_024,
  seed: 7,
  segments: [{ kind: "prompt", ids: [1, 5, 9] }],
  answers: ["1234567"],
  score: "all",
  maxTokens: 96,
};

const method: MethodLine = {
  method: "leank-70",
  model: "seed",
  modelFingerprint: "ab",
  planFingerprint: "cd",
  backend: "wasm",
  bytesPerToken: 1_340.5,
  denseBytesPerToken: 8_192,
  keptFraction: 0.3,
  sink: 16,
  recent: 112,
  pagesPerStep: 0,
  origin: "learned",
  series: "a",
};

const result: ResultLine = {
  method: "leank-70",
  task: "single-1",
  length: 1_024,
  seed: 7,
  score: 0.5,
  text: 'It is "1".\n',
  sample: "0123456789abcdef",
};

describe("files of samples", () => {
  it("keep the segments of a session where they are asked to", () => {
    const session: Sample = {
      ...sample,
      segments: [
        { kind: "prompt", ids: [1, 5] },
        { kind: "generated", ids: [9] },
        { kind: "prompt", ids: [2] },
      ],
    };
    expect(readSamples(sampleLine(session, true), "f")).toEqual([session]);
    expect(readSamples(sampleLine(session), "f")[0]?.segments).toEqual([
      { kind: "prompt", ids: [1, 5, 9, 2] },
    ]);
    expect(sampleLine(sample, true)).toBe(sampleLine(sample));
    for (const [from, to, message] of [
      ['["generated",1]', '["generated",2]', "f:1: segments of 5 ids, there are 4"],
      ["generated", "said", 'f:1: segments is [["prompt",2],["said",1],["prompt",1]], a list'],
    ] as const) {
      const line = sampleLine(session, true).replace(from, to);
      expect(() => readSamples(line, "f")).toThrow(message);
    }
  });

  it("have the fields that the reference evaluator reads, and no others", () => {
    expect(JSON.parse(sampleLine(sample))).toEqual({
      task: "single-1",
      length: 1_024,
      ids: [1, 5, 9],
      answers: ["1234567"],
      score: "all",
      seed: 7,
      max_tokens: 96,
    });
  });

  it("of a text have targets, read one by one behind a prompt", () => {
    const text = { task: "perplexity", length: 8, seed: 0, score: "loss", answers: [] } as const;
    const line = `${JSON.stringify({ ...text, ids: [1, 2, 3, 4, 5, 6, 7, 8], max_tokens: 3 })}\n`;
    const [read] = readSamples(line, "f");
    expect(read).toEqual({
      ...text,
      segments: [{ kind: "prompt", ids: [1, 2, 3, 4] }],
      targets: [5, 6, 7, 8],
      maxTokens: 3,
    });
    expect(read && sampleLine(read)).toBe(
      '{"task":"perplexity","length":8,"ids":[1,2,3,4,5,6,7,8],"answers":[],"score":"loss","seed":0,"max_tokens":3}\n',
    );
    // train/tests/test_methods.py has the same.
    expect(read && sampleHash(read)).toBe("f5826e82ad6fdc89");
    expect(() => readSamples(line.replace('"max_tokens":3', '"max_tokens":7'), "f")).toThrow(
      "f:1: 7 targets, 1 to 6 expected",
    );
  });

  it("come back as they were, sessions as one prompt", () => {
    expect(readSamples(sampleLine(sample), "f")).toEqual([sample]);
    const session: Sample = {
      ...sample,
      segments: [
        { kind: "prompt", ids: [1, 2] },
        { kind: "generated", ids: [3] },
        { kind: "prompt", ids: [4] },
      ],
    };
    expect(readSamples(sampleLine(session), "f")[0]?.segments).toEqual([
      { kind: "prompt", ids: [1, 2, 3, 4] },
    ]);
  });

  it("have another hash for other ids or answers", () => {
    const hashes = [
      sample,
      { ...sample, answers: ["1"] },
      { ...sample, segments: [{ kind: "prompt" as const, ids: [1, 5, 8] }] },
    ].map(sampleHash);
    expect(new Set(hashes).size).toBe(3);
    expect(sampleHash({ ...sample })).toBe(hashes[0]);
  });

  it.each([
    ["{", "f:2: no JSON"],
    ["[]", "f:2: a JSON object expected"],
    ['{"ids":[]}', "f:2: ids is [], a list of at least one expected"],
    ['{"ids":[1.5]}', "f:2: ids is [1.5], a list of at least one expected"],
    [
      '{"ids":[1],"answers":["a"],"score":"some"}',
      'f:2: score "some", all, any, exact, loss expected',
    ],
    ['{"ids":[1],"answers":["a"],"score":"all"}', "f:2: task is missing, a text expected"],
  ])("refuse %s", (line, message) => {
    expect(() => readSamples(`${sampleLine(sample)}${line}\n`, "f")).toThrow(message);
  });
});

describe("result files", () => {
  it("come back as they were", () => {
    const text = resultLine(method) + resultLine(result);
    expect(readResults(text, "f")).toEqual({ methods: [method], results: [result] });
  });

  it("may be the reference evaluator's: replies only", () => {
    const line = '{"method":"full","task":"t","length":5,"seed":0,"score":1.0,"text":"x"}\n';
    expect(readResults(line, "f").results).toEqual([
      { method: "full", task: "t", length: 5, seed: 0, score: 1, text: "x" },
    ]);
  });

  it("refuse a reply that is there twice, and a score above 1", () => {
    expect(() => readResults(resultLine(result).repeat(2), "f")).toThrow(
      "f:2: leank-70/single-1/1024/7 is there twice",
    );
    expect(() => readResults(resultLine({ ...result, score: 2 }), "f")).toThrow(
      "f:1: score is 2, a number, 0 to 1 expected",
    );
  });
});
