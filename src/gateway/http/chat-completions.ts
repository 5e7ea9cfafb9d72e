/** POST /v1/chat/completions, as server-sent events or as one answer. */
import { sha256 } from "@noble/hashes/sha2.js";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Hono } from "hono";
import { errorFields } from "../../log/log-line.js";
import { log } from "../log.js";
import { Backend, FinishReason } from "../../gen/leanedge/v1/session_pb.js";
import type {
  GenerateResponse,
  TurnFinished,
  TurnStarted,
  Usage,
} from "../../gen/leanedge/v1/session_pb.js";
import { findModel, gatewayConfig } from "../config.js";
import { RequestBody } from "../connect/request-body.js";
import { defaultRpcLimits } from "../connect/rpc-limits.js";
import { publicError, unavailable } from "../errors.js";
import { acceptWaitMs, requestIdCharsMax, wholePatienceMs } from "../limits.js";
import { refusedAnswer, watchAnswer } from "../metrics/watch-answer.js";
import type { WatchedAnswer } from "../metrics/watch-answer.js";
import { systemClock, timeIsUp, within } from "../objects/clock.js";
import type { SessionCaller } from "../objects/session-client.js";
import { copyRateHeaders } from "../rate/rate-headers.js";
import { authenticate } from "../services/authenticate.js";
import { backendName } from "./backend-name.js";
import { placementName } from "./placement-name.js";
import { parseChatRequest } from "./chat-request.js";
import type { ChatRequest } from "./chat-request.js";
import { chatSessionId, runChat } from "./chat-session.js";
import type { ChatRun } from "./chat-session.js";
import { BodyTooLargeError, readBody } from "./frame.js";
import type { GatewayContext, GatewayHonoEnv } from "./frame.js";
import { ParamError, errorResponse, httpError, openAiError } from "./openai-error.js";

/** Lines that travel together, in characters; what is there beyond waits for the client to take these. */
const linesCharsMax = 64 * 1024;

/** Mounts the route. */
export function mountChat(app: Hono<GatewayHonoEnv>): void {
  app.post("/v1/chat/completions", async (c) => {
    const body = new RequestBody(c.req.raw, defaultRpcLimits);
    try {
      return await complete(c, body);
    } catch (error) {
      if (error instanceof ParamError) {
        const { message, param, code } = error;
        return httpError(c, 400, { message, type: "invalid_request_error", param, code });
      }
      if (error instanceof BodyTooLargeError) {
        return httpError(c, 413, {
          message: error.message,
          type: "invalid_request_error",
          param: null,
          code: "request_too_large",
        });
      }
      throw error;
    } finally {
      // A client that still sends would lose the answer with the connection.
      await body.discardRest();
    }
  });
}

async function complete(c: GatewayContext, body: RequestBody): Promise<Response> {
  const headers = c.req.raw.headers;
  const key = await authenticate(headers, c.env);
  const request = parseChatRequest(await readBody(body));
  const model = findModel(gatewayConfig(c.env), request.model);
  if (model === undefined) {
    return httpError(c, 404, {
      message: `there is no model "${request.model}"`,
      type: "invalid_request_error",
      param: "model",
      code: "model_not_found",
    });
  }
  const idempotencyKey = headers.get("idempotency-key") ?? "";
  if (idempotencyKey.length > requestIdCharsMax) {
    throw new ParamError(
      null,
      `the Idempotency-Key has ${idempotencyKey.length} characters, at most ${requestIdCharsMax} are allowed`,
    );
  }
  const left = new AbortController();
  const leave = (): void => left.abort();
  c.req.raw.signal.addEventListener("abort", leave, { once: true });
  const caller: SessionCaller = {
    tenant: key.tenant,
    requestId: c.get("requestId"),
    signal: left.signal,
    key,
    onHead: (head) => copyRateHeaders(head, (name, value) => c.header(name, value)),
  };
  const root = chatSessionId(request, headers);
  const watched = { env: c.env, lifetime: c.executionCtx, protocol: "openai" };
  const run = await watchedRun(watched, () =>
    runChat(c.env, caller, request, root, idempotencyKey),
  );
  const answer = new ChatAnswerReader(run);
  await answer.waitForWorker();
  c.header("x-session-id", headerText(run.sessionId));
  const { started } = answer;
  if (started !== undefined && started.backend !== Backend.UNSPECIFIED) {
    c.header("x-served-by", headerText(servedBy(started)));
    c.header("x-affinity", affinity(started, run.workerBefore));
    c.header("x-placement", placementName(started.placement));
  }
  return request.stream
    ? c.body(eventStream(answer, request, leave), 200, {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache",
        "x-accel-buffering": "no",
      })
    : await whole(c, answer, leave);
}

/** A run whose answer is counted, also where it is refused before it begins. */
async function watchedRun(watched: WatchedAnswer, open: () => Promise<ChatRun>): Promise<ChatRun> {
  try {
    const run = await open();
    return { ...run, events: watchAnswer(run.events, watched) };
  } catch (error) {
    refusedAnswer(error, watched);
    throw error;
  }
}

/** Reads a turn's events, and keeps what all parts of an answer repeat. */
class ChatAnswerReader {
  readonly #run: ChatRun;
  readonly #waiting: GenerateResponse[] = [];
  #pending: Promise<IteratorResult<GenerateResponse>> | undefined;
  #id: { readonly turn: number; readonly text: string } | undefined;
  /** The latest `started`. */
  started: TurnStarted | undefined;
  /** Seconds since 1970. */
  readonly created = Math.floor(Date.now() / 1000);

  constructor(run: ChatRun) {
    this.#run = run;
  }

  /** Id of the completion: the same however often the turn is replayed. */
  get id(): string {
    const turn = this.started?.turn ?? 0;
    if (this.#id?.turn !== turn) {
      const name = new TextEncoder().encode(`${this.#run.sessionId}\n${turn}`);
      const text = Array.from(sha256(name).subarray(0, 12), hexByte).join("");
      this.#id = { turn, text: `chatcmpl-${text}` };
    }
    return this.#id.text;
  }

  /** Model that answers. */
  get model(): string {
    return this.started?.model ?? "";
  }

  /** Waits until a worker has the turn, so that the head can name it, or say why not; at most acceptWaitMs. */
  async waitForWorker(): Promise<void> {
    const deadlineMs = systemClock.nowMs() + acceptWaitMs;
    for (;;) {
      const leftMs = deadlineMs - systemClock.nowMs();
      if (leftMs <= 0) {
        return;
      }
      // What is here already is not worth a timer.
      const here = this.#pending === undefined && this.#run.ready();
      this.#pending ??= this.#run.events.next();
      const result = await (here ? this.#pending : within(this.#pending, leftMs, systemClock));
      if (result === timeIsUp) {
        return;
      }
      this.#pending = undefined;
      if (result.done === true) {
        return;
      }
      const { event } = result.value;
      if (event.case === "started") {
        this.started = event.value;
        if (event.value.backend !== Backend.UNSPECIFIED) {
          return;
        }
      } else {
        this.#waiting.push(result.value);
        if (event.case !== "heartbeat") {
          return;
        }
      }
    }
  }

  /** An event is here already, or the end. */
  get ready(): boolean {
    return this.#waiting.length > 0 || (this.#pending === undefined && this.#run.ready());
  }

  /** The next event; undefined at the end. */
  async next(): Promise<GenerateResponse | undefined> {
    const waiting = this.#waiting.shift();
    if (waiting !== undefined) {
      return waiting;
    }
    this.#pending ??= this.#run.events.next();
    const result = await this.#pending;
    this.#pending = undefined;
    if (result.done === true) {
      return undefined;
    }
    if (result.value.event.case === "started") {
      this.started = result.value.event.value;
    }
    return result.value;
  }

  /** Stops reading; the session sees its client leave. */
  async stop(): Promise<void> {
    await this.#run.events.return?.(undefined);
  }
}

/**
 * The answer as one object. A connection that its client closed shows only when something is written to it, so an answer
 * that takes longer than wholePatienceMs begins at once, with a space for each event: blanks before JSON mean nothing.
 * From there on a failure can only break the body off, as in any HTTP answer that fails midway.
 */
async function whole(
  c: GatewayContext,
  answer: ChatAnswerReader,
  leave: () => void,
): Promise<Response> {
  const reader = new WholeAnswerReader(answer);
  const patienceEndsMs = systemClock.nowMs() + wholePatienceMs;
  for (;;) {
    const here = answer.ready;
    const read = reader.read();
    const result = await (here
      ? read
      : within(read, patienceEndsMs - systemClock.nowMs(), systemClock));
    if (result === timeIsUp) {
      return c.body(blanksThenAnswer(answer, reader, read, leave), 200, {
        "content-type": "application/json",
        // Compression on the way would hold the blanks back.
        "cache-control": "no-cache, no-transform",
        "content-encoding": "identity",
      });
    }
    if (result instanceof ConnectError) {
      return errorResponse(c, result);
    }
    if (result !== undefined) {
      return c.json(result);
    }
  }
}

/** Collects an answer event by event. */
class WholeAnswerReader {
  readonly #answer: ChatAnswerReader;
  #text = "";

  constructor(answer: ChatAnswerReader) {
    this.#answer = answer;
  }

  /** Takes the next event. The whole completion, or why there is none, once it is there. */
  async read(): Promise<object | ConnectError | undefined> {
    const event = (await this.#answer.next())?.event;
    switch (event?.case) {
      case undefined:
        throw unavailable("the answer broke off");
      case "delta":
        this.#text += event.value.text;
        return undefined;
      case "finished":
        return failureOf(event.value) ?? this.#completion(event.value);
      default:
        return undefined;
    }
  }

  #completion(finished: TurnFinished): object {
    const { id, created, model } = this.#answer;
    return {
      id,
      object: "chat.completion",
      created,
      model,
      choices: [
        {
          index: 0,
          message: { role: "assistant", content: this.#text, refusal: null },
          logprobs: null,
          finish_reason: finishReason(finished.finishReason),
        },
      ],
      usage: usage(finished.usage),
    };
  }
}

function blanksThenAnswer(
  answer: ChatAnswerReader,
  reader: WholeAnswerReader,
  first: ReturnType<WholeAnswerReader["read"]>,
  leave: () => void,
): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  let begun: ReturnType<WholeAnswerReader["read"]> | undefined = first;
  // Until somebody pulls, a failure has nobody to hear of it; the pull then throws it.
  first.catch(() => undefined);
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        const result = await (begun ?? reader.read());
        begun = undefined;
        if (result instanceof ConnectError) {
          controller.error(result);
          return;
        }
        controller.enqueue(encoder.encode(result === undefined ? " " : JSON.stringify(result)));
        if (result !== undefined) {
          controller.close();
        }
      },
      async cancel() {
        leave();
        await answer.stop();
      },
    },
    { highWaterMark: 0 },
  );
}

function eventStream(
  answer: ChatAnswerReader,
  request: ChatRequest,
  leave: () => void,
): ReadableStream<Uint8Array> {
  const lines = new ServerSentLines(answer, request);
  const encoder = new TextEncoder();
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        controller.enqueue(encoder.encode(await lines.next()));
        if (lines.ended) {
          controller.close();
        }
      },
      async cancel() {
        leave();
        await answer.stop();
      },
    },
    { highWaterMark: 0 },
  );
}

/** An answer as server-sent events; those travel together that are there together. */
class ServerSentLines {
  readonly #answer: ChatAnswerReader;
  readonly #includeUsage: boolean;
  /** What all chunks of a turn and a model begin with. */
  #head: { readonly id: string; readonly model: string; readonly text: string } | undefined;
  #begun = false;
  /** Nothing follows. */
  ended = false;

  constructor(answer: ChatAnswerReader, request: ChatRequest) {
    this.#answer = answer;
    this.#includeUsage = request.includeUsage;
  }

  /** The next lines, at least one. Never rejects: an error becomes the last line. */
  async next(): Promise<string> {
    let text = "";
    try {
      if (!this.#begun) {
        this.#begun = true;
        text = this.#chunk(choices('{"role":"assistant","content":""}', null));
      }
      while (!this.ended && (text === "" || (this.#answer.ready && text.length < linesCharsMax))) {
        text += this.#linesOf(await this.#answer.next());
      }
      return text;
    } catch (error) {
      const shown = publicError(error);
      if (shown !== error) {
        log("error", "chat.failed", errorFields(error, "stack"));
      }
      this.ended = true;
      // After the first byte the status is sent; clients take this for an error and miss [DONE].
      return text + sse(JSON.stringify({ error: openAiError(shown) }));
    }
  }

  #linesOf(response: GenerateResponse | undefined): string {
    const event = response?.event;
    switch (event?.case) {
      case "delta":
        return this.#chunk(choices(`{"content":${JSON.stringify(event.value.text)}}`, null));
      case "heartbeat":
        return ": ping\n\n";
      case "finished": {
        const failure = failureOf(event.value);
        if (failure !== undefined) {
          throw failure;
        }
        this.ended = true;
        return `${this.#chunk(choices("{}", finishReason(event.value.finishReason)))}${
          this.#includeUsage ? this.#chunk("[]", event.value.usage) : ""
        }data: [DONE]\n\n`;
      }
      case "started":
        return "";
      default:
        throw unavailable("the answer broke off");
    }
  }

  /** One line; `choices` is JSON. A turn may find its model late. */
  #chunk(list: string, total?: Usage): string {
    const { id, created, model } = this.#answer;
    let head = this.#head;
    if (head?.id !== id || head.model !== model) {
      const text = `data: {"id":"${id}","object":"chat.completion.chunk","created":${created},"model":${JSON.stringify(model)},"choices":`;
      head = { id, model, text };
      this.#head = head;
    }
    const tail = this.#includeUsage
      ? `,"usage":${total === undefined ? "null" : JSON.stringify(usage(total))}`
      : "";
    return `${head.text}${list}${tail}}\n\n`;
  }
}

/** The choices of a chunk, as JSON; `delta` is JSON, too. */
function choices(delta: string, reason: string | null): string {
  return `[{"index":0,"delta":${delta},"logprobs":null,"finish_reason":${JSON.stringify(reason)}}]`;
}

function sse(json: string): string {
  return `data: ${json}\n\n`;
}

function failureOf(finished: TurnFinished): ConnectError | undefined {
  return finished.finishReason === FinishReason.ERROR
    ? new ConnectError(finished.errorMessage, Code.Unavailable)
    : undefined;
}

function finishReason(reason: FinishReason): string {
  switch (reason) {
    case FinishReason.LENGTH:
      return "length";
    case FinishReason.CANCELLED:
      return "cancelled";
    default:
      return "stop";
  }
}

function usage(value: Usage | undefined): unknown {
  const prompt = value?.promptTokens ?? 0;
  const completion = value?.completionTokens ?? 0;
  return {
    prompt_tokens: prompt,
    completion_tokens: completion,
    total_tokens: prompt + completion,
    prompt_tokens_details: { cached_tokens: value?.cachedTokens ?? 0 },
  };
}

function servedBy(started: TurnStarted): string {
  return `${backendName(started.backend)}:${started.worker}`;
}

/** Whether the session found its cache where it left it. */
function affinity(started: TurnStarted, workerBefore: string): "hit" | "miss" | "rebound" {
  if (workerBefore !== "" && workerBefore !== started.worker) {
    return "rebound";
  }
  return workerBefore !== "" && started.cachedTokens > 0 ? "hit" : "miss";
}

function hexByte(byte: number): string {
  return byte.toString(16).padStart(2, "0");
}

/** Header values are printable ASCII; anything else is escaped as in a URL. */
function headerText(text: string): string {
  return /^[\x20-\x7e]*$/.test(text) ? text : encodeURIComponent(text);
}
