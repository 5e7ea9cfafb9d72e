/**
 * Helper threads of the threaded modules (wasm/src/threads): workers of Node or of a browser that
 * instantiate the same module over the same memory and compute until they are stopped. They know
 * nothing of models; the engine's calls share their work with them.
 */
import { EngineError } from "../status.js";

/** Most threads of one engine, the calling one included (kThreadsMax). */
export const threadsMax = 8;

/** How long a helper may take to start. */
const startMsMax = 10_000;

/** What the threaded modules export besides the rest. */
export interface ThreadExports {
  lew_threads_start(helpers: number, callerMaySleep: number): number;
  lew_threads_stop(): void;
}

/** Started helpers. */
export interface HelperThreads {
  /** Ends them. They leave on their own, without being waited for. */
  stop(): void;
}

/** What a helper needs. */
interface HelperStart {
  readonly module: WebAssembly.Module;
  readonly memory: WebAssembly.Memory;
  readonly thread: number;
}

/** What both kinds of worker have in common here. */
interface HelperWorker {
  terminate(): unknown;
}

/** Starts one helper; calls back once it is ready, or with what went wrong. */
type SpawnHelper = (
  start: HelperStart,
  ready: () => void,
  failed: (cause: unknown) => void,
) => HelperWorker;

/**
 * The helper's own code: a script of its own, so that neither a bundler nor a loader of TypeScript
 * has to know of it. A trap is told to the calling thread, which would wait for ever otherwise.
 */
const helperScript = `
function help({ module, memory, thread }, ready) {
  const { exports } = new WebAssembly.Instance(module, { env: { memory } });
  exports.__stack_pointer.value = exports.lew_thread_stack(thread);
  ready();
  try {
    exports.lew_thread_run(thread);
  } catch {
    exports.lew_thread_failed();
  }
}
`;

const nodeScript = `${helperScript}
const { parentPort, workerData } = process.getBuiltinModule("node:worker_threads");
help(workerData, () => parentPort.postMessage("ready"));
`;

const browserScript = `${helperScript}
onmessage = ({ data }) => {
  help(data, () => postMessage("ready"));
  close();
};
`;

/** The part of Node's worker_threads that is used here. */
interface NodeWorkers {
  readonly Worker: new (
    script: string,
    options: {
      readonly eval: true;
      readonly execArgv: readonly string[];
      readonly workerData: HelperStart;
    },
  ) => HelperWorker & {
    once(event: "message" | "error", listener: (value: unknown) => void): void;
    unref(): void;
  };
}

function spawnInNode({ Worker }: NodeWorkers): SpawnHelper {
  return (start, ready, failed) => {
    // Without the process's own flags: the script needs no loader.
    const worker = new Worker(nodeScript, { eval: true, execArgv: [], workerData: start });
    worker.once("message", ready);
    worker.once("error", failed);
    // A process whose engine was not closed ends all the same.
    worker.unref();
    return worker;
  };
}

/** A browser's constructor of workers. */
type BrowserWorkers = new (url: string) => HelperWorker & {
  onmessage: () => void;
  onerror: (cause: unknown) => void;
  postMessage(message: HelperStart): void;
};

function spawnInBrowser(Worker: BrowserWorkers): SpawnHelper {
  return (start, ready, failed) => {
    const url = URL.createObjectURL(new Blob([browserScript], { type: "text/javascript" }));
    const worker = new Worker(url);
    worker.onmessage = () => {
      URL.revokeObjectURL(url);
      ready();
    };
    worker.onerror = failed;
    worker.postMessage(start);
    return worker;
  };
}

/** What tells environments apart; each has some of it. */
interface Environment {
  readonly navigator?: { readonly userAgent?: string };
  readonly process?: { getBuiltinModule?(name: string): NodeWorkers | undefined };
  readonly crossOriginIsolated?: boolean;
  readonly Worker?: BrowserWorkers;
}

/** How this environment starts helpers; undefined where it cannot. */
function spawner(): SpawnHelper | undefined {
  const { navigator, process, crossOriginIsolated, Worker } = globalThis as unknown as Environment;
  // A Workers isolate has one thread, whatever it has the names of.
  if (navigator?.userAgent === "Cloudflare-Workers") return undefined;
  const node = process?.getBuiltinModule?.("node:worker_threads");
  if (node !== undefined) return spawnInNode(node);
  return crossOriginIsolated === true && Worker !== undefined ? spawnInBrowser(Worker) : undefined;
}

/** Whether this thread may sleep on memory: the main thread of a browser may not. */
function maySleep(): boolean {
  try {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 1, 0);
    return true;
  } catch {
    return false;
  }
}

/** Whether a module is built for threads: it then needs shared memory, even for one thread. */
export function isThreaded(module: WebAssembly.Module): boolean {
  return WebAssembly.Module.exports(module).some(({ name }) => name === "lew_threads_start");
}

function refusal(threads: number, most: number, why: string): EngineError {
  return new EngineError(
    "invalidArgument",
    `${threads} threads, must be 1${most > 1 ? ` .. ${most}` : ""}: ${why}`,
    threads,
    most,
  );
}

/**
 * Whether a module can compute on so many threads here.
 *
 * @throws EngineError `invalidArgument` where it cannot, with the reason
 */
export function checkThreads(module: WebAssembly.Module, threads: number): void {
  if (!(Number.isInteger(threads) && threads >= 1 && threads <= threadsMax)) {
    throw refusal(threads, threadsMax, "an engine has no more");
  }
  if (threads > 1 && !isThreaded(module)) {
    throw refusal(threads, 1, "the module is built for one thread");
  }
  if (threads > 1 && spawner() === undefined) {
    throw refusal(threads, 1, "this environment starts no threads that share memory");
  }
  if (isThreaded(module) && typeof SharedArrayBuffer === "undefined") {
    throw refusal(threads, 1, "the module needs shared memory, which this environment has not");
  }
}

/** Waits until a helper is ready. */
function started(spawn: SpawnHelper, start: HelperStart): Promise<HelperWorker> {
  return new Promise((resolve, reject) => {
    const fail = (cause: unknown): void => {
      clearTimeout(timer);
      void worker.terminate();
      const reason = cause instanceof Error ? cause.message : "it reported an error";
      reject(new EngineError("deviceLost", `thread ${start.thread} did not start: ${reason}`));
    };
    const timer = setTimeout(() => {
      fail(new Error(`nothing came from it for ${startMsMax} ms`));
    }, startMsMax);
    const worker = spawn(
      start,
      () => {
        clearTimeout(timer);
        resolve(worker);
      },
      fail,
    );
  });
}

/**
 * Starts the helpers of an instance; before its engine is created, since their stacks come out of the
 * same memory.
 *
 * @param module of the instance, one that isThreaded
 * @param memory shared, of the instance
 * @param threads the calling one included; checkThreads has passed it
 * @throws EngineError `outOfMemory` if the stacks do not fit, `deviceLost` if a helper does not start
 */
export async function startHelpers(
  module: WebAssembly.Module,
  memory: WebAssembly.Memory,
  exports: ThreadExports,
  threads: number,
): Promise<HelperThreads> {
  const spawn = spawner();
  if (threads === 1 || spawn === undefined) return { stop: () => undefined };
  if (exports.lew_threads_start(threads - 1, Number(maySleep())) === 0) {
    throw new EngineError(
      "outOfMemory",
      `the stacks of ${threads} threads do not fit the memory, which has ${memory.buffer.byteLength} bytes and cannot grow as far`,
      threads,
      memory.buffer.byteLength,
    );
  }
  const stop = (): void => {
    exports.lew_threads_stop();
  };
  const starting = Array.from({ length: threads - 1 }, (_, i) =>
    started(spawn, { module, memory, thread: i + 1 }),
  );
  const failure = (await Promise.allSettled(starting)).find(({ status }) => status === "rejected");
  if (failure?.status === "rejected") {
    stop();
    throw failure.reason;
  }
  return { stop };
}
