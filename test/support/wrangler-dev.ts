/** `wrangler dev` for Workers that exist only for tests. */
import { spawn } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { createServer } from "node:net";
import { join, resolve } from "node:path";

const root = resolve(import.meta.dirname, "../..");

/** How long a Worker may take to start, in milliseconds: bundle and runtime, on a busy machine. */
const startMsMax = 90_000;
/** How long a stopped one may take to end, in milliseconds. */
const stopMsMax = 5000;

/** A Worker that runs. */
export interface WranglerDev {
  /** TCP port of HTTP/1.1. */
  readonly port: number;
  /** Its address. */
  readonly url: string;
  /** Ends it and the runtime below it. */
  stop(): Promise<void>;
}

/**
 * Ports that tests give to servers: below those that systems give to connections (from 32,768 on Linux), of which one could
 * take the port of a server before it starts, or while it starts again.
 */
const portMin = 10_000;
const portEnd = 32_768;
/** Tries to find one that is free; far more than servers on a machine. */
const portTriesMax = 1_000;
/** Distance of the ports at which processes begin that started one after the other: more than one of them takes. */
const portsOfProcess = 61;
let nextPort = portMin + ((process.pid * portsOfProcess) % (portEnd - portMin));

/** A TCP port of 127.0.0.1 that nobody listens on, and that this process has not given out lately. */
export async function freePort(): Promise<number> {
  for (let tries = 0; tries < portTriesMax; tries++) {
    const port = nextPort;
    nextPort = port + 1 < portEnd ? port + 1 : portMin;
    if (await isFree(port)) return port;
  }
  throw new Error(`none of ${portTriesMax} ports below ${nextPort} is free`);
}

function isFree(port: number): Promise<boolean> {
  return new Promise((done) => {
    const server = createServer();
    server.once("error", () => {
      done(false);
    });
    server.listen(port, "127.0.0.1", () => {
      server.close(() => {
        done(true);
      });
    });
  });
}

/**
 * Starts the Worker of a `wrangler.toml` (path from the repository's root) on a free port and waits until it answers.
 * Its log goes to stderr when LEANEDGE_LOG is `debug`. Rejects when it ends or does not answer in time.
 */
export async function startWranglerDev(config: string): Promise<WranglerDev> {
  const port = await freePort();
  const child = spawn(
    join(root, "node_modules/.bin/wrangler"),
    [
      ...["dev", "--config", join(root, config), "--ip", "127.0.0.1", "--port", String(port)],
      ...["--inspector-port", "0", "--log-level", "warn", "--show-interactive-dev-session=false"],
    ],
    {
      cwd: root,
      // Its own group, so that the runtime it starts ends with it.
      detached: true,
      stdio: ["ignore", "ignore", process.env["LEANEDGE_LOG"] === "debug" ? "inherit" : "ignore"],
      env: {
        ...process.env,
        // wrangler needs Node 22, which is a dev dependency.
        PATH: `${join(root, "node_modules/.bin")}:${process.env["PATH"] ?? ""}`,
        CI: "1",
        WRANGLER_SEND_METRICS: "false",
        CLOUDFLARE_CF_FETCH_ENABLED: "false",
        NO_COLOR: "1",
      },
    },
  );
  const url = `http://127.0.0.1:${port}`;
  const deadline = Date.now() + startMsMax;
  while (Date.now() < deadline) {
    if (child.exitCode !== null) {
      throw new Error(`wrangler dev ended with status ${child.exitCode} before it was ready`);
    }
    try {
      await fetch(url, { signal: AbortSignal.timeout(1000) });
      return { port, url, stop: () => stop(child) };
    } catch {
      await new Promise((done) => setTimeout(done, 200));
    }
  }
  await stop(child);
  throw new Error(`wrangler dev was not ready after ${startMsMax} ms`);
}

async function stop(child: ChildProcess): Promise<void> {
  const { pid } = child;
  if (pid === undefined || child.exitCode !== null || child.signalCode !== null) {
    return;
  }
  const ended = new Promise((done) => child.once("exit", done));
  process.kill(-pid, "SIGTERM");
  const timer = setTimeout(() => process.kill(-pid, "SIGKILL"), stopMsMax);
  await ended;
  clearTimeout(timer);
}
