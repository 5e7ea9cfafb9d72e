/** Bundles the benchmark's Worker, once for all rounds. */
import { mkdirSync, writeFileSync } from "node:fs";
import { bundleWorker } from "../../test/support/workerd.js";
import { readLoopModule } from "../support/read-loop.js";

/**
 * Writes the bundle into `folder`. Its read loop has memory for `readBytes` bytes: the Worker cannot
 * compile another.
 */
export async function bundleBenchWorker(folder: string, readBytes: number): Promise<void> {
  const readLoop = new URL("../../.cache/bench/read-loop.wasm", import.meta.url);
  mkdirSync(new URL(".", readLoop), { recursive: true });
  writeFileSync(readLoop, readLoopModule(readBytes));
  await bundleWorker("bench/decode/wrangler.toml", folder);
}
