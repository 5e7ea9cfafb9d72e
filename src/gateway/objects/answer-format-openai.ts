/** An answer in OpenAI's form: server-sent events, or one object of JSON. */
import { toHex } from "../../engine/sha256.js";
import { Code, ConnectError } from "@connectrpc/connect";
import { Backend, FinishReason } from "../../gen/leanedge/v1/session_pb.js";
import type {
  GenerateResponse,
  TurnFinished,
  TurnStarted,
  Usage,
} from "../../gen/leanedge/v1/session_pb.js";
import { openAiError } from "../errors.js";
import { acceptWaitMs, wholePatienceMs } from "../limits.js";
import { sha256 } from "../sha256.js";
import type { AnswerAhead, AnswerFormat, HeadWriter } from "./answer-format.js";
import { backendName } from "./backend-name.js";
import { placementName } from "./placement-name.js";

const encoder = new TextEncoder();

/** Whose answer it is. */
export interface OpenAiAnswer {
  readonly sessionId: string;
  /** Worker of the session's turn before; empty if there was none. */
  readonly workerBefore: string;
  /** Milliseconds since 1970. */
  readonly nowMs: number;
}

/** Server-sent events. `includeUsage`: each has the field `usage`, and one more says it at the end. */
export function openAiEvents(answer: OpenAiAnswer, includeUsage: boolean): AnswerFormat {
  return new OpenAiEvents(answer, includeUsage);
}

/**
 * One object of JSON. A connection that its client closed shows only when something is written to it, so an answer that
 * takes longer than wholePatienceMs begins at once, with a space for what comes: blanks before JSON mean nothing. From there on a
 * failure can only break the body off, as in any HTTP answer that fails midway.
 */
export function openAiWhole(answer: OpenAiAnswer): AnswerFormat {
  return new OpenAiWhole(answer);
}

/** What all parts of an answer repeat. */
class AnswerName {
  readonly #answer: OpenAiAnswer;
  #id: { readonly turn: number; readonly text: string } | undefined;
  /** The latest `started`. */
  started: TurnStarted | undefined;
  /** Seconds since 1970. */
  readonly created: number;

  constructor(answer: OpenAiAnswer) {
    this.#answer = answer;
    this.created = Math.floor(answer.nowMs / 1000);
  }

  /** Id of the completion: the same however often the turn is replayed. */
  get id(): string {
    const turn = this.started?.turn ?? 0;
    if (this.#id?.turn !== turn) {
      const name = sha256(`${this.#answer.sessionId}\n${turn}`).subarray(0, 12);
      this.#id = { turn, text: `chatcmpl-${toHex(name)}` };
    }
    return this.#id.text;
  }

  /** Model that answers. */
  get model(): string {
    return this.started?.model ?? "";
  }

  /** Takes note of who answers. */
  note(events: readonly GenerateResponse[]): void {
    for (const { event } of events) {
      if (event.case === "started") {
        this.started = event.value;
      }
    }
  }

  /** Waits until a worker has the turn, so that the head can name it, or say why not; at most acceptWaitMs. */
  async head(ahead: AnswerAhead, headers: HeadWriter): Promise<void> {
    headers.set("x-session-id", headerText(this.#answer.sessionId));
    await ahead.readUntil((event) => {
      if (event.case === "started") {
        this.started = event.value;
        return event.value.backend !== Backend.UNSPECIFIED;
      }
      return event.case !== "heartbeat";
    }, acceptWaitMs);
    const { started } = this;
    if (started !== undefined && started.backend !== Backend.UNSPECIFIED) {
      headers.set("x-served-by", headerText(servedBy(started)));
      headers.set("x-affinity", affinity(started, this.#answer.workerBefore));
      headers.set("x-placement", placementName(started.placement));
    }
  }
}

class OpenAiEvents implements AnswerFormat {
  readonly passes = true;
  readonly #name: AnswerName;
  readonly #includeUsage: boolean;
  /** What all chunks of a turn and a model begin with. */
  #chunkHead: { readonly id: string; readonly model: string; readonly text: string } | undefined;
  #begun = false;

  constructor(answer: OpenAiAnswer, includeUsage: boolean) {
    this.#name = new AnswerName(answer);
    this.#includeUsage = includeUsage;
  }

  async head(ahead: AnswerAhead, headers: HeadWriter): Promise<void> {
    await this.#name.head(ahead, headers);
    headers.set("content-type", "text/event-stream; charset=utf-8");
    headers.set("cache-control", "no-cache");
    headers.set("x-accel-buffering", "no");
  }

  write(events: readonly GenerateResponse[]): Uint8Array {
    // All lines of one moment name the turn as it stands then.
    this.#name.note(events);
    return encoder.encode(events.map(({ event }) => this.#linesOf(event)).join(""));
  }

  fail(error: ConnectError): Uint8Array {
    // After the first byte the status is sent; clients take this for an error and miss [DONE].
    const line = `data: ${JSON.stringify({ error: openAiError(error) })}\n\n`;
    return encoder.encode(this.#opening() + line);
  }

  #linesOf(event: GenerateResponse["event"]): string {
    switch (event.case) {
      case "delta":
        return `${this.#opening()}${this.#chunk(choices(`{"content":${JSON.stringify(event.value.text)}}`, null))}`;
      case "heartbeat":
        return `${this.#opening()}: ping\n\n`;
      case "finished": {
        const failure = failureOf(event.value);
        if (failure !== undefined) {
          throw failure;
        }
        return `${this.#opening()}${this.#chunk(choices("{}", finishReason(event.value.finishReason)))}${
          this.#includeUsage ? this.#chunk("[]", event.value.usage) : ""
        }data: [DONE]\n\n`;
      }
      default:
        return this.#opening();
    }
  }

  /** The first chunk, where it is not written yet. */
  #opening(): string {
    if (this.#begun) {
      return "";
    }
    this.#begun = true;
    return this.#chunk(choices('{"role":"assistant","content":""}', null));
  }

  /** One line; `list` is JSON. A turn may find its model late. */
  #chunk(list: string, total?: Usage): string {
    const { id, created, model } = this.#name;
    let head = this.#chunkHead;
    if (head?.id !== id || head.model !== model) {
      const text = `data: {"id":"${id}","object":"chat.completion.chunk","created":${created},"model":${JSON.stringify(model)},"choices":`;
      head = { id, model, text };
      this.#chunkHead = head;
    }
    const tail = this.#includeUsage
      ? `,"usage":${total === undefined ? "null" : JSON.stringify(usage(total))}`
      : "";
    return `${head.text}${list}${tail}}\n\n`;
  }
}

class OpenAiWhole implements AnswerFormat {
  readonly passes = true;
  readonly #name: AnswerName;
  #text = "";
  #blanks = false;

  constructor(answer: OpenAiAnswer) {
    this.#name = new AnswerName(answer);
  }

  async head(ahead: AnswerAhead, headers: HeadWriter): Promise<void> {
    await this.#name.head(ahead, headers);
    let failure: ConnectError | undefined;
    const over = await ahead.readUntil((event) => {
      if (event.case === "finished") {
        failure = failureOf(event.value);
      }
      return event.case === "finished";
    }, wholePatienceMs);
    if (failure !== undefined) {
      throw failure;
    }
    headers.set("content-type", "application/json");
    if (!over) {
      this.#blanks = true;
      // Compression on the way would hold the blanks back.
      headers.set("cache-control", "no-cache, no-transform");
      headers.set("content-encoding", "identity");
    }
  }

  write(events: readonly GenerateResponse[]): Uint8Array {
    this.#name.note(events);
    for (const { event } of events) {
      if (event.case === "delta") {
        this.#text += event.value.text;
      } else if (event.case === "finished") {
        const failure = failureOf(event.value);
        if (failure !== undefined) {
          throw failure;
        }
        return encoder.encode(JSON.stringify(this.#completion(event.value)));
      }
    }
    return encoder.encode(this.#blanks ? " " : "");
  }

  fail(): undefined {
    return undefined;
  }

  #completion(finished: TurnFinished): object {
    const { id, created, model } = this.#name;
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

/** The choices of a chunk, as JSON; `delta` is JSON, too. */
function choices(delta: string, reason: string | null): string {
  return `[{"index":0,"delta":${delta},"logprobs":null,"finish_reason":${JSON.stringify(reason)}}]`;
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

/** Header values are printable ASCII; anything else is escaped as in a URL. */
function headerText(text: string): string {
  return /^[\x20-\x7e]*$/.test(text) ? text : encodeURIComponent(text);
}
