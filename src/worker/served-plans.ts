/** The cache plans that a worker serves, and which one a new sequence gets. */
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Engine } from "../engine/engine.js";
import {
  contextForMemory,
  planAllocation,
  readingBytesMax,
  type ModelGeometry,
} from "../engine/plan/allocation.js";
import { planCost } from "../engine/plan/cost.js";
import { planForContext } from "../engine/plan/fit.js";
import { identityPlan, type CachePlan } from "../engine/plan/plan.js";
import { PlanInfoSchema, type PlanInfo } from "../gen/leanedge/v1/model_pb.js";

/** A plan in its engine. */
export interface ServedPlan {
  /** Index in the engine. */
  readonly index: number;
  readonly plan: CachePlan;
  /** SHA-256 of its canonical form, lower-case hexadecimal. */
  readonly fingerprint: string;
}

/** See the head of this file. */
export class ServedPlans {
  /** In the order in which they are looked at; the identity plan is the last one. */
  readonly all: readonly ServedPlan[];
  readonly #engine: Engine;
  /** Cache memory in all, bytes. */
  readonly #cacheBytes: number;
  readonly #geometry: ModelGeometry;

  /**
   * @param plans those that the engine was loaded with, in the same order
   */
  constructor(engine: Engine, geometry: ModelGeometry, plans: readonly CachePlan[]) {
    this.#engine = engine;
    this.#geometry = geometry;
    this.#cacheBytes = engine.stats().cacheBytes;
    const [identity, ...others] = engine.plans;
    if (identity === undefined || others.length !== plans.length) {
      throw new Error(`the engine has ${engine.plans.length} plans, not 1 + ${plans.length}`);
    }
    const { index, fingerprint, sink, recent } = identity;
    this.all = [
      ...others.map((held, i) => {
        const plan = plans[i] ?? identityPlan(geometry);
        return { index: held.index, plan, fingerprint: held.fingerprint };
      }),
      { index, plan: identityPlan(geometry, { sink, recent }), fingerprint },
    ];
  }

  /** The plan that sequences get where nothing speaks against it: the first. */
  get preferred(): ServedPlan {
    return this.#must(this.all[0]);
  }

  /** The plan of a new sequence that may grow to `tokens` tokens before it is admitted again. */
  forContext(tokens: number): ServedPlan {
    const plan = planForContext(
      this.all.map((served) => served.plan),
      tokens,
    );
    return this.#must(this.all.find((served) => served.plan === plan) ?? this.all.at(-1));
  }

  /**
   * The plan that a request names by its fingerprint.
   * @throws ConnectError FailedPrecondition if it is not served
   */
  named(fingerprint: string): ServedPlan {
    const served = this.all.find((candidate) => candidate.fingerprint === fingerprint);
    if (served !== undefined) return served;
    const known = this.all.map((candidate) => candidate.fingerprint).join(", ");
    throw new ConnectError(
      `the prefix was made under plan ${fingerprint}, this worker serves ${known}`,
      Code.FailedPrecondition,
    );
  }

  /** The plan of an index in the engine. */
  at(index: number): ServedPlan {
    return this.#must(this.all.find((served) => served.index === index));
  }

  /**
   * Bytes of cache memory that a sequence holds at once, at most, while a prompt of `tokens` tokens behind `before`
   * others is read; some plans need more for that than the cache that comes of it. All that there is, if that is less:
   * the engine knows better whether it can be done.
   */
  readingBytesMax(index: number, before: number, tokens: number): number {
    const engine = this.#engine;
    const { contextTokensMax, backend } = engine;
    const beside = readingBytesMax(
      this.at(index).plan,
      this.#geometry,
      contextTokensMax,
      before,
      tokens,
      backend !== "cuda",
    );
    return Math.min(engine.sequenceCacheBytes(index, before + tokens) + beside, this.#cacheBytes);
  }

  /** A plan with its sizes in this engine. */
  info({ plan, fingerprint }: ServedPlan): PlanInfo {
    const { contextTokensMax } = this.#engine;
    const allocation = planAllocation(plan, contextTokensMax);
    return create(PlanInfoSchema, {
      name: plan.name,
      fingerprint,
      contextTokensMin: plan.context.minTokens,
      contextTokensMax: Math.min(plan.context.maxTokens, contextTokensMax),
      archiveBytesPerToken: planCost(plan).archiveBytesPerToken,
      pageBytes: BigInt(allocation.pageBytes),
      sequenceBytes: BigInt(allocation.sequenceBytes),
      contextTokensBudget: contextForMemory(plan, this.#cacheBytes, contextTokensMax),
      pagesMax: allocation.pagesMax,
      sessionBytesMax: BigInt(allocation.sessionBytesMax),
    });
  }

  #must(served: ServedPlan | undefined): ServedPlan {
    if (served === undefined) throw new Error("the engine has no such plan");
    return served;
  }
}
