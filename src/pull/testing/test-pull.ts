/** What tests of pulls share: a folder, a hub, a small model, bounds that end a test soon. */
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildGguf, tinyModel } from "../../engine/gguf/testing/build-gguf.js";
import { PullError } from "../errors.js";
import type { PullLimits } from "../limits.js";
import { pullModel, type PulledModel, type PullOptions } from "../pull-model.js";
import type { PullReporter } from "../progress.js";
import { HubServer } from "./hub-server.js";

/** Bounds that end a test soon. */
export const testLimits: Partial<PullLimits> = {
  attemptsMax: 3,
  attemptsTotalMax: 12,
  backoffMs: 5,
  pauseMsMax: 2_000,
  headersTimeoutMs: 600,
  stallMs: 250,
  stallBytes: 64,
  diskSpareBytes: 0,
};

/** A model that the engine accepts: 28 KB. */
export const tinyModelBytes: Uint8Array = buildGguf(tinyModel());

/** Everything that a reporter was told. */
export interface Heard extends PullReporter {
  readonly notes: string[];
  readonly steps: { what: string; doneBytes: number; totalBytes: number | undefined }[];
}

function listener(): Heard {
  const notes: string[] = [];
  const steps: Heard["steps"] = [];
  return {
    notes,
    steps,
    note: (line) => void notes.push(line),
    progress: (what, doneBytes, totalBytes) => void steps.push({ what, doneBytes, totalBytes }),
  };
}

/** A hub and an empty models folder. */
export class TestPull {
  readonly hub: HubServer;
  readonly folder: string;
  readonly heard: Heard = listener();

  private constructor(hub: HubServer, folder: string) {
    this.hub = hub;
    this.folder = folder;
  }

  /** Starts with `model-Q8_0.gguf` in the repository. */
  static async start(): Promise<TestPull> {
    const hub = await HubServer.start();
    hub.files.set("model-Q8_0.gguf", { bytes: tinyModelBytes });
    return new TestPull(hub, await mkdtemp(join(tmpdir(), "leanedge-pull-")));
  }

  /** Stops the hub and deletes the folder. */
  async stop(): Promise<void> {
    await this.hub.stop();
    await rm(this.folder, { recursive: true, force: true });
  }

  /** Pulls from this hub into this folder. */
  pull(name = "owner/model", options: PullOptions = {}): Promise<PulledModel> {
    return pullModel(name, {
      folder: this.folder,
      hub: this.hub.url,
      token: "",
      reporter: this.heard,
      ...options,
      limits: { ...testLimits, ...options.limits },
    });
  }

  /** Pulls what must fail. */
  async pullFails(name?: string, options?: PullOptions): Promise<PullError> {
    const error: unknown = await this.pull(name, options).then(
      () => undefined,
      (reason: unknown) => reason,
    );
    if (error instanceof PullError) return error;
    throw new Error(`the pull did not fail as it should: ${String(error)}`, { cause: error });
  }

  /** Names of the files in the folder. */
  async fileNames(): Promise<string[]> {
    return (await readdir(this.folder)).sort();
  }
}
