/** `leanedge worker` as a process of its own, as users start it. */
import { spawn } from "node:child_process";
import { join, resolve } from "node:path";
import { createClient, type Client } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { embeddedFile } from "../../src/embedded-model.js";
import { bearerToken } from "../../src/client/bearer-token.js";
import { WorkerService } from "../../src/gen/leanedge/worker/v1/worker_pb.js";

/** Longest start on a busy machine: weights are read, checked and repacked. */
const startMsMax = 120_000;
/** Longest that one may take to end in order, beyond its --drain. */
const stopMsMax = 15_000;
const root = resolve(import.meta.dirname, "../..");

/** A worker that runs. */
export interface RunningWorkerProcess {
  readonly url: string;
  /** The id that it serves its model by. */
  readonly model: string;
  readonly pid: number;
  /** What it printed so far. */
  output(): string;
  /** Sends it a signal. */
  signal(name: NodeJS.Signals): void;
  /** Resolves with its exit code, or with the signal that ended it. */
  readonly exited: Promise<number | NodeJS.Signals | null>;
  /** Tells it to end; resolves once it is gone. */
  stop(): Promise<void>;
  /** Ends it at once. */
  kill(): Promise<void>;
}

/**
 * Starts one with the embedded model on a free port of this machine.
 * @param options further options, or others in the place of these
 * @throws Error with its output if it ends before it serves
 */
export async function startWorkerProcess(
  ...options: readonly string[]
): Promise<RunningWorkerProcess> {
  const given = new Set(options);
  const child = spawn(
    process.execPath,
    [
      "--import",
      "tsx",
      join(root, "src/cli/main.ts"),
      "worker",
      ...(given.has("--model") ? [] : ["--model", embeddedFile]),
      ...(given.has("--listen") ? [] : ["--listen", "127.0.0.1:0"]),
      ...options,
    ],
    { cwd: root, stdio: ["ignore", "pipe", "pipe"] },
  );
  let output = "";
  const exited = new Promise<number | NodeJS.Signals | null>((done) => {
    child.once("exit", (code, signal) => {
      done(code ?? signal);
    });
  });
  const { url, model } = await new Promise<{ url: string; model: string }>((done, fail) => {
    const timer = setTimeout(() => {
      child.kill("SIGKILL");
      fail(new Error(`the worker was not ready after ${startMsMax} ms:\n${output}`));
    }, startMsMax);
    const look = (chunk: Buffer): void => {
      output += chunk.toString("utf8");
      const [, model, url] = /serves (\S+) at (\S+)/.exec(output) ?? [];
      if (model === undefined || url === undefined) return;
      clearTimeout(timer);
      done({ url, model });
    };
    child.stdout.on("data", look);
    child.stderr.on("data", look);
    void exited.then((status) => {
      clearTimeout(timer);
      fail(new Error(`the worker ended with ${status ?? "nothing"}:\n${output}`));
    });
  });
  return {
    url,
    model,
    pid: child.pid ?? 0,
    output: () => output,
    signal: (name) => child.kill(name),
    exited,
    async stop() {
      child.kill("SIGTERM");
      const timer = setTimeout(() => child.kill("SIGKILL"), stopMsMax);
      await exited;
      clearTimeout(timer);
    },
    async kill() {
      child.kill("SIGKILL");
      await exited;
    },
  };
}

/** Client of a worker. */
export type WorkerClient = Client<typeof WorkerService>;

/** Opens a client with a connection of its own. */
export function openWorkerClient(
  url: string,
  httpVersion: "1.1" | "2" = "1.1",
  token?: string,
): WorkerClient {
  return createClient(
    WorkerService,
    createConnectTransport({
      baseUrl: url,
      httpVersion,
      interceptors: bearerToken(token),
    }),
  );
}
