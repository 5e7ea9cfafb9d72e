/** Model files on disk. Apart from index.ts, so that a Worker bundle never sees node:fs. */
import { open } from "node:fs/promises";
import type { FileHandle } from "node:fs/promises";
import { ModelFileError } from "./errors.js";
import { fileBytesMax, streamChunkBytes } from "./limits.js";
import { checkRange, streamOf } from "./source.js";
import type { ModelSource } from "./source.js";

/** A model file on disk. */
export interface FileSource extends ModelSource {
  /** Closes the file; reads after it fail. */
  close(): Promise<void>;
}

/** Opens a file for reading. Throws ModelFileError `source` where that fails. */
export async function openFileSource(path: string): Promise<FileSource> {
  let handle: FileHandle;
  let sizeBytes: number;
  try {
    handle = await open(path, "r");
    const stat = await handle.stat();
    sizeBytes = stat.isFile() ? stat.size : -1;
  } catch (cause) {
    throw new ModelFileError("source", `cannot open model file ${path}`, { cause });
  }
  if (sizeBytes < 0 || sizeBytes > fileBytesMax) {
    await handle.close();
    throw new ModelFileError(
      "source",
      sizeBytes < 0
        ? `${path} is not a file`
        : `${path} has ${sizeBytes} bytes, at most ${fileBytesMax}`,
    );
  }

  async function read(offset: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
    checkRange(sizeBytes, offset, length);
    const bytes = new Uint8Array(length);
    let at = 0;
    while (at < length) {
      const { bytesRead } = await handle.read(bytes, at, length - at, offset + at);
      if (bytesRead === 0) {
        throw new ModelFileError(
          "truncated",
          `${path} ended at byte ${offset + at} of ${sizeBytes}`,
        );
      }
      at += bytesRead;
    }
    return bytes;
  }

  async function* chunks(offset: number, length: number) {
    for (let at = 0; at < length; at += streamChunkBytes) {
      yield await read(offset + at, Math.min(streamChunkBytes, length - at));
    }
  }

  return {
    sizeBytes,
    read,
    stream(offset, length) {
      checkRange(sizeBytes, offset, length);
      return streamOf(chunks(offset, length));
    },
    close: () => handle.close(),
  };
}
