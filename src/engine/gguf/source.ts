import { ModelFileError } from "./errors.js";

/**
 * The bytes of a model file, wherever they lie. Implementations: memory-source.ts (bytes),
 * file-source.ts (Node), shard-source.ts (assets or HTTP).
 */
export interface ModelSource {
  /** Size of the whole file, in bytes. */
  readonly sizeBytes: number;
  /** Exactly `length` bytes from `offset`; for headers. Throws ModelFileError `truncated` past the end. */
  read(offset: number, length: number): Promise<Uint8Array<ArrayBuffer>>;
  /**
   * `length` bytes from `offset`, in order, in chunks of fileBlockBytes at most. Nothing is fetched
   * before it is pulled, and no more than one block is held. A chunk may be a view of that block: copy
   * it, but neither write to it nor transfer it. Errors of the stream are ModelFileErrors.
   */
  stream(offset: number, length: number): ReadableStream<Uint8Array<ArrayBuffer>>;
}

/** Throws ModelFileError `truncated` unless [offset, offset + length) lies inside `sizeBytes`. */
export function checkRange(sizeBytes: number, offset: number, length: number): void {
  if (!Number.isSafeInteger(offset) || !Number.isSafeInteger(length) || offset < 0 || length < 0) {
    throw new ModelFileError(
      "truncated",
      `no such range of a file: offset ${offset}, length ${length}`,
    );
  }
  if (offset + length > sizeBytes) {
    throw new ModelFileError(
      "truncated",
      `bytes ${offset} to ${offset + length} were asked for, the file has ${sizeBytes}`,
    );
  }
}

/**
 * A pull stream over a generator of chunks: the generator runs only as far as the reader pulls, and
 * ends when the reader cancels.
 */
export function streamOf(
  chunks:
    | AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined>
    | Generator<Uint8Array<ArrayBuffer>, void, undefined>,
): ReadableStream<Uint8Array<ArrayBuffer>> {
  return new ReadableStream<Uint8Array<ArrayBuffer>>(
    {
      async pull(controller) {
        const next = await chunks.next();
        if (next.done === true) controller.close();
        else controller.enqueue(next.value);
      },
      async cancel() {
        await chunks.return();
      },
    },
    { highWaterMark: 0 },
  );
}
