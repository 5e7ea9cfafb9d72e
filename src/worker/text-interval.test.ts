/** Answers whose tokens come together: GenerateRequest.text_interval_ms, on a clock on which a step takes ten milliseconds. */
import { toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError, type Client } from "@connectrpc/connect";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Role } from "../gen/leanedge/v1/session_pb.js";
import {
  GenerateResponseSchema,
  type GenerateResponse,
  type WorkerService,
} from "../gen/leanedge/worker/v1/worker_pb.js";
import { ModelEngine, type ModelEngineOptions } from "./testing/model-engine.js";
import { openWorker } from "./testing/open-worker.js";

const stepMs = 10;
const intervalMs = 50;
const tokens = 24;

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "performance"] });
});

afterEach(() => {
  vi.useRealTimers();
});

type Seen = {
  /** Each with the time since the call, in milliseconds. */
  readonly events: readonly { readonly ms: number; readonly response: GenerateResponse }[];
  readonly error: ConnectError | undefined;
};

function start(options: ModelEngineOptions = {}): Client<typeof WorkerService> {
  return openWorker(new ModelEngine(options), {
    yieldToHost: () => new Promise((resolve) => setTimeout(resolve, stepMs)),
    nowUs: () => performance.now() * 1000,
  }).client;
}

/** Reads an answer to its end. */
async function run(
  client: Client<typeof WorkerService>,
  textIntervalMs: number,
  during: () => Promise<unknown> = () => vi.advanceTimersByTimeAsync(2_000),
): Promise<Seen> {
  const beginMs = performance.now();
  const events: { ms: number; response: GenerateResponse }[] = [];
  const reading = (async (): Promise<ConnectError | undefined> => {
    try {
      for await (const response of client.generate({
        ...{ sequenceId: "s", generation: 1n, model: "m", textIntervalMs },
        messages: [{ role: Role.USER, text: "hello" }],
        sampling: { maxTokens: tokens, seed: 5n },
      })) {
        events.push({ ms: performance.now() - beginMs, response });
      }
      return undefined;
    } catch (error) {
      return ConnectError.from(error);
    }
  })();
  await during();
  return { events, error: await reading };
}

/** Events of tokens, with their times. */
function pieces({ events }: Seen) {
  return events.flatMap(({ ms, response: { event } }) =>
    event.case === "tokens" ? [{ ms, ...event.value }] : [],
  );
}

/** The whole answer; its pieces must join without a gap. */
function answer(seen: Seen): { ids: number[]; text: string } {
  let text = "";
  const ids: number[] = [];
  for (const piece of pieces(seen)) {
    expect(Number(piece.offset)).toBe(Buffer.byteLength(text));
    text += piece.text;
    ids.push(...piece.ids);
  }
  return { ids, text };
}

function finished({ events }: Seen) {
  const event = events.at(-1)?.response.event;
  if (event?.case !== "finished") throw new Error(`the last event is ${String(event?.case)}`);
  return { ms: events.at(-1)?.ms ?? NaN, ...event.value };
}

describe("text_interval_ms", () => {
  it("brings the first token at once, then one event an interval, and the rest with the end", async () => {
    const plain = await run(start(), 0);
    const held = await run(start(), intervalMs);
    expect(pieces(plain)).toHaveLength(tokens);
    const times = pieces(held).map(({ ms }) => ms);
    expect(times[0]).toBe(pieces(plain)[0]?.ms);
    const ends = times.pop() ?? NaN;
    for (const [index, ms] of times.entries()) {
      if (index > 0) expect(ms - (times[index - 1] ?? NaN)).toBe(intervalMs);
    }
    // 24 tokens in 230 ms: the first, four intervals, and what is left.
    expect(times).toHaveLength(5);
    expect(ends).toBe(finished(held).ms);
    expect(ends).toBe(finished(plain).ms);
  });

  it("changes nothing of the answer: ids, text, offsets, the log's name and its counts", async () => {
    const plain = await run(start(), 0);
    for (const ms of [1, 9, 10, 11, intervalMs, 1_000]) {
      const held = await run(start(), ms);
      expect(answer(held)).toEqual(answer(plain));
      const { prefix, generatedTokens, textBytes, finishReason } = finished(held);
      expect(prefix).toEqual(finished(plain).prefix);
      expect([generatedTokens, textBytes, finishReason]).toEqual([
        tokens,
        finished(plain).textBytes,
        finished(plain).finishReason,
      ]);
    }
  });

  it("is not held where each step takes longer: the same bytes as without it", async () => {
    const bytes = ({ events }: Seen): (Uint8Array | number)[] =>
      events.flatMap(({ ms, response }) => [ms, toBinary(GenerateResponseSchema, response)]);
    const plain = await run(start(), 0);
    expect(bytes(await run(start(), stepMs - 1))).toEqual(bytes(plain));
  });

  it("brings what is held before the error of a step", async () => {
    let steps = 0;
    const failing = () =>
      start({
        onStep: () => {
          if (++steps === 19) throw new Error("a fault");
        },
      });
    const held = await run(failing(), 1_000);
    expect(held.error?.code).toBe(Code.Internal);
    const [first, rest, ...others] = pieces(held);
    expect(others).toEqual([]);
    expect(first?.ids).toHaveLength(1);
    steps = 0;
    const plain = await run(failing(), 0);
    expect(answer(held)).toEqual(answer(plain));
    expect(rest?.ids.length).toBe(answer(plain).ids.length - 1);
  });

  it("brings what is held when another call takes the sequence over, and no later", async () => {
    const client = start();
    const held = await run(client, 1_000, async () => {
      await vi.advanceTimersByTimeAsync(195);
      await client.release({ sequenceId: "s", generation: 1n });
    });
    expect(held.error?.code).toBe(Code.Aborted);
    const [first, rest] = pieces(held);
    expect(first?.ids).toHaveLength(1);
    expect(rest?.ms).toBe(195);
    expect(rest?.ids.length).toBeGreaterThan(5);
  });

  it("refuses an interval above a second before any work", async () => {
    const { error, events } = await run(start(), 1_001);
    expect(error?.code).toBe(Code.InvalidArgument);
    expect(error?.rawMessage).toBe("text_interval_ms is 1001, it must be at most 1000");
    expect(events).toEqual([]);
  });
});
