/**
 * The way to the gateway's Durable Objects. On Cloudflare, and where one process of workerd serves a gateway, it is the
 * binding of their class. Where several processes serve one gateway, each object is kept by one of them (object-owner.ts),
 * and the others reach it there (object-server.ts), over sockets that only their starter's user may open.
 */
import type { GatewayEnv } from "../bindings.js";
import { objectHeader, writeObjectAddress } from "./object-address.js";
import type { ObjectAddress, ObjectKind } from "./object-address.js";
import { ownerOfEngine, ownerOfId, parseProcesses } from "./object-owner.js";
import type { GatewayProcesses } from "./object-owner.js";
import type { ObjectServer } from "./object-server.js";

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
  const namespace = namespaceOf(env, kind);
  const processes = processesOf(env);
  if (processes !== undefined) {
    const owner =
      kind === "ENGINE"
        ? ownerOfEngine(name, processes.count)
        : ownerOfId(namespace.idFromName(name).toString(), processes.count);
    if (owner !== processes.index) {
      return remoteObject(env, owner, { kind, name });
    }
  }
  return namespace.getByName(name, options) as ObjectStub<Kind>;
}

/** An object that has a name by the id which that gave it. Not for engines. */
export function objectOfId<Kind extends Exclude<ObjectKind, "ENGINE">>(
  env: Pick<GatewayEnv, Kind>,
  kind: Kind,
  id: string,
): ObjectStub<Kind> {
  const namespace = namespaceOf(env, kind);
  const processes = processesOf(env);
  if (processes !== undefined) {
    const owner = ownerOfId(id, processes.count);
    if (owner !== processes.index) {
      return remoteObject(env, owner, { kind, id });
    }
  }
  return namespace.get(namespace.idFromString(id)) as ObjectStub<Kind>;
}

/** Whether this process keeps the object of a name. */
export function isOwn<Kind extends Exclude<ObjectKind, "ENGINE">>(
  env: Pick<GatewayEnv, Kind>,
  kind: Kind,
  name: string,
): boolean {
  const processes = processesOf(env);
  return (
    processes === undefined ||
    ownerOfId(namespaceOf(env, kind).idFromName(name).toString(), processes.count) ===
      processes.index
  );
}

/** The binding of a class; what it takes and gives is the caller's. */
function namespaceOf<Kind extends ObjectKind>(
  env: Pick<GatewayEnv, Kind>,
  kind: Kind,
): DurableObjectNamespace {
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
function remoteObject<Kind extends ObjectKind>(
  env: object,
  owner: number,
  address: ObjectAddress,
): ObjectStub<Kind> {
  const peer = (env as PeerEnv)[`PEER_${owner}`];
  if (peer === undefined) {
    throw new Error(`the gateway has no binding PEER_${owner}`);
  }
  const stub = new Proxy(
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
  return stub as ObjectStub<Kind>;
}
