import { describe, expect, it } from "vitest";
import { memorySource } from "../gguf/memory-source.js";
import type { ModelSource } from "../gguf/source.js";
import type { TensorInfo } from "../gguf/tensor-table.js";
import { streamWeights } from "./stream-weights.js";

function tensor(offset: number, byteLength: number): TensorInfo {
  return {
    name: `at ${offset}`,
    role: "outputNorm",
    layer: -1,
    dtype: "F32",
    rows: 1,
    cols: byteLength / 4,
    offset,
    byteLength,
  };
}

const file = Uint8Array.from({ length: 4000 }, (_, i) => (i * 31) % 251);
const tensors = [tensor(100, 400), tensor(500, 4), tensor(640, 3000), tensor(3700, 200)];

/** A source that hands out one buffer again and again, with `chunkBytes` new bytes each time. */
function thriftySource(chunkBytes: number, cutAt = file.length): ModelSource {
  return {
    ...memorySource(file),
    stream(offset, length) {
      const chunk = new Uint8Array(chunkBytes);
      let at = offset;
      return new ReadableStream<Uint8Array<ArrayBuffer>>(
        {
          pull(controller) {
            const end = Math.min(offset + length, cutAt);
            if (at >= end) {
              controller.close();
              return;
            }
            const count = Math.min(chunkBytes, end - at);
            chunk.fill(0xff);
            chunk.set(file.subarray(at, at + count));
            at += count;
            controller.enqueue(chunk.subarray(0, count));
          },
        },
        { highWaterMark: 0 },
      );
    },
  };
}

/** What arrives for each tensor; throws if anything comes out of order. */
async function collect(
  source: ModelSource,
  options?: Parameters<typeof streamWeights>[3],
): Promise<number[][]> {
  const out: number[][] = tensors.map(() => []);
  let last = 0;
  await streamWeights(
    source,
    tensors,
    (index, offset, bytes) => {
      expect(index).toBeGreaterThanOrEqual(last);
      expect(offset).toBe(out[index]?.length);
      last = index;
      out[index]?.push(...bytes);
    },
    options,
  );
  return out;
}

const expected = tensors.map(({ offset, byteLength }) => [
  ...file.subarray(offset, offset + byteLength),
]);

describe("streamWeights", () => {
  it.each([1, 7, 64, 399, 400, 401, 1000, 4000])(
    "hands each tensor its bytes in order, from chunks of %i that are used again",
    async (chunkBytes) => {
      expect(await collect(thriftySource(chunkBytes))).toEqual(expected);
    },
  );

  it("reads no more than the tensors need, unless the whole file is asked for", async () => {
    const seen: number[] = [];
    const onBytes = async (bytes: Uint8Array): Promise<void> => {
      seen.push(...bytes);
    };
    await collect(thriftySource(300), { onBytes });
    expect(seen).toEqual([...file.subarray(100, 3900)]);
    seen.length = 0;
    expect(await collect(thriftySource(300), { onBytes, wholeFile: true })).toEqual(expected);
    expect(seen).toEqual([...file]);
  });

  it("refuses a source that ends early", async () => {
    await expect(collect(thriftySource(256, 3000))).rejects.toThrow(
      "the file ended at byte 3000 of 3900",
    );
  });

  it("stops reading when the sink throws", async () => {
    let pulled = 0;
    let cancelled = false;
    const source: ModelSource = {
      ...memorySource(file),
      stream: () =>
        new ReadableStream<Uint8Array<ArrayBuffer>>(
          {
            pull(controller) {
              pulled += 1;
              controller.enqueue(file.slice(0, 64));
            },
            cancel() {
              cancelled = true;
            },
          },
          { highWaterMark: 0 },
        ),
    };
    const refuse = (): never => {
      throw new RangeError("full");
    };
    await expect(streamWeights(source, tensors, refuse)).rejects.toThrow("full");
    expect(pulled).toBe(1);
    expect(cancelled).toBe(true);
  });

  it("does nothing for a file without tensors", async () => {
    await streamWeights(thriftySource(10), [], () => expect.unreachable());
  });
});
