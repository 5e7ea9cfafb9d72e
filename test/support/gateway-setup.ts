/** Starts the gateway that the client tests share, and tells them where it is. */
import type { TestProject } from "vitest/node";
import { startGateway } from "./running-gateway.js";

declare module "vitest" {
  interface ProvidedContext {
    /** Address of HTTP, Connect and gRPC-web. */
    gatewayUrl: string;
    /** host:port of native gRPC. */
    grpcAddress: string;
    /** Key of tenant `dev`. */
    gatewayKey: string;
  }
}

/** Runs before the first file; what it returns runs after the last one. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const gateway = await startGateway();
  project.provide("gatewayUrl", gateway.url);
  project.provide("grpcAddress", gateway.grpcAddress);
  project.provide("gatewayKey", gateway.key);
  return () => gateway.close();
}
