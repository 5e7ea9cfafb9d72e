import { Agent as HttpAgent, request as httpRequest } from "node:http";
import type { ClientRequest } from "node:http";
import { Agent as HttpsAgent, request as httpsRequest } from "node:https";
import { Socket } from "node:net";
import { TLSSocket } from "node:tls";
import type { HeaderFields } from "./forward-headers.js";
import type { FrontLimits } from "./front-limits.js";

/** The HTTP/1.1 side of a front: a bounded set of connections to the target. */
export interface Upstream {
  /** Begins a request; the caller ends and destroys it. `path` is appended to the target's own. */
  open(method: string, path: string, headers: HeaderFields): ClientRequest;
  /** Closes all connections. */
  close(): void;
}

/**
 * Gives a request up. Over plain TCP the connection is reset: a server that has not begun its answer takes a mere close
 * for the end of the client's own sending and works on.
 */
export function abandon(request: ClientRequest): void {
  const { socket } = request;
  const canReset =
    socket instanceof Socket &&
    !(socket instanceof TLSSocket) &&
    !socket.connecting &&
    !socket.destroyed &&
    // Node loses the handle of a socket that is reset while it is being shut down: it is never closed.
    !socket.writableEnded;
  if (canReset) {
    socket.resetAndDestroy();
  }
  request.destroy();
}

/** Prepares connections to `targetUrl` (http or https). Throws TypeError on another scheme. */
export function createUpstream(targetUrl: URL, limits: FrontLimits): Upstream {
  const agentOptions = {
    // A connection that is reused may be closed by the target at that very moment, and an RPC cannot be sent twice: the
    // failed call would cost more than a connection to a neighbour.
    keepAlive: false,
    maxSockets: limits.upstreamConnectionsMax,
  };
  const common = { maxHeaderSize: limits.headerBytesMax + limits.trailerBytesMax };
  const prefix = targetUrl.pathname.replace(/\/$/, "");
  if (targetUrl.protocol === "http:") {
    const agent = new HttpAgent(agentOptions);
    return {
      open: (method, path, headers) =>
        httpRequest(new URL(targetUrl.origin), {
          ...common,
          agent,
          method,
          path: prefix + path,
          headers,
        }),
      close: () => agent.destroy(),
    };
  }
  if (targetUrl.protocol === "https:") {
    const agent = new HttpsAgent(agentOptions);
    return {
      open: (method, path, headers) =>
        httpsRequest(new URL(targetUrl.origin), {
          ...common,
          agent,
          method,
          path: prefix + path,
          headers,
        }),
      close: () => agent.destroy(),
    };
  }
  throw new TypeError(`target ${targetUrl.href} is neither http nor https`);
}
