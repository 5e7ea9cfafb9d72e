/** The engine alone, in a process of its own. */
import { openFileSource } from "../../src/engine/gguf/file-source.js";
import { loadEngine } from "../../src/engine/load-engine.js";
import { readEngineModule } from "../../src/engine/wasm/node-module.js";
import { createModelCodec } from "../../src/worker/model-codec.js";
import { isProgram } from "../support/child.js";
import { takeTurns, type Turns } from "../support/turns.js";
import { engineAlone } from "./engine-alone.js";
import type { BareRun, Workload } from "./workload.js";

/** Loads an engine in this process, to run the workload on at each turn. */
export async function openBare(workload: Workload): Promise<Turns<BareRun>> {
  const source = await openFileSource(workload.modelPath);
  const loaded = await loadEngine({
    source,
    module: await readEngineModule("wasm"),
    memoryBytesMax: workload.memoryMib * 1024 * 1024,
    sequencesMax: 256,
  });
  await source.close();
  const { engine } = loaded;
  const { generate, prompt, sessions } = workload;
  const ids = createModelCodec(loaded).encodeFirst([{ role: "user", content: prompt }]);
  return {
    turn: () => engineAlone(engine, { sequences: sessions, ids, generate, plan: 0 }),
    close: async () => {
      engine.close();
    },
  };
}

if (isProgram(import.meta.url)) takeTurns(openBare);
