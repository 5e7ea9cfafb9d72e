/**
 * A session's part in the limits of the keys that use it: asks the key's LimitObject before a turn begins, tells it what the
 * turn took, and the tenant's index before a session is made. A key without such limits costs no call at all.
 */
import type { ConnectError } from "@connectrpc/connect";
import { errorFields } from "../../log/log-line.js";
import { log } from "../log.js";
import type { Message } from "../../gen/leanedge/v1/session_pb.js";
import type { GatewayEnv } from "../bindings.js";
import { limitExceeded, rateExhausted } from "../errors.js";
import type { CallerKey } from "../keys/caller.js";
import { keyLimitNames } from "../keys/key-limits.js";
import type { KeyLimits } from "../keys/key-limits.js";
import {
  admissionRoundsMax,
  maxTokensDefault,
  settleAttemptsMax,
  settleBackoffMs,
  tokenBytesEstimate,
  turnLeaseRenewMs,
} from "../limits.js";
import { setRateHeaders } from "../rate/rate-headers.js";
import { gatewayMetrics } from "../metrics/definitions.js";
import { meter } from "../metrics/isolate-meter.js";
import { utf8Bytes } from "../utf8.js";
import type { HeadWriter } from "./answer-format.js";
import type { Clock } from "./clock.js";
import type { AdmissionRefusal, LimitObject, TurnLease } from "./limit-object.js";
import type { StopSignal } from "./stop.js";
import type { TurnTicket } from "./turn-ticket.js";
import { objectNamed } from "../processes/objects.js";

/** A call that may begin a turn. */
export interface LimitedCall {
  /** The key that it shows; undefined: none, and no limits. */
  readonly key: CallerKey | undefined;
  /** Longest answer that it asks for; undefined: the default. */
  readonly maxTokens: number | undefined;
  /** It goes on with a call that was counted. */
  readonly again: boolean;
}

/** What a call would do, as things stand. */
export interface CallPlan<T> {
  /** Messages of the turn that it begins; undefined if it joins or replays one. */
  readonly messages: readonly Message[] | undefined;
  /** Does it. `ticket`: what the turn that it begins keeps of the key. */
  readonly begin: (ticket: TurnTicket | undefined) => T;
}

/** See the head of this file. */
export class SessionLimits {
  readonly #env: GatewayEnv;
  readonly #clock: Clock;

  /** Does nothing yet. */
  constructor(env: GatewayEnv, clock: Clock) {
    this.#env = env;
    this.#clock = clock;
  }

  /**
   * Takes what a call needs from its key's limits, then begins it. Throws RESOURCE_EXHAUSTED where that is not there, and
   * nothing was taken then; or what the beginning throws.
   *
   * @param head gets the headers that tell what is left
   * @param plan asked again after each wait; its `begin` runs in the same moment. Where one of them throws nothing has begun,
   *   and what was taken for a turn is given back
   */
  async admitted<T>(call: LimitedCall, head: HeadWriter, plan: () => CallPlan<T>): Promise<T> {
    const { key, maxTokens } = call;
    if (key === undefined) {
      return plan().begin(undefined);
    }
    checkOutput(maxTokens, key.limits.outputTokens);
    const { requestsPerMinute, tokensPerMinute, turns, contextTokens, outputTokens } = key.limits;
    const limits = { requestsPerMinute, tokensPerMinute, turns };
    const ticket = { keyId: key.keyId, tokensPerMinute, contextTokens, outputTokens };
    if (Object.values(limits).every((limit) => limit === undefined)) {
      return plan().begin({ ...ticket, lease: undefined });
    }
    let requests: 0 | 1 = call.again ? 0 : 1;
    let planned = plan();
    for (let round = 1; round <= admissionRoundsMax; round++) {
      const lease =
        planned.messages === undefined
          ? undefined
          : newLease(planned.messages, maxTokens, outputTokens);
      const { states, refusal } = await this.#object(key.keyId).admit({
        limits,
        requests,
        turn: lease,
      });
      setRateHeaders(head, states);
      if (refusal !== undefined) {
        throw refusalError(refusal);
      }
      requests = 0;
      const taken = { ...ticket, lease };
      try {
        planned = plan();
        if ((lease === undefined) === (planned.messages === undefined)) {
          return planned.begin(taken);
        }
      } catch (error) {
        await this.settle(taken, 0);
        throw error;
      }
      // Another call began the turn meanwhile, or it was withdrawn.
      await this.settle(taken, 0);
    }
    throw rateExhausted("the turn begins and ends too often to be counted", settleBackoffMs);
  }

  /** Tells what a turn took. Never rejects: where its key cannot be told, what was expected stands. */
  async settle(ticket: TurnTicket | undefined, tokens: number): Promise<void> {
    if (ticket?.lease === undefined) {
      return;
    }
    for (let attempt = 1; attempt <= settleAttemptsMax; attempt++) {
      try {
        const { keyId, lease, tokensPerMinute } = ticket;
        await this.#object(keyId).settle(lease.lease, tokens, tokensPerMinute);
        return;
      } catch (error) {
        log("warn", "key.not_settled", { key_id: ticket.keyId, ...errorFields(error) });
        await this.#clock.sleep(settleBackoffMs * 2 ** (attempt - 1));
      }
    }
  }

  /** Keeps the place of a turn until the signal aborts. Never rejects. */
  async keep(ticket: TurnTicket | undefined, signal: StopSignal): Promise<void> {
    if (ticket?.lease === undefined) {
      return;
    }
    for (;;) {
      await this.#clock.sleep(turnLeaseRenewMs, signal);
      if (signal.aborted) {
        return;
      }
      try {
        await this.#object(ticket.keyId).renew(ticket.lease);
      } catch (error) {
        log("warn", "key.not_renewed", { key_id: ticket.keyId, ...errorFields(error) });
      }
    }
  }

  /** Takes the place of a session that is about to be made. Throws RESOURCE_EXHAUSTED where there is none. */
  async reserveSession(
    key: CallerKey | undefined,
    tenant: string,
    sessionId: string,
  ): Promise<void> {
    const bound = key?.limits.sessions;
    if (key === undefined || bound === undefined) {
      return;
    }
    const held = await objectNamed(this.#env, "TENANT", tenant).reserve(
      sessionId,
      key.keyId,
      bound,
    );
    if (held !== undefined) {
      throw limitExceeded(
        "sessions_exceeded",
        `the key's limit ${keyLimitNames.sessions} is ${bound}, and it has ${held}; delete one first`,
      );
    }
  }

  #object(keyId: string): DurableObjectStub<LimitObject> {
    return objectNamed(this.#env, "LIMIT", keyId);
  }
}

/** Refuses a prompt that fills a key's context. `contextTokens` undefined: no limit. */
export function checkContext(promptTokens: number, contextTokens: number | undefined): void {
  if (contextTokens !== undefined && promptTokens >= contextTokens) {
    throw limitExceeded(
      "context_length_exceeded",
      `the prompt has ${promptTokens} tokens, the key's limit ${keyLimitNames.contextTokens} is ${contextTokens} and the answer needs at least one`,
    );
  }
}

function checkOutput(maxTokens: number | undefined, bound: KeyLimits["outputTokens"]): void {
  if (maxTokens !== undefined && bound !== undefined && maxTokens > bound) {
    throw limitExceeded(
      "output_tokens_exceeded",
      `max_tokens is ${maxTokens}, the key's limit ${keyLimitNames.outputTokens} is ${bound}`,
    );
  }
}

/** The place of a new turn, which is expected to take its longest answer, and its new text in typical tokens. */
function newLease(
  messages: readonly Message[],
  maxTokens: number | undefined,
  outputTokens: number | undefined,
): TurnLease {
  const bytes = messages.reduce((sum, message) => sum + utf8Bytes(message.text), 0);
  const answer = maxTokens ?? Math.min(maxTokensDefault, outputTokens ?? Infinity);
  return {
    lease: crypto.randomUUID(),
    tokens: Math.ceil(bytes / tokenBytesEstimate) + answer,
  };
}

function refusalError({ limit, value, bound, retryAfterMs }: AdmissionRefusal): ConnectError {
  const name = keyLimitNames[limit];
  meter.count(gatewayMetrics.limited, { limit: name });
  const seconds = Math.max(1, Math.ceil(retryAfterMs / 1_000));
  const message =
    limit === "turns"
      ? `the key's limit ${name} is ${bound}, and ${value} run`
      : `the key's limit ${name} is ${bound}, and this would make it ${value}`;
  return rateExhausted(`${message}; come again in ${seconds} s`, retryAfterMs);
}
