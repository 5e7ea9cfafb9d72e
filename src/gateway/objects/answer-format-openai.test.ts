import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import {
  Backend,
  FinishReason,
  GenerateResponseSchema,
  PlacementReason,
} from "../../gen/leanedge/v1/session_pb.js";
import type { GenerateResponse } from "../../gen/leanedge/v1/session_pb.js";
import { unavailable } from "../errors.js";
import type { AnswerFormat } from "./answer-format.js";
import { openAiEvents, openAiWhole } from "./answer-format-openai.js";
import { AnswerStreams } from "./answer-streams.js";
import type { EventSource, StreamWatch } from "./answer-streams.js";
import type { Clock } from "./clock.js";
import { countedHeader, passHeader } from "./session-name.js";
import type { StopSignal } from "./stop.js";

const answer = { sessionId: "talk ü", workerBefore: "", nowMs: 1_700_000_000_900 };
const id = "chatcmpl-";

function started(backend: Backend, model = "tiny"): GenerateResponse {
  const worker = backend === Backend.UNSPECIFIED ? "" : "worker-1";
  const value = { turn: 1, model, backend, worker, placement: PlacementReason.LAST_RESORT };
  return create(GenerateResponseSchema, { event: { case: "started", value } });
}

function text(value: string): GenerateResponse {
  return create(GenerateResponseSchema, { event: { case: "delta", value: { text: value } } });
}

function heartbeat(): GenerateResponse {
  return create(GenerateResponseSchema, { event: { case: "heartbeat", value: {} } });
}

function finished(finishReason: FinishReason, errorMessage = ""): GenerateResponse {
  const usage = { promptTokens: 7, cachedTokens: 4, completionTokens: 2 };
  return create(GenerateResponseSchema, {
    event: { case: "finished", value: { finishReason, usage, errorMessage } },
  });
}

/** A clock whose timers ring when the test says so. */
class HandClock implements Clock {
  readonly #timers = new Map<() => void, number>();
  nowMs(): number {
    return 0;
  }
  sleep(): Promise<void> {
    return Promise.resolve();
  }
  timer(ms: number, wake: () => void): () => void {
    this.#timers.set(wake, ms);
    return () => void this.#timers.delete(wake);
  }
  /** How long the waits take that are under way. */
  get waits(): number[] {
    return [...this.#timers.values()];
  }
  ring(): void {
    for (const wake of this.#timers.keys()) wake();
  }
}

/** Events that come when the test says so. */
class Feed implements EventSource {
  readonly #batches: (readonly GenerateResponse[] | Error)[] = [];
  #wake: () => void = () => undefined;
  ended = false;

  constructor(left: StopSignal) {
    left.addEventListener("abort", () => {
      this.ended = true;
      this.#wake();
    });
  }
  give(...batch: GenerateResponse[]): void {
    this.#batches.push(batch);
    this.#wake();
  }
  fail(error: Error): void {
    this.#batches.push(error);
    this.#wake();
  }
  async next(): Promise<readonly GenerateResponse[]> {
    for (;;) {
      const batch = this.#batches.shift();
      if (batch instanceof Error) throw batch;
      if (batch !== undefined) {
        this.ended = batch.some(({ event }) => event.case === "finished");
        return batch;
      }
      if (this.ended) return [];
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }
}

/** What was counted, in order. */
class Counts implements StreamWatch {
  readonly seen: string[] = [];
  look({ event }: GenerateResponse): void {
    this.seen.push(event.case ?? "");
  }
  failed(error: unknown): void {
    this.seen.push(`failed: ${error instanceof ConnectError ? error.rawMessage : String(error)}`);
  }
  end(outcome: string): void {
    this.seen.push(`end: ${outcome}`);
  }
}

function open(format: AnswerFormat) {
  const clock = new HandClock();
  const counts = new Counts();
  const caller = new AbortController();
  const alone: number[] = [];
  let feed: Feed | undefined;
  const opened = new AnswerStreams((turn) => alone.push(turn)).open(1, {
    signal: caller.signal,
    events: (left) => (feed = new Feed(left)),
    format,
    watch: counts,
    clock,
  });
  if (feed === undefined) throw new Error("nobody asked for events");
  const head = new Map<string, string>();
  return { feed, clock, counts, caller, alone, head, response: opened.response(head) };
}

/** Data of server-sent events. */
function dataOf(body: string): unknown[] {
  return body
    .split("\n\n")
    .filter((line) => line.startsWith("data: {"))
    .map((line) => JSON.parse(line.slice(6)) as unknown);
}

describe("server-sent events", () => {
  it("name the worker in the head, and wait for it", async () => {
    const { feed, response, counts } = open(openAiEvents(answer, false));
    feed.give(started(Backend.UNSPECIFIED));
    feed.give(heartbeat());
    feed.give(started(Backend.CUDA));
    const { headers, body } = await response;
    expect(Object.fromEntries(headers)).toEqual({
      "cache-control": "no-cache",
      "content-type": "text/event-stream; charset=utf-8",
      "x-accel-buffering": "no",
      "x-affinity": "miss",
      [passHeader]: "1",
      "x-placement": "last-resort",
      "x-served-by": "cuda:worker-1",
      "x-session-id": "talk%20%C3%BC",
    });
    feed.give(text("a"), text('"b'), finished(FinishReason.LENGTH));
    const lines = await new Response(body).text();
    const head = { object: "chat.completion.chunk", created: 1_700_000_000, model: "tiny" };
    const choice = { index: 0, logprobs: null, finish_reason: null };
    expect(dataOf(lines)).toMatchObject([
      { ...head, choices: [{ ...choice, delta: { role: "assistant", content: "" } }] },
      { ...head, choices: [{ ...choice, delta: { content: "a" } }] },
      { ...head, choices: [{ ...choice, delta: { content: '"b' } }] },
      { ...head, choices: [{ ...choice, delta: {}, finish_reason: "length" }] },
    ]);
    expect(lines.indexOf(": ping")).toBeLessThan(lines.indexOf('"a"'));
    expect(lines.endsWith("data: [DONE]\n\n")).toBe(true);
    expect(lines).toContain(`"id":"${id}`);
    const looked = ["started", "heartbeat", "started", "delta", "delta", "finished"];
    expect(counts.seen).toEqual(looked);
  });

  it("begin without the worker's name where none takes the turn in time", async () => {
    const { feed, clock, response } = open(openAiEvents(answer, true));
    feed.give(started(Backend.UNSPECIFIED));
    await expect.poll(() => clock.waits).toEqual([5_000]);
    clock.ring();
    const { headers, body } = await response;
    expect(headers.get(passHeader)).toBe("1");
    expect(headers.get("x-served-by")).toBeNull();
    expect(clock.waits).toEqual([]);
    const reader = body?.getReader();
    expect(new TextDecoder().decode((await reader?.read())?.value)).toContain('"role"');
    feed.give(started(Backend.WASM, "other"), text("a"), finished(FinishReason.STOP));
    const lines = new TextDecoder().decode((await reader?.read())?.value);
    const usage = { prompt_tokens: 7, completion_tokens: 2, total_tokens: 9 };
    expect(dataOf(lines)).toMatchObject([
      { model: "other", choices: [{ delta: { content: "a" } }], usage: null },
      { choices: [{ finish_reason: "stop" }], usage: null },
      { choices: [], usage: { ...usage, prompt_tokens_details: { cached_tokens: 4 } } },
    ]);
    expect((await reader?.read())?.done).toBe(true);
  });

  it("end with the error and no [DONE], whoever found it", async () => {
    const gone = open(openAiEvents(answer, false));
    gone.feed.give(started(Backend.CUDA), text("a"));
    gone.feed.fail(unavailable("the worker is gone"));
    const unfinished = open(openAiEvents(answer, false));
    unfinished.feed.give(started(Backend.CUDA), text("a"));
    unfinished.feed.give(finished(FinishReason.ERROR, "the worker is gone"));
    for (const { response } of [gone, unfinished]) {
      const lines = await new Response((await response).body).text();
      expect(dataOf(lines).at(-1)).toEqual({
        error: {
          message: "the worker is gone",
          type: "server_error",
          param: null,
          code: "unavailable",
        },
      });
      expect(lines).not.toContain("[DONE]");
    }
    expect(gone.counts.seen.at(-1)).toBe("failed: the worker is gone");
    expect(gone.alone).toEqual([]);
  });

  it("are an error instead where there is one before the head, counted once", async () => {
    const { feed, response, head, counts, alone } = open(openAiEvents(answer, false));
    feed.give(started(Backend.UNSPECIFIED));
    feed.fail(unavailable("all workers are gone"));
    await expect(response).rejects.toMatchObject({ code: Code.Unavailable });
    expect(head.get(countedHeader)).toBe("1");
    expect(head.has(passHeader)).toBe(false);
    expect(counts.seen).toEqual(["started", "failed: all workers are gone"]);
    expect(alone).toEqual([]);
  });

  it("stop where the client leaves before the head, or in mid-answer", async () => {
    const early = open(openAiEvents(answer, false));
    early.feed.give(started(Backend.UNSPECIFIED));
    await expect.poll(() => early.clock.waits).toEqual([5_000]);
    early.caller.abort();
    await expect(early.response).rejects.toMatchObject({ code: Code.Canceled });
    expect(early.counts.seen.slice(0, 2)).toEqual(["started", "end: left"]);
    expect(early.alone).toEqual([1]);
    const late = open(openAiEvents(answer, false));
    late.feed.give(started(Backend.CUDA));
    await (await late.response).body?.cancel();
    expect(late.counts.seen).toEqual(["started", "end: left"]);
    expect(late.alone).toEqual([1]);
  });
});

describe("one object of JSON", () => {
  it("comes without blanks where it is there soon", async () => {
    const { feed, response } = open(openAiWhole(answer));
    feed.give(started(Backend.CUDA));
    feed.give(text("a"), text("b"));
    feed.give(finished(FinishReason.STOP));
    const { headers, body } = await response;
    expect(headers.get("content-type")).toBe("application/json");
    expect(headers.get("content-encoding")).toBeNull();
    const whole = await new Response(body).text();
    expect(whole.startsWith("{")).toBe(true);
    expect(JSON.parse(whole)).toMatchObject({
      object: "chat.completion",
      model: "tiny",
      choices: [{ message: { role: "assistant", content: "ab" }, finish_reason: "stop" }],
      usage: { total_tokens: 9 },
    });
  });

  it("begins with blanks where it takes long, and breaks off where it fails then", async () => {
    const { feed, clock, response } = open(openAiWhole(answer));
    feed.give(started(Backend.CUDA));
    feed.give(text("a"));
    await expect.poll(() => clock.waits).toEqual([500]);
    clock.ring();
    const { headers, body } = await response;
    expect(headers.get("content-encoding")).toBe("identity");
    const reader = body?.getReader();
    expect(new TextDecoder().decode((await reader?.read())?.value)).toBe(" ");
    feed.give(finished(FinishReason.ERROR, "the worker is gone"));
    await expect(reader?.read()).rejects.toThrow("the worker is gone");
  });

  it("is an error with its status where the answer fails soon", async () => {
    const { feed, response, head } = open(openAiWhole(answer));
    feed.give(started(Backend.CUDA));
    feed.give(finished(FinishReason.ERROR, "the worker is gone"));
    await expect(response).rejects.toMatchObject({ rawMessage: "the worker is gone" });
    expect(head.get(countedHeader)).toBe("1");
    expect(head.has(passHeader)).toBe(false);
  });
});
