/** Looks on while an answer goes to its client: how it ended, how long it took, and when its first text came. */
import { FinishReason } from "../../gen/leanedge/v1/session_pb.js";
import type { GenerateResponse } from "../../gen/leanedge/v1/session_pb.js";
import type { GatewayEnv } from "../bindings.js";
import { publicError } from "../errors.js";
import { systemClock } from "../objects/clock.js";
import { gatewayMetrics } from "./definitions.js";
import { flushSoon, meter } from "./isolate-meter.js";
import type { Lifetime } from "./isolate-meter.js";
import { outcomeName } from "./names.js";

/** Whose answer it is. */
export interface WatchedAnswer {
  readonly env: Pick<GatewayEnv, "METRICS">;
  readonly lifetime: Lifetime;
  /** `openai`, or the protocol of an RPC: `connect`, `grpc-web`. */
  readonly protocol: string;
}

/** Errors that were counted: one passes several places on its way to its client. */
const counted = new WeakSet();

/** Counts a request that was refused. */
export function refused(
  error: unknown,
  { env, lifetime }: Pick<WatchedAnswer, "env" | "lifetime">,
): void {
  if (typeof error === "object" && error !== null) {
    if (counted.has(error)) {
      return;
    }
    counted.add(error);
  }
  meter.count(gatewayMetrics.refusals, { reason: outcomeName(publicError(error)) });
  flushSoon(env, lifetime);
}

/** Counts an answer that was refused before there were any events. */
export function refusedAnswer(error: unknown, watched: WatchedAnswer): void {
  const outcome = outcomeName(publicError(error));
  meter.count(gatewayMetrics.answers, { protocol: watched.protocol, outcome });
  refused(error, watched);
}

/** The same events. Adds no step to their way: calls are passed on, and their results looked at. */
export function watchAnswer(
  events: AsyncIterator<GenerateResponse>,
  { env, lifetime, protocol }: WatchedAnswer,
): AsyncIterableIterator<GenerateResponse> {
  const startMs = systemClock.nowMs();
  const labels = { protocol };
  let texted = false;
  let ended = false;

  function end(outcome: string): void {
    if (!ended) {
      ended = true;
      meter.count(gatewayMetrics.answers, { protocol, outcome });
      meter.observe(gatewayMetrics.answerTime, labels, (systemClock.nowMs() - startMs) / 1_000);
      flushSoon(env, lifetime);
    }
  }

  function look({ event }: GenerateResponse): void {
    if (event.case === "delta" && !texted) {
      texted = true;
      meter.observe(gatewayMetrics.firstToken, labels, (systemClock.nowMs() - startMs) / 1_000);
    } else if (event.case === "started" && event.value.resumed && event.value.worker === "") {
      meter.count(gatewayMetrics.resumed, labels);
    } else if (event.case === "finished") {
      end(FinishReason[event.value.finishReason].toLowerCase());
    }
  }

  return {
    async next() {
      let result: IteratorResult<GenerateResponse, unknown>;
      try {
        result = await events.next();
      } catch (error) {
        if (!texted) {
          refused(error, { env, lifetime });
        }
        end(outcomeName(publicError(error)));
        throw error;
      }
      if (result.done === true) {
        end("broken");
      } else {
        look(result.value);
      }
      return result;
    },
    async return(value?: unknown) {
      end("left");
      return (await events.return?.(value)) ?? { done: true, value };
    },
    [Symbol.asyncIterator]() {
      return this;
    },
  };
}
