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
  if (isCounted(error)) {
    return;
  }
  noteCounted(error);
  meter.count(gatewayMetrics.refusals, { reason: outcomeName(publicError(error)) });
  flushSoon(env, lifetime);
}

function isCounted(error: unknown): boolean {
  return typeof error === "object" && error !== null && counted.has(error);
}

/** Notes that an error was counted, be it in the object where it happened. */
export function noteCounted(error: unknown): void {
  if (typeof error === "object" && error !== null) {
    counted.add(error);
  }
}

/** Opens an answer that the session's object counts from its head on; what fails before is counted here. */
export async function watchHead<T>(watched: WatchedAnswer, open: () => Promise<T>): Promise<T> {
  const watch = new AnswerWatch(watched);
  try {
    return await open();
  } catch (error) {
    if (!isCounted(error)) {
      watch.failed(error);
    }
    throw error;
  }
}

/** Counts one answer, whose events and end it is told. It begins when this is made. */
export class AnswerWatch {
  readonly #watched: WatchedAnswer;
  readonly #startMs = systemClock.nowMs();
  #texted = false;
  #ended = false;

  /** Counts nothing yet. */
  constructor(watched: WatchedAnswer) {
    this.#watched = watched;
  }

  /** The next event goes to the client. */
  look({ event }: GenerateResponse): void {
    const labels = { protocol: this.#watched.protocol };
    if (event.case === "delta" && !this.#texted) {
      this.#texted = true;
      meter.observe(gatewayMetrics.firstToken, labels, this.#seconds());
    } else if (event.case === "started" && event.value.resumed && event.value.worker === "") {
      meter.count(gatewayMetrics.resumed, labels);
    } else if (event.case === "finished") {
      this.end(FinishReason[event.value.finishReason].toLowerCase());
    }
  }

  /** The answer failed; before its first text that is a refusal. */
  failed(error: unknown): void {
    if (!this.#ended && !this.#texted) {
      refused(error, this.#watched);
    }
    this.end(outcomeName(publicError(error)));
  }

  /** It is over; what comes later does not count. */
  end(outcome: string): void {
    if (!this.#ended) {
      this.#ended = true;
      const { env, lifetime, protocol } = this.#watched;
      meter.count(gatewayMetrics.answers, { protocol, outcome });
      meter.observe(gatewayMetrics.answerTime, { protocol }, this.#seconds());
      flushSoon(env, lifetime);
    }
  }

  #seconds(): number {
    return (systemClock.nowMs() - this.#startMs) / 1_000;
  }
}

/** The same events. Adds no step to their way: calls are passed on, and their results looked at. */
export function watchAnswer(
  events: AsyncIterator<GenerateResponse>,
  watched: WatchedAnswer,
): AsyncIterableIterator<GenerateResponse> {
  const watch = new AnswerWatch(watched);
  return {
    async next() {
      let result: IteratorResult<GenerateResponse, unknown>;
      try {
        result = await events.next();
      } catch (error) {
        watch.failed(error);
        throw error;
      }
      if (result.done === true) {
        watch.end("broken");
      } else {
        watch.look(result.value);
      }
      return result;
    },
    async return(value?: unknown) {
      watch.end("left");
      return (await events.return?.(value)) ?? { done: true, value };
    },
    [Symbol.asyncIterator]() {
      return this;
    },
  };
}
