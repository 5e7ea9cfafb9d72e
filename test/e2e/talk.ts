/** A conversation through the client library, and what came of each turn. */
import type { LeanedgeClient, TurnEvent, TurnRequest } from "../../src/client/index.js";
import { Role, type FinishReason } from "../../src/gen/leanedge/v1/session_pb.js";

/** How to draw tokens; max_tokens comes with the turn. */
export type Sampling = Omit<NonNullable<TurnRequest["sampling"]>, "maxTokens" | "$typeName">;

/** A turn to run. */
export interface TurnPlan {
  readonly text: string;
  readonly maxTokens: number;
}

/** A turn as its client saw it. */
export interface TurnSeen {
  readonly text: string;
  readonly finishReason: FinishReason;
  readonly promptTokens: number;
  readonly cachedTokens: number;
  readonly completionTokens: number;
  /** Bytes of the answer by the gateway's count. */
  readonly textBytes: number;
  /** Times that the client took the stream up again. */
  readonly reconnects: number;
}

/** Long enough for a gateway that starts on a machine with other things to do. */
const reconnect = { attemptsMax: 200, firstWaitMs: 100, waitMsMax: 500 };

/** Runs one turn to its end; `onEvent` hears of each event, with the text so far. */
export async function runOne(
  client: LeanedgeClient,
  sessionId: string,
  turn: number,
  plan: TurnPlan,
  sampling: Sampling,
  onEvent: (event: TurnEvent, text: string) => void = () => undefined,
): Promise<TurnSeen> {
  let text = "";
  let reconnects = 0;
  for await (const event of client.runTurn({
    sessionId,
    turn,
    text: plan.text,
    sampling: { ...sampling, maxTokens: plan.maxTokens },
    reconnect,
  })) {
    if (event.type === "delta") text += event.text;
    if (event.type === "reconnecting") reconnects++;
    onEvent(event, text);
    if (event.type === "finished") {
      const { usage, finishReason, textBytes } = event.finished;
      return {
        text,
        finishReason,
        promptTokens: usage?.promptTokens ?? 0,
        cachedTokens: usage?.cachedTokens ?? 0,
        completionTokens: usage?.completionTokens ?? 0,
        textBytes: Number(textBytes),
        reconnects,
      };
    }
  }
  throw new Error(`turn ${turn} of ${sessionId} ended without an end`);
}

/** Runs turns one after the other; `plans[0]` is turn `first`. */
export async function talk(
  client: LeanedgeClient,
  sessionId: string,
  first: number,
  plans: readonly TurnPlan[],
  sampling: Sampling,
): Promise<TurnSeen[]> {
  const seen: TurnSeen[] = [];
  for (const [index, plan] of plans.entries()) {
    seen.push(await runOne(client, sessionId, first + index, plan, sampling));
  }
  return seen;
}

/** One message of a stored transcript. */
export interface StoredMessage {
  readonly turn: number;
  readonly role: Role;
  readonly text: string;
}

/** The whole transcript of a session. */
export async function transcript(
  client: LeanedgeClient,
  sessionId: string,
): Promise<StoredMessage[]> {
  const { messages } = await client.sessions.listMessages({ sessionId, pageSize: 1000 });
  return messages.map(({ turn, message }) => ({
    turn,
    role: message?.role ?? Role.UNSPECIFIED,
    text: message?.text ?? "",
  }));
}
