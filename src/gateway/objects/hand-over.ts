/**
 * The short way of a turn's request to an object in the Worker's own isolate: it is handed over in memory, and the call carries its
 * number. Where sessions share objects the object is in this process, and with it in this isolate; an object that finds nothing
 * under the number says so, and gets the request as bytes, as everywhere else. A number begins with its isolate's own name: several
 * Workers may call one object.
 */
import type { GenerateRequest } from "../../gen/leanedge/v1/session_pb.js";
import type { SamplingParams } from "../../gen/leanedge/v1/sampling_pb.js";
import type { SessionCall } from "./session-name.js";

/** A call and its request. */
export interface HandedCall {
  readonly call: SessionCall;
  readonly request: GenerateRequest;
}

/** Header of a call: the number under which it was handed over. */
export const handedHeader = "x-session-handed";
/** Header of a response to one that was not found. */
export const notHandedHeader = "x-session-not-handed";

const handed = new Map<string, HandedCall>();
let count = 0;
/** This isolate's name: random, once a request is there to draw it in. */
let isolate: string | undefined;
/** Whether objects may be in this isolate: until one of them did not find a call. */
let near = true;

/** Hands a call over; its number. Who calls takes it back when the call has ended (`takeHanded`). */
export function handOver(call: HandedCall): string {
  isolate ??= crypto.randomUUID();
  const number = `${isolate}-${++count}`;
  handed.set(number, call);
  return number;
}

/** The call of a number, once; undefined where there is none, or somebody took it before. */
export function takeHanded(number: string): HandedCall | undefined {
  const call = handed.get(number);
  handed.delete(number);
  return call;
}

/** Whether handing over is worth a try. */
export function handsOver(): boolean {
  return near;
}

/** Notes that an object did not find a call: objects are in another isolate then, and stay there as long as this one lives. */
export function noteNotHanded(): void {
  near = false;
}

/** A request as it would come out of its bytes; undefined where that takes the bytes. */
export function asFromBytes(request: GenerateRequest): GenerateRequest | undefined {
  // UTF-8 has no halves of characters.
  if (!request.messages.every(({ text }) => text.isWellFormed())) {
    return undefined;
  }
  const { sampling } = request;
  return sampling === undefined ? request : { ...request, sampling: rounded(sampling) };
}

/** Numbers as a float of 32 bits has them. */
function rounded(sampling: SamplingParams): SamplingParams {
  const copy = { ...sampling };
  for (const name of ["temperature", "topP", "minP", "repetitionPenalty"] as const) {
    const value = copy[name];
    if (value !== undefined) {
      copy[name] = Math.fround(value);
    }
  }
  return copy;
}
