import { create } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import { GenerateResponseSchema } from "../../gen/leanedge/v1/session_pb.js";
import type { GenerateResponse } from "../../gen/leanedge/v1/session_pb.js";
import { notFound } from "../errors.js";
import { AnswerStreams } from "./answer-streams.js";
import { decodeFrames } from "./session-wire.js";

const never = new AbortController().signal;

function heartbeat(): GenerateResponse {
  return create(GenerateResponseSchema, { event: { case: "heartbeat", value: {} } });
}

/** Events until the client leaves; counts how many were asked for. */
function endless(asked: { count: number }) {
  return async function* (left: AbortSignal): AsyncGenerator<GenerateResponse, void, undefined> {
    while (!left.aborted) {
      asked.count++;
      yield heartbeat();
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  };
}

async function countFrames(stream: ReadableStream<Uint8Array>): Promise<number> {
  const frames: unknown[] = [];
  for await (const frame of decodeFrames(stream)) frames.push(frame);
  return frames.length;
}

describe("AnswerStreams", () => {
  it("tells when the last client of a turn has left, whoever reads other turns", async () => {
    const alone: number[] = [];
    const streams = new AnswerStreams((turn) => alone.push(turn));
    const asked = { count: 0 };
    const first = new AbortController();
    const other = streams.open(1, never, endless(asked));
    streams.open(2, first.signal, endless(asked));
    const second = streams.open(2, never, endless(asked));
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
    const stream = streams.open(1, leave.signal, endless({ count: 0 }));
    leave.abort();
    await stream.cancel();
    expect(alone).toEqual([1]);
  });

  it("sees that a client left before its stream began", () => {
    const alone: number[] = [];
    const streams = new AnswerStreams((turn) => alone.push(turn));
    streams.open(3, AbortSignal.abort(), endless({ count: 0 }));
    expect(alone).toEqual([3]);
  });

  it("does not count the end of a stream as leaving, and sends errors as frames", async () => {
    const alone: number[] = [];
    const streams = new AnswerStreams((turn) => alone.push(turn));
    const whole = streams.open(1, never, async function* () {
      yield heartbeat();
    });
    expect(await countFrames(whole)).toBe(1);
    const broken = streams.open(1, never, async function* () {
      yield heartbeat();
      throw notFound("turn 1 was withdrawn");
    });
    await expect(countFrames(broken)).rejects.toMatchObject({
      code: Code.NotFound,
      rawMessage: "turn 1 was withdrawn",
    });
    expect(alone).toEqual([]);
  });

  it("reads nothing ahead of a slow client", async () => {
    const streams = new AnswerStreams(() => undefined);
    const asked = { count: 0 };
    const stream = streams.open(1, never, endless(asked));
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(asked.count).toBe(0);
    const reader = stream.getReader();
    await reader.read();
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(asked.count).toBe(1);
    await reader.cancel();
  });
});
