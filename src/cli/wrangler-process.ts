/** Runs the Workers runtime as a child process, with its noise kept out of sight. */
import { spawn, type ChildProcess } from "node:child_process";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { packagePath } from "./repository.js";

/** Longest start: bundling and the runtime take 2 to 4 s, on a busy machine several times that. */
const readyMsMax = 90_000;
/** Time that the runtime has to end by itself. */
const stopMsMax = 5_000;
/** Lines of output kept to explain a start that failed. */
const keptLinesMax = 200;

/** What to run. */
export interface WranglerOptions {
  readonly host: string;
  readonly port: number;
  /** Folder in which Durable Objects keep their storage. */
  readonly persistTo: string;
  /** Variables of the Worker. */
  readonly vars: Readonly<Record<string, string>>;
  /** Folder of static assets. */
  readonly assets: string;
}

/** A running Workers runtime. */
export interface WranglerProcess {
  /** Ends the runtime; resolves once it is gone. */
  stop(): Promise<void>;
  /** Resolves with the exit code when the runtime ends by itself. */
  readonly exited: Promise<number | null>;
}

/**
 * Starts the runtime and waits until it answers.
 * @throws Error with the runtime's output if it ends or does not answer in time
 */
export async function startWrangler(options: WranglerOptions): Promise<WranglerProcess> {
  const lines: string[] = [];
  const child = spawn(nodeBinary(), wranglerArguments(options), {
    cwd: packagePath("."),
    stdio: ["ignore", "pipe", "pipe"],
    // A group of its own, so that the runtime below it ends with it.
    detached: true,
    env: { ...process.env, CI: "1", WRANGLER_SEND_METRICS: "false", NO_COLOR: "1" },
  });
  const keep = (chunk: Buffer): void => {
    for (const line of chunk.toString("utf8").split("\n")) {
      if (line.trim() === "") continue;
      lines.push(line);
      if (lines.length > keptLinesMax) lines.shift();
      if (process.env["LEANEDGE_LOG"] === "debug") console.error(line);
    }
  };
  child.stdout.on("data", keep);
  child.stderr.on("data", keep);
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
  try {
    await Promise.race([answers(`http://${options.host}:${options.port}/`), ended]);
  } catch (error) {
    await stop(child, exited);
    throw error;
  }
  return { stop: () => stop(child, exited), exited };
}

function wranglerArguments({ host, port, persistTo, vars, assets }: WranglerOptions): string[] {
  const wrangler = createRequire(import.meta.url).resolve("wrangler/package.json");
  return [
    join(dirname(wrangler), "bin", "wrangler.js"),
    "dev",
    "--config",
    packagePath("wrangler.toml"),
    "--ip",
    host,
    "--port",
    String(port),
    "--inspector-port",
    "0",
    "--persist-to",
    persistTo,
    "--assets",
    assets,
    "--show-interactive-dev-session=false",
    ...Object.entries(vars).flatMap(([name, value]) => ["--var", `${name}:${value}`]),
  ];
}

/** Node 22 or later: this process, or the one that the package brings. */
function nodeBinary(): string {
  if (Number(process.versions.node.split(".")[0]) >= 22) return process.execPath;
  return packagePath("node_modules/node/bin/node");
}

async function answers(url: string): Promise<void> {
  const deadline = Date.now() + readyMsMax;
  for (;;) {
    try {
      await fetch(url, { signal: AbortSignal.timeout(5_000) });
      return;
    } catch (error) {
      if (Date.now() > deadline) {
        throw new Error(`${url} does not answer after ${readyMsMax} ms`, { cause: error });
      }
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
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
