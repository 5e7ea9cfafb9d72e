/** What a turn's end leaves in metrics and log. */
import { Backend, FinishReason, PlacementReason } from "../../gen/leanedge/v1/session_pb.js";
import type { ConnectError } from "@connectrpc/connect";
import { Code } from "@connectrpc/connect";
import { log } from "../log.js";
import type { TurnRecord } from "../objects/session-records.js";
import { gatewayMetrics } from "./definitions.js";
import { meter } from "./isolate-meter.js";
import { outcomeName } from "./names.js";

/** Counts a turn that ended, and logs it: the one line that every turn leaves in the gateway's log. */
export function turnEnded(turn: TurnRecord, attempts: number): void {
  const outcome = enumName(FinishReason, turn.finishReason);
  const placement = enumName(PlacementReason, turn.placement);
  meter.count(gatewayMetrics.turns, { outcome, placement });
  meter.count(gatewayMetrics.tokens, { kind: "prompt" }, turn.promptTokens);
  meter.count(gatewayMetrics.tokens, { kind: "cached" }, turn.cachedTokens);
  meter.count(gatewayMetrics.tokens, { kind: "completion" }, turn.completionTokens);
  meter.count(gatewayMetrics.attempts, {}, attempts);
  if (turn.placement === PlacementReason.FAILOVER) {
    meter.count(gatewayMetrics.failovers, {});
  }
  log(turn.finishReason === FinishReason.ERROR ? "error" : "info", "turn.ended", {
    request_id: turn.requestId,
    turn: turn.number,
    outcome,
    model: turn.model,
    worker: turn.worker,
    backend: enumName(Backend, turn.backend),
    placement,
    attempts,
    prompt_tokens: turn.promptTokens,
    cached_tokens: turn.cachedTokens,
    completion_tokens: turn.completionTokens,
    ms: Math.max(0, turn.endMs - turn.startMs),
    ...(turn.errorMessage === "" ? {} : { error: turn.errorMessage }),
  });
}

/** Logs a turn that was withdrawn before any worker took it; its answer was counted as refused. */
export function turnRefused(requestId: string, turn: number, refusal: ConnectError): void {
  const reason = outcomeName(refusal);
  log(refusal.code === Code.Internal ? "error" : "info", "turn.refused", {
    request_id: requestId,
    turn,
    outcome: reason,
    error: refusal.rawMessage,
  });
}

/** The name of an enum's value; of one that a later worker knows and this gateway does not, `unknown`. */
function enumName(names: Readonly<Record<number, string>>, value: number): string {
  return (names[value] ?? "unknown").toLowerCase().replaceAll("_", "-");
}
