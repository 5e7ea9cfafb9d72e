/**
 * Puts a model with its plans in the place of the embedded one: files in `models/`, `src/embedded-model.ts`, `wrangler.toml`
 * and the pages that name it. Plans that are shipped lie beside the model; those that were only compared, and
 * those of the model before, go to `docs/evaluation/plans`, where the report finds them.
 *
 *   npx tsx scripts/place-model.ts --model NAME-q4_0.gguf --plans FOLDER --name "NAME for people"
 *
 * Behind it: `npm run peers` and `npx tsx scripts/make-tokenizer-golden.ts`, the card in `models/README.md`, and
 * `npx tsx src/cli/main.ts eval report`.
 */
import { copyFile, readFile, readdir, rename, rm, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";
import { checkPlansFit, readPlan } from "../src/cli/plan-files.js";
import { packagePath } from "../src/cli/repository.js";
import { embedded, embeddedFile } from "../src/embedded-model.js";

/** Plans that lie beside the model, pages in f16; the last is also written with pages in int4, to be served. */
const shipped = ["leank-50", "leank-80", "leank-70"] as const;
const served = `${shipped[2]}-int4`;

/** Files that name the embedded model. */
const pages = [
  ...["models/README.md", "docs/operations.md", "docs/worker.md", "bench/long-context/README.md"],
  ...["src/embedded-model.ts", "wrangler.toml", "gpu-worker/device/run.sh"],
];

/** Plans for a number of bytes a token lie there too. */
const forBytes = /^bytes-\d+$/;

/** Plans that are kept besides, for the report and for runs of it. */
const compared =
  /^(leank-(60|90)|leank-even-(50|70)|duo-(50|70)|heads-70|magnitude-(50|70)|magnitude-even-70|low-(50|70)|random-(50|70))$/;

const modelsFolder = packagePath("models");
const comparedFolder = packagePath("docs/evaluation/plans");

async function plansOf(folder: string, model: string): Promise<string[]> {
  const names = await readdir(folder);
  return names.filter((name) => name.startsWith(`${model}.`) && name.endsWith(".json")).sort();
}

/** A plan file with another storage of pages, its mask as it was written. */
function inInt4(text: string, path: string): string {
  const pages = '"storage": {"k": "int4", "v": "int4"}';
  const changed = text
    .replace(/"storage":\s*\{[^}]*\}/, pages)
    .replace(/"name":\s*"[^"]*"/, `"name": "${served}"`);
  if (!changed.includes(pages) || !changed.includes(`"name": "${served}"`)) {
    throw new Error(`${path} has no name or no storage`);
  }
  return changed;
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      model: { type: "string" },
      plans: { type: "string" },
      name: { type: "string" },
    },
  });
  const { model: file, plans: folder, name: displayName } = values;
  if (file === undefined || folder === undefined || displayName === undefined) {
    throw new Error("--model, --plans and --name are needed");
  }
  const model = /^(?<id>.+)-q4_0\.gguf$/.exec(basename(file))?.groups?.["id"];
  if (model === undefined || model === embedded.model) {
    throw new Error(`${file} must be named NAME-q4_0.gguf, NAME another than ${embedded.model}`);
  }
  const planOf = (name: string): string => name.slice(model.length + 1, -".json".length);
  const isShipped = (name: string): boolean =>
    shipped.some((plan) => plan === planOf(name)) || forBytes.test(planOf(name));
  const names = (await plansOf(folder, model)).filter(
    (name) => isShipped(name) || compared.test(planOf(name)),
  );
  const lacking = shipped.filter((plan) => !names.includes(`${model}.${plan}.json`));
  if (lacking.length > 0) throw new Error(`${folder} has no ${lacking.join(", ")}`);
  const all = await Promise.all(names.map((name) => readPlan(join(folder, name))));
  await checkPlansFit(all, file, model);

  for (const name of await plansOf(modelsFolder, embedded.model)) {
    await rename(join(modelsFolder, name), join(comparedFolder, name));
  }
  await rm(packagePath(embeddedFile));
  await copyFile(file, join(modelsFolder, basename(file)));
  for (const name of names) {
    const target = isShipped(name) ? modelsFolder : comparedFolder;
    await copyFile(join(folder, name), join(target, name));
  }
  const source = join(folder, `${model}.${shipped[2]}.json`);
  await writeFile(
    join(modelsFolder, `${model}.${served}.json`),
    inInt4(await readFile(source, "utf8"), source),
  );
  for (const path of pages) {
    const text = await readFile(packagePath(path), "utf8");
    const renamed = text
      .replaceAll(embedded.model, model)
      .replaceAll(embedded.displayName, displayName)
      .replaceAll(`"${embedded.plan}`, `"${served}`);
    await writeFile(packagePath(path), renamed);
  }
  console.log(`${model} in the place of ${embedded.model}: ${names.length} plans`);
}

await main();
