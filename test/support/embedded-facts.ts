/** What tests expect of the embedded model, read from its files. */
import { readFileSync } from "node:fs";
import { packagePath } from "../../src/cli/repository.js";
import { embeddedFile, embeddedPlanFile } from "../../src/embedded-model.js";
import { openFileSource } from "../../src/engine/gguf/file-source.js";
import { readModelFile, type ModelFile } from "../../src/engine/gguf/model-file.js";
import { parsePlan } from "../../src/engine/plan/parse.js";
import type { CachePlan } from "../../src/engine/plan/plan.js";

/** Its shape and its window. */
export async function embeddedConfig(): Promise<ModelFile["config"]> {
  const source = await openFileSource(packagePath(embeddedFile));
  try {
    return (await readModelFile(source)).config;
  } finally {
    await source.close();
  }
}

/** One of its plans; the plan that is served unless another is named. */
export function embeddedPlan(name?: string): CachePlan {
  return parsePlan(readFileSync(packagePath(embeddedPlanFile(name)), "utf8"));
}
