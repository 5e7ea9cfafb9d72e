/**
 * Gives the other processes of this gateway a way to the objects that this one keeps (objects.ts). It is served on a socket
 * of their own, never where clients come; on Cloudflare nothing is bound to it.
 */
import { WorkerEntrypoint } from "cloudflare:workers";
import type { GatewayEnv } from "../bindings.js";
import { objectHeader, readObjectAddress } from "./object-address.js";
import type { ObjectAddress } from "./object-address.js";
import { ownObject } from "./objects.js";

type Method = (...args: readonly unknown[]) => Promise<unknown>;

/**
 * See the head of this file. Who asks has seen to it that an object is this process's.
 */
export class ObjectServer extends WorkerEntrypoint<GatewayEnv> {
  /** A request to an object, which objectHeader names. */
  override fetch(request: Request): Promise<Response> {
    const address = readObjectAddress(request.headers.get(objectHeader) ?? "");
    return ownObject(this.env, address).fetch(request);
  }

  /** A call of an object's method. Arguments and what comes back cross by structured clone. */
  call(address: ObjectAddress, method: string, args: readonly unknown[]): Promise<unknown> {
    const object: unknown = ownObject(this.env, address);
    const called = (object as Readonly<Record<string, Method | undefined>>)[method];
    if (called === undefined) {
      throw new Error(`${address.kind} has no method ${method}`);
    }
    return called(...args);
  }
}
