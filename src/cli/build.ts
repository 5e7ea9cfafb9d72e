/**
 * Writes the folder of static assets that the Worker serves: the page, and the embedded models cut into
 * shards with a manifest each. Files that are up to date are left alone, so a second start costs
 * no more than a look at the sizes.
 */
import { mkdir, readFile, readdir, stat, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { build as bundle } from "esbuild";
import { makeShardManifest } from "../engine/gguf/index.js";
import { openFileSource } from "../engine/gguf/file-source.js";
import { checkPlansFit, readPlan } from "./plan-files.js";
import { packagePath } from "./repository.js";

/** File names of models are ids of models, with their quantisation at the end. */
const modelFile = /^(?<model>[a-z0-9.-]+?)-(?:q4_0|q4_1|q8_0|f16|bf16|f32)\.gguf$/;

/**
 * Builds the folder.
 * @returns a line for each thing that was written
 */
export async function build(out: string): Promise<string[]> {
  return [...(await buildPage(out)), ...(await buildModels(out))];
}

async function buildPage(out: string): Promise<string[]> {
  await mkdir(out, { recursive: true });
  const folder = packagePath("src/page");
  await bundle({
    entryPoints: [join(folder, "main.ts"), join(folder, "page.css")],
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    sourcemap: true,
    outdir: out,
    logLevel: "error",
  });
  await writeFile(join(out, "index.html"), await readFile(join(folder, "index.html")));
  return [`page: ${join(out, "index.html")}`];
}

async function buildModels(out: string): Promise<string[]> {
  const folder = packagePath("models");
  const lines: string[] = [];
  for (const name of (await readdir(folder)).sort()) {
    const model = modelFile.exec(name)?.groups?.["model"];
    if (model === undefined) continue;
    const written = await shardModel(join(folder, name), join(out, "models", model));
    if (written !== undefined) lines.push(`model ${model}: ${written} shards of ${name}`);
    lines.push(...(await copyPlans(folder, name, model, out)));
  }
  return lines;
}

/** Copies the plans beside a model file, `MODEL.PLAN.json`, to where its engine looks for them. */
async function copyPlans(
  folder: string,
  file: string,
  model: string,
  out: string,
): Promise<string[]> {
  const lines: string[] = [];
  for (const name of (await readdir(folder)).sort()) {
    if (!name.startsWith(`${model}.`) || !name.endsWith(".json")) continue;
    const stem = name.slice(model.length + 1, -".json".length);
    const target = join(out, "models", model, "plans", `${stem}.json`);
    if (await isNewer(target, join(folder, name))) continue;
    const plan = await readPlan(join(folder, name));
    await checkPlansFit([plan], join(folder, file), model);
    await mkdir(dirname(target), { recursive: true });
    await writeFile(target, plan.text);
    lines.push(`model ${model}: plan ${stem}`);
  }
  return lines;
}

/** Cuts one model file into shards; undefined if the folder holds them already. */
async function shardModel(path: string, folder: string): Promise<number | undefined> {
  const manifestPath = join(folder, "manifest.json");
  if (await isNewer(manifestPath, path)) return undefined;
  await mkdir(folder, { recursive: true });
  const source = await openFileSource(path);
  try {
    const stem = basename(path, ".gguf");
    const manifest = await makeShardManifest(
      source,
      (index) => `${stem}-${String(index).padStart(4, "0")}.bin`,
    );
    let offset = 0;
    for (const shard of manifest.shards) {
      await writeFile(
        join(dirname(manifestPath), shard.path),
        await source.read(offset, shard.sizeBytes),
      );
      offset += shard.sizeBytes;
    }
    // Written last: a manifest says that all of its shards are there.
    await writeFile(manifestPath, JSON.stringify(manifest));
    return manifest.shards.length;
  } finally {
    await source.close();
  }
}

async function isNewer(made: string, from: string): Promise<boolean> {
  try {
    return (await stat(made)).mtimeMs > (await stat(from)).mtimeMs;
  } catch {
    // Not there yet.
    return false;
  }
}
