/**
 * A thread of Node that runs an engine's steps, so that the calling thread is free meanwhile. It is another instance of
 * the same module on the same memory. It uses the calling thread's stack, which is free: nothing else may be called
 * while a step is pending (src/engine/engine.ts), and WasmInstance refuses it.
 */
import { EngineError } from "../status.js";
import { isThreaded } from "./threads.js";

/** How long the thread may take to start. */
const startMsMax = 10_000;

/** A script of its own, so that no loader of TypeScript has to know of it. A trap comes back as its message. */
const script = `
const { parentPort, workerData } = process.getBuiltinModule("node:worker_threads");
const { exports } = new WebAssembly.Instance(workerData.module, { env: { memory: workerData.memory } });
parentPort.on("message", ({ entries, count, results }) => {
  let answer;
  try {
    answer = exports.le_step(entries, count, results);
  } catch (error) {
    answer = String(error?.message ?? error);
  }
  parentPort.postMessage(answer);
});
parentPort.postMessage(0);
`;

/** A call of le_step: addresses of its entries and results. */
interface StepCall {
  readonly entries: number;
  readonly count: number;
  readonly results: number;
}

/** The part of Node's worker_threads that is used here. */
interface NodeThread {
  postMessage(call: StepCall): void;
  on(event: "message" | "error" | "exit", listener: (value: unknown) => void): void;
  ref(): void;
  unref(): void;
  terminate(): Promise<unknown>;
}

interface NodeThreads {
  readonly Worker: new (
    script: string,
    options: {
      readonly eval: true;
      readonly execArgv: readonly string[];
      readonly workerData: {
        readonly module: WebAssembly.Module;
        readonly memory: WebAssembly.Memory;
      };
    },
  ) => NodeThread;
}

/** Node's threads; undefined elsewhere. */
function nodeThreads(): NodeThreads | undefined {
  const { process } = globalThis as unknown as {
    readonly process?: { getBuiltinModule?(name: string): NodeThreads | undefined };
  };
  return process?.getBuiltinModule?.("node:worker_threads");
}

/** Whether this environment has threads for steps: Node from 20.16 on. */
export function hasStepThreads(): boolean {
  return nodeThreads() !== undefined;
}

/** See the head of this file. */
export class StepThread {
  readonly #thread: NodeThread;
  /** Who waits for the answer; one at a time. */
  #waiting: { resolve(answer: unknown): void; reject(error: Error): void } | undefined;
  #ended: Error | undefined;

  private constructor(thread: NodeThread) {
    this.#thread = thread;
    // A process that has nothing else to do ends, and the thread with it.
    thread.unref();
    thread.on("message", (answer) => this.#settle((waiting) => waiting.resolve(answer)));
    thread.on("error", (cause) => {
      const reason = cause instanceof Error ? cause.message : "it reported an error";
      this.#end(new Error(`the step thread failed: ${reason}`));
    });
    thread.on("exit", () => this.#end(new Error("the step thread has ended")));
  }

  /**
   * Starts a thread.
   *
   * @param module one that isThreaded
   * @param memory shared, the one of the instance that all other calls go to
   * @throws EngineError `invalidArgument` where there can be none, `deviceLost` if it does not start
   */
  static async start(module: WebAssembly.Module, memory: WebAssembly.Memory): Promise<StepThread> {
    const threads = nodeThreads();
    if (!isThreaded(module) || threads === undefined) {
      throw new EngineError("invalidArgument", "a step thread needs a threaded module, and Node");
    }
    const thread = new StepThread(
      new threads.Worker(script, { eval: true, execArgv: [], workerData: { module, memory } }),
    );
    const timer = setTimeout(() => {
      thread.#end(new Error(`the step thread did not start in ${startMsMax} ms`));
    }, startMsMax);
    try {
      await thread.#answer();
    } catch (cause) {
      thread.stop();
      throw new EngineError("deviceLost", cause instanceof Error ? cause.message : String(cause));
    } finally {
      clearTimeout(timer);
    }
    return thread;
  }

  /**
   * Runs a step.
   *
   * @returns what le_step returns
   * @throws Error if it trapped, or if the thread is gone: what it has left behind is in no known state
   */
  async step(call: StepCall): Promise<number> {
    this.#thread.postMessage(call);
    const answer = await this.#answer();
    if (typeof answer !== "number") throw new Error(String(answer));
    return answer;
  }

  /** Ends the thread, in the middle of a step if one is pending. */
  stop(): void {
    this.#end(new Error("the engine is closed"));
    // Nobody waits for it: a thread that ends holds nothing but its own instance.
    void this.#thread.terminate();
  }

  #answer(): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.#ended !== undefined) {
        reject(this.#ended);
        return;
      }
      this.#thread.ref();
      this.#waiting = { resolve, reject };
    });
  }

  #end(error: Error): void {
    this.#ended ??= error;
    this.#settle((waiting) => waiting.reject(error));
  }

  #settle(
    settle: (waiting: { resolve(answer: unknown): void; reject(error: Error): void }) => void,
  ): void {
    const waiting = this.#waiting;
    this.#waiting = undefined;
    if (waiting === undefined) return;
    this.#thread.unref();
    settle(waiting);
  }
}
