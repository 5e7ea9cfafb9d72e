/**
 * Files of repositories on a hub with the HTTP conventions of the Hugging Face hub: one call of its
 * API names the commit, the licence, and size and SHA-256 of each large file; the bytes are at
 * `/REPOSITORY/resolve/COMMIT/FILE`, behind redirects. The commit is pinned, so that a branch that
 * moves while a file is on its way changes nothing.
 */
import { PullError, quote } from "./errors.js";
import { AttemptError, discard, refuseStatus, type HttpClient } from "./http-client.js";
import { quotedCharsMax, type PullLimits } from "./limits.js";
import { isSafeUrl, type HubName } from "./model-name.js";
import { watchForStalls } from "./stall-watch.js";

/** The hub that is asked unless another is named. */
export const defaultHubUrl = "https://huggingface.co";

/** A file of a hub, as its API describes it. */
export interface HubFile {
  /** Path in the repository. */
  readonly path: string;
  readonly sizeBytes: number;
  /** SHA-256, lower-case hexadecimal; only files in large file storage have one. */
  readonly sha256: string | undefined;
  /** Commit that it is fetched from. */
  readonly commit: string;
  /** Where its bytes are. */
  readonly url: URL;
  /** SPDX identifier or the hub's word for another licence. */
  readonly licence: string | undefined;
}

/** Reads a hub's address. */
export function parseHubUrl(text: string): URL {
  const url = URL.canParse(text) ? new URL(text.endsWith("/") ? text : `${text}/`) : undefined;
  if (url === undefined || !isSafeUrl(url)) {
    throw new PullError("name", `hub ${quote(text)} is no https URL (http only on this machine)`);
  }
  return url;
}

/** What files of a repository are called that hold one part of several of a model. */
const splitFile = /-\d{5}-of-\d{5}\.gguf$/i;

interface Sibling {
  readonly path: string;
  readonly sizeBytes: number | undefined;
  readonly sha256: string | undefined;
}

interface Repository {
  readonly commit: string;
  readonly licence: string | undefined;
  readonly files: readonly Sibling[];
}

/**
 * Asks the hub for the file that a name means. One attempt.
 *
 * @throws AttemptError, PullError
 */
export async function findHubFile(
  client: HttpClient,
  hub: URL,
  name: HubName,
  limits: PullLimits,
  signal: AbortSignal,
): Promise<HubFile> {
  const what = `${name.repository}@${name.revision}`;
  const api = new URL(
    `api/models/${name.repository}/revision/${encodeURIComponent(name.revision)}?blobs=true`,
    hub,
  );
  const repository = asRepository(await getJson(client, api, what, limits, signal), what);
  const file = selectFile(
    repository.files.map(({ path }) => path),
    name.wanted,
    what,
  );
  const found = repository.files.find(({ path }) => path === file);
  if (found?.sizeBytes === undefined) {
    throw new PullError("unreachable", `the hub does not say how large ${file} of ${what} is`);
  }
  const path = file.split("/").map(encodeURIComponent).join("/");
  return {
    path: file,
    sizeBytes: found.sizeBytes,
    sha256: found.sha256,
    commit: repository.commit,
    url: new URL(`${name.repository}/resolve/${repository.commit}/${path}`, hub),
    licence: repository.licence,
  };
}

/**
 * The one GGUF file of a list that was meant: by its path, or by a quantisation such as `Q8_0`.
 *
 * @throws PullError `not-found` or `ambiguous`, with the files to choose from
 */
export function selectFile(
  paths: readonly string[],
  wanted: string | undefined,
  what: string,
): string {
  const exact = paths.find((path) => path === wanted);
  const models = paths.filter((path) => /\.gguf$/i.test(path));
  const whole = models.filter((path) => !splitFile.test(path));
  const chosen =
    exact !== undefined
      ? [exact]
      : wanted === undefined
        ? whole
        : whole.filter((path) => quantisationOf(path) === wanted.toUpperCase());
  const [first, ...others] = chosen;
  if (first !== undefined && splitFile.test(first)) {
    throw new PullError(
      "not-found",
      `${first} is one part of a split model; only whole ones are read`,
    );
  }
  if (first !== undefined && others.length === 0) return first;
  const choice = whole.length === 0 ? "it has no whole GGUF file" : `choose ${listed(whole)}`;
  if (first === undefined) {
    throw new PullError("not-found", `${what} has no ${wanted ?? "GGUF file"}: ${choice}`);
  }
  throw new PullError("ambiguous", `${what} has several: ${choice}`);
}

/** The quantisation at the end of a file's name, in capitals: `Q4_K_M`, `F16`. */
function quantisationOf(path: string): string | undefined {
  const match = /[-._](?<type>(?:I?Q\d[A-Z0-9_]*|BF16|F16|F32))\.gguf$/i.exec(path);
  return match?.groups?.["type"]?.toUpperCase();
}

/** Names in a message: at most a screenful. */
const listedMax = 24;

function listed(paths: readonly string[]): string {
  const names = paths.slice(0, listedMax).map((path) => `:${path}`);
  const more = paths.length > listedMax ? ` and ${paths.length - listedMax} more` : "";
  return names.join(", ") + more;
}

async function getJson(
  client: HttpClient,
  url: URL,
  what: string,
  limits: PullLimits,
  signal: AbortSignal,
): Promise<unknown> {
  const stalled = new AbortController();
  const answer = await client.get(
    url,
    { accept: "application/json" },
    AbortSignal.any([signal, stalled.signal]),
  );
  if (answer.status !== 200) refuseStatus(answer, what);
  const watch = watchForStalls({ stallMs: limits.stallMs, stallBytes: 1 }, () => stalled.abort());
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  try {
    for await (const chunk of answer.body as AsyncIterable<Uint8Array>) {
      watch.count(chunk.length);
      bytes += chunk.length;
      if (bytes > limits.apiBytesMax) {
        throw new PullError(
          "limit",
          `${url.host} describes ${what} in more than ${limits.apiBytesMax} bytes`,
        );
      }
      chunks.push(chunk);
    }
  } catch (cause) {
    if (cause instanceof PullError) throw cause;
    throw new AttemptError(`${url.host} broke off its description of ${what}`, { cause });
  } finally {
    watch.stop();
    discard(answer.body);
  }
  try {
    return JSON.parse(Buffer.concat(chunks).toString("utf8"));
  } catch (cause) {
    throw new PullError("unreachable", `${url.host} does not answer in JSON for ${what}`, {
      cause,
    });
  }
}

function object(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
}

function asRepository(value: unknown, what: string): Repository {
  const { sha, siblings, cardData, tags } = object(value);
  if (typeof sha !== "string" || !/^[0-9a-f]{40,64}$/.test(sha) || !Array.isArray(siblings)) {
    throw new PullError("unreachable", `the hub's description of ${what} has no commit and files`);
  }
  return {
    commit: sha,
    licence: licenceOf(object(cardData)["license"], tags),
    files: siblings.flatMap((each: unknown) => asSibling(object(each)) ?? []),
  };
}

function asSibling({
  rfilename,
  size,
  lfs,
}: Readonly<Record<string, unknown>>): Sibling | undefined {
  if (typeof rfilename !== "string" || !isPrintable(rfilename)) return undefined;
  const { sha256, size: lfsSize } = object(lfs);
  const bytes = typeof lfsSize === "number" ? lfsSize : size;
  return {
    path: rfilename,
    sizeBytes: typeof bytes === "number" && Number.isSafeInteger(bytes) ? bytes : undefined,
    sha256: typeof sha256 === "string" && /^[0-9a-f]{64}$/.test(sha256) ? sha256 : undefined,
  };
}

/** Names and licences of a hub are shown on terminals, which obey control characters. */
function isPrintable(text: string): boolean {
  return text.length <= quotedCharsMax && !/[\p{C}\p{Zl}\p{Zp}]/u.test(text);
}

function licenceOf(card: unknown, tags: unknown): string | undefined {
  if (typeof card === "string" && isPrintable(card)) return card;
  const tag = (Array.isArray(tags) ? (tags as unknown[]) : []).find(
    (each): each is string =>
      typeof each === "string" && each.startsWith("license:") && isPrintable(each),
  );
  return tag?.slice("license:".length);
}
