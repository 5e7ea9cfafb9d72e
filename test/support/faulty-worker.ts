/**
 * A worker that errs as a test says. It stands before a real worker, at whose address the pool sees it, answers
 * leanedge.worker.v1 over HTTP/1.1 and HTTP/2 as that one does, and hands all calls on to it; of Generate's answers it
 * spoils what it is told to.
 */
import {
  createContextKey,
  createContextValues,
  type CallOptions,
  type HandlerContext,
  type ServiceImpl,
} from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import {
  WorkerService,
  type GenerateRequest,
  type GenerateResponse,
} from "../../src/gen/leanedge/worker/v1/worker_pb.js";
import { createOnePort, type RequestListener } from "../../src/worker/process/one-port.js";
import { freePort } from "./free-port.js";
import type { PoolWorkers } from "./pool-workers.js";
import { openWorkerClient } from "./worker-process.js";

/** How long answers under way may take to be sent when it is closed. */
const closeMsMax = 1_000;

type NodeResponse = Parameters<RequestListener>[1];

/** A call of Generate that is spoilt. */
export interface SpoiltCall {
  readonly request: GenerateRequest;
  /** Hands the call on to the real worker, with another request where one is given. */
  readonly forward: (request?: GenerateRequest) => AsyncIterable<GenerateResponse>;
  /** Puts bytes into the body of the answer, past the protocol. */
  readonly write: (bytes: Uint8Array) => Promise<void>;
  /** Ends the body in order, but without the protocol's own end. Never settles. */
  readonly end: () => Promise<never>;
  /** Says nothing more. Never settles. */
  readonly hang: () => Promise<never>;
}

/** What becomes of a call: its events, as the caller shall see them. */
export type Fault = (call: SpoiltCall) => AsyncIterable<GenerateResponse>;

/** See the head of this file. */
export interface FaultyWorker {
  /** Where the pool finds it. */
  readonly url: string;
  /** Spoils calls of Generate from now on; undefined: no more. */
  spoil(fault: Fault | undefined): void;
  /** Calls that were spoilt since `spoil` was called last. */
  readonly spoilt: number;
  /** Ends it; the real worker stays. */
  close(): Promise<void>;
}

/** Of answers of streaming calls in Connect's protocol. */
const contentType = "application/connect+proto";

/** A call that was cut off says nothing more by itself, not even that it has ended. */
const never = new Promise<never>(() => undefined);

const responseKey = createContextKey<NodeResponse | undefined>(undefined);

/** Starts a worker of a pool, which its gateway reaches through one of these. Closing it leaves the worker alone. */
export async function startBehindFront(pool: PoolWorkers, name: string): Promise<FaultyWorker> {
  const port = await freePort();
  const front = await startFaultyWorker(`http://127.0.0.1:${port}`);
  await pool.start(name, "--listen", `127.0.0.1:${port}`, "--address", front.url);
  return front;
}

/**
 * Starts one on a free port.
 * @param targetUrl address of the real worker, which need not run yet
 */
async function startFaultyWorker(targetUrl: string): Promise<FaultyWorker> {
  let fault: Fault | undefined;
  let spoilt = 0;
  const target = openWorkerClient(targetUrl);
  const service: ServiceImpl<typeof WorkerService> = {
    generate(request, context) {
      const forward = (sent = request): AsyncIterable<GenerateResponse> =>
        target.generate(sent, handedOn(context));
      if (fault === undefined) return forward();
      spoilt++;
      return fault({ request, forward, ...bodyOf(context) });
    },
    release: (request, context) => target.release(request, handedOn(context)),
    fork: (request, context) => target.fork(request, handedOn(context)),
    snapshot: (request, context) => target.snapshot(request, handedOn(context)),
    restore: (messages, context) => target.restore(messages, handedOn(context)),
    getStatus: (request, context) => target.getStatus(request, handedOn(context)),
  };
  const responses = new WeakMap<object, NodeResponse>();
  const adapter = connectNodeAdapter({
    routes: (router) => router.service(WorkerService, service),
    grpc: false,
    grpcWeb: false,
    contextValues: (request) => createContextValues().set(responseKey, responses.get(request)),
  });
  const port = createOnePort((request, response) => {
    responses.set(request, response);
    adapter(request, response);
  });
  const number = await port.listen("127.0.0.1", 0);
  return {
    url: `http://127.0.0.1:${number}`,
    spoil(next) {
      fault = next;
      spoilt = 0;
    },
    get spoilt() {
      return spoilt;
    },
    close: () => port.close(closeMsMax),
  };
}

/** The caller's token and its leaving go on to the real worker. */
function handedOn({ requestHeader, signal }: HandlerContext): CallOptions {
  const authorization = requestHeader.get("authorization");
  return { signal, ...(authorization === null ? {} : { headers: { authorization } }) };
}

/** The body of a call's answer, past the protocol. */
function bodyOf(context: HandlerContext): Omit<SpoiltCall, "request" | "forward"> {
  const response = context.values.get(responseKey);
  if (response === undefined) throw new Error("the call has no response");
  const sendHead = (): void => {
    // The protocol's own writer sends it with the first event.
    if (!response.headersSent) response.writeHead(200, { "content-type": contentType });
  };
  return {
    async write(bytes) {
      sendHead();
      // HTTP/1.1 and HTTP/2 differ in types only.
      const write = response.write.bind(response) as (chunk: Uint8Array, done: () => void) => void;
      await new Promise<void>((done) => {
        write(bytes, done);
      });
    },
    end() {
      sendHead();
      response.end();
      return never;
    },
    hang: () => never,
  };
}
