/** The engine alone: the same prompts, then steps of all sequences, in a loop. */
import { openFileSource } from "../../src/engine/gguf/file-source.js";
import { loadEngine } from "../../src/engine/load-engine.js";
import { readEngineModule } from "../../src/engine/wasm/node-module.js";
import { createModelCodec } from "../../src/worker/model-codec.js";
import { isProgram } from "../support/child.js";
import { takeTurns, type Turns } from "../support/turns.js";
import type { BareRun, Workload } from "./workload.js";

/** Rows x layers of one step: no prompt has more. */
const workMax = 1e7;

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
  const ids = createModelCodec(loaded).encodeFirst([{ role: "user", content: workload.prompt }]);
  const turn = async (): Promise<BareRun> => {
    const sequences = Array.from({ length: workload.sessions }, () => engine.createSequence());
    for (const sequence of sequences) {
      engine.append(sequence, "prompt", ids);
      const [result] = await engine.step([{ sequence, workMax, sample: true }]);
      if (result?.error !== undefined) throw result.error;
    }
    const entries = sequences.map((sequence) => ({
      sequence,
      workMax: engine.layers,
      sample: true,
    }));
    const steps = workload.generate - 1;
    const start = performance.now();
    for (let step = 0; step < steps; step++) {
      for (const { token, error } of await engine.step(entries)) {
        if (error !== undefined) throw error;
        if (token === undefined) throw new Error("a sequence drew no token");
      }
    }
    const ms = performance.now() - start;
    for (const sequence of sequences) engine.freeSequence(sequence);
    return { tokensPerSecond: (1000 * steps * sequences.length) / ms, stepMs: ms / steps };
  };
  return {
    turn,
    close: async () => {
      engine.close();
    },
  };
}

if (isProgram(import.meta.url)) takeTurns(openBare);
