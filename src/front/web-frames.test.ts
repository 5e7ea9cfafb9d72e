import { Buffer } from "node:buffer";
import { gzipSync } from "node:zlib";
import { describe, expect, it } from "vitest";
import { GrpcFailure, GrpcStatus } from "./grpc-status.js";
import { FrameReader, parseTrailers } from "./web-frames.js";

function frame(flags: number, payload: Buffer): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt8(flags, 0);
  head.writeUInt32BE(payload.byteLength, 1);
  return Buffer.concat([head, payload]);
}

function reader(messageBytesMax = 100, trailerBytesMax: number | undefined = 100): FrameReader {
  return new FrameReader({ messageBytesMax, trailerBytesMax, direction: "response" });
}

function failureOf(action: () => unknown): GrpcFailure {
  try {
    action();
  } catch (error) {
    if (error instanceof GrpcFailure) return error;
    throw error;
  }
  throw new Error("nothing was thrown");
}

describe("frames of gRPC-web", () => {
  const messages = Buffer.concat([
    frame(0, Buffer.from("first")),
    frame(1, Buffer.alloc(0)),
    frame(0, Buffer.from("third message")),
  ]);
  const trailers = Buffer.from("grpc-status: 0\r\n");

  it("pass through unchanged at every chunk border, trailers apart", () => {
    const all = Buffer.concat([messages, frame(0x80, trailers)]);
    for (let border = 0; border <= all.byteLength; border++) {
      const frames = reader();
      const first = frames.push(all.subarray(0, border));
      const second = frames.push(all.subarray(border));
      expect(Buffer.concat([...first.data, ...second.data]), `border ${border}`).toEqual(messages);
      expect(first.trailers ?? second.trailers).toEqual(trailers);
      expect(frames.complete).toBe(true);
    }
  });

  it("pass a part of a message on before the rest is there", () => {
    const frames = reader();
    const { data } = frames.push(frame(0, Buffer.from("abcdef")).subarray(0, 8));
    expect(Buffer.concat(data).subarray(5).toString()).toBe("abc");
    expect(frames.complete).toBe(false);
  });

  it("may carry empty trailers and compressed ones", () => {
    expect(reader().push(frame(0x80, Buffer.alloc(0))).trailers).toEqual(Buffer.alloc(0));
    expect(reader().push(frame(0x81, gzipSync(trailers))).trailers).toEqual(trailers);
  });

  it("are refused above the bound, at the head and not at the end", () => {
    const head = frame(0, Buffer.alloc(101)).subarray(0, 5);
    const failure = failureOf(() => reader().push(head));
    expect(failure.status).toBe(GrpcStatus.resourceExhausted);
    expect(failure.message).toBe("response message of 101 bytes is larger than the bound of 100");
    expect(reader().push(frame(0, Buffer.alloc(100))).data).toHaveLength(2);
  });

  it("refuse trailers above their bound, before and after decompression", () => {
    expect(failureOf(() => reader().push(frame(0x80, Buffer.alloc(101)))).status).toBe(
      GrpcStatus.internal,
    );
    const bomb = frame(0x81, gzipSync(Buffer.alloc(10_000)));
    expect(failureOf(() => reader().push(bomb)).message).toBe("the trailers are not valid gzip");
  });

  it("refuse bytes after the trailers", () => {
    const failure = failureOf(() =>
      reader().push(Buffer.concat([frame(0x80, trailers), trailers])),
    );
    expect(failure.message).toBe("the response goes on after its trailers");
  });

  it("keep the trailer flag as it is in a request", () => {
    const frames = new FrameReader({
      messageBytesMax: 100,
      trailerBytesMax: undefined,
      direction: "request",
    });
    const odd = frame(0x80, Buffer.from("x"));
    expect(Buffer.concat(frames.push(odd).data)).toEqual(odd);
  });

  it("parse trailers with and without a space, and names that come twice", () => {
    const lines = Buffer.from(
      "grpc-status: 5\r\ngrpc-message:gone\r\nX-A: 1\r\nx-a: 2\r\nnoise\r\n",
    );
    expect(parseTrailers(lines)).toEqual({
      "grpc-status": ["5"],
      "grpc-message": ["gone"],
      "x-a": ["1", "2"],
    });
  });
});
