import { Code, ConnectError } from "@connectrpc/connect";
import type { Compression } from "@connectrpc/connect/protocol";

/**
 * gzip over the web's compression streams, which Workers, browsers and Node share.
 *
 * Decompression stops as soon as the output passes the bound, so a small body cannot expand into all of memory.
 */
export const gzipCompression: Compression = {
  name: "gzip",
  async compress(bytes) {
    return readAll(through(bytes, new CompressionStream("gzip")), Number.POSITIVE_INFINITY);
  },
  async decompress(bytes, readMaxBytes) {
    if (bytes.byteLength === 0) {
      return new Uint8Array(0);
    }
    return readAll(through(bytes, new DecompressionStream("gzip")), readMaxBytes);
  },
};

function through(
  bytes: Uint8Array,
  transform: ReadableWritablePair<Uint8Array, BufferSource>,
): ReadableStream<Uint8Array> {
  const source = new ReadableStream<BufferSource>({
    start(controller) {
      controller.enqueue(new Uint8Array(bytes));
      controller.close();
    },
  });
  return source.pipeThrough(transform);
}

async function readAll(
  stream: ReadableStream<Uint8Array>,
  bytesMax: number,
): Promise<Uint8Array<ArrayBuffer>> {
  const reader = stream.getReader();
  const chunks: Uint8Array[] = [];
  let length = 0;
  for (;;) {
    let result: ReadableStreamReadResult<Uint8Array>;
    try {
      result = await reader.read();
    } catch (cause) {
      throw new ConnectError(
        "the message is not valid gzip",
        Code.InvalidArgument,
        undefined,
        undefined,
        cause,
      );
    }
    if (result.done) {
      break;
    }
    length += result.value.byteLength;
    if (length > bytesMax) {
      await reader.cancel();
      throw new ConnectError(
        `the decompressed message is larger than the bound of ${bytesMax} bytes`,
        Code.ResourceExhausted,
      );
    }
    chunks.push(result.value);
  }
  return concat(chunks, length);
}

function concat(chunks: readonly Uint8Array[], length: number): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(length);
  let offset = 0;
  for (const chunk of chunks) {
    all.set(chunk, offset);
    offset += chunk.byteLength;
  }
  return all;
}
