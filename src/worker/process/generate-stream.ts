/**
 * WorkerService.Generate over Connect's protocol, as gateways call it, served without Connect's general handler:
 * a turn is one such call, and the layers of a general handler took half of what a worker's process spends on a turn besides
 * the model. What it says, of errors too, is what Connect says. Calls in any other form are left to Connect.
 */
import { create, fromBinary, isMessage, toBinary } from "@bufbuild/protobuf";
import {
  Code,
  ConnectError,
  createHandlerContext,
  type HandlerContext,
  type ServiceImpl,
} from "@connectrpc/connect";
import { createEndStreamSerialization, endStreamFlag } from "@connectrpc/connect/protocol-connect";
import {
  GenerateRequestSchema,
  GenerateResponseSchema,
  WorkerService,
  type GenerateRequest,
} from "../../gen/leanedge/worker/v1/worker_pb.js";
import type { RequestGate } from "./bearer-token.js";
import { requestBytesMax } from "./limits.js";
import type { RequestListener } from "./one-port.js";

/** Serves a request if it is such a call; false: it is left as it came. */
export type GenerateStream = (...of: Parameters<RequestListener>) => boolean;

/** What the calls need. */
export interface GenerateStreamOptions {
  /** Answers a call. */
  readonly generate: ServiceImpl<typeof WorkerService>["generate"];
  /** Refuses a call before its body is read; undefined: none is refused. */
  readonly gate: RequestGate | undefined;
  /** Told of answers that could not be sent. */
  readonly log: (line: string) => void;
}

const path = `/${WorkerService.typeName}/${WorkerService.method.generate.name}`;
const contentType = "application/connect+proto";
const envelopeHeadBytes = 5;
const compressedFlag = 0b00000001;
const endOfStream = createEndStreamSerialization(undefined);

/** Of HTTP/1.1 or HTTP/2. */
type Request = Parameters<RequestListener>[0];
type Response = Parameters<RequestListener>[1];

/** See the head of this file. */
export function createGenerateStream(options: GenerateStreamOptions): GenerateStream {
  return (request, response) => {
    const { headers, method, url } = request;
    if (
      method !== "POST" ||
      url !== path ||
      headers["content-type"] !== contentType ||
      headers["connect-timeout-ms"] !== undefined ||
      (headers["connect-content-encoding"] ?? "identity") !== "identity"
    ) {
      return false;
    }
    serve(request, response, options).catch((error: unknown) =>
      options.log(`an answer was not sent: ${String(error)}`),
    );
    return true;
  };
}

async function serve(
  request: Request,
  response: Response,
  { gate, generate }: GenerateStreamOptions,
): Promise<void> {
  const left = new AbortController();
  const onClose = (): void => left.abort(leftWith(request));
  request.on("error", onClose);
  response.once("close", onClose);
  const context = createHandlerContext({
    service: WorkerService,
    method: WorkerService.method.generate,
    protocolName: "connect",
    requestMethod: "POST",
    url: `http://${String(request.headers[":authority"] ?? request.headers.host ?? "worker")}${path}`,
    requestSignal: left.signal,
    requestHeader: requestHeader(request),
  });
  let failure: ConnectError | undefined;
  try {
    await gate?.(context);
    await answer(response, generate(await readRequest(request), context), context);
  } catch (error) {
    failure =
      error instanceof ConnectError
        ? error
        : new ConnectError("internal error", Code.Internal, undefined, undefined, error);
  }
  // Connect ends every call's signal, however it ended.
  context.abort(failure);
  if (isGone(response)) return;
  writeHead(response);
  response.end(
    envelope(
      endStreamFlag,
      endOfStream.serialize({
        metadata: context.responseTrailer,
        ...(failure === undefined ? {} : { error: failure }),
      }),
    ),
  );
}

/** Sends all events, at the reader's pace; the rest is given up once nobody reads. */
async function answer(
  response: Response,
  events: ReturnType<GenerateStreamOptions["generate"]>,
  { signal }: HandlerContext,
): Promise<void> {
  for await (const event of events) {
    if (isGone(response)) return;
    writeHead(response);
    const message = isMessage(event, GenerateResponseSchema)
      ? event
      : create(GenerateResponseSchema, event);
    if (!response.write(envelope(0, toBinary(GenerateResponseSchema, message)))) {
      await drained(response, signal);
    }
  }
}

/** Nobody is there any more to read. */
function isGone(response: Response): boolean {
  return "stream" in response ? response.stream.destroyed : response.destroyed;
}

function writeHead(response: Response): void {
  if (response.headersSent) return;
  response.statusCode = 200;
  response.setHeader("content-type", contentType);
}

/** Resolves once the reader took what was written, or the call is over. */
function drained(response: Response, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      response.off("drain", done);
      signal.removeEventListener("abort", done);
      resolve();
    };
    response.once("drain", done);
    signal.addEventListener("abort", done, { once: true });
    if (signal.aborted) done();
  });
}

/** Reads the one message of a request. Throws a ConnectError where there is none, or more, or one that is too large. */
async function readRequest(request: Request): Promise<GenerateRequest> {
  const all = await readBody(request);
  if (all.byteLength === 0) {
    throw new ConnectError(
      "protocol error: missing input message for server-streaming method",
      Code.Unimplemented,
    );
  }
  const end = envelopeEnd(all);
  if (end === undefined || all.byteLength < end) {
    throw new ConnectError("protocol error: incomplete envelope", Code.InvalidArgument);
  }
  if (all.byteLength > end) {
    throw new ConnectError(
      "protocol error: received extra input message for server-streaming method",
      Code.Unimplemented,
    );
  }
  if (((all[0] ?? 0) & compressedFlag) !== 0) {
    throw new ConnectError(
      "received compressed envelope, but do not know how to decompress",
      Code.Internal,
    );
  }
  try {
    return fromBinary(GenerateRequestSchema, all.subarray(envelopeHeadBytes, end));
  } catch (cause) {
    const said = cause instanceof Error ? cause.message : String(cause);
    throw new ConnectError(`parse binary: ${said}`, Code.Internal);
  }
}

/** The body up to one byte beyond its first envelope: more would be refused anyway. */
async function readBody(request: Request): Promise<Buffer> {
  let all = Buffer.alloc(0);
  const chunks: Buffer[] = [];
  let bytes = 0;
  let end: number | undefined;
  // A request that is given up is still answered.
  for await (const chunk of request.iterator({ destroyOnReturn: false })) {
    chunks.push(chunk as Buffer);
    bytes += (chunk as Buffer).byteLength;
    if (end === undefined && bytes >= envelopeHeadBytes) {
      all = Buffer.concat(chunks.splice(0), bytes);
      end = envelopeEnd(all);
      chunks.push(all);
    }
    if (end !== undefined && bytes > end) break;
  }
  return chunks.length === 1 && bytes === all.byteLength ? all : Buffer.concat(chunks, bytes);
}

/** Where the first envelope ends; undefined while its head is not whole. Throws RESOURCE_EXHAUSTED for one that is too large. */
function envelopeEnd(bytes: Buffer): number | undefined {
  if (bytes.byteLength < envelopeHeadBytes) return undefined;
  const length = bytes.readUInt32BE(1);
  if (length > requestBytesMax) {
    throw new ConnectError(
      `message size ${length} is larger than configured readMaxBytes ${requestBytesMax}`,
      Code.ResourceExhausted,
    );
  }
  return envelopeHeadBytes + length;
}

function envelope(flags: number, data: Uint8Array): Buffer {
  const bytes = Buffer.allocUnsafe(envelopeHeadBytes + data.byteLength);
  bytes[0] = flags;
  bytes.writeUInt32BE(data.byteLength, 1);
  bytes.set(data, envelopeHeadBytes);
  return bytes;
}

function requestHeader(request: Request): Headers {
  const header = new Headers();
  for (const [name, value] of Object.entries(request.headers)) {
    // Names of HTTP/2's own begin with a colon.
    if (value !== undefined && !name.startsWith(":"))
      header.set(name, Array.isArray(value) ? value.join(", ") : value);
  }
  return header;
}

/** Why a client is gone: a connection that broke is told apart from one that was closed, as Connect does. */
function leftWith({ errored }: Request): ConnectError | undefined {
  return errored === null
    ? undefined
    : new ConnectError(errored.message, Code.Aborted, undefined, undefined, errored);
}
