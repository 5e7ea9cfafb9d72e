import { Code, ConnectError } from "@connectrpc/connect";
import type { Interceptor, Transport } from "@connectrpc/connect";
import type {
  UniversalClientFn,
  UniversalClientRequest,
  UniversalClientResponse,
} from "@connectrpc/connect/protocol";
import { createTransport } from "@connectrpc/connect/protocol-connect";
import { gzipCompression } from "./gzip.js";
import { defaultRpcLimits } from "./rpc-limits.js";

/** Anything that answers HTTP requests: a service binding, a Durable Object stub, or `{ fetch }` itself. */
export interface Fetching {
  /** Sends the request and resolves with the response's head. */
  fetch(url: string, init?: RequestInit): Promise<Response>;
}

/** How a Worker calls Connect services elsewhere. */
export interface WorkerTransportOptions {
  /** Where the services are mounted, without a trailing slash. For a stub or binding the host name is free. */
  baseUrl: string;
  /** What carries the requests; the runtime's own `fetch` by default. */
  fetcher?: Fetching;
  /** Outermost first. */
  interceptors?: readonly Interceptor[];
  /** Sends JSON instead of protobuf's binary form; false by default. */
  useJson?: boolean;
  /** Deadline of calls that name none, in milliseconds; none by default. */
  defaultTimeoutMs?: number;
  /** Largest response message after decompression, in bytes; `messageWriteBytesMax` of the default limits when unset. */
  readBytesMax?: number;
  /** Largest request message, in bytes; `messageReadBytesMax` of the default limits when unset. */
  writeBytesMax?: number;
  /** gzip responses of 1 KiB and more, for slow links; false by default because the CPU time is the scarcer good. */
  acceptGzip?: boolean;
}

/**
 * A Connect transport that works inside workerd, for all four kinds of RPC.
 *
 * connect-web's transport does not: it asks for `redirect: "error"`, which workerd refuses, and cannot stream requests.
 * This one takes redirects as they come (`redirect: "manual"`) and reports them as UNAVAILABLE: an RPC never follows one.
 *
 * Give every streaming call a `signal` and abort it to stop: Connect's clients do not close a stream when a loop over it
 * is left with `break`.
 */
export function workerTransport(options: WorkerTransportOptions): Transport {
  return createTransport({
    baseUrl: options.baseUrl,
    httpClient: createClient(options.fetcher),
    useBinaryFormat: options.useJson !== true,
    interceptors: [...(options.interceptors ?? [])],
    acceptCompression: options.acceptGzip === true ? [gzipCompression] : [],
    sendCompression: null,
    compressMinBytes: defaultRpcLimits.compressBytesMin,
    readMaxBytes: options.readBytesMax ?? defaultRpcLimits.messageWriteBytesMax,
    writeMaxBytes: options.writeBytesMax ?? defaultRpcLimits.messageReadBytesMax,
    ...(options.defaultTimeoutMs === undefined
      ? {}
      : { defaultTimeoutMs: options.defaultTimeoutMs }),
  });
}

/** Node needs `duplex` for a streamed body; workerd ignores it. */
interface StreamingRequestInit extends RequestInit {
  duplex?: "half";
}

function createClient(fetcher: Fetching | undefined): UniversalClientFn {
  return async (request) => {
    const init = await requestInit(request);
    const response =
      fetcher === undefined
        ? await fetch(request.url, init)
        : await fetcher.fetch(request.url, init);
    await refuseRedirect(request.url, response);
    return universalResponse(response);
  };
}

/** Throws UNAVAILABLE if a response is a redirect. */
export async function refuseRedirect(url: string, response: Response): Promise<void> {
  if (response.status >= 300 && response.status < 400) {
    await response.body?.cancel();
    throw new ConnectError(
      `${url} answers with a redirect (HTTP ${response.status})`,
      Code.Unavailable,
    );
  }
}

async function requestInit(request: UniversalClientRequest): Promise<StreamingRequestInit> {
  const init: StreamingRequestInit = {
    method: request.method,
    headers: request.header,
    redirect: "manual",
    ...(request.signal === undefined ? {} : { signal: request.signal }),
  };
  if (request.body === undefined) {
    return init;
  }
  if (request.header.get("content-type")?.startsWith("application/connect+") !== true) {
    // Unary: one chunk, sent with its length.
    const chunks: Uint8Array[] = [];
    for await (const chunk of request.body) {
      chunks.push(chunk);
    }
    init.body = new Blob(chunks.map((chunk) => new Uint8Array(chunk)));
    return init;
  }
  init.body = streamOf(request.body);
  init.duplex = "half";
  return init;
}

function streamOf(body: AsyncIterable<Uint8Array>): ReadableStream<Uint8Array> {
  const iterator = body[Symbol.asyncIterator]();
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        const result = await iterator.next();
        if (result.done === true) {
          controller.close();
        } else {
          controller.enqueue(result.value);
        }
      },
      async cancel(reason) {
        try {
          await iterator.throw?.(reason);
        } catch {
          // The generator throws the reason back; whoever cancelled knows it.
        }
      },
    },
    { highWaterMark: 0 },
  );
}

function universalResponse(response: Response): UniversalClientResponse {
  return {
    status: response.status,
    header: response.headers,
    body: readBody(response),
    trailer: new Headers(),
  };
}

async function* readBody(response: Response): AsyncGenerator<Uint8Array, void, undefined> {
  if (response.body === null) {
    return;
  }
  const body = response.body as ReadableStream<Uint8Array>;
  const reader = body.getReader();
  let ended = false;
  try {
    for (;;) {
      const result = await reader.read();
      if (result.done) {
        ended = true;
        return;
      }
      yield result.value;
    }
  } finally {
    if (!ended) {
      // A caller that stops early closes the connection; the peer sees its client leave.
      reader.cancel().catch(() => undefined);
    }
  }
}
