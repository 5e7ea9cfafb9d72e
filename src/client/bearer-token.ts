/** How a caller shows who it is, on the way to a gateway as well as between gateways and workers. */
import type { Interceptor } from "@connectrpc/connect";

/** Interceptors of a transport that send a token as `authorization: Bearer`; none if it is undefined. */
export function bearerToken(token: string | undefined): Interceptor[] {
  if (token === undefined) return [];
  return [
    (next) => (request) => {
      request.header.set("authorization", `Bearer ${token}`);
      return next(request);
    },
  ];
}
