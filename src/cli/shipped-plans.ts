/** Plans that come with leanedge, `models/MODEL.PLAN.json`, by their name. */
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { packagePath } from "./repository.js";

/** What a plan is called where it is no file: `leank-70`. */
const planName = /^[a-z0-9+-]{1,64}$/;

/**
 * The file of a plan that is named by its path or, where there is no such file, as one that is shipped for a model.
 *
 * @param model names of the model, as its plans' files begin
 * @param folder has the plans that are shipped
 * @returns a path; as it was given where it is no plan's name
 * @throws Error that lists the model's plans if it has none of this name
 */
export async function planPath(
  plan: string,
  model: readonly string[],
  folder: string = packagePath("models"),
): Promise<string> {
  if (!planName.test(plan) || (await isFile(plan))) return plan;
  const shipped = (await readdir(folder)).flatMap((file) =>
    model
      .filter((name) => file.startsWith(`${name}.`) && file.endsWith(".json"))
      .map((name) => ({ file, name: file.slice(name.length + 1, -".json".length) })),
  );
  const found = shipped.find(({ name }) => name === plan);
  if (found !== undefined) return join(folder, found.file);
  const known = shipped.map(({ name }) => name).sort();
  throw new Error(
    `plan ${plan} is neither a file nor a plan that is shipped for ${model[0] ?? "this model"}` +
      (known.length === 0 ? ", which has none" : `: ${known.join(", ")}`),
  );
}

async function isFile(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isFile();
  } catch {
    return false;
  }
}
