/** leanedge.pool.v1.PoolAdminService: what people do with pools. */
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import type { PoolAdminService, PoolWorker } from "../../gen/leanedge/pool/v1/pool_pb.js";
import type { GatewayEnv } from "../bindings.js";
import { gatewayConfig } from "../config.js";
import { getCall } from "../connect/call.js";
import type { CallKey } from "../connect/call.js";
import { notFound } from "../errors.js";
import { poolObject } from "../pool/pool-client.js";
import { wireWorker } from "../pool/pool-wire.js";
import { findPool } from "./pool-service.js";

/** The service; `key` finds the HTTP request that carries a call. */
export function createPoolAdminService(
  key: CallKey<GatewayEnv>,
): ServiceImpl<typeof PoolAdminService> {
  async function operate(
    request: { readonly pool: string; readonly name: string },
    kind: "drain" | "resume" | "evict",
    context: HandlerContext,
  ): Promise<{ worker: PoolWorker }> {
    const { env } = getCall(context, key);
    const pool = findPool(env, request.pool);
    const record = await poolObject(env, pool).operate(request.name, kind);
    if (record === undefined) {
      throw notFound(`pool "${pool.name}" has no worker "${request.name}"`);
    }
    return { worker: wireWorker(record) };
  }
  return {
    async listWorkers(request, context) {
      const { env } = getCall(context, key);
      const pools = request.pool === "" ? gatewayConfig(env).pools : [findPool(env, request.pool)];
      const lists = await Promise.all(pools.map((pool) => poolObject(env, pool).list()));
      return { workers: lists.flat().map(wireWorker) };
    },
    drainWorker: (request, context) => operate(request, "drain", context),
    resumeWorker: (request, context) => operate(request, "resume", context),
    evictWorker: (request, context) => operate(request, "evict", context),
  };
}
