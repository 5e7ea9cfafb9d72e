import { create } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import { GenerateResponseSchema } from "../../gen/leanedge/v1/session_pb.js";
import type { GenerateResponse } from "../../gen/leanedge/v1/session_pb.js";
import { notFound } from "../errors.js";
import { frameFormat } from "./answer-format.js";
import { AnswerStreams } from "./answer-streams.js";
import type { EventSource } from "./answer-streams.js";
import { systemClock } from "./clock.js";
import { FrameReader } from "./session-wire.js";
import type { StopSignal } from "./stop.js";

const never = new AbortController().signal;

function heartbeat(): GenerateResponse {
  return create(GenerateResponseSchema, { event: { case: "heartbeat", value: {} } });
}

/** Events until the client leaves; counts how often somebody asked for some. */
function endless(asked: { count: number }): (left: StopSignal) => EventSource {
  return (left) => ({
    ended: false,
    async next() {
      asked.count++;
      await new Promise((resolve) => setTimeout(resolve, 1));
      return left.aborted ? [] : [heartbeat()];
    },
  });
}

/** What is given out at each call, and then the end, which is known with the last events if `knowsEnd`. */
function source(
  batches: readonly (GenerateResponse[] | Error)[],
  knowsEnd: boolean,
): () => EventSource {
  let at = 0;
  return () => ({
    get ended() {
      return knowsEnd ? at >= batches.length : at > batches.length;
    },
    next() {
      const batch = batches[at++] ?? [];
      return batch instanceof Error ? Promise.reject(batch) : Promise.resolve(batch);
    },
  });
}

async function countFrames(stream: ReadableStream<Uint8Array>): Promise<number> {
  const frames: unknown[] = [];
  for await (const frame of new FrameReader(stream)) frames.push(frame);
  return frames.length;
}

/** The body of an answer in frames. */
function open(
  streams: AnswerStreams,
  turn: number,
  signal: AbortSignal,
  events: (left: StopSignal) => EventSource,
): Promise<ReadableStream<Uint8Array>> {
  const answer = streams.open(turn, {
    signal,
    events,
    format: frameFormat,
    clock: systemClock,
  });
  return answer.response(new Map()).then(({ body }) => {
    if (body === null) throw new Error("a response without a body");
    return body;
  });
}

describe("AnswerStreams", () => {
  it("tells when the last client of a turn has left, whoever reads other turns", async () => {
    const alone: number[] = [];
    const streams = new AnswerStreams((turn) => alone.push(turn));
    const asked = { count: 0 };
    const first = new AbortController();
    const other = await open(streams, 1, never, endless(asked));
    await open(streams, 2, first.signal, endless(asked));
    const second = await open(streams, 2, never, endless(asked));
    first.abort();
    expect(alone).toEqual([]);
    await second.cancel();
    expect(alone).toEqual([2]);
    await other.cancel();
    expect(alone).toEqual([2, 1]);
  });

  it("counts a client once, however it leaves", async () => {
    const alone: number[] = [];
    const streams = new AnswerStreams((turn) => alone.push(turn));
    const leave = new AbortController();
    const stream = await open(streams, 1, leave.signal, endless({ count: 0 }));
    leave.abort();
    await stream.cancel();
    expect(alone).toEqual([1]);
  });

  it("sees that a client left before its stream began", async () => {
    const alone: number[] = [];
    const streams = new AnswerStreams((turn) => alone.push(turn));
    await open(streams, 3, AbortSignal.abort(), endless({ count: 0 }));
    expect(alone).toEqual([3]);
  });

  it("does not count the end of a stream as leaving, and sends errors as frames", async () => {
    const alone: number[] = [];
    const streams = new AnswerStreams((turn) => alone.push(turn));
    for (const knowsEnd of [false, true]) {
      const whole = await open(streams, 1, never, source([[heartbeat()], [heartbeat()]], knowsEnd));
      expect(await countFrames(whole)).toBe(2);
    }
    const broken = await open(
      streams,
      1,
      never,
      source([[heartbeat()], notFound("turn 1 was withdrawn")], false),
    );
    await expect(countFrames(broken)).rejects.toMatchObject({
      code: Code.NotFound,
      rawMessage: "turn 1 was withdrawn",
    });
    expect(alone).toEqual([]);
  });

  it("sends events that are there together in one chunk, the end with the last of them", async () => {
    const streams = new AnswerStreams(() => undefined);
    const stream = await open(
      streams,
      1,
      never,
      source([[heartbeat(), heartbeat(), heartbeat()]], true),
    );
    const reader = stream.getReader();
    const chunk = (await reader.read()).value ?? new Uint8Array(0);
    expect((await reader.read()).done).toBe(true);
    const again = new Response(new Uint8Array(chunk)).body;
    expect(again === null ? 0 : await countFrames(again)).toBe(3);
  });

  it("reads nothing ahead of a slow client", async () => {
    const streams = new AnswerStreams(() => undefined);
    const asked = { count: 0 };
    const stream = await open(streams, 1, never, endless(asked));
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(asked.count).toBe(0);
    const reader = stream.getReader();
    await reader.read();
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(asked.count).toBe(1);
    await reader.cancel();
  });
});
