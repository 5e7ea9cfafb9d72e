import { Code, ConnectError } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import { allFull, resourceExhausted } from "../errors.js";
import {
  ObjectLostError,
  FrameReader,
  encodeErrorFrame,
  encodeFrame,
  encodeJsonFrame,
  frameKind,
} from "./session-wire.js";

const end = encodeFrame(frameKind.end, new Uint8Array(0));

/** A stream of these bytes in chunks of `size`. */
function streamOf(parts: readonly Uint8Array[], size: number): ReadableStream<Uint8Array> {
  const bytes = Buffer.concat(parts);
  return new ReadableStream({
    start(controller) {
      for (let at = 0; at < bytes.length; at += size) {
        controller.enqueue(new Uint8Array(bytes.subarray(at, at + size)));
      }
      controller.close();
    },
  });
}

async function read(stream: ReadableStream<Uint8Array>): Promise<number[][]> {
  const payloads: number[][] = [];
  for await (const { payload } of new FrameReader(stream)) payloads.push([...payload]);
  return payloads;
}

describe("frames", () => {
  const message = encodeFrame(frameKind.message, new Uint8Array([1, 2, 3]));
  const empty = encodeFrame(frameKind.message, new Uint8Array(0));

  it.each([1, 2, 3, 5, 8, 100])("are read whole from chunks of %i bytes", async (size) => {
    expect(await read(streamOf([message, empty, message, end], size))).toEqual([
      [1, 2, 3],
      [],
      [1, 2, 3],
    ]);
  });

  it("that stop before the end, anywhere, are a lost object", async () => {
    const whole = Buffer.concat([message, end]);
    for (let length = 0; length < whole.length; length++) {
      const stream = streamOf([whole.subarray(0, length)], 4);
      await expect(read(stream)).rejects.toBeInstanceOf(ObjectLostError);
    }
  });

  it("carry an error with its code and message", async () => {
    const failure = encodeErrorFrame(resourceExhausted("no page of 64 is free"));
    const error: unknown = await read(streamOf([message, failure], 100)).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(ConnectError);
    expect(error).toMatchObject({
      code: Code.ResourceExhausted,
      rawMessage: "no page of 64 is free",
    });
  });

  it("carry the time after which to come again", async () => {
    const failure = encodeErrorFrame(allFull("m"));
    const error: unknown = await read(streamOf([failure], 100)).catch((e: unknown) => e);
    expect(error instanceof ConnectError && error.metadata.get("retry-after")).toBe("2");
  });

  it("that came together come before the error behind them", async () => {
    const failure = encodeErrorFrame(resourceExhausted("no page of 64 is free"));
    const reader = new FrameReader(streamOf([message, message, failure], 100));
    expect((await reader.next()).value?.payload).toEqual(new Uint8Array([1, 2, 3]));
    expect((await reader.next()).done).toBe(false);
    await expect(reader.next()).rejects.toMatchObject({ code: Code.ResourceExhausted });
    expect((await reader.next()).done).toBe(true);
  });

  it("that nobody reads any more let the object see its caller leave", async () => {
    let left = false;
    const stream = new ReadableStream<Uint8Array>({
      start: (controller) => controller.enqueue(message),
      cancel() {
        left = true;
      },
    });
    for await (const frame of new FrameReader(stream)) {
      expect(frame.kind).toBe(frameKind.message);
      break;
    }
    expect(left).toBe(true);
  });

  it("that are broken are our bug, not the client's", async () => {
    const huge = new Uint8Array([0, 255, 255, 255, 255]);
    await expect(read(streamOf([huge], 5))).rejects.toThrow("is above the bound of 8388608");
    const odd = encodeJsonFrame(frameKind.error, { code: 99, message: "x" });
    await expect(read(streamOf([odd], 100))).rejects.toThrow(
      "an error frame without code and message",
    );
  });
});
