/** A `leanedge worker` in a process of its own. */
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

/** Longest start: weights are read, checked and repacked. */
const startMsMax = 120_000;
const stopMsMax = 15_000;

/** A worker that serves. */
export type WorkerProcess = {
  readonly url: string;
  /** The id that it serves its model by. */
  readonly model: string;
  /** Tells it to end; resolves once it is gone. */
  stop(): Promise<void>;
};

/** Starts a worker on a free port of this machine. */
export async function startWorkerProcess(args: readonly string[]): Promise<WorkerProcess> {
  const main = fileURLToPath(new URL("../../src/cli/main.ts", import.meta.url));
  const child = spawn(
    process.execPath,
    ["--import", "tsx", main, "worker", "--listen", "127.0.0.1:0", ...args],
    { stdio: ["ignore", "pipe", "pipe"] },
  );
  const exited = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  const stop = async (): Promise<void> => {
    child.kill("SIGTERM");
    const timer = setTimeout(() => child.kill("SIGKILL"), stopMsMax);
    await exited;
    clearTimeout(timer);
  };
  let output = "";
  try {
    const { model, url } = await new Promise<{ model: string; url: string }>((resolve, reject) => {
      const timer = setTimeout(
        () => reject(new Error(`not ready in time:\n${output}`)),
        startMsMax,
      );
      const look = (chunk: Buffer): void => {
        output += chunk.toString("utf8");
        const said = /serves (?<model>\S+) at (?<url>http:\S+)/.exec(output)?.groups;
        if (said?.["model"] === undefined || said["url"] === undefined) return;
        clearTimeout(timer);
        resolve({ model: said["model"], url: said["url"] });
      };
      child.stdout.on("data", look);
      child.stderr.on("data", look);
      void exited.then(() => reject(new Error(`the worker ended while it started:\n${output}`)));
    });
    return { url, model, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}
