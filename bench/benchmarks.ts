/** All benchmarks, in the order in which they run. */
import { runArchive } from "./archive/index.js";
import { runDecode } from "./decode/index.js";
import { runGateway } from "./gateway/index.js";
import { runLongContext } from "./long-context/index.js";
import { runMemory } from "./memory/index.js";
import { runModules } from "./modules/index.js";
import { runRestore } from "./restore/index.js";
import type { Benchmark } from "./support/section.js";
import { runThreads } from "./threads/index.js";
import { runWorker } from "./worker/index.js";

/** The list. */
export const benchmarks: readonly Benchmark[] = [
  { name: "decode", weight: 520, run: (options) => runDecode(options) },
  { name: "threads", weight: 30, run: runThreads },
  { name: "long-context", weight: 60, run: runLongContext },
  { name: "archive", weight: 4, run: runArchive },
  { name: "memory", weight: 20, run: runMemory },
  { name: "restore", weight: 70, run: runRestore },
  { name: "modules", weight: 1, run: runModules },
  { name: "worker", weight: 100, run: runWorker },
  { name: "gateway", weight: 400, run: runGateway },
];
