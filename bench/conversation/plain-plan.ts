/** A cache plan for any model: every channel is kept, archive pages are quantised (KIVI). */
import { openFileSource } from "../../src/engine/gguf/file-source.js";
import { readModelFile } from "../../src/engine/gguf/index.js";
import { canonicalPlan } from "../../src/engine/plan/fingerprint.js";
import { identityPlan, type PageStorage } from "../../src/engine/plan/plan.js";

/** The text of a plan file for the model in a GGUF file. */
export async function plainPlan(modelPath: string, storage: PageStorage): Promise<string> {
  const source = await openFileSource(modelPath);
  try {
    const { layers, kvHeads, headDim } = (await readModelFile(source)).config;
    const plan = {
      ...identityPlan({ layers, kvHeads, headDim }),
      storage: { k: storage, v: storage },
    };
    const canonical = JSON.parse(canonicalPlan(plan)) as Record<string, unknown>;
    return JSON.stringify({ model: "*", name: `all-${storage}`, ...canonical });
  } finally {
    await source.close();
  }
}
