/** Clients of the gateway under test, inside workerd: through its fetch handler, as any client comes. */
import { create } from "@bufbuild/protobuf";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { ConnectError, createClient } from "@connectrpc/connect";
import type { CallOptions, Client } from "@connectrpc/connect";
import { runDurableObjectAlarm, runInDurableObject } from "cloudflare:test";
import { env, exports } from "cloudflare:workers";
import type { ScriptedEngine } from "./scripted-engine.js";
import type { Script } from "./scripted-engine.js";
import { bearerToken } from "../../client/bearer-token.js";
import { MessageSchema, Role, SessionService } from "../../gen/leanedge/v1/session_pb.js";
import type {
  GenerateRequestSchema,
  GenerateResponse,
  Message,
  TurnFinished,
  TurnStarted,
} from "../../gen/leanedge/v1/session_pb.js";
import type { GatewayEnv } from "../bindings.js";
import type { GetStatusResponse } from "../../gen/leanedge/worker/v1/worker_pb.js";
import { workerTransport } from "../connect/worker-transport.js";
import type { KeyLimits } from "../keys/key-limits.js";
import { hashApiKey } from "../objects/api-key.js";
import { keyringName } from "../objects/keyring-object.js";
import { Occupants } from "../objects/occupants.js";
import { onlySession } from "../objects/session-key.js";
import { sessionObjectName, sessionPlace, sharesObjects } from "../objects/session-name.js";
import type { SessionObject } from "../objects/session-object.js";
import { SessionStore } from "../objects/session-store.js";
import { engineDirectory } from "../worker-client/directory.js";

/** Bindings of the gateway under test. */
export const testEnv = env as unknown as Omit<GatewayEnv, "ENGINE"> & {
  readonly ENGINE: DurableObjectNamespace<ScriptedEngine>;
};

/** Base address; the host name is free. */
export const testUrl = "http://gateway.test";

interface Entry {
  fetch(request: Request): Promise<Response>;
}

/** Sends a request to the gateway. */
export function send(url: string, init?: RequestInit): Promise<Response> {
  const { default: entry } = exports as unknown as { default: Entry };
  return entry.fetch(new Request(url, init));
}

/** A tenant of its own, with a key; `limits` of the key beside those of the configuration. */
export async function newTenant(
  limits: KeyLimits = {},
): Promise<{ readonly tenant: string; readonly key: string; readonly keyId: string }> {
  const tenant = `tenant-${crypto.randomUUID()}`;
  const key = `le-${crypto.randomUUID()}`;
  const { keyId } = await testEnv.KEYRING.getByName(keyringName).importKey(hashApiKey(key), {
    tenant,
    name: "test",
    expireMs: 0,
    limits,
  });
  return { tenant, key, keyId };
}

/** A client of SessionService with a key, without one if it is undefined; binary, or with JSON. */
export function sessionClient(
  key: string | undefined,
  useJson = false,
): Client<typeof SessionService> {
  return createClient(
    SessionService,
    workerTransport({
      baseUrl: testUrl,
      useJson,
      fetcher: { fetch: (url, init) => send(url, init) },
      interceptors: bearerToken(key),
    }),
  );
}

/** The object behind a session. */
export function sessionObject(tenant: string, sessionId: string): DurableObjectStub<SessionObject> {
  return testEnv.SESSION.getByName(sessionPlace(testEnv, tenant, sessionId));
}

/** Name of a session's sequence on workers. */
export async function sequenceOf(tenant: string, sessionId: string): Promise<string> {
  return sessionObject(tenant, sessionId).sequenceId(tenant, sessionId);
}

/** Works with what the object behind a session stores; `session` is the session's number in its tables. */
export function inStorage<T>(
  tenant: string,
  sessionId: string,
  work: (storage: DurableObjectStorage, session: number) => T | Promise<T>,
): Promise<T> {
  return runInDurableObject(sessionObject(tenant, sessionId), (_instance, { storage }) =>
    work(storage, sessionNumber(storage.sql, sessionObjectName(tenant, sessionId))),
  );
}

/** The tables of a session, as they are stored. */
export function inStore<T>(
  tenant: string,
  sessionId: string,
  work: (store: SessionStore) => T | Promise<T>,
): Promise<T> {
  return runInDurableObject(sessionObject(tenant, sessionId), (_instance, { storage }) =>
    work(storeOf(storage, tenant, sessionId)),
  );
}

/** The tables of a session in what its object stores. */
export function storeOf(
  storage: DurableObjectStorage,
  tenant: string,
  sessionId: string,
): SessionStore {
  const number = sessionNumber(storage.sql, sessionObjectName(tenant, sessionId));
  return new SessionStore(storage, { ...onlySession, number });
}

/** Sets the alarm of a session whose object stores this. */
export async function setAlarm(
  storage: DurableObjectStorage,
  session: number,
  dueMs: number,
): Promise<void> {
  if (sharesObjects(testEnv)) {
    new Occupants(storage.sql).setDue(session, dueMs);
  }
  await storage.setAlarm(dueMs);
}

/** Calls the alarm of a session now, if one is set. */
export async function ringAlarm(tenant: string, sessionId: string): Promise<boolean> {
  if (sharesObjects(testEnv)) {
    await inStorage(tenant, sessionId, ({ sql }, number) => {
      sql.exec("UPDATE occupant SET due_ms = 1 WHERE number = ? AND due_ms > 0", number);
    });
  }
  return runDurableObjectAlarm(sessionObject(tenant, sessionId));
}

function sessionNumber(sql: SqlStorage, name: string): number {
  return sharesObjects(testEnv)
    ? (new Occupants(sql).named(name)?.number ?? 0)
    : onlySession.number;
}

/** The scripted worker of a model. */
export function scriptedEngine(name = "scripted/0"): DurableObjectStub<ScriptedEngine> {
  return testEnv.ENGINE.getByName(name);
}

/** A user message that is a script for the worker, made unlike any other by `note`. */
export function scripted(script: Script, note?: string): Message {
  return user(`!${JSON.stringify(note === undefined ? script : { ...script, note })}`);
}

/** A user message. */
export function user(text: string): Message {
  return create(MessageSchema, { role: Role.USER, text });
}

/** A turn as a client saw it. */
export interface SeenTurn {
  readonly started: TurnStarted[];
  readonly text: string;
  /** Offsets of the deltas. */
  readonly offsets: number[];
  readonly heartbeats: number;
  readonly finished: TurnFinished | undefined;
}

/** Runs a turn to its end. */
export async function runTurn(
  client: Client<typeof SessionService>,
  request: MessageInitShape<typeof GenerateRequestSchema>,
  options?: CallOptions,
): Promise<SeenTurn> {
  return collect(client.generate(request, options));
}

/** A turn that runs. */
export interface RunningTurn {
  /** Its text so far. */
  readonly text: string;
  /** Reads on to the end. */
  finish(): Promise<SeenTurn>;
}

/** Starts a turn and reads until its text has at least one character. */
export async function beginTurn(
  client: Client<typeof SessionService>,
  request: MessageInitShape<typeof GenerateRequestSchema>,
  options?: CallOptions,
): Promise<RunningTurn> {
  const events = client.generate(request, options)[Symbol.asyncIterator]();
  const seen: GenerateResponse[] = [];
  let text = "";
  while (text === "") {
    const result = await events.next();
    if (result.done === true) throw new Error("the turn ended without text");
    seen.push(result.value);
    if (result.value.event.case === "delta") text += result.value.event.value.text;
  }
  async function* all(): AsyncGenerator<GenerateResponse, void, undefined> {
    yield* seen;
    for (;;) {
      const result = await events.next();
      if (result.done === true) return;
      yield result.value;
    }
  }
  return { text, finish: () => collect(all()) };
}

/** Collects a stream of events. */
export async function collect(events: AsyncIterable<GenerateResponse>): Promise<SeenTurn> {
  const started: TurnStarted[] = [];
  const offsets: number[] = [];
  let text = "";
  let heartbeats = 0;
  let finished: TurnFinished | undefined;
  for await (const { event } of events) {
    switch (event.case) {
      case "started":
        started.push(event.value);
        break;
      case "delta":
        offsets.push(Number(event.value.offset));
        text += event.value.text;
        break;
      case "heartbeat":
        heartbeats++;
        break;
      case "finished":
        finished = event.value;
        break;
      default:
        throw new Error("an event without a kind");
    }
  }
  return { started, text, offsets, heartbeats, finished };
}

/** The ConnectError that a promise rejects with. */
export async function errorOf(promise: Promise<unknown>): Promise<ConnectError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof ConnectError) return error;
    throw error;
  }
  throw new Error("nothing was thrown");
}

/** The answer of the scripted worker to a script of n tokens. */
export function words(count: number): string {
  return Array.from({ length: count }, (_, index) => `w${index} `).join("");
}

/** What the real engine of model `tiny` says of itself. */
export async function tinyStatus(): Promise<GetStatusResponse> {
  const worker = engineDirectory(testEnv).open("engine:tiny/0", "");
  if (worker === undefined) throw new Error("there is no model tiny");
  return worker.getStatus({});
}
