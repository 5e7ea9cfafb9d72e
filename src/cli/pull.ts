/** `leanedge pull` and `leanedge models`: fetch models, list them, delete them. */
import type { Command } from "commander";
import {
  PullError,
  deleteModel,
  listModels,
  modelsFolder,
  pullModel,
  registry,
  resolveModel,
} from "../pull/index.js";
import { streamReporter } from "./progress-line.js";

interface PullFlags {
  readonly dir?: string;
  readonly sha256?: string;
  readonly hub?: string;
}

/** Adds the commands to the program. */
export function addPullCommands(program: Command): void {
  const known = registry.map(({ name, title }) => `  ${name}  ${title}`).join("\n");
  program
    .command("pull")
    .description("fetch a model file, and prove that it is the right one")
    .argument(
      "<name>",
      "a known name, OWNER/REPOSITORY[:FILE or QUANTISATION][@REVISION] of a hub, or an https URL",
    )
    .option(
      "--dir <folder>",
      "models folder (default: LEANEDGE_MODELS_DIR, or the user's data folder)",
    )
    .option("--sha256 <hex>", "SHA-256 that the file must have; needed for a URL")
    .option("--hub <url>", "address of the hub (default: HF_ENDPOINT, or the Hugging Face hub)")
    .addHelpText("after", `\nKnown names:\n${known}\n\nA gated repository needs a key in HF_TOKEN.`)
    .action((name: string, flags: PullFlags) => pull(name, flags));

  const models = program.command("models").description("fetched models");
  const folder = ["--dir <folder>", "models folder (default: as for pull)"] as const;
  models
    .command("list")
    .description("list fetched models")
    .option(...folder)
    .action(({ dir }: { dir?: string }) => list(dir ?? modelsFolder()));
  models
    .command("remove")
    .description("delete a fetched model")
    .argument("<name>", "its name, as the list shows it")
    .option(...folder)
    .action((name: string, { dir }: { dir?: string }) => remove(name, dir ?? modelsFolder()));
}

async function pull(name: string, flags: PullFlags): Promise<void> {
  const reporter = streamReporter(process.stderr);
  const stop = new AbortController();
  const onSignal = (signal: NodeJS.Signals) => stop.abort(signal);
  process.once("SIGINT", onSignal).once("SIGTERM", onSignal);
  try {
    const model = await pullModel(name, {
      folder: flags.dir,
      sha256: flags.sha256,
      hub: flags.hub,
      reporter,
      signal: stop.signal,
    });
    reporter.end();
    reporter.note(
      model.wasThere
        ? `${model.name} is there already, SHA-256 ${model.sha256}`
        : `${model.name} is there, SHA-256 ${model.sha256} is right`,
    );
    console.log(model.path);
  } catch (error) {
    reporter.end();
    if (error instanceof PullError && error.code === "stopped") {
      throw new Error("stopped; the same command goes on from here", { cause: error });
    }
    throw error;
  } finally {
    process.off("SIGINT", onSignal).off("SIGTERM", onSignal);
  }
}

async function list(folder: string): Promise<void> {
  const models = await listModels(folder);
  if (models.length === 0) {
    console.log(`no models in ${folder}`);
    return;
  }
  for (const { name, sizeBytes, licence, path } of models) {
    console.log(`${name}  ${(sizeBytes / 1e6).toFixed(1)} MB  ${licence ?? "licence unknown"}`);
    console.log(`  ${path}`);
  }
}

async function remove(text: string, folder: string): Promise<void> {
  const { fetched } = await resolveModel(text, folder);
  if (fetched === undefined) throw new Error(`${text} is a file of your own; delete it yourself`);
  const bytes = await deleteModel(folder, fetched.name);
  console.log(`${fetched.name} deleted, ${(bytes / 1e6).toFixed(1)} MB free`);
}
