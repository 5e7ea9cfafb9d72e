/**
 * The folder of fetched models. Beside each `NAME.gguf` lies a record `NAME.json`: what it is, where
 * it came from, under which licence, and what its bytes must be.
 */
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { PullError, isSystemError, quote } from "./errors.js";
import { recordBytesMax } from "./limits.js";

/** What is known of a fetched model. */
export interface ModelRecord {
  /** The name under which it is listed, and can be used. */
  readonly name: string;
  /** Where it came from, for people. */
  readonly source: string;
  readonly sizeBytes: number;
  /** SHA-256, lower-case hexadecimal. */
  readonly sha256: string;
  /** SPDX identifier, where the source names one. */
  readonly licence: string | undefined;
  /** When it arrived, ISO 8601. */
  readonly fetchedAt: string;
}

/** A fetched model that is there. */
export interface FetchedModel extends ModelRecord {
  /** Absolute path of the model file. */
  readonly path: string;
}

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * Where models are kept: LEANEDGE_MODELS_DIR, or the platform's place for data of a user's programs.
 *
 * @returns an absolute path
 */
export function modelsFolder(
  environment: Environment = process.env,
  platform: NodeJS.Platform = process.platform,
  home: string = homedir(),
): string {
  const named = environment["LEANEDGE_MODELS_DIR"];
  if (named !== undefined && named !== "") return resolve(named);
  if (platform === "darwin")
    return join(home, "Library", "Application Support", "leanedge", "models");
  if (platform === "win32") {
    return join(
      environment["LOCALAPPDATA"] ?? join(home, "AppData", "Local"),
      "leanedge",
      "models",
    );
  }
  const data = environment["XDG_DATA_HOME"];
  // The specification of base directories ignores relative paths.
  const base = data?.startsWith("/") === true ? data : join(home, ".local", "share");
  return join(base, "leanedge", "models");
}

/** The name of a model as part of a file name: hubs allow no `--` in theirs. */
function fileStem(name: string): string {
  const stem = name
    .replace(/^https?:\/\//, "")
    .replace(/\.gguf$/i, "")
    .replaceAll(/[/:@]+/g, "--")
    .replaceAll(/[^A-Za-z0-9._-]/g, "_")
    .slice(-180)
    .replace(/^[.-]+/, "");
  return stem === "" ? "_" : stem;
}

/** The paths of one model in a folder. */
export interface ModelPaths {
  readonly file: string;
  readonly part: string;
  readonly record: string;
  readonly lock: string;
}

/** Where a model of this name goes. */
export function modelPaths(folder: string, name: string): ModelPaths {
  const stem = join(folder, fileStem(name));
  return {
    file: `${stem}.gguf`,
    part: `${stem}.gguf.part`,
    record: `${stem}.json`,
    lock: `${stem}.lock`,
  };
}

/** Makes the folder if there is none. */
export async function makeModelsFolder(folder: string): Promise<void> {
  try {
    await mkdir(folder, { recursive: true });
  } catch (cause) {
    throw new PullError("disk", `cannot make the models folder ${folder}`, { cause });
  }
}

/** The fetched model of a name; undefined if it is not there or not complete. */
export async function findModel(folder: string, name: string): Promise<FetchedModel | undefined> {
  const paths = modelPaths(folder, name);
  const record = await readRecord(paths.record);
  if (record === undefined || (await sizeOf(paths.file)) !== record.sizeBytes) return undefined;
  if (record.name !== name) {
    throw new PullError(
      "disk",
      `${paths.record} belongs to ${quote(record.name)}, not to ${quote(name)}`,
    );
  }
  return { ...record, path: paths.file };
}

/** All fetched models of a folder, by name. */
export async function listModels(folder: string): Promise<FetchedModel[]> {
  let names: string[];
  try {
    names = await readdir(folder);
  } catch (error) {
    if (isSystemError(error, "ENOENT")) return [];
    throw error;
  }
  const models: FetchedModel[] = [];
  for (const file of names.filter((each) => each.endsWith(".json")).sort()) {
    if (file.endsWith(".part.json")) continue;
    const record = await readRecord(join(folder, file));
    const path = join(folder, `${file.slice(0, -".json".length)}.gguf`);
    if (record !== undefined && (await sizeOf(path)) === record.sizeBytes) {
      models.push({ ...record, path });
    }
  }
  return models.sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** Writes a record, whole or not at all. */
export async function saveRecord(folder: string, record: ModelRecord): Promise<void> {
  const { record: path } = modelPaths(folder, record.name);
  await writeFile(`${path}.new`, `${JSON.stringify(record, undefined, 2)}\n`);
  await rename(`${path}.new`, path);
}

/** Deletes a model, and what is left of a broken pull of it. Returns the bytes that became free. */
export async function deleteModel(folder: string, name: string): Promise<number> {
  const paths = modelPaths(folder, name);
  let bytes = 0;
  // The record last: a model without one is no model.
  for (const path of [paths.file, paths.part, `${paths.part}.json`, paths.record]) {
    bytes += (await sizeOf(path)) ?? 0;
    await rm(path, { force: true });
  }
  return bytes;
}

async function sizeOf(path: string): Promise<number | undefined> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    if (isSystemError(error, "ENOENT")) return undefined;
    throw error;
  }
}

async function readRecord(path: string): Promise<ModelRecord | undefined> {
  try {
    const size = await sizeOf(path);
    if (size === undefined || size > recordBytesMax) return undefined;
    return asRecord(JSON.parse(await readFile(path, "utf8")));
  } catch (error) {
    if (isSystemError(error, "ENOENT") || error instanceof SyntaxError) return undefined;
    throw error;
  }
}

function asRecord(value: unknown): ModelRecord | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const { name, source, sizeBytes, sha256, licence, fetchedAt } = value as Record<string, unknown>;
  if (
    typeof name !== "string" ||
    typeof source !== "string" ||
    typeof sizeBytes !== "number" ||
    typeof sha256 !== "string" ||
    typeof fetchedAt !== "string"
  ) {
    return undefined;
  }
  return {
    name,
    source,
    sizeBytes,
    sha256,
    licence: typeof licence === "string" ? licence : undefined,
    fetchedAt,
  };
}
