import { Buffer } from "node:buffer";
import { gunzipSync, gzipSync } from "node:zlib";
import { describe, expect, it } from "vitest";
import { Code } from "@connectrpc/connect";
import { gzipCompression } from "./gzip.js";

describe("gzip", () => {
  it("writes what zlib reads and reads what zlib writes", async () => {
    const text = Buffer.from("the same words again and ".repeat(200));
    const packed = await gzipCompression.compress(text);
    expect(packed.byteLength).toBeLessThan(text.byteLength / 4);
    expect(gunzipSync(packed)).toEqual(text);
    const back = await gzipCompression.decompress(gzipSync(text), text.byteLength);
    expect(Buffer.from(back)).toEqual(text);
  });

  it("takes an empty body for an empty message", async () => {
    expect(await gzipCompression.decompress(new Uint8Array(0), 10)).toEqual(new Uint8Array(0));
  });

  it("stops a small body that expands past the bound", async () => {
    const bomb = gzipSync(Buffer.alloc(64 * 1024 * 1024));
    expect(bomb.byteLength).toBeLessThan(100_000);
    await expect(gzipCompression.decompress(bomb, 1024 * 1024)).rejects.toMatchObject({
      code: Code.ResourceExhausted,
      rawMessage: "the decompressed message is larger than the bound of 1048576 bytes",
    });
  });

  it("accepts exactly the bound", async () => {
    const packed = gzipSync(Buffer.alloc(1000));
    expect((await gzipCompression.decompress(packed, 1000)).byteLength).toBe(1000);
    await expect(gzipCompression.decompress(packed, 999)).rejects.toMatchObject({
      code: Code.ResourceExhausted,
    });
  });

  it("refuses what is not gzip, and what is cut short", async () => {
    const packed = gzipSync(Buffer.from("hello, hello, hello"));
    for (const bad of [Buffer.from("plain text"), packed.subarray(0, packed.length - 4)]) {
      await expect(gzipCompression.decompress(bad, 1000)).rejects.toMatchObject({
        code: Code.InvalidArgument,
        rawMessage: "the message is not valid gzip",
      });
    }
  });
});
