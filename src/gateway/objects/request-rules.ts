/** What a request may contain, whatever state a session is in. Every refusal is INVALID_ARGUMENT and names the bound. */
import { clone } from "@bufbuild/protobuf";
import { SamplingParamsSchema } from "../../gen/leanedge/v1/sampling_pb.js";
import type { SamplingParams } from "../../gen/leanedge/v1/sampling_pb.js";
import { Role } from "../../gen/leanedge/v1/session_pb.js";
import type { Message } from "../../gen/leanedge/v1/session_pb.js";
import { invalidArgument } from "../errors.js";
import {
  firstTurnMessagesMax,
  maxTokensDefault,
  messageBytesMax,
  pageSizeMax,
  sessionIdBytesMax,
  stopStringBytesMax,
  stopStringsMax,
  titleCharsMax,
  titleFromTextCharsMax,
  turnMessagesMax,
} from "../limits.js";
import { sha256 } from "../sha256.js";
import { utf8Bytes } from "../utf8.js";

/** C0, DEL and C1. */
// eslint-disable-next-line no-control-regex -- control characters are what this refuses
const controlCharacters = /[\u0000-\u001f\u007f-\u009f]/;

/** Checks the id of a session. `field` names it in the error. */
export function checkSessionId(id: string, field = "session_id"): void {
  if (id === "") {
    throw invalidArgument(`${field} is empty`);
  }
  const bytes = utf8Bytes(id);
  if (bytes > sessionIdBytesMax) {
    throw invalidArgument(
      `${field} is ${bytes} bytes long, at most ${sessionIdBytesMax} are allowed`,
    );
  }
  if (controlCharacters.test(id)) {
    throw invalidArgument(`${field} holds control characters`);
  }
  if (!id.isWellFormed()) {
    throw invalidArgument(`${field} is not valid Unicode`);
  }
}

/** Checks a title. */
export function checkTitle(title: string): void {
  const chars = [...title].length;
  if (chars > titleCharsMax) {
    throw invalidArgument(
      `title is ${chars} characters long, at most ${titleCharsMax} are allowed`,
    );
  }
  if (!title.isWellFormed()) {
    throw invalidArgument("title is not valid Unicode");
  }
}

/** The title that a session gets from its first user message. */
export function titleFrom(messages: readonly Message[]): string {
  const first = messages.find((message) => message.role === Role.USER);
  const line = (first?.text ?? "").replace(/\s+/g, " ").trim();
  const chars = [...line];
  return chars.length <= titleFromTextCharsMax
    ? line
    : `${chars
        .slice(0, titleFromTextCharsMax - 1)
        .join("")
        .trimEnd()}…`;
}

/** What the place of messages in a session allows. */
export interface MessagePlace {
  /** They begin the session. */
  readonly first: boolean;
  /** Answers may be imported in any turn; only where a whole history is carried and checked. */
  readonly history: boolean;
}

/** Checks the new messages of a turn. */
export function checkMessages(messages: readonly Message[], place: MessagePlace): void {
  const max = place.first || place.history ? firstTurnMessagesMax : turnMessagesMax;
  if (messages.length === 0) {
    throw invalidArgument("messages is empty, a new turn needs at least 1");
  }
  if (messages.length > max) {
    throw invalidArgument(`messages has ${messages.length} entries, at most ${max} are allowed`);
  }
  messages.forEach((message, index) => {
    checkRole(message.role, index, place);
    checkText(message.text, index);
  });
  if (messages.at(-1)?.role !== Role.USER) {
    throw invalidArgument("the last message must be ROLE_USER");
  }
}

function checkRole(role: Role, index: number, place: MessagePlace): void {
  switch (role) {
    case Role.USER:
      return;
    case Role.SYSTEM:
      if (!place.first || index > 0) {
        throw invalidArgument(
          `messages[${index}].role is ROLE_SYSTEM, which is allowed only for the first message of a session`,
        );
      }
      return;
    case Role.ASSISTANT:
      if (!place.first && !place.history) {
        throw invalidArgument(
          `messages[${index}].role is ROLE_ASSISTANT, which is allowed only in the first turn of a session`,
        );
      }
      return;
    default:
      throw invalidArgument(
        `messages[${index}].role is ${role}, it must be ROLE_SYSTEM, ROLE_USER or ROLE_ASSISTANT`,
      );
  }
}

function checkText(text: string, index: number): void {
  if (text === "") {
    throw invalidArgument(`messages[${index}].text is empty`);
  }
  if (!text.isWellFormed()) {
    throw invalidArgument(`messages[${index}].text is not valid Unicode`);
  }
  const bytes = utf8Bytes(text);
  if (bytes > messageBytesMax) {
    throw invalidArgument(
      `messages[${index}].text is ${bytes} bytes long, at most ${messageBytesMax} are allowed`,
    );
  }
}

/** A range of a sampling number. */
interface NumberRule {
  readonly min: number;
  readonly max: number;
  /** `min` itself is not allowed. */
  readonly above?: boolean;
}

const samplingRules = {
  temperature: { min: 0, max: 2 },
  topK: { min: 0, max: 1000 },
  topP: { min: 0, max: 1, above: true },
  minP: { min: 0, max: 1 },
  repetitionPenalty: { min: 0, max: 2, above: true },
  repetitionWindow: { min: 1, max: 4096 },
} as const satisfies Record<string, NumberRule>;

const samplingNames: Record<keyof typeof samplingRules, string> = {
  temperature: "temperature",
  topK: "top_k",
  topP: "top_p",
  minP: "min_p",
  repetitionPenalty: "repetition_penalty",
  repetitionWindow: "repetition_window",
};

/** Checks what can be checked without knowing the model's window. */
export function checkSampling(sampling: SamplingParams): void {
  for (const [field, rule] of Object.entries(samplingRules) as [
    keyof typeof samplingRules,
    NumberRule,
  ][]) {
    const value = sampling[field];
    if (value !== undefined) {
      checkNumber(samplingNames[field], value, rule);
    }
  }
  if (sampling.maxTokens === 0) {
    throw invalidArgument("max_tokens is 0, at least 1 is needed");
  }
  if (sampling.stop.length > stopStringsMax) {
    throw invalidArgument(
      `stop has ${sampling.stop.length} strings, at most ${stopStringsMax} are allowed`,
    );
  }
  sampling.stop.forEach((stop, index) => {
    const bytes = utf8Bytes(stop);
    if (bytes === 0 || bytes > stopStringBytesMax) {
      throw invalidArgument(
        `stop[${index}] is ${bytes} bytes long, 1 to ${stopStringBytesMax} are allowed`,
      );
    }
  });
}

function checkNumber(name: string, value: number, rule: NumberRule): void {
  const above = rule.above === true;
  const fits =
    Number.isFinite(value) && (above ? value > rule.min : value >= rule.min) && value <= rule.max;
  if (!fits) {
    throw invalidArgument(
      `${name} is ${roundToFloat(value)}, it must be ${above ? "above " : ""}${rule.min} to ${rule.max}`,
    );
  }
}

/** A float field arrives with 24 bits: 2.1 would read 2.0999999046325684. */
function roundToFloat(value: number): number {
  return Number.isFinite(value) ? Number(value.toPrecision(7)) : value;
}

/** What a model says about sampling. */
export interface SamplingDefaults {
  /** The model's own defaults; unset fields fall back to plain sampling. */
  readonly sampling: SamplingParams | undefined;
  /** The model's window in tokens. */
  readonly contextTokensMax: number;
  /** Longest answer that the caller's key allows; undefined: no limit. */
  readonly outputTokensMax?: number | undefined;
}

/** All fields set, as a worker wants them. Throws INVALID_ARGUMENT where max_tokens exceeds the window. */
export function resolveSampling(
  sampling: SamplingParams,
  defaults: SamplingDefaults,
): SamplingParams {
  const model = defaults.sampling;
  const window = defaults.contextTokensMax;
  if (sampling.maxTokens !== undefined && sampling.maxTokens > window) {
    throw invalidArgument(
      `max_tokens is ${sampling.maxTokens}, the model's window is ${window} tokens`,
    );
  }
  const resolved = clone(SamplingParamsSchema, sampling);
  resolved.temperature ??= model?.temperature ?? 1;
  resolved.topK ??= model?.topK ?? 0;
  resolved.topP ??= model?.topP ?? 1;
  resolved.minP ??= model?.minP ?? 0;
  resolved.repetitionPenalty ??= model?.repetitionPenalty ?? 1;
  resolved.repetitionWindow ??= model?.repetitionWindow ?? 64;
  resolved.maxTokens ??= Math.min(maxTokensDefault, window, defaults.outputTokensMax ?? window);
  return resolved;
}

/** Identifies the messages of a turn: SHA-256 over roles, lengths and texts. */
export function hashMessages(messages: readonly Message[]): Uint8Array {
  return sha256(messages.map(({ role, text }) => `${role}:${utf8Bytes(text)}:${text}`).join(""));
}

/** Whether two hashes are the same; they are public, so time does not matter. */
export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, index) => byte === b[index]);
}

/** Size of a page. Throws INVALID_ARGUMENT above the bound. */
export function checkPageSize(pageSize: number, ifUnset: number): number {
  if (pageSize > pageSizeMax) {
    throw invalidArgument(`page_size is ${pageSize}, it must be 0 to ${pageSizeMax}`);
  }
  return pageSize === 0 ? ifUnset : pageSize;
}
