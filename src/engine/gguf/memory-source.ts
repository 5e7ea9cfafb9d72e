import { streamChunkBytes } from "./limits.js";
import { checkRange, streamOf } from "./source.js";
import type { ModelSource } from "./source.js";

/** A model file that lies in memory as a whole. The bytes are not copied but in `read`'s results. */
export function memorySource(bytes: Uint8Array): ModelSource {
  function* chunks(offset: number, length: number) {
    for (let at = 0; at < length; at += streamChunkBytes) {
      const begin = offset + at;
      yield bytes.slice(begin, begin + Math.min(streamChunkBytes, length - at));
    }
  }
  return {
    sizeBytes: bytes.length,
    read(offset, length) {
      return new Promise((resolve) => {
        checkRange(bytes.length, offset, length);
        resolve(bytes.slice(offset, offset + length));
      });
    },
    stream(offset, length) {
      checkRange(bytes.length, offset, length);
      return streamOf(chunks(offset, length));
    },
  };
}
