/** A turn as its client saw it, with the worker that answered and why it was that one. */
import type { LeanedgeClient, TurnEvent } from "../../src/client/index.js";
import { FinishReason, PlacementReason } from "../../src/gen/leanedge/v1/session_pb.js";
import { runOne, type Sampling, type TurnPlan, type TurnSeen } from "./talk.js";

/** See the head of this file. */
export interface PlacedTurn extends TurnSeen {
  readonly worker: string;
  readonly placement: PlacementReason;
}

/** Runs one turn to its end. */
export async function runPlaced(
  client: LeanedgeClient,
  sessionId: string,
  turn: number,
  plan: TurnPlan,
  sampling: Sampling = { temperature: 0 },
  onEvent: (event: TurnEvent, text: string) => void = () => undefined,
): Promise<PlacedTurn> {
  let worker = "";
  let placement = PlacementReason.UNSPECIFIED;
  const seen = await runOne(client, sessionId, turn, plan, sampling, (event, text) => {
    if (event.type === "started" && event.started.worker !== "") {
      ({ worker, placement } = event.started);
    }
    onEvent(event, text);
  });
  return { ...seen, worker, placement };
}

/** Runs turns one after the other; `plans[0]` is turn `first`. */
export async function talkPlaced(
  client: LeanedgeClient,
  sessionId: string,
  first: number,
  plans: readonly TurnPlan[],
  sampling: Sampling = { temperature: 0 },
): Promise<PlacedTurn[]> {
  const turns: PlacedTurn[] = [];
  for (const [index, plan] of plans.entries()) {
    turns.push(await runPlaced(client, sessionId, first + index, plan, sampling));
  }
  return turns;
}

/** Tokens of the log that the next turn finds in the cache: all, but the last one of an answer that was cut off. */
export function cachedAfter({ promptTokens, completionTokens, finishReason }: TurnSeen): number {
  return promptTokens + completionTokens - (finishReason === FinishReason.LENGTH ? 1 : 0);
}

/** What may not depend on faults: the text and its tokens. */
export function told({ text, completionTokens, finishReason, textBytes }: TurnSeen): unknown {
  return { text, completionTokens, finishReason, textBytes };
}
