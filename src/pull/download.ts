/**
 * One file over HTTP into a part, as often interrupted as it may be. What is there is asked for no
 * second time: requests name the first missing byte (Range), and the version they belong to
 * (If-Range). A server that cannot do that sends all of it again. Nothing that is said of the file is
 * taken on trust in the end: size and SHA-256 decide.
 */
import { PullError, quote } from "./errors.js";
import { AttemptError, discard, refuseStatus } from "./http-client.js";
import type { HttpAnswer, HttpClient } from "./http-client.js";
import type { PullLimits } from "./limits.js";
import { PartFile, type PartIdentity } from "./part-file.js";
import type { PullReporter } from "./progress.js";
import { stopIfAborted, withRetries } from "./retry.js";
import { watchForStalls } from "./stall-watch.js";

/** A file to fetch. */
export interface DownloadOptions {
  readonly client: HttpClient;
  readonly url: URL;
  /** What the file is called in messages. */
  readonly what: string;
  /** Where the part goes, `.part` included. */
  readonly partPath: string;
  readonly identity: PartIdentity & { readonly sha256: string };
  /** Size in bytes, where it is known beforehand. */
  readonly sizeBytes: number | undefined;
  readonly limits: PullLimits;
  readonly signal: AbortSignal;
  readonly reporter: PullReporter;
  /** Called with the bytes still to come, as soon as they are known; throws if there is no room. */
  readonly checkRoom: (bytes: number) => Promise<void>;
}

/**
 * Fetches the file.
 *
 * @returns the complete, closed part, of the right size and SHA-256
 * @throws PullError; what arrived stays for the next pull unless it is proven wrong
 */
export async function download(options: DownloadOptions): Promise<PartFile> {
  const { partPath, identity, reporter } = options;
  const part = await PartFile.open(partPath, identity, (done, total) =>
    reporter.progress("checking what is there", done, total),
  );
  const foundBytes = part.sizeBytes;
  let wrong = false;
  try {
    await fetchInto(part, options);
    if (part.sha256() !== identity.sha256 && foundBytes > 0) {
      reporter.note("The bytes of an earlier pull do not fit; fetching all of it again.");
      await part.restart(undefined);
      await fetchInto(part, options);
    }
    wrong = part.sha256() !== identity.sha256;
    if (wrong) {
      throw new PullError(
        "checksum",
        `SHA-256 of ${options.what} is ${part.sha256()}, expected ${identity.sha256}; it was deleted`,
      );
    }
    return part;
  } finally {
    await part.close();
    if (wrong) await part.remove();
  }
}

async function fetchInto(part: PartFile, options: DownloadOptions): Promise<void> {
  const { limits, signal, reporter, what } = options;
  if (options.sizeBytes !== undefined) {
    checkSize(options.sizeBytes, options);
    if (part.sizeBytes > options.sizeBytes) await part.restart(undefined);
    await options.checkRoom(options.sizeBytes - part.sizeBytes);
    if (part.sizeBytes === options.sizeBytes) return;
  }
  await withRetries((progressed) => attempt(part, options, progressed), {
    limits,
    signal,
    onRetry: (why, pauseMs) =>
      reporter.note(`${why}; trying ${what} again in ${Math.ceil(pauseMs / 1_000)} s.`),
  });
}

/** One request, and its body to the end. */
async function attempt(
  part: PartFile,
  options: DownloadOptions,
  progressed: () => void,
): Promise<void> {
  const { client, url, what, limits, signal } = options;
  const stalled = new AbortController();
  const answer = await client.get(
    url,
    rangeHeaders(part),
    AbortSignal.any([signal, stalled.signal]),
  );
  const start = await placeOf(answer, part, options);
  if (start.complete) return;
  const { endBytes } = start;
  const watch = watchForStalls(limits, (bytes) => {
    stalled.abort(
      new AttemptError(`${what} stalled: ${bytes} bytes in ${limits.stallMs / 1_000} s`),
    );
  });
  try {
    for await (const chunk of answer.body as AsyncIterable<Uint8Array>) {
      watch.count(chunk.length);
      if (part.sizeBytes + chunk.length > endBytes) {
        throw new PullError("changed", `${what} is longer than the ${endBytes} bytes declared`);
      }
      await part.append(chunk);
      progressed();
      options.reporter.progress("fetching", part.sizeBytes, start.totalBytes);
    }
  } catch (cause) {
    if (cause instanceof PullError) throw cause;
    if (stalled.signal.reason instanceof AttemptError) throw stalled.signal.reason;
    throw new AttemptError(
      `${answer.url.host} broke off ${what} at byte ${part.sizeBytes} of ${start.totalBytes ?? "?"}`,
      { cause },
    );
  } finally {
    watch.stop();
  }
  stopIfAborted(signal);
  if (start.totalBytes !== undefined && part.sizeBytes < start.totalBytes) {
    throw new AttemptError(
      `${what} ended at byte ${part.sizeBytes} of ${start.totalBytes}, too early`,
    );
  }
}

function rangeHeaders(part: PartFile): Record<string, string> {
  if (part.sizeBytes === 0) return {};
  return {
    range: `bytes=${part.sizeBytes}-`,
    ...(part.etag === undefined ? {} : { "if-range": part.etag }),
  };
}

/** Where an answer's body belongs. */
interface Place {
  /** The part has everything already; there is no body to read. */
  readonly complete: boolean;
  /** Size of the whole file, in bytes, if anybody says it. */
  readonly totalBytes: number | undefined;
  /** The part must not grow beyond this. */
  readonly endBytes: number;
}

/** Judges the head of an answer and makes the part ready for the body. */
async function placeOf(
  answer: HttpAnswer,
  part: PartFile,
  options: DownloadOptions,
): Promise<Place> {
  const { what } = options;
  try {
    return await placeOfAnswer(answer, part, options);
  } catch (error) {
    discard(answer.body);
    if (error instanceof RangeRefused) {
      await part.restart(undefined);
      throw new AttemptError(`${answer.url.host} has no byte ${error.atByte} of ${what}`);
    }
    throw error;
  }
}

class RangeRefused extends Error {
  constructor(readonly atByte: number) {
    super();
  }
}

async function placeOfAnswer(
  answer: HttpAnswer,
  part: PartFile,
  options: DownloadOptions,
): Promise<Place> {
  const { what, limits } = options;
  if (answer.status === 416 && part.sizeBytes > 0) {
    const total = /^bytes \*\/(?<total>\d+)$/.exec(answer.header("content-range") ?? "")?.groups;
    if (Number(total?.["total"]) !== part.sizeBytes) throw new RangeRefused(part.sizeBytes);
    discard(answer.body);
    return { complete: true, totalBytes: part.sizeBytes, endBytes: part.sizeBytes };
  }
  if (answer.status !== 200 && answer.status !== 206) refuseStatus(answer, what);
  checkLinkedFile(answer, options);
  const encoding = answer.header("content-encoding") ?? "identity";
  if (encoding !== "identity") {
    throw new PullError(
      "unreachable",
      `${answer.url.host} sends ${what} as ${quote(encoding)}, which was not asked for`,
    );
  }
  const etag = strongEtag(answer.header("etag"));
  const totalBytes =
    answer.status === 206 ? totalOfRange(answer, part, what) : lengthOf(answer, "content-length");
  if (
    answer.status === 206 &&
    part.etag !== undefined &&
    etag !== undefined &&
    etag !== part.etag
  ) {
    // The server looked at no If-Range, and the file is another one now.
    throw new RangeRefused(part.sizeBytes);
  }
  if (answer.status === 200) {
    if (part.sizeBytes > 0) {
      options.reporter.note(
        etag !== undefined && etag === part.etag
          ? `${answer.url.host} cannot resume; fetching all of it again.`
          : `${what} may have changed since the last pull; fetching all of it again.`,
      );
    }
    await part.restart(etag);
  }
  if (totalBytes !== undefined) {
    checkSize(totalBytes, options);
    await options.checkRoom(totalBytes - part.sizeBytes);
  }
  const promised = options.sizeBytes ?? totalBytes;
  return {
    complete: false,
    totalBytes: promised,
    endBytes: promised ?? limits.fileBytesMax,
  };
}

/** A hub says on the way what file it redirects to; that must be the one its API named. */
function checkLinkedFile(answer: HttpAnswer, { what, identity, sizeBytes }: DownloadOptions): void {
  const size = answer.headerOnTheWay("x-linked-size");
  if (size !== undefined && sizeBytes !== undefined && Number(size) !== sizeBytes) {
    throw new PullError(
      "changed",
      `${what} has ${quote(size)} bytes now, ${sizeBytes} were promised`,
    );
  }
  const etag = answer.headerOnTheWay("x-linked-etag");
  const hash = /^(?:W\/)?"?(?<hash>[0-9a-f]{64})"?$/i.exec(etag ?? "")?.groups?.["hash"];
  if (hash !== undefined && hash.toLowerCase() !== identity.sha256) {
    throw new PullError(
      "changed",
      `${what} has SHA-256 ${hash} now, ${identity.sha256} was promised`,
    );
  }
}

/** The file's size from Content-Range, which must start at the byte that was asked for. */
function totalOfRange(answer: HttpAnswer, part: PartFile, what: string): number | undefined {
  const text = answer.header("content-range") ?? "";
  const range = /^bytes (?<start>\d+)-\d+\/(?<total>\d+|\*)$/.exec(text)?.groups;
  if (range === undefined || Number(range["start"]) !== part.sizeBytes) {
    throw new AttemptError(
      `${answer.url.host} sent range ${quote(text)} of ${what}, byte ${part.sizeBytes} was asked for`,
    );
  }
  return range["total"] === "*" ? undefined : Number(range["total"]);
}

function lengthOf(answer: HttpAnswer, header: string): number | undefined {
  const text = answer.header(header);
  return text !== undefined && /^\d{1,15}$/.test(text) ? Number(text) : undefined;
}

function strongEtag(etag: string | undefined): string | undefined {
  return etag !== undefined && /^"[^"]*"$/.test(etag) ? etag : undefined;
}

function checkSize(totalBytes: number, { what, sizeBytes, limits }: DownloadOptions): void {
  if (totalBytes > limits.fileBytesMax) {
    throw new PullError(
      "limit",
      `${what} has ${totalBytes} bytes, at most ${limits.fileBytesMax} are fetched`,
    );
  }
  if (sizeBytes !== undefined && totalBytes !== sizeBytes) {
    throw new PullError(
      "changed",
      `${what} has ${totalBytes} bytes now, ${sizeBytes} were promised`,
    );
  }
}
