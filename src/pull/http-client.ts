/**
 * GET with redirects, proxies and named bounds. undici is the client inside Node's own fetch; used
 * directly it also honours HTTP_PROXY, HTTPS_PROXY and NO_PROXY in every version of Node, and leaves
 * redirects to us, who must look at each one: a key goes to the host that it belongs to and no further.
 */
import { EnvHttpProxyAgent, request, type Dispatcher } from "undici";
import { PullError, quote, reason } from "./errors.js";
import type { PullLimits } from "./limits.js";
import { isSafeUrl } from "./model-name.js";

/** A secret for one origin. */
export interface AccessToken {
  /** Scheme, host and port that may see it. */
  readonly origin: string;
  readonly value: string;
}

/** An answer after all redirects. */
export interface HttpAnswer {
  readonly status: number;
  /** Where it came from in the end. */
  readonly url: URL;
  /** A header of this answer; the first of several. */
  header(name: string): string | undefined;
  /** A header of the first answer on the way that had it: hubs name the file before they redirect. */
  headerOnTheWay(name: string): string | undefined;
  /** The body; must be read or destroyed. */
  readonly body: Dispatcher.ResponseData["body"];
}

/** An attempt that failed in a way that another one may mend. */
export class AttemptError extends Error {
  /** The pause that the server asked for, in milliseconds. */
  readonly retryAfterMs: number | undefined;

  constructor(message: string, options?: ErrorOptions & { retryAfterMs?: number | undefined }) {
    super(message, options);
    this.name = "AttemptError";
    this.retryAfterMs = options?.retryAfterMs;
  }
}

type Headers = Dispatcher.ResponseData["headers"];

function firstHeader(headers: Headers, name: string): string | undefined {
  const value = headers[name.toLowerCase()];
  return Array.isArray(value) ? value[0] : value;
}

const redirects: ReadonlySet<number> = new Set([301, 302, 303, 307, 308]);

/** A client with its connections; close it when done. */
export class HttpClient {
  readonly #agent: EnvHttpProxyAgent;
  readonly #limits: PullLimits;
  readonly #token: AccessToken | undefined;

  /** @param token sent to its own origin only, whatever redirects say */
  constructor(limits: PullLimits, token?: AccessToken) {
    this.#limits = limits;
    this.#token = token;
    this.#agent = new EnvHttpProxyAgent({
      connect: { timeout: limits.connectTimeoutMs },
      headersTimeout: limits.headersTimeoutMs,
      // Bodies are watched by who reads them, with a floor for the rate as well.
      bodyTimeout: 0,
    });
  }

  /**
   * Sends a GET and follows redirects. Any status but a redirect is an answer.
   *
   * @throws AttemptError where the network failed; PullError where trying again would not help
   */
  async get(
    url: URL,
    headers: Readonly<Record<string, string>>,
    signal: AbortSignal,
  ): Promise<HttpAnswer> {
    const seen: Headers[] = [];
    let at = url;
    for (let hops = 0; hops <= this.#limits.redirectsMax; hops += 1) {
      const answer = await this.#send(at, headers, signal);
      seen.push(answer.headers);
      if (!redirects.has(answer.statusCode)) {
        return {
          status: answer.statusCode,
          url: at,
          header: (name) => firstHeader(answer.headers, name),
          headerOnTheWay: (name) =>
            seen.map((each) => firstHeader(each, name)).find((value) => value !== undefined),
          body: answer.body,
        };
      }
      discard(answer.body);
      at = redirectTarget(at, firstHeader(answer.headers, "location"));
    }
    throw new PullError(
      "limit",
      `${url.href} redirects more than ${this.#limits.redirectsMax} times`,
    );
  }

  /** Closes all connections, also those in use. */
  async close(): Promise<void> {
    await this.#agent.destroy();
  }

  async #send(
    url: URL,
    headers: Readonly<Record<string, string>>,
    signal: AbortSignal,
  ): Promise<Dispatcher.ResponseData> {
    const token = this.#token?.origin === url.origin ? this.#token.value : undefined;
    try {
      return await request(url, {
        dispatcher: this.#agent,
        signal,
        headers: {
          "user-agent": "leanedge",
          // Positions count bytes of the file, not of a compressed form of it.
          "accept-encoding": "identity",
          ...headers,
          ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
        },
      });
    } catch (cause) {
      throw new AttemptError(`${url.host}: ${reason(cause)}`, { cause });
    }
  }
}

/** Gives up a body that nobody will read. */
export function discard(body: Dispatcher.ResponseData["body"]): void {
  // Destroying a body that is not at its end emits an error, which here is no news.
  body.on("error", () => undefined);
  body.destroy();
}

function redirectTarget(from: URL, location: string | undefined): URL {
  if (location === undefined) {
    throw new PullError("unreachable", `${from.href} redirects without saying where`);
  }
  let target: URL;
  try {
    target = new URL(location, from);
  } catch (cause) {
    throw new PullError("unreachable", `${from.href} redirects to ${quote(location)}`, { cause });
  }
  if (!isSafeUrl(target)) {
    throw new PullError(
      "unreachable",
      `${from.href} redirects to ${quote(target.href)}: not https`,
    );
  }
  return target;
}

/** Statuses that mean "not now". */
const passing: ReadonlySet<number> = new Set([408, 425, 429, 500, 502, 503, 504]);

/**
 * Turns a status that is no success into the right error, and gives the body up.
 *
 * @throws always: AttemptError for what may pass, PullError for what will not
 */
export function refuseStatus(answer: HttpAnswer, what: string): never {
  discard(answer.body);
  const { status } = answer;
  const said = answer.header("x-error-message");
  const told = said === undefined ? "" : `: ${quote(said)}`;
  const code = answer.header("x-error-code");
  if (passing.has(status)) {
    throw new AttemptError(`${answer.url.host} answered ${status} for ${what}${told}`, {
      retryAfterMs: pauseAsked(answer, Date.now()),
    });
  }
  if (code === "GatedRepo") {
    throw new PullError(
      "denied",
      `${what} is gated: accept its terms on ${answer.url.host} and set HF_TOKEN${told}`,
    );
  }
  if (status === 401) {
    // A hub answers so for repositories that do not exist, too.
    throw new PullError(
      "denied",
      `${answer.url.host} answered 401 for ${what}: it does not exist, or it needs a key (HF_TOKEN)${told}`,
    );
  }
  if (status === 403) {
    throw new PullError("denied", `${answer.url.host} answered 403 for ${what}${told}`);
  }
  if (status === 404 || status === 410) {
    throw new PullError("not-found", `${answer.url.host} does not have ${what} (${status})${told}`);
  }
  throw new PullError(
    "unreachable",
    `${answer.url.host} answered ${status} for ${what}, which means nothing here${told}`,
  );
}

/**
 * The pause that a server asks for, in milliseconds: Retry-After in seconds or as a date (RFC 9110),
 * or the `t` of a hub's RateLimit header.
 */
export function pauseAsked(answer: Pick<HttpAnswer, "header">, nowMs: number): number | undefined {
  const retryAfter = answer.header("retry-after")?.trim();
  if (retryAfter !== undefined) {
    if (/^\d{1,9}$/.test(retryAfter)) return Number(retryAfter) * 1_000;
    const date = Date.parse(retryAfter);
    if (!Number.isNaN(date)) return Math.max(0, date - nowMs);
  }
  const reset = /(?:^|;)\s*t=(?<seconds>\d{1,9})\s*(?:;|,|$)/.exec(
    answer.header("ratelimit") ?? "",
  );
  const seconds = reset?.groups?.["seconds"];
  return seconds === undefined ? undefined : Number(seconds) * 1_000;
}
