/** What the commands of an operator share: the way to a gateway's services for people with its admin token. */
import { readFile } from "node:fs/promises";
import type { DescService } from "@bufbuild/protobuf";
import { createClient, type Client } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { bearerToken } from "../client/bearer-token.js";

/** Deadline of one call. */
const callMsMax = 30_000;

/** Options of every such command. */
export interface AdminFlags {
  /** Address of the gateway. */
  readonly gateway: string;
  /** File with its admin token. */
  readonly adminTokenFile: string;
}

/** Opens a client of a service. Rejects if the token's file cannot be read. */
export async function adminClient<S extends DescService>(
  service: S,
  { adminTokenFile, gateway }: AdminFlags,
): Promise<Client<S>> {
  const token = (await readFile(adminTokenFile, "utf8")).trim();
  return createClient(
    service,
    createConnectTransport({
      baseUrl: gateway,
      httpVersion: "1.1",
      defaultTimeoutMs: callMsMax,
      interceptors: bearerToken(token),
    }),
  );
}
