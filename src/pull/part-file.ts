/**
 * A file that is on its way: `NAME.part` with the bytes so far, and `NAME.part.json`, which says what
 * they are bytes of. Both outlive a broken pull, so that the next one goes on where it ended.
 */
import { createHash, type Hash } from "node:crypto";
import { open, readFile, rename, rm, writeFile, type FileHandle } from "node:fs/promises";
import { PullError, isSystemError, reason } from "./errors.js";
import { recordBytesMax } from "./limits.js";

/** What a part is a part of; another one starts from nothing. */
export interface PartIdentity {
  /** Where the bytes come from; a key of our own, no address that must be reachable. */
  readonly source: string;
  /** Their SHA-256 in hexadecimal, where it is known beforehand. */
  readonly sha256: string | undefined;
}

interface PartState extends PartIdentity {
  /** Strong ETag of the answer that brought the first bytes. */
  readonly etag: string | undefined;
}

/** Bytes that are read at a time while earlier ones are hashed again. */
const rereadBytes = 1024 * 1024;

/** An open part. Its hash covers exactly the bytes that are written. */
export class PartFile {
  readonly path: string;
  readonly #handle: FileHandle;
  readonly #identity: PartIdentity;
  #hash: Hash = createHash("sha256");
  #sizeBytes = 0;
  #etag: string | undefined;

  private constructor(path: string, handle: FileHandle, identity: PartIdentity) {
    this.path = path;
    this.#handle = handle;
    this.#identity = identity;
  }

  /**
   * Opens the part of a file, with the bytes of an earlier pull if they belong to the same thing.
   *
   * @param onReread told how many earlier bytes have been hashed, of how many
   */
  static async open(
    path: string,
    identity: PartIdentity,
    onReread: (doneBytes: number, totalBytes: number) => void,
  ): Promise<PartFile> {
    const state = await readState(`${path}.json`);
    const known = state?.source === identity.source && state.sha256 === identity.sha256;
    const handle = await openForWriting(path, known);
    const part = new PartFile(path, handle, identity);
    try {
      if (known) {
        part.#etag = state.etag;
        await part.#rehash(onReread);
      } else {
        await part.#saveState();
      }
    } catch (error) {
      await handle.close();
      throw error;
    }
    return part;
  }

  /** Bytes that are there. */
  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** Strong ETag of the answer that brought them, if it had one. */
  get etag(): string | undefined {
    return this.#etag;
  }

  /** Appends bytes. */
  async append(bytes: Uint8Array): Promise<void> {
    let at = 0;
    while (at < bytes.length) {
      try {
        const { bytesWritten } = await this.#handle.write(
          bytes,
          at,
          bytes.length - at,
          this.#sizeBytes,
        );
        this.#hash.update(bytes.subarray(at, at + bytesWritten));
        this.#sizeBytes += bytesWritten;
        at += bytesWritten;
      } catch (cause) {
        throw new PullError("disk", `cannot write ${this.path}: ${reason(cause)}`, { cause });
      }
    }
  }

  /** Starts from nothing, with bytes of this ETag. */
  async restart(etag: string | undefined): Promise<void> {
    await this.#handle.truncate(0);
    this.#hash = createHash("sha256");
    this.#sizeBytes = 0;
    this.#etag = etag;
    await this.#saveState();
  }

  /** SHA-256 of the bytes so far, lower-case hexadecimal. */
  sha256(): string {
    return this.#hash.copy().digest("hex");
  }

  /** Sees to it that the bytes are on the disk, and closes the file. */
  async close(): Promise<void> {
    await this.#handle.sync();
    await this.#handle.close();
  }

  /** Deletes a part that is closed. */
  async remove(): Promise<void> {
    await rm(this.path, { force: true });
    await rm(`${this.path}.json`, { force: true });
  }

  /** Gives a part that is closed and complete its own name; nobody ever sees half a file under it. */
  async finish(target: string): Promise<void> {
    await rename(this.path, target);
    await rm(`${this.path}.json`, { force: true });
  }

  async #rehash(onReread: (doneBytes: number, totalBytes: number) => void): Promise<void> {
    const { size } = await this.#handle.stat();
    const buffer = new Uint8Array(rereadBytes);
    while (this.#sizeBytes < size) {
      const { bytesRead } = await this.#handle.read(buffer, 0, buffer.length, this.#sizeBytes);
      if (bytesRead === 0) break;
      this.#hash.update(buffer.subarray(0, bytesRead));
      this.#sizeBytes += bytesRead;
      onReread(this.#sizeBytes, size);
    }
  }

  async #saveState(): Promise<void> {
    const state: PartState = { ...this.#identity, etag: this.#etag };
    await writeFile(`${this.path}.json`, `${JSON.stringify(state)}\n`);
  }
}

async function openForWriting(path: string, keep: boolean): Promise<FileHandle> {
  try {
    return await open(path, keep ? "r+" : "w+");
  } catch (cause) {
    if (keep && isSystemError(cause, "ENOENT")) return openForWriting(path, false);
    throw new PullError("disk", `cannot write ${path}: ${reason(cause)}`, { cause });
  }
}

async function readState(path: string): Promise<PartState | undefined> {
  try {
    const text = await readFile(path, "utf8");
    if (text.length > recordBytesMax) return undefined;
    const state: unknown = JSON.parse(text);
    if (typeof state !== "object" || state === null) return undefined;
    const { source, sha256, etag } = state as Record<string, unknown>;
    if (typeof source !== "string") return undefined;
    return {
      source,
      sha256: typeof sha256 === "string" ? sha256 : undefined,
      etag: typeof etag === "string" ? etag : undefined,
    };
  } catch (error) {
    // No state, or one that was being written when the machine went down: the part is worth nothing.
    if (isSystemError(error, "ENOENT") || error instanceof SyntaxError) return undefined;
    throw error;
  }
}
