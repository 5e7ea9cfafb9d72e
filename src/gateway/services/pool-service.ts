/** leanedge.pool.v1.PoolService: workers that make themselves known. */
import { Code, ConnectError } from "@connectrpc/connect";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import type { PoolService } from "../../gen/leanedge/pool/v1/pool_pb.js";
import type { GatewayEnv } from "../bindings.js";
import { findModel, gatewayConfig } from "../config.js";
import { getCall } from "../connect/call.js";
import type { CallKey } from "../connect/call.js";
import {
  failedPrecondition,
  internalError,
  invalidArgument,
  notFound,
  resourceExhausted,
} from "../errors.js";
import { heartbeatMs, workerModelsMax, workerPlansMax } from "../limits.js";
import type { MemberAnswer } from "../pool/pool-calls.js";
import { poolObject } from "../pool/pool-client.js";
import type { PoolConfig } from "../pool/pool-config.js";
import { readLoad, readModel, wireStates } from "../pool/pool-wire.js";
import type { WorkerState } from "../pool/worker-state.js";
import { isOrigin } from "../remote-workers.js";

const namePattern = /^[A-Za-z0-9._:-]{1,128}$/;
const incarnationPattern = /^[A-Za-z0-9._-]{1,64}$/;
const fingerprintCharsMax = 128;

/** The service; `key` finds the HTTP request that carries a call. */
export function createPoolService(key: CallKey<GatewayEnv>): ServiceImpl<typeof PoolService> {
  function open(pool: string, context: HandlerContext): Opened {
    const { env } = getCall(context, key);
    const found = findPool(env, pool);
    return { env, pool: found, stub: poolObject(env, found) };
  }
  return {
    async register(request, context) {
      const { env, pool, stub } = open(request.pool, context);
      checkName(request.name);
      checkIncarnation(request.incarnation);
      if (!isOrigin(request.address)) {
        throw invalidArgument(
          `address is "${request.address}"; it must be http or https, host and port and nothing else`,
        );
      }
      const { models } = request;
      if (models.length === 0 || models.length > workerModelsMax) {
        throw invalidArgument(
          `models has ${models.length} entries, 1 to ${workerModelsMax} are allowed`,
        );
      }
      for (const model of models) {
        if (model.model === "" || findModel(gatewayConfig(env), model.model) === undefined) {
          throw notFound(`this gateway's configuration has no model "${model.model}"`);
        }
        checkFingerprints([
          model.fingerprint,
          model.templateFingerprint,
          ...model.planFingerprints,
        ]);
      }
      const answer = await stub.register({
        name: request.name,
        incarnation: request.incarnation,
        address: new URL(request.address).origin,
        startMs: Number(request.startMs),
        models: models.map(readModel),
        load: readLoad(request.load),
        shutsDown: request.load?.draining ?? false,
      });
      return { state: wireStates[memberState(answer, request.name)], heartbeatMs, pool: pool.name };
    },
    async heartbeat(request, context) {
      const { stub } = open(request.pool, context);
      checkName(request.name);
      checkIncarnation(request.incarnation);
      const answer = await stub.heartbeat({
        name: request.name,
        incarnation: request.incarnation,
        load: readLoad(request.load),
        shutsDown: request.load?.draining ?? false,
      });
      return { state: wireStates[memberState(answer, request.name)], heartbeatMs };
    },
    async deregister(request, context) {
      const { stub } = open(request.pool, context);
      checkName(request.name);
      checkIncarnation(request.incarnation);
      return { removed: await stub.deregister(request.name, request.incarnation) };
    },
  };
}

interface Opened {
  readonly env: GatewayEnv;
  readonly pool: PoolConfig;
  readonly stub: ReturnType<typeof poolObject>;
}

/** A pool by its name; the first one for an empty name. Throws NOT_FOUND for one that the configuration does not name. */
export function findPool(env: GatewayEnv, name: string): PoolConfig {
  const { pools } = gatewayConfig(env);
  const found = name === "" ? pools[0] : pools.find((pool) => pool.name === name);
  if (found === undefined) {
    throw notFound(`this gateway's configuration has no pool "${name}"`);
  }
  return found;
}

/** The state in an answer, or the error that it stands for. */
function memberState(answer: MemberAnswer, name: string): WorkerState {
  switch (answer.kind) {
    case "member":
      return answer.state;
    case "unknown":
      throw notFound(`the pool does not know worker "${name}"; it must register`);
    case "out":
      throw failedPrecondition(answer.message);
    case "full":
      throw resourceExhausted(answer.message);
    default:
      throw internalError();
  }
}

function checkName(name: string): void {
  if (!namePattern.test(name)) {
    throw new ConnectError(
      `name is "${name}"; it must have 1 to 128 characters of [A-Za-z0-9._:-]`,
      Code.InvalidArgument,
    );
  }
}

function checkIncarnation(incarnation: string): void {
  if (!incarnationPattern.test(incarnation)) {
    throw invalidArgument(
      `incarnation is "${incarnation}"; it must have 1 to 64 characters of [A-Za-z0-9._-]`,
    );
  }
}

function checkFingerprints(fingerprints: readonly string[]): void {
  // Model, template and plans.
  if (fingerprints.length > 2 + workerPlansMax) {
    throw invalidArgument(
      `a model has ${fingerprints.length - 2} plans, at most ${workerPlansMax} are allowed`,
    );
  }
  const long = fingerprints.find((fingerprint) => fingerprint.length > fingerprintCharsMax);
  if (long !== undefined) {
    throw invalidArgument(
      `a fingerprint has ${long.length} characters, at most ${fingerprintCharsMax} are allowed`,
    );
  }
}
