/** GET /v1/models and /v1/models/{id}. */
import type { Hono } from "hono";
import { findModel, gatewayConfig } from "../config.js";
import { authenticate } from "../services/authenticate.js";
import type { GatewayHonoEnv } from "./frame.js";
import { httpError } from "./openai-error.js";

/** A model in OpenAI's form. */
interface OpenAiModel {
  readonly id: string;
  readonly object: "model";
  readonly created: number;
  readonly owned_by: string;
}

/** Mounts the routes. */
export function mountModels(app: Hono<GatewayHonoEnv>): void {
  app.get("/v1/models", async (c) => {
    await authenticate(c.req.raw.headers, c.env);
    const data = gatewayConfig(c.env).models.map((entry) => openAiModel(entry.model));
    return c.json({ object: "list", data });
  });
  app.get("/v1/models/:model", async (c) => {
    await authenticate(c.req.raw.headers, c.env);
    const id = c.req.param("model");
    if (findModel(gatewayConfig(c.env), id) === undefined) {
      return httpError(c, 404, {
        message: `there is no model "${id}"`,
        type: "invalid_request_error",
        param: "model",
        code: "model_not_found",
      });
    }
    return c.json(openAiModel(id));
  });
}

/** When a model was made is not known here; clients only want a number. */
function openAiModel(id: string): OpenAiModel {
  return { id, object: "model", created: 0, owned_by: "leanedge" };
}
