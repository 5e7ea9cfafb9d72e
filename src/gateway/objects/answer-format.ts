/**
 * How a session's answer is written. The SessionObject writes what the client gets, in its protocol, and the Worker passes
 * the body on without looking into it: reading and writing each piece a second time cost two of seven milliseconds a turn.
 */
import { toBinary } from "@bufbuild/protobuf";
import type { ConnectError } from "@connectrpc/connect";
import { GenerateResponseSchema } from "../../gen/leanedge/v1/session_pb.js";
import type { GenerateResponse } from "../../gen/leanedge/v1/session_pb.js";
import { encodeErrorFrame, encodeFrames, frameKind } from "./session-wire.js";
import type { Frame } from "./session-wire.js";

/**
 * Forms of an answer: `frames` for a caller inside of the gateway (session-wire.ts); of OpenAI `events` (server-sent), the same
 * with `usage` in them, and `whole`, one object of JSON; a stream of `connect` and of `grpc-web`, binary both.
 */
export type AnswerForm = "frames" | "events" | "usage" | "whole" | "connect" | "grpc-web";

/** The head of a response that is being written: Headers, or a Map, which is no call into the runtime for each of its lines. */
export interface HeadWriter {
  set(name: string, value: string): unknown;
}

/** An answer that is being read, before its body begins. */
export interface AnswerAhead {
  /**
   * Reads events, which stay for the body, until one is `enough`, the last one is there, or `ms` milliseconds have passed.
   * True unless the time was up. Throws what ended the answer, and CANCELLED where the client left.
   */
  readUntil(enough: (event: GenerateResponse["event"]) => boolean, ms: number): Promise<boolean>;
}

/** Writes one answer. */
export interface AnswerFormat {
  /** Head and body are the client's, and are passed on as they are. */
  readonly passes: boolean;
  /** Waits for what the head of the response must say, at most, and writes it. Throws where an error is to be told instead. */
  head(ahead: AnswerAhead, headers: HeadWriter): Promise<void>;
  /**
   * Bytes for events that are there together; may be empty. Throws where they mean that the answer failed.
   *
   * @param ended nothing follows them
   */
  write(events: readonly GenerateResponse[], ended: boolean): Uint8Array;
  /** The last bytes of an answer that failed; undefined: its body breaks off. */
  fail(error: ConnectError): Uint8Array | undefined;
}

const endFrame: Frame = { kind: frameKind.end, payload: new Uint8Array(0) };

/** Frames, whose head says nothing. */
export const frameFormat: AnswerFormat = {
  passes: false,
  head: () => Promise.resolve(),
  write(events, ended) {
    const frames = events.map((event): Frame => ({
      kind: frameKind.message,
      payload: toBinary(GenerateResponseSchema, event),
    }));
    return encodeFrames(ended ? [...frames, endFrame] : frames);
  },
  fail: encodeErrorFrame,
};
