/**
 * A request of POST /v1/chat/completions, read and checked. Parameters that we do not know are ignored; those that would
 * change the answer's meaning and that we do not have are refused by name.
 */
import { create } from "@bufbuild/protobuf";
import { SamplingParamsSchema } from "../../gen/leanedge/v1/sampling_pb.js";
import type { SamplingParams } from "../../gen/leanedge/v1/sampling_pb.js";
import { MessageSchema, Role } from "../../gen/leanedge/v1/session_pb.js";
import type { Message } from "../../gen/leanedge/v1/session_pb.js";
import { chatMessagesMax, stopStringBytesMax, stopStringsMax } from "../limits.js";
import { ParamError } from "./openai-error.js";

/** What the request asks for. */
export interface ChatRequest {
  /** Id of the model; empty for the default one. */
  readonly model: string;
  /** The whole history. */
  readonly messages: Message[];
  readonly sampling: SamplingParams;
  /** Answer with server-sent events. */
  readonly stream: boolean;
  /** End the stream with the usage. */
  readonly includeUsage: boolean;
  /** Whether another model may answer where all workers of this one are full or gone; undefined: as configured. */
  readonly allowFallback: boolean | undefined;
  /** Session ids that the body carries: our own field, and two that clients use like one. */
  readonly sessionId: string | undefined;
  readonly promptCacheKey: string | undefined;
  readonly user: string | undefined;
}

type Fields = Readonly<Record<string, unknown>>;

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: false });

/** Parameters that are refused unless they have one of these values, which mean nothing. */
const neutralValues: Record<string, (value: unknown) => boolean> = {
  n: (value) => value === 1,
  logprobs: (value) => value === false,
  top_logprobs: (value) => value === 0,
  tools: isEmptyList,
  tool_choice: (value) => value === "none" || value === "auto",
  functions: isEmptyList,
  function_call: (value) => value === "none" || value === "auto",
  response_format: (value) => isObject(value) && value["type"] === "text",
  frequency_penalty: (value) => value === 0,
  presence_penalty: (value) => value === 0,
  logit_bias: (value) => isObject(value) && Object.keys(value).length === 0,
  modalities: (value) => Array.isArray(value) && value.every((entry) => entry === "text"),
  audio: () => false,
  web_search_options: () => false,
};

/** Reads a body. Throws ParamError that names the parameter. */
export function parseChatRequest(body: Uint8Array): ChatRequest {
  const fields = parseJson(body);
  for (const [name, isNeutral] of Object.entries(neutralValues)) {
    const value = fields[name];
    if (value !== undefined && value !== null && !isNeutral(value)) {
      throw new ParamError(name, `${name} is not supported`, "unsupported_parameter");
    }
  }
  const options = optional(fields, "stream_options", isObject, "an object");
  return {
    model: optional(fields, "model", isString, "a string") ?? "",
    messages: parseMessages(fields["messages"]),
    sampling: parseSampling(fields),
    stream: optional(fields, "stream", isBoolean, "true or false") ?? false,
    includeUsage:
      (options === undefined
        ? undefined
        : optional(options, "include_usage", isBoolean, "true or false")) ?? false,
    allowFallback: optional(fields, "allow_fallback", isBoolean, "true or false"),
    sessionId: optional(fields, "session_id", isString, "a string"),
    promptCacheKey: optional(fields, "prompt_cache_key", isString, "a string"),
    user: optional(fields, "user", isString, "a string"),
  };
}

function parseJson(body: Uint8Array): Fields {
  let text: string;
  try {
    text = utf8.decode(body);
  } catch {
    throw new ParamError(null, "the body is not valid UTF-8", "invalid_json");
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new ParamError(null, "the body is not valid JSON", "invalid_json");
  }
  if (!isObject(value)) {
    throw new ParamError(null, "the body must be a JSON object", "invalid_json");
  }
  return value;
}

/** A map: an object has members that it inherits, such as `constructor`. */
const roles: ReadonlyMap<string, Role> = new Map([
  ["system", Role.SYSTEM],
  ["developer", Role.SYSTEM],
  ["user", Role.USER],
  ["assistant", Role.ASSISTANT],
]);

function parseMessages(value: unknown): Message[] {
  if (value === undefined) {
    throw new ParamError("messages", "messages is missing");
  }
  if (!Array.isArray(value)) {
    throw new ParamError("messages", "messages must be an array");
  }
  if (value.length === 0) {
    throw new ParamError("messages", "messages is empty, at least 1 is needed");
  }
  if (value.length > chatMessagesMax) {
    throw new ParamError(
      "messages",
      `messages has ${value.length} entries, at most ${chatMessagesMax} are allowed`,
    );
  }
  const messages = value.map(parseMessage);
  if (messages.at(-1)?.role !== Role.USER) {
    throw new ParamError(`messages[${messages.length - 1}].role`, "the last message must be user");
  }
  return messages;
}

function parseMessage(value: unknown, index: number): Message {
  const where = `messages[${index}]`;
  if (!isObject(value)) {
    throw new ParamError(where, `${where} must be an object`);
  }
  const name = value["role"];
  const role = typeof name === "string" ? roles.get(name) : undefined;
  if (role === undefined) {
    throw new ParamError(
      `${where}.role`,
      `${where}.role must be system, developer, user or assistant`,
    );
  }
  if (role === Role.SYSTEM && index > 0) {
    throw new ParamError(`${where}.role`, `${where}.role: only the first message may be system`);
  }
  for (const field of ["tool_calls", "function_call", "audio"]) {
    if (value[field] !== undefined && value[field] !== null && !isEmptyList(value[field])) {
      throw new ParamError(
        `${where}.${field}`,
        `${where}.${field} is not supported`,
        "unsupported_parameter",
      );
    }
  }
  const text = parseContent(value["content"], `${where}.content`);
  if (text === "") {
    throw new ParamError(`${where}.content`, `${where}.content is empty`);
  }
  if (!text.isWellFormed()) {
    throw new ParamError(`${where}.content`, `${where}.content is not valid Unicode`);
  }
  return create(MessageSchema, { role, text });
}

function parseContent(value: unknown, where: string): string {
  if (typeof value === "string") {
    return value;
  }
  if (!Array.isArray(value)) {
    throw new ParamError(where, `${where} must be a string or an array of text parts`);
  }
  return value
    .map((part: unknown, index) => {
      if (!isObject(part) || part["type"] !== "text" || typeof part["text"] !== "string") {
        throw new ParamError(
          `${where}[${index}]`,
          `${where}[${index}]: only parts of type text are supported`,
          "unsupported_parameter",
        );
      }
      return part["text"];
    })
    .join("");
}

function parseSampling(fields: Fields): SamplingParams {
  const sampling = create(SamplingParamsSchema);
  const maxTokensName =
    fields["max_completion_tokens"] === undefined || fields["max_completion_tokens"] === null
      ? "max_tokens"
      : "max_completion_tokens";
  const numbers = {
    temperature: numberIn(fields, "temperature", { min: 0, max: 2 }),
    topP: numberIn(fields, "top_p", { min: 0, max: 1, above: true }),
    topK: numberIn(fields, "top_k", { min: 0, max: 1000, whole: true }),
    minP: numberIn(fields, "min_p", { min: 0, max: 1 }),
    repetitionPenalty: numberIn(fields, "repetition_penalty", { min: 0, max: 2, above: true }),
    maxTokens: numberIn(fields, maxTokensName, { min: 1, max: 2 ** 31 - 1, whole: true }),
  };
  Object.assign(
    sampling,
    Object.fromEntries(Object.entries(numbers).filter(([, value]) => value !== undefined)),
  );
  const seed = numberIn(fields, "seed", {
    min: Number.MIN_SAFE_INTEGER,
    max: Number.MAX_SAFE_INTEGER,
    whole: true,
  });
  if (seed !== undefined) {
    sampling.seed = BigInt.asUintN(64, BigInt(seed));
  }
  sampling.stop = parseStop(fields["stop"]);
  return sampling;
}

function parseStop(value: unknown): string[] {
  if (value === undefined || value === null) {
    return [];
  }
  const list: unknown[] = Array.isArray(value) ? value : [value];
  if (list.length > stopStringsMax) {
    throw new ParamError(
      "stop",
      `stop has ${list.length} strings, at most ${stopStringsMax} are allowed`,
    );
  }
  return list.map((entry) => {
    const bytes = typeof entry === "string" ? new TextEncoder().encode(entry).byteLength : 0;
    if (typeof entry !== "string" || bytes === 0 || bytes > stopStringBytesMax) {
      throw new ParamError("stop", `stop must be strings of 1 to ${stopStringBytesMax} bytes`);
    }
    if (!entry.isWellFormed()) {
      throw new ParamError("stop", "stop is not valid Unicode");
    }
    return entry;
  });
}

interface NumberRange {
  readonly min: number;
  readonly max: number;
  /** `min` itself is not allowed. */
  readonly above?: boolean;
  readonly whole?: boolean;
}

function numberIn(fields: Fields, name: string, range: NumberRange): number | undefined {
  const value = fields[name];
  if (value === undefined || value === null) {
    return undefined;
  }
  if (typeof value !== "number" || !Number.isFinite(value)) {
    throw new ParamError(name, `${name} must be a number`);
  }
  if (range.whole === true && !Number.isInteger(value)) {
    throw new ParamError(name, `${name} is ${value}, it must be a whole number`);
  }
  const above = range.above === true;
  if ((above ? value <= range.min : value < range.min) || value > range.max) {
    throw new ParamError(
      name,
      `${name} is ${value}, it must be ${above ? "above " : ""}${range.min} to ${range.max}`,
    );
  }
  return value;
}

function optional<T>(
  fields: Fields,
  name: string,
  is: (value: unknown) => value is T,
  what: string,
): T | undefined {
  const value = fields[name];
  if (value === undefined || value === null) {
    return undefined;
  }
  if (!is(value)) {
    throw new ParamError(name, `${name} must be ${what}`);
  }
  return value;
}

function isObject(value: unknown): value is Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isString(value: unknown): value is string {
  return typeof value === "string";
}

function isBoolean(value: unknown): value is boolean {
  return typeof value === "boolean";
}

function isEmptyList(value: unknown): boolean {
  return Array.isArray(value) && value.length === 0;
}
