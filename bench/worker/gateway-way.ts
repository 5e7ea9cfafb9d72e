/** Sessions that reach a worker through a gateway, as any client of it does. */
import { Agent } from "node:http";
import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { Role, SessionService } from "../../src/gen/leanedge/v1/session_pb.js";
import { nothingSeen, type Way } from "./sessions.js";

/** A gateway and whom it lets in. */
export type GatewayAccess = {
  url: string;
  key: string;
  model: string;
  /** Before the names of all sessions: they are never those of others. */
  label: string;
};

/** The way through a gateway, over HTTP/1.1 with connections that stay open. */
export function gatewayWay({ url, key, model, label }: GatewayAccess): Way {
  const transport = createConnectTransport({
    ...{ baseUrl: url, httpVersion: "1.1", useBinaryFormat: true },
    nodeOptions: { agent: new Agent({ keepAlive: true, noDelay: true }) },
    interceptors: [
      (next) => (request) => {
        request.header.set("authorization", `Bearer ${key}`);
        return next(request);
      },
    ],
  });
  const client = createClient(SessionService, transport);
  return {
    async answer({ id, text, maxTokens, first, onFirstToken }) {
      const seen = nothingSeen();
      let drawn = 0;
      const arrived = (tokens: number): void => {
        if (drawn === 0 && tokens > 0) onFirstToken?.();
        const now = performance.now();
        for (; drawn < tokens; drawn++) seen.arrivedMs.push(now);
      };
      const stream = client.generate({
        ...{ sessionId: `${label}-${id}`, turn: first === undefined ? 1 : 2 },
        ...(first === undefined ? { model } : {}),
        messages: [{ role: Role.USER, text }],
        sampling: { maxTokens, temperature: 0 },
      });
      for await (const { event } of stream) {
        if (event.case === "started") seen.cachedTokens = event.value.cachedTokens;
        if (event.case === "delta") arrived(event.value.completionTokens);
        if (event.case === "finished") {
          const { promptTokens = 0, completionTokens = 0 } = event.value.usage ?? {};
          // A token without text of its own is told with the end.
          arrived(completionTokens);
          seen.logTokens = promptTokens + completionTokens;
        }
      }
      return seen;
    },
    forget: (id) => client.deleteSession({ sessionId: `${label}-${id}` }),
  };
}
