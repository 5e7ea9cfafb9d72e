import { Hono } from "hono";
import descriptors from "../../.cache/conformance/service.binpb";
import { createCallKey } from "../../src/gateway/connect/call.js";
import { mountConnect } from "../../src/gateway/connect/mount-connect.js";
import { createConformanceService } from "./service.js";

/** A Worker that serves the conformance service through the gateway's own adapter, with the bounds of a mount. */
const app = new Hono<{ Bindings: object }>();
const service = createConformanceService(new Uint8Array(descriptors));

mountConnect(app, service.routes, {
  call: createCallKey<object>(),
  jsonOptions: { registry: service.registry },
  limits: {
    // The runner's own bound for its size tests; everything else it sends is smaller.
    messageReadBytesMax: 200 * 1024,
  },
});

export default app;
