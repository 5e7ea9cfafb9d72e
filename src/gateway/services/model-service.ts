/** leanedge.v1.ModelService: the configured models, as their engines describe them. */
import { create } from "@bufbuild/protobuf";
import type { ServiceImpl } from "@connectrpc/connect";
import {
  GetModelResponseSchema,
  ListModelsResponseSchema,
} from "../../gen/leanedge/v1/model_pb.js";
import type { ModelService } from "../../gen/leanedge/v1/model_pb.js";
import type { GatewayEnv } from "../bindings.js";
import { modelInfo } from "../catalogue.js";
import { findModel, gatewayConfig } from "../config.js";
import { getCall } from "../connect/call.js";
import type { CallKey } from "../connect/call.js";
import { notFound } from "../errors.js";

/** The service; `key` finds the HTTP request that carries a call. */
export function createModelService(key: CallKey<GatewayEnv>): ServiceImpl<typeof ModelService> {
  return {
    async listModels(_request, context) {
      const { env } = getCall(context, key);
      const entries = gatewayConfig(env).models;
      return create(ListModelsResponseSchema, {
        models: await Promise.all(entries.map((entry) => modelInfo(env, entry))),
      });
    },
    async getModel(request, context) {
      const { env } = getCall(context, key);
      const entry = findModel(gatewayConfig(env), request.model);
      if (entry === undefined) {
        throw notFound(`there is no model "${request.model}"`);
      }
      return create(GetModelResponseSchema, { model: await modelInfo(env, entry) });
    },
  };
}
