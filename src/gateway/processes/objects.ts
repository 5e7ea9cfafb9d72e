/**
 * The way to the gateway's Durable Objects. On Cloudflare, and where one process of workerd serves a gateway, it is the
 * binding of their class. Where several processes serve one gateway, each object is kept by one of them (object-owner.ts),
 * and the others reach it there (object-server.ts), over sockets that only their starter's user may open.
 */
import type { GatewayEnv } from "../bindings.js";
import { gatewayConfig } from "../config.js";
import { objectHeader, writeObjectAddress } from "./object-address.js";
import type { ObjectAddress, ObjectKind } from "./object-address.js";
import { ownerOfEngine, ownerOfId, ownerOfShared, parseProcesses } from "./object-owner.js";
import type { GatewayProcesses } from "./object-owner.js";
import type { ObjectServer } from "./object-server.js";
import { sharedIndex, sharedName } from "../objects/shared-name.js";

/** What calls an object of a binding. */
export type ObjectStub<Kind extends ObjectKind> =
  NonNullable<GatewayEnv[Kind]> extends DurableObjectNamespace<infer T>
    ? DurableObjectStub<T>
    : never;

/** An object by its name. */
export function objectNamed<Kind extends ObjectKind>(
  env: Pick<GatewayEnv, Kind>,
  kind: Kind,
  name: string,
  options: DurableObjectNamespaceGetDurableObjectOptions = {},
): ObjectStub<Kind> {
  return stubOf(env, { kind, name }, options) as ObjectStub<Kind>;
}

/** An object that has a name by the id which that gave it. Not for engines. */
export function objectOfId<Kind extends Exclude<ObjectKind, "ENGINE">>(
  env: Pick<GatewayEnv, Kind>,
  kind: Kind,
  id: string,
): ObjectStub<Kind> {
  return stubOf(env, { kind, id }) as ObjectStub<Kind>;
}

/** Whether this process keeps the object of a name. */
export function isOwn(env: Partial<GatewayEnv>, kind: ObjectKind, name: string): boolean {
  return otherOwner(env, { kind, name }) === undefined;
}

/** An object that this process keeps. */
export function ownObject(
  env: Partial<GatewayEnv>,
  address: ObjectAddress,
  options: DurableObjectNamespaceGetDurableObjectOptions = {},
): DurableObjectStub {
  const namespace = namespaceOf(env, address.kind);
  if (!("name" in address)) {
    return namespace.get(namespace.idFromString(address.id));
  }
  const shared = address.kind === "SESSION" ? sharedIndex(address.name) : undefined;
  const id = shared === undefined ? undefined : sharedIds(env)[shared];
  return id === undefined ? namespace.getByName(address.name, options) : namespace.get(id, options);
}

function stubOf(
  env: Partial<GatewayEnv>,
  address: ObjectAddress,
  options?: DurableObjectNamespaceGetDurableObjectOptions,
): unknown {
  const owner = otherOwner(env, address);
  return owner === undefined ? ownObject(env, address, options) : remoteObject(env, owner, address);
}

/** The process that keeps an object; undefined where it is this one. */
function otherOwner(env: Partial<GatewayEnv>, address: ObjectAddress): number | undefined {
  const processes = processesOf(env);
  if (processes === undefined) {
    return undefined;
  }
  const { count, index } = processes;
  const owner = ownerOf(env, address, count);
  return owner === index ? undefined : owner;
}

/** The process, of `count`, that keeps an object. */
function ownerOf(env: Partial<GatewayEnv>, address: ObjectAddress, count: number): number {
  const { kind } = address;
  if (kind === "ENGINE" && "name" in address) {
    return ownerOfEngine(address.name, count);
  }
  if (kind === "SESSION") {
    const shared = "name" in address ? sharedIndex(address.name) : sharedIndexOfId(env, address.id);
    if (shared !== undefined) {
      return ownerOfShared(shared, count);
    }
  }
  return ownerOfId(
    "id" in address ? address.id : namespaceOf(env, kind).idFromName(address.name).toString(),
    count,
  );
}

const knownIds = new WeakMap<object, readonly DurableObjectId[]>();

/** Ids of the objects that sessions share, by index; made once: an id is two hashes of its name. */
function sharedIds(env: Partial<GatewayEnv>): readonly DurableObjectId[] {
  let ids = knownIds.get(env);
  if (ids === undefined) {
    const namespace = namespaceOf(env, "SESSION");
    const count = gatewayConfig(env).sessionObjects;
    ids = Array.from({ length: count }, (_, index) => namespace.idFromName(sharedName(index)));
    knownIds.set(env, ids);
  }
  return ids;
}

const knownIndices = new WeakMap<object, ReadonlyMap<string, number>>();

/** The index of the object of an id among those that sessions share; undefined where it is none of them. */
function sharedIndexOfId(env: Partial<GatewayEnv>, id: string): number | undefined {
  let indices = knownIndices.get(env);
  if (indices === undefined) {
    indices = new Map(sharedIds(env).map((shared, index) => [shared.toString(), index]));
    knownIndices.set(env, indices);
  }
  return indices.get(id);
}

/** The binding of a class; what its objects are is the caller's to know. */
function namespaceOf(env: Partial<GatewayEnv>, kind: ObjectKind): DurableObjectNamespace {
  const namespace: unknown = env[kind];
  if (namespace === undefined) {
    throw new Error(`the gateway has no binding ${kind}`);
  }
  return namespace as DurableObjectNamespace;
}

const known = new WeakMap<object, { readonly processes: GatewayProcesses | undefined }>();

/** The processes that serve the gateway of these bindings; undefined: one does. */
function processesOf(env: Partial<GatewayEnv>): GatewayProcesses | undefined {
  let entry = known.get(env);
  if (entry === undefined) {
    entry = { processes: parseProcesses(env.LEANEDGE_PROCESS) };
    known.set(env, entry);
  }
  return entry.processes;
}

/** The way to the objects of another process: its ObjectServer. */
type PeerEnv = Readonly<Record<string, Service<typeof ObjectServer> | undefined>>;

/** Calls an object of another process: `fetch` as a request, everything else as a call of its method. */
function remoteObject(env: object, owner: number, address: ObjectAddress): unknown {
  const peer = (env as PeerEnv)[`PEER_${owner}`];
  if (peer === undefined) {
    throw new Error(`the gateway has no binding PEER_${owner}`);
  }
  return new Proxy(
    {},
    {
      get(_, method) {
        // A stub is no promise.
        if (typeof method !== "string" || method === "then") {
          return undefined;
        }
        if (method === "fetch") {
          return (url: RequestInfo | URL, init?: RequestInit) => {
            const request = new Request(url, init);
            request.headers.set(objectHeader, writeObjectAddress(address));
            return peer.fetch(request);
          };
        }
        return (...args: unknown[]) => peer.call(address, method, args);
      },
    },
  );
}
