/**
 * Gives the other processes of this gateway a way to the objects that this one keeps (objects.ts). It is served on a socket
 * of their own, never where clients come; on Cloudflare nothing is bound to it.
 */
import { WorkerEntrypoint } from "cloudflare:workers";
import type { GatewayEnv } from "../bindings.js";
import { objectHeader, readObjectAddress } from "./object-address.js";
import type { ObjectAddress } from "./object-address.js";

/** See the head of this file. */
export class ObjectServer extends WorkerEntrypoint<GatewayEnv> {
  /** A request to an object, which objectHeader names. */
  override fetch(request: Request): Promise<Response> {
    const address = readObjectAddress(request.headers.get(objectHeader) ?? "");
    return this.#object(address).fetch(request);
  }

  /** A call of an object's method. Arguments and what comes back cross by structured clone. */
  call(address: ObjectAddress, method: string, args: readonly unknown[]): Promise<unknown> {
    const object = this.#object(address) as unknown as Readonly<
      Record<string, (...args: readonly unknown[]) => Promise<unknown>>
    >;
    const called = object[method];
    if (called === undefined) {
      throw new Error(`${address.kind} has no method ${method}`);
    }
    return called(...args);
  }

  /** It is this process's: who asks has seen to that. */
  #object(address: ObjectAddress): DurableObjectStub {
    const namespace = this.env[address.kind];
    if (namespace === undefined) {
      throw new Error(`the gateway has no binding ${address.kind}`);
    }
    return "name" in address
      ? namespace.getByName(address.name)
      : namespace.get(namespace.idFromString(address.id));
  }
}
