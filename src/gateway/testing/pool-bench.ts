/**
 * A pool for tests inside workerd: scripted workers that are reached by address. `http://pooled-NAME` is the scripted engine
 * of that name; any other address refuses the connection.
 */
import { vi } from "vitest";
import type { GatewayEnv } from "../bindings.js";
import type { PoolObject } from "../objects/pool-object.js";
import type { Beat, PlaceRequest, Registration } from "../pool/pool-calls.js";
import { noLoad } from "../pool/pool-entry.js";
import { testEnv } from "./gateway-clients.js";

/** Model of the scripted workers. */
export const pooledModel = "scripted";

const cutOff = new Set<string>();

/** Refuses connections to a worker from now on. */
export function cutOffWorker(name: string): void {
  cutOff.add(name);
}

/** Lets connections to it through again. */
export function reachWorkerAgain(name: string): void {
  cutOff.delete(name);
}

/** Sends requests for `http://pooled-NAME` to the scripted engines until the test ends. */
export function reachScriptedWorkers(): void {
  vi.stubGlobal("fetch", (input: string, init?: RequestInit) => {
    const { hostname } = new URL(input);
    return hostname.startsWith("pooled-") && !cutOff.has(hostname)
      ? testEnv.ENGINE.getByName(hostname).fetch(input, init)
      : Promise.reject(new TypeError(`connection to ${hostname} refused`));
  });
}

/** A pool of its own: its name, its object, and bindings of a gateway that uses it alone. */
export function newPool(): {
  readonly name: string;
  readonly stub: DurableObjectStub<PoolObject>;
  readonly env: GatewayEnv;
} {
  const name = `p${crypto.randomUUID().slice(0, 8)}`;
  return {
    name,
    stub: testEnv.POOL.getByName(name),
    env: {
      ...(testEnv as unknown as GatewayEnv),
      LEANEDGE_POOLS: name,
      LEANEDGE_POOL_TOKEN: "a-token-to-register-with",
      LEANEDGE_ADMIN_TOKEN: "a-token-for-the-operator",
    },
  };
}

/** A name that no other test's worker has, and that its engine answers with. */
export function newWorker(): string {
  return `pooled-${crypto.randomUUID().slice(0, 8)}`;
}

/** Registers a worker of that name. */
export function registration(name: string, more: Partial<Registration> = {}): Registration {
  return {
    name,
    incarnation: `${name}-1`,
    address: `http://${name}`,
    startMs: 1,
    models: [
      { model: pooledModel, fingerprint: "", templateFingerprint: "", planFingerprints: [] },
    ],
    load: noLoad,
    shutsDown: false,
    ...more,
  };
}

/** A heartbeat of it. */
export function beat(name: string, more: Partial<Beat> = {}): Beat {
  return { name, incarnation: `${name}-1`, load: noLoad, shutsDown: false, ...more };
}

/** A session that looks for a place. */
export function session(more: Partial<PlaceRequest> = {}): PlaceRequest {
  return {
    model: pooledModel,
    key: "s",
    avoid: [],
    fingerprint: "",
    planFingerprint: "",
    waitMs: 0,
    ...more,
  };
}

/** State of a worker; `gone` if the pool does not have it. */
export async function stateIn(
  stub: DurableObjectStub<PoolObject>,
  worker: string,
): Promise<string> {
  const list = await stub.list();
  return list.find(({ name }) => name === worker)?.state ?? "gone";
}

/** Registers workers and waits until they are ready. */
export async function enterReady(
  stub: DurableObjectStub<PoolObject>,
  ...names: readonly string[]
): Promise<void> {
  for (const name of names) {
    await stub.register(registration(name));
    await vi.waitFor(async () => {
      const state = await stateIn(stub, name);
      if (state !== "ready") throw new Error(`${name} is ${state}`);
    });
  }
}
