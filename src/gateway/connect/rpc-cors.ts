import { cors as connectCors } from "@connectrpc/connect";

/** Who may call from a browser, and which headers beyond the protocols' own travel. */
export interface RpcCorsOptions {
  /** Allowed origins, compared exactly ("https://chat.example"); `"*"` allows every origin. */
  origins: readonly string[] | "*";
  /** Request headers of the application that scripts may send, beyond Connect's and gRPC-web's. */
  allowedHeaders?: readonly string[];
  /** Response headers of the application that scripts may read, beyond Connect's and gRPC-web's. */
  exposedHeaders?: readonly string[];
  /** How long a browser may keep the answer to a preflight, in seconds; 7200 (Chromium's own bound) by default. */
  maxAgeSeconds?: number;
}

/** The CORS rules of a mount. Credentials are never allowed: API keys travel in a header, not in a cookie. */
export interface RpcCors {
  /** The answer to a preflight request; undefined when the request is none. */
  preflight(request: Request): Response | undefined;
  /** Headers to add to the response to `request`, in place. */
  decorate(request: Request, headers: Headers): void;
}

/** CORS for Connect, gRPC-web and gRPC-web text, the exposed status headers included. */
export function createRpcCors(options: RpcCorsOptions): RpcCors {
  const allowedHeaders = join(connectCors.allowedHeaders, ["Accept"], options.allowedHeaders);
  const exposedHeaders = join(connectCors.exposedHeaders, options.exposedHeaders);
  const maxAge = String(options.maxAgeSeconds ?? 7200);

  function allowedOrigin(request: Request): string | undefined {
    const origin = request.headers.get("origin");
    if (origin === null) {
      return undefined;
    }
    if (options.origins === "*") {
      return "*";
    }
    return options.origins.includes(origin) ? origin : undefined;
  }

  function setOrigin(request: Request, headers: Headers): boolean {
    if (options.origins !== "*") {
      headers.append("vary", "Origin");
    }
    const origin = allowedOrigin(request);
    if (origin === undefined) {
      return false;
    }
    headers.set("access-control-allow-origin", origin);
    return true;
  }

  return {
    preflight(request) {
      if (request.method !== "OPTIONS" || !request.headers.has("access-control-request-method")) {
        return undefined;
      }
      const headers = new Headers();
      if (setOrigin(request, headers)) {
        headers.set("access-control-allow-methods", connectCors.allowedMethods.join(", "));
        headers.set("access-control-allow-headers", allowedHeaders);
        headers.set("access-control-max-age", maxAge);
      }
      return new Response(null, { status: 204, headers });
    },
    decorate(request, headers) {
      if (setOrigin(request, headers)) {
        headers.set("access-control-expose-headers", exposedHeaders);
      }
    },
  };
}

function join(...lists: (readonly string[] | undefined)[]): string {
  return [...new Set(lists.flatMap((list) => list ?? []))].join(", ");
}
