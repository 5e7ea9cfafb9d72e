/** Weights from a stream of a model file into an engine. */
import type { ModelSource } from "../gguf/source.js";
import type { TensorInfo } from "../gguf/tensor-table.js";
import { ModelFileError } from "../gguf/errors.js";

/**
 * Takes the next bytes of a tensor: `offset` counts from the tensor's first byte. The bytes stay as they
 * are until a promise, if there is one, is settled.
 */
export type TensorSink = (index: number, offset: number, bytes: Uint8Array) => void | Promise<void>;

/** See streamWeights. */
export interface StreamOptions {
  /** Read from the file's first byte to its last, for `onBytes`; else only what tensors need. */
  readonly wholeFile?: boolean;
  /** Sees every byte that is read, in order, before it is used. */
  readonly onBytes?: (bytes: Uint8Array) => Promise<void>;
}

/** Position in the tensor table. */
interface Cursor {
  index: number;
  /** Bytes of the tensor at `index` that went down. */
  written: number;
}

/** Hands the part of one chunk that lies in tensors to `sink`. */
async function sinkChunk(
  tensors: readonly TensorInfo[],
  cursor: Cursor,
  position: number,
  bytes: Uint8Array,
  sink: TensorSink,
): Promise<void> {
  const end = position + bytes.length;
  for (;;) {
    const tensor = tensors[cursor.index];
    if (tensor === undefined) return;
    const begin = tensor.offset + cursor.written;
    if (begin >= end) return;
    const count = Math.min(end, tensor.offset + tensor.byteLength) - begin;
    const part = bytes.subarray(begin - position, begin - position + count);
    await sink(cursor.index, cursor.written, part);
    cursor.written += count;
    if (cursor.written < tensor.byteLength) return;
    cursor.index += 1;
    cursor.written = 0;
  }
}

/**
 * Streams the tensors' data to `sink`, in file order and without gaps within a tensor. One chunk is
 * held at a time.
 *
 * @param tensors in file order, not overlapping (readModelFile has checked it)
 * @throws ModelFileError if the source fails or ends early; whatever `sink` throws
 */
export async function streamWeights(
  source: ModelSource,
  tensors: readonly TensorInfo[],
  sink: TensorSink,
  options: StreamOptions = {},
): Promise<void> {
  const first = tensors[0];
  const last = tensors.at(-1);
  if (first === undefined || last === undefined) return;
  const begin = options.wholeFile === true ? 0 : first.offset;
  const end = options.wholeFile === true ? source.sizeBytes : last.offset + last.byteLength;
  const cursor: Cursor = { index: 0, written: 0 };
  const reader = source.stream(begin, end - begin).getReader();
  let position = begin;
  try {
    for (;;) {
      const next = await reader.read();
      if (next.done) break;
      await options.onBytes?.(next.value);
      await sinkChunk(tensors, cursor, position, next.value, sink);
      position += next.value.length;
    }
  } catch (error) {
    // The first error counts; a source that also fails to close adds nothing.
    await reader.cancel().catch(() => undefined);
    throw error;
  }
  if (position !== end) {
    throw new ModelFileError("truncated", `the file ended at byte ${position} of ${end}`);
  }
}
