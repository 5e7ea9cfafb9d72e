import type { Code } from "@connectrpc/connect";
import type { Message } from "@bufbuild/protobuf";
import type { Any } from "@bufbuild/protobuf/wkt";

/**
 * The parts of the conformance service's messages that its implementation touches. The descriptors themselves come with
 * the runner and are loaded when the Worker starts, so no code is generated from them.
 */

/** A header or trailer with all its values. */
export interface HeaderField {
  /** Its name. */
  name: string;
  /** Its values, in order. */
  value: string[];
}

/** An error to answer with. */
export interface ErrorDefinition {
  /** A Connect code; the proto's numbers are the same. */
  code: Code;
  /** Its message, if any. */
  message?: string;
  /** Details to attach. */
  details: Any[];
}

/** What a call with one answer answers. */
export interface UnaryDefinition {
  /** Response headers to set. */
  responseHeaders: HeaderField[];
  /** Response trailers to set. */
  responseTrailers: HeaderField[];
  /** Pause before the answer, in milliseconds. */
  responseDelayMs: number;
  /** The answer's data or error. */
  response:
    | { case: "responseData"; value: Uint8Array }
    | { case: "error"; value: ErrorDefinition }
    | { case: undefined };
}

/** What a call with a stream of answers answers. */
export interface StreamDefinition {
  /** Response headers to set. */
  responseHeaders: HeaderField[];
  /** Response trailers to set. */
  responseTrailers: HeaderField[];
  /** Pause before each answer, in milliseconds. */
  responseDelayMs: number;
  /** The answers' data. */
  responseData: Uint8Array[];
  /** How the stream ends, if not well. */
  error?: ErrorDefinition;
}

/** A request of the unary and client-streaming methods. */
export interface UnaryMessage extends Message {
  /** What to answer. */
  responseDefinition?: UnaryDefinition;
}

/** A request of the server-streaming and bidirectional methods. */
export interface StreamMessage extends Message {
  /** What to answer. */
  responseDefinition?: StreamDefinition;
  /** True if answers take turns with requests; bidirectional only. */
  fullDuplex?: boolean;
}

/** What the service saw of a call, as it echoes it. */
export interface RequestInfo {
  /** The request's headers. */
  requestHeaders: HeaderField[];
  /** The time left, in milliseconds. */
  timeoutMs?: bigint;
  /** The messages so far. */
  requests: Any[];
  /** The query of a Connect GET. */
  connectGetInfo?: { queryParams: HeaderField[] };
}

/** An answer of every method. */
export interface Answer {
  /** Data asked for and, in the first answer, what was seen. */
  payload: { data?: Uint8Array; requestInfo?: RequestInfo };
}
