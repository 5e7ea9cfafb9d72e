/** `leanedge worker`: a process that owns an engine and serves it to gateways. */
import { hostname } from "node:os";
import { basename } from "node:path";
import { InvalidArgumentError, type Command } from "commander";
import { isLogged, logLine, parseLogLevel } from "../log/log-line.js";
import type { LogFields, LogLevel } from "../log/log-line.js";
import { planPath } from "./shipped-plans.js";
import type { Registration } from "../worker/registration/index.js";

/** Options of the command. */
export interface WorkerOptions {
  /** Model file (GGUF), or the name of a fetched model. */
  readonly model: string;
  /** Plan files, or names of plans that are shipped for the model, in the order in which a new sequence is offered them. */
  readonly plan: readonly string[];
  readonly engine: "wasm" | "cuda";
  /** The CUDA engine's addon; what LEANEDGE_CUDA_ADDON says if unset. */
  readonly cudaAddon: string | undefined;
  /** How a GPU holds the model's matrices. */
  readonly weights: "file" | "fp8";
  readonly threads: number;
  /** HOST:PORT. */
  readonly listen: string;
  readonly tokenFile: string | undefined;
  /** Id of the model; its file's name without quantisation and ending if unset. */
  readonly modelId: string | undefined;
  /** Name of the worker; host and port if unset. */
  readonly name: string | undefined;
  /** MiB of weights, cache and scratch together. */
  readonly memory: number;
  readonly sequences: number;
  /** Tokens; the model's window if unset. */
  readonly context: number | undefined;
  /** Seconds that running answers have to end. */
  readonly drain: number | undefined;
  /** Gateways to register with: `URL`, or `URL#POOL`. */
  readonly pool: readonly string[];
  readonly poolTokenFile: string | undefined;
  /** Address at which gateways reach this worker; the one that it listens on if unset. */
  readonly address: string | undefined;
}

const quantisation = /-(?:q\d_\w+|iq\d_\w+|bf16|f16|f32)$/i;

/** Runs until SIGINT or SIGTERM, or until the engine is given up. A second signal ends it at once. */
export async function worker(options: WorkerOptions): Promise<void> {
  const least = parseLogLevel(process.env["LEANEDGE_LOG_LEVEL"]);
  // Lines of the log (docs/operations.md, 'Logs').
  const write = (level: LogLevel, event: string, fields: LogFields): void => {
    if (isLogged(level, least)) console.log(logLine(level, "worker", event, fields, Date.now()));
  };
  const say = (message: string): void => write("info", "worker.says", { message });
  // Loaded here, so that other commands do not wait for what only this one needs.
  const {
    drainMsDefault,
    listenAddress,
    openModel,
    PromptTexts,
    readTokenFile,
    startWorkerProcess,
  } = await import("../worker/process/index.js");
  const { openRegistrations } = await import("../worker/registration/index.js");
  const { resolveModel } = await import("../pull/index.js");
  const token =
    options.tokenFile === undefined ? undefined : await readTokenFile(options.tokenFile);
  const address = await listenAddress(options.listen);
  if (options.pool.length > 0 && options.poolTokenFile === undefined) {
    throw new Error("--pool needs --pool-token-file: gateways take no worker without a token");
  }
  const poolToken =
    options.poolTokenFile === undefined ? "" : await readTokenFile(options.poolTokenFile);
  const { path, fetched } = await resolveModel(options.model);
  const fileId = basename(path, ".gguf").replace(quantisation, "");
  const model = options.modelId ?? fileId;
  const owners = fetched === undefined ? [fileId] : [fetched.name, fileId];
  const planPaths = await Promise.all(options.plan.map((plan) => planPath(plan, owners)));
  const name = options.name ?? `${hostname()}:${address.port}`;
  const running = await startWorkerProcess({
    model,
    name,
    load: await openModel({
      modelPath: path,
      planPaths,
      engine: options.engine,
      cudaAddon: options.cudaAddon,
      weights: options.weights,
      threads: options.threads,
      memoryBytesMax: options.memory * 1024 * 1024,
      sequencesMax: options.sequences,
      contextTokensMax: options.context,
    }),
    texts: new PromptTexts(path),
    address,
    token,
    drainMs: options.drain === undefined ? drainMsDefault : options.drain * 1000,
    log: say,
    logCall: (level, fields) => write(level, "call.ended", { worker: name, ...fields }),
  });
  say(`leanedge worker serves ${model} at ${running.url} as ${name}`);
  const signal = new Promise<void>((stop) => {
    for (const name of ["SIGINT", "SIGTERM"] as const) {
      process.once(name, () => {
        stop();
        // Listening now, so that an impatient second signal is not lost while the first is looked after.
        for (const again of ["SIGINT", "SIGTERM"] as const) {
          process.once(again, () => process.exit(1));
        }
      });
    }
  });
  let registrations: Registration[] = [];
  try {
    registrations = openRegistrations({
      gateways: options.pool,
      token: poolToken,
      address: options.address ?? running.url,
      name,
      status: () => running.status(),
      log: say,
    });
    await Promise.race([signal, running.givenUp]);
  } catch (error) {
    await leave(registrations);
    await running.close();
    throw error;
  }
  for (const registration of registrations) registration.shutDown();
  await running.drain();
  await leave(registrations);
}

async function leave(registrations: readonly Registration[]): Promise<void> {
  await Promise.all(registrations.map((registration) => registration.close()));
}

/** Adds the command to a program. */
export function addWorkerCommand(
  program: Command,
  numbers: (what: string, highest: number) => (text: string) => number,
): void {
  program
    .command("worker")
    .description("serve a model to gateways from this machine")
    .requiredOption("--model <file>", "model file (GGUF), or a name as for pull")
    .option(
      "--plan <file>",
      "cache plan, or the name of one that is shipped for the model (may be repeated: a sequence gets the first whose context range fits it)",
      (path: string, before: readonly string[]) => [...before, path],
      [],
    )
    .option("--engine <name>", "wasm or cuda", engineName, "wasm")
    .option(
      "--cuda-addon <file>",
      "addon of the cuda engine, libleanedge_cuda.so beside it (default: LEANEDGE_CUDA_ADDON)",
    )
    .option(
      "--weights <form>",
      "file: as the model file has them; fp8: matrices of 16 and 32 bits as FP8, with cuda only",
      weightForm,
      "file",
    )
    .option("--threads <n>", "threads of the wasm engine", numbers("a number of threads", 8), 1)
    .requiredOption("--listen <host:port>", "address to listen on, HTTP/1.1 and HTTP/2 without TLS")
    .option("--token-file <file>", "file with the token that callers must show")
    .option("--model-id <id>", "id that requests name the model by (default: from its file name)")
    .option("--name <name>", "name of this worker (default: host and port)")
    .option(
      "--memory <MiB>",
      "weights, cache and scratch together",
      numbers("a size in MiB", 1_048_576),
      1024,
    )
    .option("--sequences <n>", "most sequences held at once", numbers("a count", 1_024), 256)
    .option(
      "--context <tokens>",
      "longest context (default: the model's window)",
      numbers("a count", 1 << 24),
    )
    .option(
      "--drain <seconds>",
      "time that running answers have to end",
      numbers("a time in seconds", 3_600),
    )
    .option(
      "--pool <url>",
      "gateway to register with, URL or URL#POOL (may be repeated)",
      (url: string, before: readonly string[]) => [...before, url],
      [],
    )
    .option("--pool-token-file <file>", "file with the token that these gateways ask for")
    .option("--address <url>", "where these gateways reach this worker (default: where it listens)")
    .action((options: WorkerOptions) => worker(options));
}

function engineName(text: string): "wasm" | "cuda" {
  if (text !== "wasm" && text !== "cuda") {
    throw new InvalidArgumentError(`"${text}" is no engine: wasm or cuda.`);
  }
  return text;
}

function weightForm(text: string): "file" | "fp8" {
  if (text !== "file" && text !== "fp8") {
    throw new InvalidArgumentError(`"${text}" is no form of weights: file or fp8.`);
  }
  return text;
}
