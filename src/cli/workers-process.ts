/** Runs the Workers runtime as a child process (workers-runtime.ts), with its noise kept out of sight. */
import { spawn, type ChildProcess } from "node:child_process";
import { packagePath } from "./repository.js";

/** Longest start: bundling and the runtime take 2 to 4 s, on a busy machine several times that. */
const readyMsMax = 90_000;
/** Time that the runtime has to end by itself. */
const stopMsMax = 5_000;
/** Lines of output kept to explain a start that failed. */
const keptLinesMax = 200;

/** What to run; travels to the child as JSON. */
export interface WorkersOptions {
  readonly host: string;
  readonly port: number;
  /** Processes that serve it together, 1 to 64; one where `watch` is set. */
  readonly processes: number;
  /** How many objects hold the sessions, 0 to 1024; unset: what the environment says, or else the storage. One a session where `watch` is set. */
  readonly sessionObjects: number | undefined;
  /** Folder for the bundle and for the storage of Durable Objects. */
  readonly state: string;
  /** Variables of the Worker. */
  readonly vars: Readonly<Record<string, string>>;
  /** Folder of static assets. */
  readonly assets: string;
  /** Reload when a source changes, behind wrangler's development server; for work on the gateway itself. */
  readonly watch: boolean;
}

/** A running Workers runtime. */
export interface WorkersProcess {
  /** Ends the runtime; resolves once it is gone. */
  stop(): Promise<void>;
  /** Resolves with the exit code when the runtime ends by itself. */
  readonly exited: Promise<number | null>;
}

/**
 * Starts the runtime and waits until it answers.
 * @throws Error with the runtime's output if it ends or does not answer in time
 */
export async function startWorkers(options: WorkersOptions): Promise<WorkersProcess> {
  const lines: string[] = [];
  const child = spawn(
    nodeBinary(),
    ["--import", "tsx", packagePath("src/cli/workers-runtime.ts"), JSON.stringify(options)],
    {
      cwd: packagePath("."),
      stdio: ["ignore", "pipe", "pipe", "ipc"],
      // A group of its own, so that the runtime below it ends with it.
      detached: true,
      env: {
        ...process.env,
        WRANGLER_SEND_METRICS: "false",
        CLOUDFLARE_CF_FETCH_ENABLED: "false",
        NO_COLOR: "1",
      },
    },
  );
  const keep = (chunk: Buffer): void => {
    for (const line of chunk.toString("utf8").split("\n")) {
      if (line.trim() === "") continue;
      lines.push(line);
      if (lines.length > keptLinesMax) lines.shift();
      if (process.env["LEANEDGE_LOG"] === "debug") console.error(line);
    }
  };
  child.stdout?.on("data", keep);
  child.stderr?.on("data", keep);
  const exited = new Promise<number | null>((resolve) => {
    child.once("exit", (code) => {
      resolve(code);
    });
  });
  const ended = exited.then((code) => {
    throw new Error(`the Workers runtime ended with code ${code ?? "none"}:\n${lines.join("\n")}`);
  });
  // Whoever waits for readiness sees this rejection; afterwards `exited` tells.
  ended.catch(() => undefined);
  const ready = new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => {
      reject(new Error(`the Workers runtime is not ready after ${readyMsMax} ms`));
    }, readyMsMax);
    child.once("message", () => {
      clearTimeout(timer);
      resolve();
    });
    child.once("exit", () => {
      clearTimeout(timer);
    });
  });
  try {
    await Promise.race([ready, ended]);
  } catch (error) {
    await stop(child, exited);
    throw error;
  }
  return { stop: () => stop(child, exited), exited };
}

/** Node 22 or later: this process, or the one that the package brings. */
export function nodeBinary(): string {
  if (Number(process.versions.node.split(".")[0]) >= 22) return process.execPath;
  return packagePath("node_modules/node/bin/node");
}

async function stop(child: ChildProcess, exited: Promise<unknown>): Promise<void> {
  signalGroup(child, "SIGTERM");
  const timer = setTimeout(() => {
    signalGroup(child, "SIGKILL");
  }, stopMsMax);
  await exited;
  clearTimeout(timer);
}

function signalGroup(child: ChildProcess, signal: NodeJS.Signals): void {
  if (child.pid === undefined || child.exitCode !== null) return;
  try {
    process.kill(-child.pid, signal);
  } catch {
    // The group is gone already.
  }
}
