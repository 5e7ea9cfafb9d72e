import { Buffer } from "node:buffer";
import { describe, expect, it } from "vitest";
import { Code, ConnectError } from "@connectrpc/connect";
import { decodeBase64Chunks, encodeBase64Chunks } from "./base64-stream.js";

const encoder = new TextEncoder();

async function* from(chunks: readonly Uint8Array[]): AsyncGenerator<Uint8Array> {
  for (const chunk of chunks) {
    yield await Promise.resolve(chunk);
  }
}

async function decode(chunks: readonly string[]): Promise<Buffer> {
  const out: Uint8Array[] = [];
  for await (const chunk of decodeBase64Chunks(from(chunks.map((c) => encoder.encode(c))))) {
    out.push(chunk);
  }
  return Buffer.concat(out);
}

async function errorOf(chunks: readonly string[]): Promise<ConnectError> {
  try {
    await decode(chunks);
  } catch (error) {
    if (error instanceof ConnectError) {
      return error;
    }
    throw error;
  }
  throw new Error("nothing was thrown");
}

describe("base64 streams", () => {
  it("decode the same bytes at every chunk border, with padding in the middle", async () => {
    const first = Buffer.from([0, 255, 16, 32]);
    const second = Buffer.from("a longer piece of text");
    const third = Buffer.from([7, 8]);
    const text = [first, second, third].map((b) => b.toString("base64")).join("");
    expect(text).toMatch(/=[^=]/);
    const expected = Buffer.concat([first, second, third]);
    for (let i = 0; i <= text.length; i++) {
      for (let j = i; j <= text.length; j++) {
        const pieces = [text.slice(0, i), text.slice(i, j), text.slice(j)];
        expect(await decode(pieces), `borders ${i}, ${j}`).toEqual(expected);
      }
    }
  });

  it("decode every byte value", async () => {
    const bytes = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
    expect(await decode([bytes.toString("base64")])).toEqual(bytes);
  });

  it("pass a group on as soon as it is complete", async () => {
    let release = (): void => undefined;
    const gate = new Promise<void>((resolve) => {
      release = resolve;
    });
    async function* slow(): AsyncGenerator<Uint8Array> {
      yield encoder.encode("AAAA");
      await gate;
      yield encoder.encode("BBBB");
    }
    const iterator = decodeBase64Chunks(slow());
    expect((await iterator.next()).value).toEqual(new Uint8Array([0, 0, 0]));
    release();
    expect((await iterator.next()).value).toEqual(new Uint8Array([4, 16, 65]));
  });

  it("encode each chunk on its own", async () => {
    const out: string[] = [];
    const chunks = [new Uint8Array([1]), new Uint8Array(0), new Uint8Array([2, 3])];
    for await (const chunk of encodeBase64Chunks(from(chunks))) {
      out.push(new TextDecoder().decode(chunk));
    }
    expect(out).toEqual(["AQ==", "AgM="]);
  });

  it("refuse bytes outside the alphabet and name their position", async () => {
    const error = await errorOf(["AAAA", "AA*A"]);
    expect(error.code).toBe(Code.InvalidArgument);
    expect(error.rawMessage).toBe("invalid base64 byte 0x2a at position 6");
  });

  it("refuse padding in the wrong place", async () => {
    expect((await errorOf(["A==="])).rawMessage).toBe("invalid base64 byte 0x3d at position 1");
    expect((await errorOf(["AA=A"])).rawMessage).toBe("invalid base64 byte 0x41 at position 3");
  });

  it("refuse a stream that ends inside a group", async () => {
    const error = await errorOf(["AAAAAA"]);
    expect(error.code).toBe(Code.InvalidArgument);
    expect(error.rawMessage).toBe("base64 body of 6 characters ends inside a group of four");
  });
});
