import { create, fromBinary } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { createEndStreamSerialization, endStreamFlag } from "@connectrpc/connect/protocol-connect";
import { trailerFlag, trailerParse, validateTrailer } from "@connectrpc/connect/protocol-grpc-web";
import { describe, expect, it } from "vitest";
import { GenerateResponseSchema } from "../../gen/leanedge/v1/session_pb.js";
import type { GenerateResponse } from "../../gen/leanedge/v1/session_pb.js";
import { FrameBuffer } from "../connect/frame-buffer.js";
import type { Frame } from "../connect/frame-buffer.js";
import { errorReasonHeader, rateExhausted, retryAfterHeader } from "../errors.js";
import type { AnswerFormat } from "./answer-format.js";
import { connectFormat, grpcWebFormat } from "./answer-format-rpc.js";
import { AnswerStreams } from "./answer-streams.js";
import type { Clock } from "./clock.js";
import { passHeader } from "./session-name.js";

const texts = ["a", "ü"].map((text) =>
  create(GenerateResponseSchema, { event: { case: "delta", value: { text } } }),
);

function framesOf(bytes: Uint8Array): Frame[] {
  const buffer = new FrameBuffer(1_000, () => new Error("too large"));
  buffer.add(bytes);
  const frames: Frame[] = [];
  for (let frame = buffer.take(); frame !== undefined; frame = buffer.take()) frames.push(frame);
  expect(buffer.byteLength).toBe(0);
  return frames;
}

function messageOf({ kind, payload }: Frame): GenerateResponse {
  expect(kind).toBe(0);
  return fromBinary(GenerateResponseSchema, payload);
}

/** The error that the last frame holds, as clients of the protocol read it. */
const endReaders: [string, AnswerFormat, (frame: Frame) => ConnectError | undefined][] = [
  [
    "connect",
    connectFormat,
    ({ kind, payload }) => {
      expect(kind).toBe(endStreamFlag);
      const { error, metadata } = createEndStreamSerialization(undefined).parse(payload);
      metadata.forEach((value, name) => error?.metadata.set(name, value));
      return error;
    },
  ],
  [
    "grpc-web",
    grpcWebFormat,
    ({ kind, payload }) => {
      expect(kind).toBe(trailerFlag);
      try {
        validateTrailer(trailerParse(payload), new Headers());
      } catch (error) {
        return ConnectError.from(error);
      }
      return undefined;
    },
  ],
];

describe.each(endReaders)("a stream of %s", (_, format, errorOf) => {
  it("holds the messages, and its end with the last of them", () => {
    const [first, ...rest] = framesOf(format.write(texts, false));
    expect(rest).toHaveLength(1);
    expect(first === undefined ? undefined : messageOf(first)).toEqual(texts[0]);
    const frames = framesOf(format.write(texts, true));
    expect(frames.slice(0, 2).map(messageOf)).toEqual(texts);
    expect(frames).toHaveLength(3);
    expect(frames.slice(2).map(errorOf)).toEqual([undefined]);
  });

  it("ends with an error, when to come again, and nothing that only the gateway should know", () => {
    const error = rateExhausted("the key's limit is 3", 1_500);
    error.metadata.set("x-inner", "secret");
    error.metadata.set(errorReasonHeader, "output_tokens_exceeded");
    const [frame] = framesOf(format.fail(error) ?? new Uint8Array(0));
    const seen = frame === undefined ? undefined : errorOf(frame);
    expect(seen).toMatchObject({
      code: Code.ResourceExhausted,
      rawMessage: "the key's limit is 3",
    });
    expect(seen?.metadata.get(retryAfterHeader)).toBe("2");
    expect(seen?.metadata.get(errorReasonHeader)).toBe("output_tokens_exceeded");
    expect(seen?.metadata.get("x-inner")).toBeNull();
    expect(seen?.details).toMatchObject([{ type: "google.rpc.RetryInfo" }]);
  });

  it("waits for nothing before its head, and ends at its deadline", async () => {
    const timers = new Map<number, () => void>();
    const clock: Clock = {
      nowMs: () => 0,
      sleep: () => Promise.resolve(),
      timer(ms, wake) {
        timers.set(ms, wake);
        return () => void timers.delete(ms);
      },
    };
    const alone: number[] = [];
    const answer = new AnswerStreams((turn) => alone.push(turn)).open(4, {
      signal: new AbortController().signal,
      events: (left) => ({
        ended: false,
        next: () => new Promise((resolve) => left.addEventListener("abort", () => resolve([]))),
      }),
      format,
      timeoutMs: 700,
      clock,
    });
    const { headers, body } = await answer.response(new Map());
    expect(headers.get(passHeader)).toBe("1");
    const reading = new Response(body).arrayBuffer();
    expect([...timers.keys()]).toEqual([700]);
    timers.get(700)?.();
    const frames = framesOf(new Uint8Array(await reading));
    expect(frames.map(errorOf)).toMatchObject([
      { code: Code.DeadlineExceeded, rawMessage: "the operation timed out" },
    ]);
    expect(alone).toEqual([4]);
    expect(timers.size).toBe(0);
  });
});
