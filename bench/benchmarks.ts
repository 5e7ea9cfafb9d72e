/** All benchmarks, in the order in which they run. */
import { runArchive } from "./archive/index.js";
import { runDecode } from "./decode/index.js";
import { runLongContext } from "./long-context/index.js";
import { runMemory } from "./memory/index.js";
import { runModules } from "./modules/index.js";
import { runRestore } from "./restore/index.js";
import type { Benchmark } from "./support/section.js";
import { runThreads } from "./threads/index.js";
import { runWorker } from "./worker/index.js";

/** The list. */
export const benchmarks: readonly Benchmark[] = [
  { name: "decode", run: (options) => runDecode(options) },
  { name: "threads", run: runThreads },
  { name: "long-context", run: runLongContext },
  { name: "archive", run: runArchive },
  { name: "memory", run: runMemory },
  { name: "restore", run: runRestore },
  { name: "modules", run: runModules },
  { name: "worker", run: runWorker },
];
