import { describe, expect, it } from "vitest";
import { FrameBuffer, encodeFrame, encodeFrames } from "./frame-buffer.js";
import type { Frame } from "./frame-buffer.js";

const bytesMax = 1000;

function buffer(): FrameBuffer {
  return new FrameBuffer(bytesMax, (bytes, bound) => new Error(`${bytes} above ${bound}`));
}

function takeAll(frames: FrameBuffer): Frame[] {
  const taken: Frame[] = [];
  while (frames.hasFrame) {
    const frame = frames.take();
    if (frame !== undefined) taken.push(frame);
  }
  return taken;
}

/** Payloads of many sizes, the largest one included. */
const sent: Frame[] = [0, 1, 4, 5, 6, 255, 256, 999, bytesMax].map((length, index) => ({
  kind: index,
  payload: Uint8Array.from({ length }, (_, at) => (at * 31 + index) & 0xff),
}));

describe("FrameBuffer", () => {
  it.each([1, 2, 3, 4, 5, 6, 7, 64, 257, 4096])("reads frames from chunks of %i bytes", (size) => {
    const bytes = encodeFrames(sent);
    const frames = buffer();
    const taken: Frame[] = [];
    for (let at = 0; at < bytes.length; at += size) {
      frames.add(bytes.slice(at, at + size));
      taken.push(...takeAll(frames));
    }
    expect(taken).toEqual(sent);
    expect(frames.byteLength).toBe(0);
  });

  it("gives nothing for part of a frame, and says what it holds", () => {
    const whole = encodeFrame(7, new Uint8Array([1, 2, 3]));
    for (let length = 0; length < whole.length; length++) {
      const frames = buffer();
      frames.add(whole.subarray(0, length));
      expect(frames.hasFrame).toBe(false);
      expect(frames.take()).toBeUndefined();
      expect(frames.byteLength).toBe(length);
      frames.add(whole.subarray(length));
      expect(frames.take()).toEqual({ kind: 7, payload: new Uint8Array([1, 2, 3]) });
    }
  });

  it("takes empty chunks between others", () => {
    const frames = buffer();
    for (const byte of encodeFrame(1, new Uint8Array([9]))) {
      frames.add(new Uint8Array(0));
      frames.add(new Uint8Array([byte]));
    }
    expect(frames.take()).toEqual({ kind: 1, payload: new Uint8Array([9]) });
  });

  it("leaves payloads alone that were given out", () => {
    const frames = buffer();
    frames.add(encodeFrames(sent.slice(1, 3)));
    const first = frames.take();
    frames.add(encodeFrames(sent));
    takeAll(frames);
    expect(first).toEqual(sent[1]);
  });

  it("refuses a frame that claims to be above the bound, before it has come", () => {
    const frames = buffer();
    frames.add(new Uint8Array([0, 0, 0, 3, 233]));
    expect(frames.hasFrame).toBe(true);
    expect(() => frames.take()).toThrow("1001 above 1000");
    const most = buffer();
    most.add(new Uint8Array([0, 255, 255, 255, 255]));
    expect(() => most.take()).toThrow("4294967295 above 1000");
  });
});
