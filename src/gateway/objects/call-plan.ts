/** What a call of Generate or Chat means to its session, and what it takes to start it. */
import type { GenerateRequest, Message } from "../../gen/leanedge/v1/session_pb.js";
import type { ChatRedirect } from "./session-client.js";
import type { SessionCall } from "./session-name.js";
import { encodeJsonFrame, frameKind } from "./session-wire.js";
import type { TurnTicket } from "./turn-ticket.js";

/** What a call means, as things stand. */
export type CallPlan =
  | { readonly redirect: ChatRedirect }
  | {
      /** Messages of the turn that it begins; undefined if it joins or replays one. */
      readonly begins: readonly Message[] | undefined;
      readonly start: (ticket: TurnTicket | undefined) => StartedCall;
    };

/** A call that has its answer. */
export interface StartedCall {
  /** Gives it, once its head is known. */
  readonly respond: () => Promise<Response>;
  /** It began a turn. */
  readonly begun: boolean;
}

/** What it takes to start a call. */
export interface StartOptions {
  readonly call: SessionCall;
  readonly request: GenerateRequest;
  readonly signal: AbortSignal;
  /** Headers of the answer. */
  readonly head: Map<string, string>;
  /** What the turn keeps of the caller's key. */
  readonly ticket: TurnTicket | undefined;
  readonly form: { readonly history: boolean; readonly requestHash: Uint8Array };
}

/** The answer to a call that belongs to a fork of the session. */
export function redirectResponse(redirect: ChatRedirect): Response {
  return new Response(encodeJsonFrame(frameKind.redirect, redirect));
}
