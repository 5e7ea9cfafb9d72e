/** A result file that grows by a line a reply, and goes on where an earlier run ended. */
import { open, type FileHandle } from "node:fs/promises";
import { readResults, resultLine, type MethodLine, type Results } from "./samples-file.js";

/** Fields that must be the same for a method's replies to belong together. */
const sameFields = ["model", "modelFingerprint", "planFingerprint", "backend", "series"] as const;

/** See the head of this file. */
export class ResultFile {
  readonly #file: FileHandle;
  /** Settles when all lines so far are written: each is written whole, however many come at once. */
  #written: Promise<void> = Promise.resolve();
  /** What the file held when it was opened. */
  readonly before: Results;

  private constructor(file: FileHandle, before: Results) {
    this.#file = file;
    this.before = before;
  }

  /**
   * Opens or creates a file, and takes away a last line that a killed run did not finish.
   * @throws Error if it holds something else, or if its methods were other ones of the same names
   */
  static async open(path: string, methods: readonly MethodLine[]): Promise<ResultFile> {
    const file = await open(path, "a+");
    try {
      const bytes = await file.readFile();
      const whole = bytes.lastIndexOf("\n") + 1;
      const before = readResults(bytes.toString("utf8", 0, whole), path);
      const fresh: MethodLine[] = [];
      for (const method of methods) {
        const known = before.methods.find((one) => one.method === method.method);
        if (known === undefined) fresh.push(method);
        else checkSame(known, method, path);
      }
      if (whole < bytes.length) await file.truncate(whole);
      const opened = new ResultFile(file, before);
      for (const method of fresh) await opened.append(method);
      return opened;
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** Adds a line behind those that are on their way. */
  append(line: Parameters<typeof resultLine>[0]): Promise<void> {
    this.#written = this.#written.then(() => this.#file.appendFile(resultLine(line)));
    return this.#written;
  }

  /** Ends the file. */
  async close(): Promise<void> {
    await this.#file.close();
  }
}

function checkSame(known: MethodLine, method: MethodLine, path: string): void {
  for (const field of sameFields) {
    if (known[field] !== method[field]) {
      throw new Error(
        `${path}: ${method.method} has ${field} "${known[field]}" there, and "${method[field]}" now: name another file`,
      );
    }
  }
}
