import { gatewayProject } from "./test/support/gateway-project.js";

/** Two objects keep all sessions: what sharing is, and what nobody may notice of it. */
export default gatewayProject(
  "shared",
  {
    include: [
      "src/gateway/objects/shared-*.worker.test.ts",
      "src/gateway/objects/{index-and-keys,session-object,sessions-model,store-behind}.worker.test.ts",
      "src/gateway/services/{key-limits,session-service}.worker.test.ts",
      "src/gateway/http/chat-completions.worker.test.ts",
    ],
  },
  { LEANEDGE_SESSION_OBJECTS: "2" },
);
