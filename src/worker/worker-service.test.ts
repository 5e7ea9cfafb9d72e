import { Code, ConnectError, type Client } from "@connectrpc/connect";
import { beforeEach, describe, expect, it } from "vitest";
import { FinishReason, Role } from "../gen/leanedge/v1/session_pb.js";
import {
  SegmentKind,
  type WorkerService,
  type Accepted,
  type Finished,
  type PrefixMissing,
  type PrefixName,
} from "../gen/leanedge/worker/v1/worker_pb.js";
import { prefixHash } from "../engine/prefix.js";
import { byteCodec } from "./testing/byte-codec.js";
import {
  ModelEngine,
  modelPageBytes,
  modelSequenceBytes,
  type ModelEngineOptions,
} from "./testing/model-engine.js";
import { openWorker } from "./testing/open-worker.js";
import type { RunningWorker } from "./worker-service.js";

interface Answer {
  accepted?: Accepted;
  missing?: PrefixMissing;
  finished?: Finished;
  ids: number[];
  text: string;
}

let engine: ModelEngine;
let worker: RunningWorker;
let client: Client<typeof WorkerService>;

function start(options: ModelEngineOptions = {}): void {
  engine = new ModelEngine(options);
  ({ worker, client } = openWorker(engine, { info: { architecture: "llama" } }));
}

type Request = Parameters<Client<typeof WorkerService>["generate"]>[0];

async function run(request: Request, signal?: AbortSignal): Promise<Answer> {
  const answer: Answer = { ids: [], text: "" };
  const stream = client.generate(
    { sequenceId: "s", generation: 1n, model: "m", ...request },
    { signal },
  );
  for await (const { event } of stream) {
    if (event.case === "accepted") answer.accepted = event.value;
    if (event.case === "prefixMissing") answer.missing = event.value;
    if (event.case === "finished") answer.finished = event.value;
    if (event.case === "tokens") {
      expect(Number(event.value.offset)).toBe(new TextEncoder().encode(answer.text).length);
      answer.ids.push(...event.value.ids);
      answer.text += event.value.text;
    }
  }
  return answer;
}

const hello = [{ role: Role.USER, text: "hello" }];
const again = [{ role: Role.USER, text: "and again" }];

async function code(promise: Promise<unknown>): Promise<[Code, string]> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof ConnectError) return [error.code, error.rawMessage];
    throw error;
  }
  throw new Error("the call should have failed");
}

beforeEach(() => {
  start();
});

describe("WorkerService.generate", () => {
  it("streams the ids that the log leads to, and names the log", async () => {
    const answer = await run({ messages: hello, sampling: { maxTokens: 20, seed: 7n } });
    const log = byteCodec.encodeFirst([{ role: "user", content: "hello" }]);
    expect(answer.accepted?.promptIds).toEqual(log);
    expect(answer.accepted?.cachedTokens).toBe(0);
    for (const id of answer.ids) {
      expect(id).toBe(ModelEngine.nextToken(log, 7n, 256));
      log.push(id);
    }
    expect(answer.finished?.prefix?.tokens).toBe(log.length);
    expect(answer.finished?.generatedTokens).toBe(answer.ids.length);
    expect(answer.finished?.textBytes).toBe(BigInt(new TextEncoder().encode(answer.text).length));
  });

  it("finds the earlier turn in its cache", async () => {
    const first = await run({ messages: hello, sampling: { maxTokens: 20 } });
    const prefix = first.finished?.prefix;
    const second = await run({ prefix, messages: again, sampling: { maxTokens: 5 } });
    // The last id of an answer that ran into max_tokens was drawn but not computed.
    expect(second.accepted?.cachedTokens).toBe((prefix?.tokens ?? 0) - 1);
    expect(second.accepted?.promptTokens).toBe(
      (prefix?.tokens ?? 0) + (second.accepted?.promptIds.length ?? 0),
    );
  });

  it("says what it has where the prefix is missing, and goes on with the log", async () => {
    const first = await run({ messages: hello, sampling: { maxTokens: 20 } });
    const undisturbed = await run({
      prefix: first.finished?.prefix,
      messages: again,
      sampling: { maxTokens: 9 },
    });
    await client.release({ sequenceId: "s", generation: 1n });
    const missing = await run({ prefix: first.finished?.prefix, messages: again });
    expect(missing.missing?.have?.tokens).toBe(0);
    const rebuilt = await run({
      log: [
        { kind: SegmentKind.PROMPT, ids: first.accepted?.promptIds ?? [] },
        { kind: SegmentKind.GENERATED, ids: first.ids },
      ],
      messages: again,
      sampling: { maxTokens: 9 },
    });
    expect(rebuilt.accepted?.cachedTokens).toBe(0);
    expect(rebuilt.ids).toEqual(undisturbed.ids);
    expect(rebuilt.finished?.prefix).toEqual(undisturbed.finished?.prefix);
  });

  it("does not take another log of the same length for the prefix", async () => {
    const first = await run({ messages: hello, sampling: { maxTokens: 4 } });
    const prefix: PrefixName | undefined = first.finished?.prefix;
    if (prefix === undefined) throw new Error("no prefix");
    prefix.sha256 = prefix.sha256.map((byte) => byte ^ 1);
    const answer = await run({ prefix, messages: again });
    expect(answer.missing?.have?.tokens).toBe(prefix.tokens);
    prefix.sha256 = prefix.sha256.map((byte) => byte ^ 1);
    prefix.segmentKinds[1] = SegmentKind.PROMPT;
    expect((await run({ prefix, messages: again })).missing).toBeDefined();
  });

  it("cuts back what the gateway did not keep", async () => {
    const first = await run({ messages: hello, sampling: { maxTokens: 20 } });
    const kept = 5;
    const again5 = await run({
      log: [
        { kind: SegmentKind.PROMPT, ids: first.accepted?.promptIds ?? [] },
        { kind: SegmentKind.GENERATED, ids: first.ids.slice(0, kept) },
      ],
      messages: again,
      sampling: { maxTokens: 6 },
    });
    expect(again5.finished?.generatedTokens).toBe(6);
  });

  it("resumes an answer without any token where the whole prompt is in the cache", async () => {
    const sampling = { maxTokens: 6, seed: 3n };
    const first = await run({ messages: hello, sampling });
    const promptTokens = first.accepted?.promptTokens ?? 0;
    const ids = Uint32Array.from(first.accepted?.promptIds ?? []);
    const resumed = await run({
      prefix: {
        tokens: promptTokens,
        sha256: prefixHash(ids),
        segmentTokens: [promptTokens],
        segmentKinds: [SegmentKind.PROMPT],
      },
      resume: { promptTokens, generatedTokens: 0, textBytes: 0n },
      sampling,
    });
    expect(resumed.accepted?.cachedTokens).toBe(promptTokens);
    expect(resumed.ids).toEqual(first.ids);
  });

  it("resumes after the last id and byte that the gateway has", async () => {
    const whole = await run({ messages: hello, sampling: { maxTokens: 30, seed: 3n } });
    for (const had of [0, 1, 7, whole.ids.length - 1]) {
      start();
      const promptIds = whole.accepted?.promptIds ?? [];
      const ids = whole.ids.slice(0, had);
      const decoder = byteCodec.decoder();
      const text = ids.map((id) => decoder.push(id)).join("");
      const textBytes = new TextEncoder().encode(text).length;
      const log = [{ kind: SegmentKind.PROMPT, ids: promptIds }];
      if (had > 0) log.push({ kind: SegmentKind.GENERATED, ids });
      const stream = client.generate({
        sequenceId: "s",
        generation: 2n,
        model: "m",
        log,
        sampling: { maxTokens: 30, seed: 3n },
        resume: {
          generatedTokens: had,
          textBytes: BigInt(textBytes),
          promptTokens: promptIds.length,
        },
      });
      const rest: number[] = [];
      let restText = "";
      for await (const { event } of stream) {
        if (event.case !== "tokens") continue;
        if (restText === "" && event.value.text !== "") {
          expect(Number(event.value.offset)).toBe(textBytes);
        }
        rest.push(...event.value.ids);
        restText += event.value.text;
      }
      expect([...ids, ...rest]).toEqual(whole.ids);
      expect(text + restText).toBe(whole.text);
    }
  });

  it("stops the engine within one step when the caller leaves", async () => {
    const controller = new AbortController();
    let stepsAtAbort = -1;
    start({
      onStep: () => {
        if (engine.stats().steps === 6) {
          stepsAtAbort = 6;
          controller.abort();
        }
      },
    });
    await expect(run({ messages: hello }, controller.signal)).rejects.toThrow();
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(engine.stats().steps - stepsAtAbort).toBeLessThanOrEqual(1);
    expect((await client.getStatus({})).running).toBe(0);
  });

  it("lets a newer generation take the sequence over, and refuses an older one", async () => {
    const first = run({ messages: hello, generation: 5n });
    const second = run({ messages: hello, generation: 6n, sampling: { maxTokens: 3 } });
    expect((await code(first))[0]).toBe(Code.Aborted);
    expect((await second).finished?.finishReason).toBeDefined();
    expect(await code(run({ messages: hello, generation: 4n }))).toEqual([
      Code.Aborted,
      "generation 4 of the binding is older than 6",
    ]);
  });

  it("ends before a stop string that crosses ids", async () => {
    const whole = await run({ messages: hello, sampling: { maxTokens: 40 } });
    const at = Math.floor(whole.text.length / 2);
    const stop = whole.text.slice(at, at + 3);
    start();
    const cut = await run({ messages: hello, sampling: { maxTokens: 40, stop: [stop] } });
    expect(cut.finished?.finishReason).toBe(FinishReason.STOP);
    expect(cut.text).toBe(whole.text.slice(0, whole.text.indexOf(stop)));
  });

  it("runs several sequences in the same steps and drops idle caches for them", async () => {
    start({ cacheBytes: 4 * (modelSequenceBytes + modelPageBytes) });
    const ids = Array.from({ length: 12 }, (_, index) => `s${index}`);
    const answers = await Promise.all(
      ids.map((sequenceId) => run({ sequenceId, messages: hello, sampling: { maxTokens: 40 } })),
    );
    const alone = answers[0]?.ids;
    for (const answer of answers) expect(answer.ids).toEqual(alone);
    const status = await client.getStatus({});
    expect([status.running, status.queued, status.sequences]).toEqual([0, 0, 12]);
    expect(status.memoryBytes).toBeLessThanOrEqual(status.memoryBytesMax);
  });

  it("refuses what could never fit", async () => {
    start({ cacheBytes: modelSequenceBytes });
    const [refused, message] = await code(run({ messages: hello }));
    expect(refused).toBe(Code.ResourceExhausted);
    expect(message).toMatch(/needs \d+ bytes of cache, the engine has 2048/);
  });

  it("gives every bad request its code, value and bound", async () => {
    start({ contextTokensMax: 64 });
    const cases: [Request, Code, string | RegExp][] = [
      [{ messages: hello, model: "x" }, Code.NotFound, 'model "x" is not served here, "m" is'],
      [{ messages: hello, sequenceId: "" }, Code.InvalidArgument, /^sequence_id has 0 bytes/],
      [{}, Code.InvalidArgument, "request has neither messages nor prompt_ids"],
      [{ messages: [{ text: "x" }] }, Code.InvalidArgument, "messages[0].role is 0, not a role"],
      [
        { messages: hello, sampling: { temperature: 3 } },
        Code.InvalidArgument,
        "sampling.temperature is 3, it must be 0 to 2",
      ],
      [
        { messages: hello, sampling: { topP: 0 } },
        Code.InvalidArgument,
        "sampling.top_p is 0, it must be above 0 to 1",
      ],
      [
        { promptIds: [300] },
        Code.InvalidArgument,
        "prompt_ids[0] is 300, the vocabulary has 256 ids",
      ],
      [
        { messages: [{ role: Role.USER, text: "x".repeat(99) }] },
        Code.InvalidArgument,
        /^the prompt has 106 tokens, the model's window is 64 tokens/,
      ],
      [
        { messages: hello, prefix: { tokens: 3, fingerprints: { plan: "other" } } },
        Code.FailedPrecondition,
        "the prefix was made under plan other, this worker serves plan",
      ],
      [
        { log: [{ kind: SegmentKind.PROMPT, ids: [1, 2] }], resume: { promptTokens: 5 } },
        Code.InvalidArgument,
        "resume names 5 + 0 tokens, the log has 2",
      ],
    ];
    for (const [request, expected, message] of cases) {
      const [got, text] = await code(run(request));
      expect(text).toMatch(message);
      expect(got).toBe(expected);
    }
    expect((await client.getStatus({})).running).toBe(0);
  });

  it("fails the sequences of a step that throws and goes on with others", async () => {
    let broken = true;
    start({
      onStep: () => {
        if (broken) throw new Error("secret detail");
      },
    });
    expect(await code(run({ messages: hello }))).toEqual([Code.Internal, "internal error"]);
    broken = false;
    expect((await run({ messages: hello, sampling: { maxTokens: 2 } })).ids).toHaveLength(2);
  });
});

describe("RunningWorker.close()", () => {
  it("ends calls and gives every sequence and page back to the engine", async () => {
    await run({ messages: hello, sequenceId: "idle", sampling: { maxTokens: 3 } });
    const running = code(run({ messages: hello }));
    await new Promise((resolve) => setTimeout(resolve, 5));
    worker.close();
    expect(await running).toEqual([Code.Unavailable, "the worker has ended"]);
    const { cacheBytes, cacheBytesFree } = engine.stats();
    expect(cacheBytesFree).toBe(cacheBytes);
    expect((await client.getStatus({})).sequences).toBe(0);
  });
});

describe("WorkerService.fork", () => {
  it("copies a prefix with its cache, and the copy goes its own way", async () => {
    const first = await run({ messages: hello, sampling: { maxTokens: 8 } });
    const prefix = first.finished?.prefix;
    const { cachedTokens } = await client.fork({ sequenceId: "s", prefix, newSequenceId: "t" });
    expect(cachedTokens).toBe((prefix?.tokens ?? 0) - 1);
    const here = await run({ prefix, messages: again, sampling: { maxTokens: 8 } });
    const there = await run({
      sequenceId: "t",
      prefix,
      messages: again,
      sampling: { maxTokens: 8 },
    });
    expect(there.ids).toEqual(here.ids);
    expect(await code(client.fork({ sequenceId: "s", prefix, newSequenceId: "t" }))).toEqual([
      Code.AlreadyExists,
      'sequence "t" exists already',
    ]);
    await client.release({ sequenceId: "s", generation: 1n });
    expect(await code(client.fork({ sequenceId: "s", prefix, newSequenceId: "u" }))).toEqual([
      Code.NotFound,
      "the worker does not have that prefix",
    ]);
  });
});
