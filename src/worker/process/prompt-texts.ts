/**
 * Turns messages into ids without holding up a step. Short messages take a few milliseconds and are tokenized where they
 * come in; long ones (a megabyte takes several steps' time) go to a thread of their own, one after the other, which is
 * started when the first of them comes. What waits for it is bounded.
 */
import { Worker } from "node:worker_threads";
import { Code, ConnectError } from "@connectrpc/connect";
import { TextCodecError, type ChatMessage } from "../text-codec.js";
import { inlineTextCharsMax, textQueueMax, textThreadStartMsMax } from "./limits.js";

/** What the thread is asked. */
export interface TextTask {
  readonly id: number;
  /** Whether the messages follow an earlier turn. */
  readonly continues: boolean;
  readonly messages: readonly ChatMessage[];
}

/** What it answers; the first message says that it is ready. */
export type TextAnswer =
  | { readonly kind: "ready" }
  | { readonly kind: "ids"; readonly id: number; readonly ids: Uint32Array }
  /** `refused`: the template or the tokenizer says why; else it is our bug. */
  | {
      readonly kind: "failed";
      readonly id: number;
      readonly message: string;
      readonly refused: boolean;
    };

interface Waiting {
  resolve(ids: Uint32Array): void;
  reject(error: Error): void;
}

/** See the head of this file. */
export class PromptTexts {
  readonly #modelPath: string;
  readonly #queueMax: number;
  readonly #waiting = new Map<number, Waiting>();
  #thread: Promise<Worker> | undefined;
  #lastId = 0;

  /**
   * @param modelPath model file that the thread reads its vocabulary and its template from
   * @param queueMax prompts that may wait
   */
  constructor(modelPath: string, queueMax = textQueueMax) {
    this.#modelPath = modelPath;
    this.#queueMax = queueMax;
  }

  /** Whether messages are long enough for the thread. */
  static isLong(messages: readonly { readonly text: string }[]): boolean {
    return messages.reduce((sum, { text }) => sum + text.length, 0) > inlineTextCharsMax;
  }

  /** Prompts that wait, the one at work included. */
  get waiting(): number {
    return this.#waiting.size;
  }

  /**
   * Ids of a prompt.
   * @throws TextCodecError where template or tokenizer refuse; ConnectError ResourceExhausted if too many wait,
   *   Canceled if the caller leaves meanwhile
   */
  async encode(
    messages: readonly ChatMessage[],
    continues: boolean,
    signal: AbortSignal,
  ): Promise<Uint32Array> {
    if (this.#waiting.size >= this.#queueMax) {
      throw new ConnectError(
        `${this.#queueMax} long prompts wait to be tokenized already`,
        Code.ResourceExhausted,
      );
    }
    const id = ++this.#lastId;
    return new Promise<Uint32Array>((resolve, reject) => {
      const onLeave = (): void => {
        this.#waiting.get(id)?.reject(new ConnectError("the caller has left", Code.Canceled));
      };
      const settle = (): void => {
        this.#waiting.delete(id);
        signal.removeEventListener("abort", onLeave);
      };
      this.#waiting.set(id, {
        resolve: (ids) => {
          settle();
          resolve(ids);
        },
        reject: (error) => {
          settle();
          reject(error);
        },
      });
      signal.addEventListener("abort", onLeave);
      if (signal.aborted) {
        onLeave();
        return;
      }
      this.#thread ??= this.#start();
      this.#thread.then(
        (thread) => {
          // Nobody waits any more: the thread is spared the work.
          if (this.#waiting.has(id))
            thread.postMessage({ id, continues, messages } satisfies TextTask);
        },
        (error: unknown) => this.#waiting.get(id)?.reject(asError(error)),
      );
    });
  }

  /** Ends the thread; whoever waits is refused. */
  async close(): Promise<void> {
    const thread = await this.#thread?.catch(() => undefined);
    await thread?.terminate();
  }

  async #start(): Promise<Worker> {
    const thread = new Worker(new URL("./prompt-text-thread.ts", import.meta.url), {
      workerData: this.#modelPath,
      execArgv: ["--import", "tsx"],
    });
    // It must not keep a process alive that has nothing else to do.
    thread.unref();
    let over = false;
    const ended = (error: Error): void => {
      // A thread that fails both errs and exits; by then the next one may be at work.
      if (over) return;
      over = true;
      this.#thread = undefined;
      for (const waiting of [...this.#waiting.values()]) waiting.reject(error);
    };
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        reject(new Error(`the tokenizing thread did not start in ${textThreadStartMsMax} ms`));
        void thread.terminate();
      }, textThreadStartMsMax);
      thread.on("message", (answer: TextAnswer) => {
        if (answer.kind === "ready") {
          clearTimeout(timer);
          resolve(thread);
        } else this.#take(answer);
      });
      thread.once("error", (error) => {
        reject(error);
        ended(error);
      });
      thread.once("exit", () => {
        clearTimeout(timer);
        const error = new ConnectError("the tokenizing thread has ended", Code.Unavailable);
        reject(error);
        ended(error);
      });
    });
  }

  #take(answer: Exclude<TextAnswer, { kind: "ready" }>): void {
    const waiting = this.#waiting.get(answer.id);
    if (answer.kind === "ids") waiting?.resolve(answer.ids);
    else if (answer.refused) waiting?.reject(new TextCodecError(answer.message));
    else waiting?.reject(new Error(answer.message));
  }
}

function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error));
}
