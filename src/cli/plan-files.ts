/** Plan files on disk: read, held against the model file, put where engines look for them. */
import { createHash } from "node:crypto";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { embedded, embeddedFile } from "../embedded-model.js";
import { openFileSource } from "../engine/gguf/file-source.js";
import { checkShardManifest, readModelFile } from "../engine/gguf/index.js";
import { PlanError } from "../engine/plan/errors.js";
import { checkPlanFits } from "../engine/plan/fit.js";
import { parsePlan } from "../engine/plan/parse.js";
import type { CachePlan } from "../engine/plan/plan.js";
import { packagePath } from "./repository.js";

/** Plans of one engine besides the identity plan. */
const plansMax = 7;

/** A plan file. */
export interface PlanFile {
  readonly path: string;
  readonly text: string;
  readonly plan: CachePlan;
}

/**
 * Reads a plan file.
 * @throws Error that names the file and what is wrong with it
 */
export async function readPlan(path: string): Promise<PlanFile> {
  const text = await readFile(path, "utf8");
  const stem = basename(path, ".json");
  const own = `${embedded.model}.`;
  const name = stem.startsWith(own) ? stem.slice(own.length) : stem;
  return { path, text, plan: refusing(path, () => parsePlan(text, name)) };
}

/**
 * Holds plans against the header of a model file.
 * @param fingerprint of the model file, for plans that name it
 * @throws Error that names the file and why it does not fit
 */
export async function checkPlansFit(
  plans: readonly PlanFile[],
  modelPath: string,
  model: string,
  fingerprint = "",
): Promise<void> {
  const fits = await planFitter(modelPath, model, fingerprint);
  for (const { path, plan } of plans) refusing(path, () => fits(plan));
}

/** Those of some plans that fit a model file. */
export async function fittingPlans(
  plans: readonly PlanFile[],
  modelPath: string,
  model: string,
): Promise<PlanFile[]> {
  const fits = await planFitter(modelPath, model, "");
  return plans.filter(({ plan }) => {
    try {
      fits(plan);
      return true;
    } catch (error) {
      if (!(error instanceof PlanError)) throw error;
      return false;
    }
  });
}

/** A check that throws PlanError for plans that do not fit a model file. */
async function planFitter(
  modelPath: string,
  model: string,
  fingerprint: string,
): Promise<(plan: CachePlan) => void> {
  const source = await openFileSource(modelPath);
  try {
    const { config, name } = await readModelFile(source);
    const names = [model, basename(modelPath, ".gguf"), ...(name === undefined ? [] : [name])];
    return (plan) => checkPlanFits(plan, { ...config, names, fingerprint });
  } finally {
    await source.close();
  }
}

/**
 * The gateway's models under the plans of the command line.
 *
 * @param files as `leanedge dev --plan` has them
 * @param assets the built folder of static assets, which gets a copy of the plans
 * @param engines how many serve the model
 * @returns the variable LEANEDGE_MODELS; undefined to leave it as it is
 * @throws Error that names the file and why it is refused
 */
export async function servedModels(
  files: readonly string[],
  assets: string,
  engines = 1,
): Promise<string | undefined> {
  const { model, displayName } = embedded;
  const served = (plans: readonly string[]): string =>
    JSON.stringify([{ model, displayName, engines, plans }]);
  if (files.length === 0) return engines === 1 ? undefined : served([`${embedded.plan}.json`]);
  if (files.includes("none")) {
    if (files.length > 1) throw new Error('"--plan none" goes with no other plan');
    return served([]);
  }
  if (files.length > plansMax) {
    throw new Error(`${files.length} plans are named, at most ${plansMax} are served`);
  }
  const plans = await Promise.all(files.map(readPlan));
  const folder = join(assets, "models", model);
  const manifest = await checkShardManifest(
    JSON.parse(await readFile(join(folder, "manifest.json"), "utf8")),
  );
  await checkPlansFit(plans, packagePath(embeddedFile), model, manifest.fingerprint);
  await mkdir(join(folder, "plans"), { recursive: true });
  const paths: string[] = [];
  for (const { text, plan } of plans) {
    // Named by content: gateways that share the folder do not write over each other's plans.
    const hash = createHash("sha256").update(text).digest("hex").slice(0, 16);
    const path = `${plan.name.replace(/[^A-Za-z0-9.-]/g, "-")}-${hash}.json`;
    // Under its name, which else would be that of the copy.
    const copy = { ...(JSON.parse(text) as object), name: plan.name };
    await writeFile(join(folder, "plans", path), JSON.stringify(copy));
    paths.push(path);
  }
  return served(paths);
}

function refusing<T>(path: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (!(error instanceof PlanError)) throw error;
    throw new Error(`${path}: ${error.message}`, { cause: error });
  }
}
