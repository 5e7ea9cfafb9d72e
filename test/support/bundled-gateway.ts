/** A gateway as one hosts it oneself: what `leanedge bundle` writes, started as it says, over a storage that `leanedge spread` moves. */
import { execFile, spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, join, resolve } from "node:path";
import { promisify } from "node:util";
import { freePort } from "./free-port.js";

const root = resolve(import.meta.dirname, "../..");
/** Longest start on a busy machine. */
const startMsMax = 60_000;

/** See the head of this file. */
export interface BundledGateway {
  readonly url: string;
  /** Key of tenant `dev`. */
  readonly key: string;
  /** Folder of its storage. */
  readonly storage: string;
  /** Folder of the bundle: `workerd.capnp`, `start.mjs`. */
  readonly folder: string;
  /** Variables of its environment, with workerd on the path. */
  readonly env: NodeJS.ProcessEnv;
  /** Runs `leanedge bundle` for it, with options. Gives what it prints; throws with what it says where it fails. */
  bundle(...options: readonly string[]): Promise<string>;
  /** Runs `leanedge spread` over its storage, likewise. */
  spread(...options: readonly string[]): Promise<string>;
  /** Starts what the bundle has. Throws with what it says where that ends first. */
  start(): Promise<void>;
  /** Ends it, as what watches over services does. */
  stop(): Promise<void>;
  /** Ends it and removes all of it. */
  close(): Promise<void>;
}

/** Makes one that is neither bundled nor started yet. */
export async function bundledGateway(
  vars: Readonly<Record<string, string>>,
): Promise<BundledGateway> {
  const home = await mkdtemp(join(tmpdir(), "leanedge-bundled-"));
  const [storage, folder] = [join(home, "storage"), join(home, "bundle")];
  const port = await freePort();
  const key = "le-dev-bundled-gateway";
  const path = [join(root, "node_modules/.bin"), process.env["PATH"] ?? ""].join(delimiter);
  const env = { ...process.env, ...vars, LEANEDGE_DEV_KEY: key, PATH: path };
  let child: ChildProcess | undefined;

  async function leanedge(...words: readonly string[]): Promise<string> {
    const { stdout } = await promisify(execFile)(
      process.execPath,
      ["--import", "tsx", join(root, "src/cli/main.ts"), ...words],
      { env, cwd: root },
    );
    return stdout;
  }

  async function stop(): Promise<void> {
    const ended = child;
    child = undefined;
    if (ended === undefined || ended.exitCode !== null || ended.signalCode !== null) return;
    const exited = once(ended, "exit");
    ended.kill("SIGTERM");
    await exited;
  }

  return {
    ...{ url: `http://127.0.0.1:${port}`, key, storage, folder, env, stop },
    bundle: (...options) =>
      leanedge(
        ...["bundle", "--out", folder, "--assets", home, "--storage", storage],
        ...["--listen", `127.0.0.1:${port}`, ...options],
      ),
    spread: (...options) => leanedge("spread", "--storage", storage, ...options),
    async start() {
      const started = spawn(process.execPath, [join(folder, "start.mjs")], {
        env,
        stdio: ["ignore", "pipe", "pipe"],
      });
      child = started;
      let output = "";
      const listens = new Promise<void>((ready, fail) => {
        const look = (chunk: Buffer): void => {
          output += chunk.toString("utf8");
          if (process.env["LEANEDGE_LOG"] === "debug") process.stderr.write(chunk);
          if (output.includes("leanedge listens on")) ready();
        };
        started.stdout.on("data", look);
        started.stderr.on("data", look);
        started.once("close", () => {
          fail(new Error(`the gateway ended while it started:\n${output}`));
        });
        setTimeout(() => {
          fail(new Error(`the gateway did not start in ${startMsMax} ms:\n${output}`));
        }, startMsMax).unref();
      });
      await listens;
    },
    async close() {
      await stop();
      await rm(home, { recursive: true, force: true });
    },
  };
}
