/**
 * Client library of leanedge, for browsers and Node: typed calls of the API, and turns that survive
 * a lost connection.
 *
 * @example
 * const client = createLeanedgeClient({ baseUrl: "http://127.0.0.1:8787", key });
 * for await (const event of client.runTurn({ sessionId: "s1", text: "Hello" })) {
 *   if (event.type === "delta") process.stdout.write(event.text);
 * }
 */
import { createClient, type Client } from "@connectrpc/connect";
import { ModelService } from "../gen/leanedge/v1/model_pb.js";
import { SessionService } from "../gen/leanedge/v1/session_pb.js";
import { createTransport, type ClientOptions } from "./client-options.js";
import { runTurn, type TurnEvent, type TurnRequest } from "./run-turn.js";

export type { ClientOptions } from "./client-options.js";
export { defaultReconnectPolicy, type ReconnectPolicy } from "./reconnect-policy.js";
export type { TurnEvent, TurnRequest } from "./run-turn.js";

/** A client of one gateway. */
export interface LeanedgeClient {
  /** All calls of leanedge.v1.SessionService. */
  readonly sessions: Client<typeof SessionService>;
  /** All calls of leanedge.v1.ModelService. */
  readonly models: Client<typeof ModelService>;
  /** Runs a turn that survives lost connections (run-turn.ts). */
  runTurn(request: TurnRequest): AsyncGenerator<TurnEvent>;
}

/** Creates a client; nothing is sent yet. */
export function createLeanedgeClient(options: ClientOptions): LeanedgeClient {
  const transport = createTransport(options);
  const sessions = createClient(SessionService, transport);
  return {
    sessions,
    models: createClient(ModelService, transport),
    runTurn: (request) => runTurn(sessions, request),
  };
}
