/**
 * Runs one turn over connections that may break: the turn goes on in the gateway (`detach`), and the
 * client takes the stream up again where it was cut. Deltas come once each, in order.
 */
import { sha256 } from "@noble/hashes/sha2.js";
import { Code, ConnectError, type Client } from "@connectrpc/connect";
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { SamplingParamsSchema } from "../gen/leanedge/v1/sampling_pb.js";
import {
  Role,
  type GenerateResponse,
  type SessionService,
  type TurnFinished,
  type TurnStarted,
} from "../gen/leanedge/v1/session_pb.js";
import {
  defaultReconnectPolicy,
  isRetryable,
  reconnectWaitMs,
  type ReconnectPolicy,
} from "./reconnect-policy.js";

/** A turn to run. */
export interface TurnRequest {
  readonly sessionId: string;
  /** Number of the turn. Unset: the next one, which the client asks for first. */
  readonly turn?: number;
  /** What the user says. Empty: joins or replays the turn that is named. */
  readonly text: string;
  /** Instructions to the model, for a session's first turn. */
  readonly system?: string;
  readonly model?: string;
  readonly sampling?: MessageInitShape<typeof SamplingParamsSchema>;
  /** Bytes of UTF-8 of the answer that the caller has already, when it joins a turn. */
  readonly resumeOffset?: number;
  /** Stops the turn itself, not only this stream. */
  readonly signal?: AbortSignal;
  /** When and how often to reconnect. */
  readonly reconnect?: ReconnectPolicy;
}

/** What happens in a turn. */
export type TurnEvent =
  | { readonly type: "started"; readonly started: TurnStarted }
  | { readonly type: "delta"; readonly text: string; readonly completionTokens: number }
  | {
      readonly type: "progress";
      readonly promptTokensDone: number;
      readonly promptTokens: number;
    }
  | { readonly type: "reconnecting"; readonly attempt: number; readonly error: ConnectError }
  | { readonly type: "finished"; readonly finished: TurnFinished };

const utf8 = new TextEncoder();
/** Bytes of the hash that says which answer a client has a part of. */
const resumeHashBytes = 16;

/** What a client has of an answer. */
class AnswerSoFar {
  /** Undefined where the answer's start is not known. */
  readonly #hash: ReturnType<typeof sha256.create> | undefined;
  #bytes: number;

  /** @param bytes the caller's, which this client did not see */
  constructor(bytes: number) {
    this.#bytes = bytes;
    this.#hash = bytes === 0 ? sha256.create() : undefined;
  }

  /** The next text. */
  add(text: string): void {
    const bytes = utf8.encode(text);
    this.#bytes += bytes.length;
    this.#hash?.update(bytes);
  }

  /** Fields of a request that goes on behind it. */
  get resume(): { resumeOffset: bigint; resumeHash: Uint8Array } {
    const hash =
      this.#bytes === 0 ? undefined : this.#hash?.clone().digest().subarray(0, resumeHashBytes);
    return { resumeOffset: BigInt(this.#bytes), resumeHash: hash ?? new Uint8Array(0) };
  }
}

/**
 * Runs a turn; ends after `finished`.
 * @throws ConnectError what the gateway refuses, or the last error of the connection; Canceled once
 * `signal` has aborted; DataLoss where the gateway lost a part of the answer that was given out and generated another
 * one: the same turn from offset 0 gives that one
 */
export async function* runTurn(
  sessions: Client<typeof SessionService>,
  request: TurnRequest,
): AsyncGenerator<TurnEvent> {
  const { signal, reconnect = defaultReconnectPolicy } = request;
  const turn = request.turn ?? (await nextTurn(sessions, request));
  const answer = new AnswerSoFar(request.resumeOffset ?? 0);
  let attempt = 0;
  const stop = (): void => {
    // The turn runs on in the gateway unless it is told; a failure leaves it to run to its end,
    // which costs tokens but loses nothing.
    sessions.cancelTurn({ sessionId: request.sessionId, turn }).catch(() => undefined);
  };
  signal?.addEventListener("abort", stop, { once: true });
  try {
    for (;;) {
      try {
        for await (const response of sessions.generate(
          {
            sessionId: request.sessionId,
            turn,
            messages: messagesOf(request),
            detach: true,
            ...answer.resume,
            ...(request.model === undefined ? {} : { model: request.model }),
            ...(request.sampling === undefined ? {} : { sampling: request.sampling }),
          },
          signal === undefined ? {} : { signal },
        )) {
          attempt = 0;
          const event = toTurnEvent(response);
          if (event === undefined) continue;
          if (event.type === "delta") answer.add(event.text);
          yield event;
          if (event.type === "finished") return;
        }
        throw new ConnectError("the stream ended before the turn", Code.Unavailable);
      } catch (error) {
        const failure = ConnectError.from(error);
        if (signal?.aborted === true) throw new ConnectError("the turn was stopped", Code.Canceled);
        if (!isRetryable(failure) || attempt >= reconnect.attemptsMax) throw failure;
        attempt++;
        yield { type: "reconnecting", attempt, error: failure };
        await sleep(reconnectWaitMs(reconnect, attempt, Math.random()), signal);
      }
    }
  } finally {
    signal?.removeEventListener("abort", stop);
  }
}

async function nextTurn(
  sessions: Client<typeof SessionService>,
  { sessionId }: TurnRequest,
): Promise<number> {
  try {
    const { session } = await sessions.getSession({ sessionId });
    return (session?.lastTurn ?? 0) + 1;
  } catch (error) {
    if (error instanceof ConnectError && error.code === Code.NotFound) return 1;
    throw error;
  }
}

function messagesOf({ text, system }: TurnRequest): { role: Role; text: string }[] {
  const messages = [];
  if (system !== undefined) messages.push({ role: Role.SYSTEM, text: system });
  if (text !== "") messages.push({ role: Role.USER, text });
  return messages;
}

function toTurnEvent({ event }: GenerateResponse): TurnEvent | undefined {
  switch (event.case) {
    case "started":
      return { type: "started", started: event.value };
    case "delta":
      return {
        type: "delta",
        text: event.value.text,
        completionTokens: event.value.completionTokens,
      };
    case "heartbeat":
      return {
        type: "progress",
        promptTokensDone: event.value.promptTokensDone,
        promptTokens: event.value.promptTokens,
      };
    case "finished":
      return { type: "finished", finished: event.value };
    default:
      return undefined;
  }
}

/** Waits; ends at once when the signal aborts, and the caller looks at the signal. */
function sleep(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener(
      "abort",
      () => {
        clearTimeout(timer);
        resolve();
      },
      { once: true },
    );
  });
}
