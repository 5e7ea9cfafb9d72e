/** The page, the health of the Worker for plain HTTP probes, and what else is a static file. */
import type { Hono } from "hono";
import type { GatewayHonoEnv } from "./frame.js";

/** Headers of the page: it loads nothing from elsewhere and is framed by nobody. */
const pageHeaders = {
  "content-security-policy":
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
  "referrer-policy": "no-referrer",
  "x-content-type-options": "nosniff",
} as const;

/** Mounts the routes. They come last: assets answer what nothing else does. */
export function mountPage(app: Hono<GatewayHonoEnv>): void {
  app.get("/healthz", (c) => c.json({ status: "ok" }));
  app.get("*", async (c, next) => {
    const { ASSETS } = c.env;
    // Models are for engines; nobody downloads them through the gateway.
    if (
      ASSETS === undefined ||
      c.req.path.startsWith("/models/") ||
      c.req.path.startsWith("/v1/")
    ) {
      await next();
      return undefined;
    }
    const asset = await ASSETS.fetch(c.req.raw);
    if (asset.status === 404) {
      await asset.body?.cancel();
      await next();
      return undefined;
    }
    const response = new Response(asset.body, asset);
    for (const [name, value] of Object.entries(pageHeaders)) {
      response.headers.set(name, value);
    }
    return response;
  });
}
