/** Checks what a gateway sends before any of it reaches the engine: bounds of leanedge.worker.v1. */
import { Code, ConnectError } from "@connectrpc/connect";
import type { LogSegment, Sampling } from "../engine/engine.js";
import type { SamplingParams } from "../gen/leanedge/v1/sampling_pb.js";
import { Role, type Message } from "../gen/leanedge/v1/session_pb.js";
import type { Segment } from "../gen/leanedge/worker/v1/worker_pb.js";
import { utf8Bytes } from "./answer.js";
import {
  messageBytesMax,
  messagesMax,
  segmentsMax,
  sequenceIdBytesMax,
  stopStringBytesMax,
  stopStringsMax,
  textIntervalMsMax,
} from "./limits.js";
import { segmentKindFromWire } from "./sequence-table.js";
import type { ChatMessage } from "./text-codec.js";

function invalid(message: string): ConnectError {
  return new ConnectError(message, Code.InvalidArgument);
}

/** @throws ConnectError InvalidArgument unless the id has 1 to 512 bytes */
export function checkSequenceId(id: string): void {
  const bytes = utf8Bytes(id);
  if (bytes < 1 || bytes > sequenceIdBytesMax) {
    throw invalid(`sequence_id has ${bytes} bytes, it must have 1 to ${sequenceIdBytesMax}`);
  }
}

/** @throws ConnectError InvalidArgument above the longest interval */
export function checkTextInterval(ms: number): number {
  if (ms > textIntervalMsMax) {
    throw invalid(`text_interval_ms is ${ms}, it must be at most ${textIntervalMsMax}`);
  }
  return ms;
}

const roles = new Map<Role, ChatMessage["role"]>([
  [Role.SYSTEM, "system"],
  [Role.USER, "user"],
  [Role.ASSISTANT, "assistant"],
]);

/** Messages as a template takes them. */
export function checkMessages(messages: readonly Message[]): ChatMessage[] {
  if (messages.length > messagesMax) {
    throw invalid(`request has ${messages.length} messages, at most ${messagesMax} are allowed`);
  }
  return messages.map((message, index) => {
    const role = roles.get(message.role);
    if (role === undefined) throw invalid(`messages[${index}].role is ${message.role}, not a role`);
    const bytes = utf8Bytes(message.text);
    if (bytes > messageBytesMax) {
      throw invalid(`messages[${index}].text has ${bytes} bytes, at most ${messageBytesMax}`);
    }
    return { role, content: message.text };
  });
}

/** Segments as an engine takes them. */
export function checkSegments(segments: readonly Segment[], vocabSize: number): LogSegment[] {
  if (segments.length > segmentsMax) {
    throw invalid(`log has ${segments.length} segments, at most ${segmentsMax} are allowed`);
  }
  return segments.map((segment, index) => {
    const kind = segmentKindFromWire(segment.kind);
    if (kind === undefined) throw invalid(`log[${index}].kind is ${segment.kind}, not a kind`);
    if (segment.ids.length === 0) throw invalid(`log[${index}] has no ids`);
    return { kind, ids: checkIds(segment.ids, vocabSize, `log[${index}].ids`) };
  });
}

/** @throws ConnectError InvalidArgument for an id outside of the vocabulary */
export function checkIds(
  ids: readonly number[],
  vocabSize: number,
  name: string,
): readonly number[] {
  const wrong = ids.findIndex((id) => id >= vocabSize);
  if (wrong >= 0) {
    throw invalid(`${name}[${wrong}] is ${ids[wrong]}, the vocabulary has ${vocabSize} ids`);
  }
  return ids;
}

function inRange(
  name: string,
  value: number,
  lowest: number,
  highest: number,
  lowestExcluded = false,
): number {
  const low = lowestExcluded ? value > lowest : value >= lowest;
  if (!low || !(value <= highest)) {
    const range = `${lowestExcluded ? "above " : ""}${lowest} to ${highest}`;
    throw invalid(`sampling.${name} is ${value}, it must be ${range}`);
  }
  return value;
}

/** A request's sampling, checked, with what is unset filled in (unset means: no effect). */
export function checkSampling(params: SamplingParams | undefined): Sampling {
  return {
    temperature: inRange("temperature", params?.temperature ?? 0, 0, 2),
    topK: inRange("top_k", params?.topK ?? 0, 0, 1000),
    topP: inRange("top_p", params?.topP ?? 1, 0, 1, true),
    minP: inRange("min_p", params?.minP ?? 0, 0, 1),
    repetitionPenalty: inRange("repetition_penalty", params?.repetitionPenalty ?? 1, 0, 2, true),
    repetitionWindow: inRange("repetition_window", params?.repetitionWindow ?? 64, 1, 4096),
    seed: params?.seed ?? 0n,
  };
}

/** Stop strings of a request, checked. */
export function checkStop(stop: readonly string[]): readonly string[] {
  if (stop.length > stopStringsMax) {
    throw invalid(
      `sampling.stop has ${stop.length} strings, at most ${stopStringsMax} are allowed`,
    );
  }
  stop.forEach((text, index) => {
    const bytes = utf8Bytes(text);
    if (bytes < 1 || bytes > stopStringBytesMax) {
      throw invalid(
        `sampling.stop[${index}] has ${bytes} bytes, it must have 1 to ${stopStringBytesMax}`,
      );
    }
  });
  return stop;
}
