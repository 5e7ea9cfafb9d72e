/** From what a user writes for a model to a file on this machine. */
import { stat } from "node:fs/promises";
import { resolve } from "node:path";
import { PullError, quote } from "./errors.js";
import { selectFile } from "./hub.js";
import { canonicalName, parseModelName, type HubName } from "./model-name.js";
import { findModel, listModels, modelsFolder, type FetchedModel } from "./models-folder.js";

/** A model file on this machine. */
export interface ResolvedModel {
  /** Absolute path. */
  readonly path: string;
  /** What is known of it, if it was fetched. */
  readonly fetched: FetchedModel | undefined;
}

/**
 * The file that a path or a name means. A file that is there wins over a name; nothing is fetched.
 *
 * @param folder models folder; LEANEDGE_MODELS_DIR or the platform's place if unset
 * @throws PullError `not-found` with the command that fetches it, or `name`, `ambiguous`
 */
export async function resolveModel(
  nameOrPath: string,
  folder: string = modelsFolder(),
): Promise<ResolvedModel> {
  const path = resolve(nameOrPath);
  if (await isFile(path)) return { path, fetched: undefined };
  if (/^[.~]|\.gguf$|\\/i.test(nameOrPath) && !/[:@]/.test(nameOrPath)) {
    throw new PullError("not-found", `there is no file ${path}`);
  }
  const name = parseModelName(nameOrPath);
  const fetched =
    name.kind === "hub"
      ? await findHubModel(folder, name)
      : await findModel(folder, canonicalName(name));
  if (fetched === undefined) {
    throw new PullError(
      "not-found",
      `${quote(nameOrPath)} is neither a file nor a model in ${folder}: fetch it with leanedge pull ${nameOrPath}`,
    );
  }
  return { path: fetched.path, fetched };
}

/** Hub names may leave the file out, or name a quantisation: what was fetched decides. */
async function findHubModel(folder: string, name: HubName): Promise<FetchedModel | undefined> {
  const exact = await findModel(folder, canonicalName(name));
  if (exact !== undefined) return exact;
  const models = new Map<string, FetchedModel>();
  for (const model of await listModels(folder)) {
    const file = fileOf(model, name);
    if (file !== undefined) models.set(file, model);
  }
  if (models.size === 0) return undefined;
  return models.get(selectFile([...models.keys()], name.wanted, `${name.repository} in ${folder}`));
}

/** The file of a fetched model, if it is of this repository and revision. */
function fileOf(model: FetchedModel, { repository, revision }: HubName): string | undefined {
  if (!model.name.startsWith(`${repository}:`)) return undefined;
  const parsed = parseModelName(model.name);
  return parsed.kind === "hub" && parsed.revision === revision ? parsed.wanted : undefined;
}

async function isFile(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isFile();
  } catch {
    return false;
  }
}
