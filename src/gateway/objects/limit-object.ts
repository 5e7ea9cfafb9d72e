/**
 * What one API key has used of its limits: two token buckets and the turns that run. One object decides for all isolates, so
 * nothing but the end of a turn, which is known when it is over, can take more than a bucket holds.
 *
 * Everything is in storage and survives eviction. There is no alarm: buckets fill and places of lost turns lapse by the clock,
 * when somebody asks.
 */
import { DurableObject } from "cloudflare:workers";
import type { GatewayEnv } from "../bindings.js";
import { turnLeaseMs, turnsRetryAfterMs } from "../limits.js";
import { fullBucket, fullInMs, refilled, remaining, taken, waitMs } from "../rate/token-bucket.js";
import type { TokenBucket } from "../rate/token-bucket.js";
import type { RateState, RateStates } from "../rate/rate-headers.js";
import { int, real } from "./sql-row.js";

/** Limits that this object keeps; one that is not there is none. */
export interface RateLimits {
  readonly requestsPerMinute?: number;
  readonly tokensPerMinute?: number;
  readonly turns?: number;
}

/** What a call asks for. */
export interface Admission {
  readonly limits: RateLimits;
  /** Requests to count: 1, or 0 for one that was counted before. */
  readonly requests: 0 | 1;
  /** The turn that it would begin; undefined if it joins or replays one. */
  readonly turn: TurnLease | undefined;
}

/** The place of a running turn. */
export interface TurnLease {
  /** Unlike any other. */
  readonly lease: string;
  /** Tokens that it is expected to take. */
  readonly tokens: number;
}

/** What became of it. */
export interface Admitted {
  /** What is left. */
  readonly states: RateStates;
  /** Why it must wait; undefined: it was admitted, and taken from the buckets. */
  readonly refusal: AdmissionRefusal | undefined;
}

/** A limit that is used up. */
export interface AdmissionRefusal {
  readonly limit: keyof RateLimits;
  /** What the call would have brought it to, or asks for. */
  readonly value: number;
  readonly bound: number;
  readonly retryAfterMs: number;
}

type BucketName = "requests" | "tokens";

/** See the head of this file. */
export class LimitObject extends DurableObject<GatewayEnv> {
  readonly #sql: SqlStorage;
  readonly #storage: DurableObjectStorage;

  constructor(ctx: DurableObjectState, env: GatewayEnv) {
    super(ctx, env);
    this.#storage = ctx.storage;
    this.#sql = ctx.storage.sql;
    this.#sql.exec(
      `CREATE TABLE IF NOT EXISTS bucket (
        name TEXT PRIMARY KEY,
        used REAL NOT NULL,
        at_ms INTEGER NOT NULL
      )`,
    );
    this.#sql.exec(
      `CREATE TABLE IF NOT EXISTS turn (
        lease TEXT PRIMARY KEY,
        tokens INTEGER NOT NULL,
        lapse_ms INTEGER NOT NULL
      )`,
    );
  }

  /** Takes all that a call needs, or nothing. */
  admit({ limits, requests, turn }: Admission): Admitted {
    const nowMs = Date.now();
    return this.#storage.transactionSync(() => {
      const { requestsPerMinute, tokensPerMinute } = limits;
      const requestBucket = this.#bucket("requests", requestsPerMinute, nowMs);
      const tokenBucket = this.#bucket("tokens", tokensPerMinute, nowMs);
      const tokens = expected(turn?.tokens ?? 0, tokensPerMinute);
      const refusal =
        (turn === undefined ? undefined : this.#turnsRefusal(limits.turns, nowMs)) ??
        longer(
          refusalOf("requestsPerMinute", requestBucket, requestsPerMinute, requests),
          turn === undefined
            ? undefined
            : refusalOf("tokensPerMinute", tokenBucket, tokensPerMinute, tokens),
        );
      let taking = { requests: 0, tokens: 0 };
      if (refusal === undefined) {
        taking = { requests, tokens };
        if (turn !== undefined) {
          this.#putTurn(turn, nowMs);
        }
      }
      const states = {
        ...this.#take("requests", requestBucket, requestsPerMinute, taking.requests),
        ...this.#take("tokens", tokenBucket, tokensPerMinute, taking.tokens),
      };
      return { states, refusal };
    });
  }

  /** A turn still runs. */
  renew(turn: TurnLease): void {
    this.#putTurn(turn, Date.now());
  }

  /**
   * A turn has ended: what it took replaces what was expected. A second call, or one after the place had lapsed, changes
   * nothing: the expectation stands then.
   */
  settle(lease: string, tokens: number, tokensPerMinute: number | undefined): void {
    const nowMs = Date.now();
    this.#storage.transactionSync(() => {
      const [row] = this.#sql
        .exec("DELETE FROM turn WHERE lease = ? RETURNING tokens", lease)
        .toArray();
      const bucket = this.#bucket("tokens", tokensPerMinute, nowMs);
      if (row !== undefined && bucket !== undefined) {
        const estimate = expected(int(row, "tokens"), tokensPerMinute);
        this.#put("tokens", taken(bucket, tokens - estimate));
      }
    });
  }

  #turnsRefusal(bound: number | undefined, nowMs: number): AdmissionRefusal | undefined {
    this.#sql.exec("DELETE FROM turn WHERE lapse_ms <= ?", nowMs);
    // The clock was set back: those that live say so within turnLeaseRenewMs, and none stays for longer than it is given.
    const latestMs = nowMs + turnLeaseMs;
    this.#sql.exec("UPDATE turn SET lapse_ms = ?1 WHERE lapse_ms > ?1", latestMs);
    const running = int(this.#sql.exec("SELECT COUNT(*) AS n FROM turn").one(), "n");
    return bound === undefined || running < bound
      ? undefined
      : { limit: "turns", value: running, bound, retryAfterMs: turnsRetryAfterMs };
  }

  #putTurn({ lease, tokens }: TurnLease, nowMs: number): void {
    this.#sql.exec(
      `INSERT INTO turn (lease, tokens, lapse_ms) VALUES (?, ?, ?)
       ON CONFLICT (lease) DO UPDATE SET lapse_ms = excluded.lapse_ms`,
      lease,
      tokens,
      nowMs + turnLeaseMs,
    );
  }

  /** A bucket as it is now; undefined without a limit. */
  #bucket(name: BucketName, perMinute: number | undefined, nowMs: number): TokenBucket | undefined {
    if (perMinute === undefined) {
      return undefined;
    }
    const row = this.#sql.exec("SELECT used, at_ms FROM bucket WHERE name = ?", name).toArray()[0];
    const stored =
      row === undefined ? fullBucket : { used: real(row, "used"), atMs: int(row, "at_ms") };
    return refilled(stored, perMinute, nowMs);
  }

  #put(name: BucketName, { used, atMs }: TokenBucket): void {
    this.#sql.exec(
      `INSERT INTO bucket (name, used, at_ms) VALUES (?, ?, ?)
       ON CONFLICT (name) DO UPDATE SET used = excluded.used, at_ms = excluded.at_ms`,
      name,
      used,
      atMs,
    );
  }

  /** Takes from a bucket, and says what is left in it. */
  #take(
    name: BucketName,
    bucket: TokenBucket | undefined,
    perMinute: number | undefined,
    amount: number,
  ): Partial<Record<BucketName, RateState>> {
    if (bucket === undefined || perMinute === undefined) {
      return {};
    }
    const after = taken(bucket, amount);
    if (amount > 0) {
      this.#put(name, after);
    }
    return {
      [name]: {
        limit: perMinute,
        remaining: remaining(after, perMinute),
        fullInMs: fullInMs(after, perMinute),
      },
    };
  }
}

/** What a turn is expected to take, as it is taken: a full bucket at most. */
function expected(tokens: number, perMinute = Infinity): number {
  return Math.min(tokens, perMinute);
}

/** The one of two refusals that is to be waited for longer. */
function longer(
  a: AdmissionRefusal | undefined,
  b: AdmissionRefusal | undefined,
): AdmissionRefusal | undefined {
  return (b?.retryAfterMs ?? 0) > (a?.retryAfterMs ?? 0) ? b : a;
}

function refusalOf(
  limit: "requestsPerMinute" | "tokensPerMinute",
  bucket: TokenBucket | undefined,
  bound: number | undefined,
  amount: number,
): AdmissionRefusal | undefined {
  if (bucket === undefined || bound === undefined) {
    return undefined;
  }
  const retryAfterMs = waitMs(bucket, bound, amount);
  return retryAfterMs === 0
    ? undefined
    : { limit, value: Math.ceil(bucket.used) + amount, bound, retryAfterMs };
}
