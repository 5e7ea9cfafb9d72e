/**
 * A hub and its storage, as two servers of this process: the hub describes repositories and redirects
 * to the storage, which serves ranges. Either can be told to misbehave, request by request.
 */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { Server } from "node:http";
import { createHash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

/** How the storage answers one request; requests without one are answered well. */
export type Fault =
  /** Breaks the connection after so many bytes of the body, which a reader gets so many milliseconds for (breakMs by default). */
  | { kind: "break"; afterBytes: number; readMs?: number }
  /** Says nothing more after so many bytes, and keeps the connection. */
  | { kind: "stall"; afterBytes: number }
  /** Sends pieces with pauses, in milliseconds. */
  | { kind: "slow"; pieceBytes: number; pauseMs: number }
  /** Ends a body without a declared length after so many bytes, as if that were all. */
  | { kind: "short"; afterBytes: number }
  /** Sends further bytes behind a body without a declared length. */
  | { kind: "long"; moreBytes: number }
  /** Answers with a status and headers. */
  | { kind: "status"; status: number; headers?: Readonly<Record<string, string>> }
  /** Pays no attention to Range. */
  | { kind: "whole" }
  /** Pays no attention to If-Range, and serves the range of whatever is there. */
  | { kind: "no-if-range" }
  /** Answers a range with another one. */
  | { kind: "other-range" }
  /** Compresses, or says so. */
  | { kind: "encoded" }
  /** Never answers. */
  | { kind: "silent" };

/** Time that a reader gets for the bytes before a break, in milliseconds. */
const breakMs = 20;

/** The same where a test counts them: a busy machine does not come to look at them any sooner. */
export const breakCountedMs = 1_000;

/** A request that a server saw. */
export interface SeenRequest {
  readonly path: string;
  readonly range: string | undefined;
  readonly ifRange: string | undefined;
  readonly authorization: string | undefined;
}

/** A file of the test's repository. */
export interface HubTestFile {
  bytes: Uint8Array;
  /** Not in large file storage: no SHA-256 in the API. */
  small?: boolean;
}

/** SHA-256 in hexadecimal. */
export function sha256Of(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

const commit = "0123456789abcdef0123456789abcdef01234567";

/** A running hub with one repository, `owner/model`, at revision `main`. */
export class HubServer {
  /** Files of the repository; replace one to change it. */
  readonly files = new Map<string, HubTestFile>();
  /** What the API says instead of the truth. */
  apiOverride: ((description: Record<string, unknown>) => unknown) | undefined;
  /** Answers of the API and of `/resolve/`, first come, first served. */
  readonly hubFaults: Fault[] = [];
  /** Answers of the storage. */
  readonly storageFaults: Fault[] = [];
  readonly hubSeen: SeenRequest[] = [];
  readonly storageSeen: SeenRequest[] = [];
  /** Redirects before the storage is reached. */
  redirects = 1;
  /** Sent as X-Linked-Etag instead of the file's SHA-256. */
  linkedEtag: string | undefined;
  /** A key without which the hub answers 401. */
  requiredToken: string | undefined;
  /** Awaited once, when the storage has looked the file up and not yet answered. */
  onStorage: (() => unknown) | undefined;
  readonly #hub: Server;
  readonly #storage: Server;

  private constructor() {
    this.#hub = createServer((request, response) => void this.#answerHub(request, response));
    this.#storage = createServer(
      (request, response) => void this.#answerStorage(request, response),
    );
  }

  /** Starts both servers on ports of their own. */
  static async start(): Promise<HubServer> {
    const hub = new HubServer();
    for (const server of [hub.#hub, hub.#storage]) {
      await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    }
    return hub;
  }

  /** Address of the hub. */
  get url(): string {
    return urlOf(this.#hub);
  }

  /** Address of a file in the storage. */
  storageUrl(path: string): string {
    return `${urlOf(this.#storage)}/${path}`;
  }

  /** Stops both. */
  async stop(): Promise<void> {
    for (const server of [this.#hub, this.#storage]) {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    }
  }

  async #answerHub(request: IncomingMessage, response: ServerResponse): Promise<void> {
    this.hubSeen.push(seen(request));
    const path = decodeURIComponent(new URL(request.url ?? "/", "http://hub").pathname);
    const fault = this.hubFaults.shift();
    if (fault?.kind === "silent") return;
    if (fault?.kind === "status") {
      response.writeHead(fault.status, { ...fault.headers }).end();
      return;
    }
    const token = this.requiredToken;
    if (token !== undefined && request.headers.authorization !== `Bearer ${token}`) {
      response
        .writeHead(401, { "x-error-code": "GatedRepo", "x-error-message": "ask first" })
        .end();
      return;
    }
    if (path === "/api/models/owner/model/revision/main") {
      response.setHeader("content-type", "application/json");
      response.end(JSON.stringify(this.#describe()));
      return;
    }
    const file = /^\/owner\/model\/resolve\/[0-9a-f]+\/(?<file>.+)$/.exec(path)?.groups?.["file"];
    const hop = /^\/hop\/(?<left>\d+)\/(?<file>.+)$/.exec(path)?.groups;
    const name = file ?? hop?.["file"] ?? "";
    const found = this.files.get(name);
    if (found === undefined) {
      response.writeHead(404, { "x-error-code": "EntryNotFound" }).end();
      return;
    }
    const left = hop === undefined ? this.redirects : Number(hop["left"]);
    const target =
      left > 1 ? `/hop/${left - 1}/${encodeURIComponent(name)}` : this.storageUrl(name);
    const linked = {
      "x-repo-commit": commit,
      "x-linked-size": String(found.bytes.length),
      "x-linked-etag": `"${this.linkedEtag ?? sha256Of(found.bytes)}"`,
    };
    response.writeHead(302, { location: target, ...(hop === undefined ? linked : {}) }).end();
  }

  #describe(): unknown {
    const siblings = [...this.files].map(([rfilename, { bytes, small }]) => ({
      rfilename,
      size: bytes.length,
      ...(small === true
        ? {}
        : { lfs: { sha256: sha256Of(bytes), size: bytes.length, pointerSize: 130 } }),
    }));
    const description = { sha: commit, tags: ["gguf", "license:apache-2.0"], siblings };
    return this.apiOverride?.(description) ?? description;
  }

  async #answerStorage(request: IncomingMessage, response: ServerResponse): Promise<void> {
    this.storageSeen.push(seen(request));
    const path = decodeURIComponent(new URL(request.url ?? "/", "http://hub").pathname).slice(1);
    const file = this.files.get(path);
    const fault = this.storageFaults.shift();
    const { onStorage } = this;
    this.onStorage = undefined;
    const bytes = file?.bytes;
    await onStorage?.();
    if (fault?.kind === "silent") return;
    if (fault?.kind === "status" || bytes === undefined) {
      response.writeHead(fault?.kind === "status" ? fault.status : 404, {
        ...(fault?.kind === "status" ? fault.headers : {}),
      });
      response.end();
      return;
    }
    const etag = `"${sha256Of(bytes).slice(0, 16)}"`;
    response.setHeader("etag", etag);
    const body = rangeOf(request, response, bytes, etag, fault);
    if (body !== undefined) await sendBody(response, body, fault);
  }
}

function urlOf(server: Server): string {
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

function seen({ url, headers }: IncomingMessage): SeenRequest {
  return {
    path: url ?? "",
    range: headers.range,
    ifRange: typeof headers["if-range"] === "string" ? headers["if-range"] : undefined,
    authorization: headers.authorization,
  };
}

/** Writes status and range headers; undefined if that was the answer. */
function rangeOf(
  request: IncomingMessage,
  response: ServerResponse,
  bytes: Uint8Array,
  etag: string,
  fault: Fault | undefined,
): Uint8Array | undefined {
  const asked = /^bytes=(?<start>\d+)-$/.exec(request.headers.range ?? "")?.groups?.["start"];
  const ifRange = request.headers["if-range"];
  const same = ifRange === undefined || ifRange === etag || fault?.kind === "no-if-range";
  if (asked === undefined || fault?.kind === "whole" || !same) return bytes;
  const start = Number(asked);
  if (start >= bytes.length) {
    response.writeHead(416, { "content-range": `bytes */${bytes.length}` }).end();
    return undefined;
  }
  const sent = fault?.kind === "other-range" ? start + 1 : start;
  response.statusCode = 206;
  response.setHeader("content-range", `bytes ${sent}-${bytes.length - 1}/${bytes.length}`);
  return bytes.subarray(sent);
}

async function sendBody(
  response: ServerResponse,
  body: Uint8Array,
  fault: Fault | undefined,
): Promise<void> {
  if (fault?.kind === "encoded") response.setHeader("content-encoding", "gzip");
  if (fault?.kind === "short" || fault?.kind === "long") {
    response.flushHeaders();
    response.end(
      fault.kind === "short"
        ? body.subarray(0, fault.afterBytes)
        : Buffer.concat([body, Buffer.alloc(fault.moreBytes)]),
    );
    return;
  }
  response.setHeader("content-length", body.length);
  switch (fault?.kind) {
    case "break":
      // A reader drops what it has not yet looked at when its connection breaks.
      response.write(body.subarray(0, fault.afterBytes));
      await sleep(fault.readMs ?? breakMs);
      response.destroy();
      return;
    case "stall":
      response.write(body.subarray(0, fault.afterBytes));
      return;
    case "slow":
      for (let at = 0; at < body.length && !response.destroyed; at += fault.pieceBytes) {
        response.write(body.subarray(at, at + fault.pieceBytes));
        await sleep(fault.pauseMs);
      }
      response.end();
      return;
    default:
      response.end(body);
  }
}
