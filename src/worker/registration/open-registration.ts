/** Registrations of a worker process with the gateways that its options name. */
import { createConnectTransport } from "@connectrpc/connect-node";
import { bearerToken } from "../../client/bearer-token.js";
import type { GetStatusResponse } from "../../gen/leanedge/worker/v1/worker_pb.js";
import { poolsMax } from "./limits.js";
import { Registration } from "./registration.js";

/** What the options of a worker say of pools. */
export interface PoolMembership {
  /** Gateways: `URL`, or `URL#POOL` for a pool that is not the gateway's first one. */
  readonly gateways: readonly string[];
  /** Token that they ask for. */
  readonly token: string;
  /** Address at which gateways reach the worker. */
  readonly address: string;
  /** Name of the worker. */
  readonly name: string;
  readonly status: () => Promise<GetStatusResponse>;
  readonly log: (line: string) => void;
}

/**
 * Registers a worker with all gateways.
 *
 * @throws Error that names the option and what is wrong with it
 */
export function openRegistrations(membership: PoolMembership): Registration[] {
  const { gateways, token, address, name, status, log } = membership;
  if (gateways.length > poolsMax) {
    throw new Error(`--pool is given ${gateways.length} times, at most ${poolsMax} are allowed`);
  }
  if (!/^[A-Za-z0-9._:-]{1,128}$/.test(name)) {
    throw new Error(
      `--name is "${name}"; in a pool it must have 1 to 128 characters of [A-Za-z0-9._:-]`,
    );
  }
  const reached = httpUrl("--address", address).origin;
  return gateways
    .map((gateway) => httpUrl("--pool", gateway))
    .map(
      ({ origin, hash }) =>
        new Registration({
          transport: createConnectTransport({
            baseUrl: origin,
            httpVersion: "1.1",
            interceptors: bearerToken(token),
          }),
          gateway: origin,
          pool: decodeURIComponent(hash.slice(1)),
          name,
          address: reached,
          status,
          log,
        }),
    );
}

function httpUrl(option: string, text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || !/^https?:$/.test(url.protocol) || url.username !== "") {
    throw new Error(`${option} is "${text}"; it must be an http or https address`);
  }
  return url;
}
