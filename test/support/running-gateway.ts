/**
 * A whole gateway in processes of its own, as `npm start` runs it: Workers runtime, gRPC front,
 * embedded model. For tests with real clients, and for tests that kill it.
 */
import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { freePort } from "./free-port.js";

/** Longest start on a busy machine: assets, bundle, runtime. */
const startMsMax = 120_000;
const stopMsMax = 15_000;
/** Processes of each gateway that does not say it itself: any test of a gateway can be run with several. */
const processes = process.env["LEANEDGE_TEST_PROCESSES"];
const root = resolve(import.meta.dirname, "../..");

/** A gateway that runs. */
export interface RunningGateway {
  /** Address of HTTP, Connect and gRPC-web. */
  readonly url: string;
  /** host:port of native gRPC. */
  readonly grpcAddress: string;
  /** Key of tenant `dev`. */
  readonly key: string;
  /** Folder of its storage. */
  readonly state: string;
  /** Ends every process at once, as a crash would; storage stays. */
  kill(): Promise<void>;
  /** Starts it again at the same addresses over the same storage; with other options where some are named. */
  restart(...options: readonly string[]): Promise<void>;
  /** Ends it and removes its storage. */
  close(): Promise<void>;
}

interface Processes {
  readonly key: string;
  end(signal: NodeJS.Signals): Promise<void>;
}

async function start(
  port: number,
  grpcPort: number,
  state: string,
  options: readonly string[],
): Promise<Processes> {
  const child = spawn(
    process.execPath,
    [
      "--import",
      "tsx",
      join(root, "src/cli/main.ts"),
      "dev",
      "--port",
      String(port),
      "--grpc-port",
      String(grpcPort),
      "--state",
      state,
      ...options,
      ...(processes === undefined || options.includes("--processes")
        ? []
        : ["--processes", processes]),
    ],
    { cwd: root, stdio: ["ignore", "pipe", "pipe"], env: { ...process.env, CI: "1" } },
  );
  let output = "";
  const exited = new Promise<void>((done) => {
    child.once("exit", () => {
      done();
    });
  });
  const key = await new Promise<string>((done, fail) => {
    const timer = setTimeout(() => {
      fail(new Error(`the gateway was not ready after ${startMsMax} ms:\n${output}`));
    }, startMsMax);
    const look = (chunk: Buffer): void => {
      output += chunk.toString("utf8");
      const found = /key\s+(le-dev-\S+)/.exec(output)?.[1];
      if (found === undefined || !output.includes("Stop with Ctrl+C")) return;
      clearTimeout(timer);
      done(found);
    };
    child.stdout.on("data", look);
    child.stderr.on("data", look);
    void exited.then(() => {
      clearTimeout(timer);
      fail(new Error(`the gateway ended while it started:\n${output}`));
    });
  });
  return {
    key,
    async end(signal) {
      if (child.exitCode !== null || child.signalCode !== null) return;
      // The runtime has a process group of its own; a crash of the machine would take both.
      const { pid } = child;
      if (signal === "SIGKILL" && pid !== undefined) await killTree(pid);
      else child.kill(signal);
      const timer = setTimeout(() => {
        if (pid !== undefined) void killTree(pid);
      }, stopMsMax);
      await exited;
      clearTimeout(timer);
    },
  };
}

/** Kills a process and all that it started. */
async function killTree(pid: number): Promise<void> {
  const { readdir, readFile } = await import("node:fs/promises");
  const parents = new Map<number, number>();
  for (const name of await readdir("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const stat = await readFile(`/proc/${name}/stat`, "utf8");
      parents.set(Number(name), Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]));
    } catch {
      // It ended while we looked.
    }
  }
  const tree = [pid];
  for (const ancestor of tree) {
    for (const [child, parent] of parents) if (parent === ancestor) tree.push(child);
  }
  for (const victim of tree) {
    try {
      process.kill(victim, "SIGKILL");
    } catch {
      // It ended with its parent.
    }
  }
}

/**
 * Starts a gateway on free ports with empty storage.
 * @param options further options of `leanedge dev`
 */
export async function startGateway(...options: readonly string[]): Promise<RunningGateway> {
  const [port, grpcPort] = [await freePort(), await freePort()];
  const state = await mkdtemp(join(tmpdir(), "leanedge-test-"));
  let running = await start(port, grpcPort, state, options);
  return {
    url: `http://127.0.0.1:${port}`,
    grpcAddress: `127.0.0.1:${grpcPort}`,
    key: running.key,
    state,
    kill: () => running.end("SIGKILL"),
    async restart(...other) {
      await running.end("SIGKILL");
      running = await start(port, grpcPort, state, other.length > 0 ? other : options);
    },
    async close() {
      await running.end("SIGTERM");
      await rm(state, { recursive: true, force: true });
    },
  };
}
