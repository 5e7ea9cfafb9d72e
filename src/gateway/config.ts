/** The Worker's variables, parsed and checked once per set of bindings. */
import { embedded } from "../embedded-model.js";
import { parseRemoteWorkers, type RemoteWorkers } from "./remote-workers.js";
import {
  engineMemoryBytesDefault,
  snapshotIdleMsDefault,
  textIntervalMsMaxDefault,
} from "./limits.js";
import { textIntervalMsMax } from "../worker/limits.js";
import { parseKeyLimits } from "./keys/key-limits.js";
import type { KeyLimits } from "./keys/key-limits.js";
import { parseLogLevel } from "../log/log-line.js";
import type { LogLevel } from "../log/log-line.js";
import { setLogLevel } from "./log.js";
import { parseSessionObjects } from "./objects/shared-name.js";
import { setTextIntervalMax } from "./objects/text-interval.js";
import { parsePools, parseToken, type PoolConfig } from "./pool/pool-config.js";

/** Variables and secrets of the Worker. */
export interface GatewayVariables {
  /** Models that are served, as ModelConfig describes: JSON text, or the array itself. */
  readonly LEANEDGE_MODELS?: unknown;
  /** Key that is accepted for tenant `dev`; unset in production. */
  readonly LEANEDGE_DEV_KEY?: string;
  /** Keys and their tenants, `TENANT:SHA256` (of the key, in hexadecimal), separated by commas. */
  readonly LEANEDGE_KEYS?: string;
  /** Limits of each key that has none of its own: `NAME=NUMBER`, separated by commas (docs/operations.md, 'Limits'). */
  readonly LEANEDGE_LIMITS?: string;
  /** Memory of each embedded engine in MiB, 1 to 4096; 88 if unset. An isolate on the edge has 128 MB in all. */
  readonly LEANEDGE_ENGINE_MEMORY_MIB?: string;
  /** Seconds after its last turn at which a session's cache is saved, 0 to 3600; 10 if unset. */
  readonly LEANEDGE_SNAPSHOT_IDLE_SECONDS?: string;
  /** Longest time that tokens of a busy gateway wait to be told together, 0 to 1000 ms; 50 if unset, 0: they never do. */
  readonly LEANEDGE_TEXT_INTERVAL_MS_MAX?: string;
  /** Workers that serve a model in the place of embedded engines: `MODEL=URL`, separated by commas. */
  readonly LEANEDGE_WORKERS?: string;
  /** Token that all workers ask for, registered ones included. */
  readonly LEANEDGE_WORKER_TOKEN?: string;
  /** Pools, `NAME` or `NAME@LOCATION`, separated by commas, the nearest first; `default` alone if unset. */
  readonly LEANEDGE_POOLS?: string;
  /** Token with which workers register; unset: none can. */
  readonly LEANEDGE_POOL_TOKEN?: string;
  /** Token of those who run the gateway; unset: nobody may. */
  readonly LEANEDGE_ADMIN_TOKEN?: string;
  /** Origins whose pages may call from a browser, separated by commas; `*` for all, unset for none. */
  readonly LEANEDGE_CORS_ORIGINS?: string;
  /** Which process of one gateway this is, `INDEX/COUNT`; what starts several sets it (docs/operations.md). Unset: the only one. */
  readonly LEANEDGE_PROCESS?: string;
  /**
   * How many objects share the sessions, 0 to 1024; each session has one of its own where it is unset or 0. Always the same
   * over the same storage (docs/operations.md).
   */
  readonly LEANEDGE_SESSION_OBJECTS?: string;
  /** TCP port of the gRPC front, for the hint that native gRPC gets. */
  readonly LEANEDGE_FRONT_PORT?: string;
  /** Lines of the log from this level on: `debug`, `info`, `warn` or `error`; `info` if unset. */
  readonly LEANEDGE_LOG_LEVEL?: string;
}

/** One model that this gateway serves, from its embedded engines or from workers. */
export interface ModelConfig {
  /** Id that requests name it by, 1 to 128 characters of [A-Za-z0-9._-]. */
  readonly model: string;
  /** Path of its shard manifest among the static assets. */
  readonly manifest: string;
  /**
   * Paths of its cache plans among the static assets (docs/plan-format.md), at most 7. A session gets the first whose
   * context range holds what its first turn can reach, and keeps everything in f16 if none does.
   */
  readonly plans: readonly string[];
  /** EngineObjects that serve it, 0 to 64; sessions spread over them. With workers they are the last resort. */
  readonly engines: number;
  /** Model that may answer when all workers of this one are full or gone; undefined: none may. */
  readonly fallback: ModelFallback | undefined;
  /** Name for people; the id if unset. */
  readonly displayName: string;
}

/** A model that answers in the place of another one. */
export interface ModelFallback {
  /** Its id. */
  readonly model: string;
  /** It answers unless a request forbids it; otherwise only where a request allows it. */
  readonly unasked: boolean;
}

/** A key that the configuration brings; the key itself is known to its owner only. */
export interface ConfiguredKey {
  /** Tenant that it opens, 1 to 64 characters of [A-Za-z0-9._-]. */
  readonly tenant: string;
  /** SHA-256 of the key, 32 bytes. */
  readonly hash: Uint8Array;
}

/** The gateway's configuration. */
export interface GatewayConfig {
  /** Models in the order of the configuration; the first is the default. At least one. */
  readonly models: readonly [ModelConfig, ...ModelConfig[]];
  /** Key of tenant `dev`; undefined where none is set. */
  readonly devKey: string | undefined;
  /** Memory of each embedded engine: weights, cache and scratch together, bytes. */
  readonly engineMemoryBytesMax: number;
  /** Time from a session's last turn to when its cache is saved, milliseconds. */
  readonly snapshotIdleMs: number;
  /** Longest time between two events of tokens that a busy gateway asks workers for, milliseconds; 0: it never does. */
  readonly textIntervalMsMax: number;
  /** Workers of models that no embedded engine serves. */
  readonly workers: RemoteWorkers;
  /** Token that all workers ask for; undefined: none. */
  readonly workerToken: string | undefined;
  /** Pools in the order in which they are tried; at least one. */
  readonly pools: readonly [PoolConfig, ...PoolConfig[]];
  /** Token with which workers register; undefined: none can. */
  readonly poolToken: string | undefined;
  /** Token of those who run the gateway; undefined: nobody may. */
  readonly adminToken: string | undefined;
  /** Keys of the configuration, beside those of the keyring; taken out of it, they are void. */
  readonly keys: readonly ConfiguredKey[];
  /** Limits of keys that have none of their own. */
  readonly keyLimits: KeyLimits;
  /** Objects that share the sessions; 0: each session has one of its own. */
  readonly sessionObjects: number;
  /** Allowed origins of browsers. */
  readonly corsOrigins: readonly string[] | "*" | undefined;
  /** Port of the gRPC front. */
  readonly frontPort: number | undefined;
  /** Lines of the log from this level on. */
  readonly logLevel: LogLevel;
}

/** The model that is embedded unless the configuration says otherwise. */
export const embeddedModel: ModelConfig = {
  model: embedded.model,
  manifest: `/models/${embedded.model}/manifest.json`,
  plans: [`/models/${embedded.model}/plans/${embedded.plan}.json`],
  engines: 1,
  fallback: undefined,
  displayName: embedded.displayName,
};

const enginesMax = 64;
/** Plans of an engine besides the identity plan (kPlansMax). */
const plansMax = 7;
/** Longest time between a turn and the saving of its cache: an hour. */
const snapshotIdleSecondsMax = 3_600;
/** What 32-bit WASM can address, in MiB. */
const engineMemoryMibMax = 4_096;
const mibBytes = 1024 * 1024;
const configuredKeysMax = 1_000;
const configuredKeyPattern = /^(?<tenant>[A-Za-z0-9._-]{1,64}):(?<hash>[0-9a-fA-F]{64})$/;
const modelIdPattern = /^[A-Za-z0-9._-]{1,128}$/;
const parsed = new WeakMap<object, GatewayConfig>();

/** The configuration of these bindings. Throws an Error that names the variable and what is wrong with it. */
export function gatewayConfig(env: GatewayVariables): GatewayConfig {
  const known = parsed.get(env);
  if (known !== undefined) {
    return known;
  }
  const config = parseConfig(env);
  setLogLevel(config.logLevel);
  setTextIntervalMax(config.textIntervalMsMax);
  parsed.set(env, config);
  return config;
}

/** As gatewayConfig, without remembering. */
export function parseConfig(env: GatewayVariables): GatewayConfig {
  const workers = parseRemoteWorkers(nonEmpty(env.LEANEDGE_WORKERS));
  return {
    models: withRemote(parseModels(env.LEANEDGE_MODELS), workers),
    workers,
    workerToken: nonEmpty(env.LEANEDGE_WORKER_TOKEN),
    pools: parsePools(nonEmpty(env.LEANEDGE_POOLS)),
    poolToken: parseToken("LEANEDGE_POOL_TOKEN", nonEmpty(env.LEANEDGE_POOL_TOKEN)),
    adminToken: parseToken("LEANEDGE_ADMIN_TOKEN", nonEmpty(env.LEANEDGE_ADMIN_TOKEN)),
    devKey: nonEmpty(env.LEANEDGE_DEV_KEY),
    engineMemoryBytesMax: parseMemory(nonEmpty(env.LEANEDGE_ENGINE_MEMORY_MIB)),
    snapshotIdleMs: parseIdle(nonEmpty(env.LEANEDGE_SNAPSHOT_IDLE_SECONDS)),
    textIntervalMsMax: parseTextInterval(nonEmpty(env.LEANEDGE_TEXT_INTERVAL_MS_MAX)),
    keys: parseKeys(nonEmpty(env.LEANEDGE_KEYS)),
    keyLimits: parseKeyLimits("LEANEDGE_LIMITS", nonEmpty(env.LEANEDGE_LIMITS)),
    sessionObjects: parseSessionObjects(env.LEANEDGE_SESSION_OBJECTS),
    corsOrigins: parseOrigins(nonEmpty(env.LEANEDGE_CORS_ORIGINS)),
    frontPort: parsePort(nonEmpty(env.LEANEDGE_FRONT_PORT)),
    logLevel: parseLogLevel(env.LEANEDGE_LOG_LEVEL),
  };
}

/** The configured model of an id; the default one for an empty id; undefined for an unknown one. */
export function findModel(config: GatewayConfig, model: string): ModelConfig | undefined {
  return model === "" ? config.models[0] : config.models.find((entry) => entry.model === model);
}

/** Models that only workers have come after the others. */
function withRemote(
  models: GatewayConfig["models"],
  workers: RemoteWorkers,
): GatewayConfig["models"] {
  const known = new Set(models.map(({ model }) => model));
  const added = [...workers.keys()].filter((model) => !known.has(model));
  return [
    ...models,
    ...added.map((model, index) => parseModel({ model, engines: 0 }, models.length + index)),
  ];
}

function nonEmpty(value: string | undefined): string | undefined {
  return value === undefined || value === "" ? undefined : value;
}

function parseModels(value: unknown): readonly [ModelConfig, ...ModelConfig[]] {
  if (value === undefined || value === "") {
    return [embeddedModel];
  }
  let list: unknown = value;
  if (typeof value === "string") {
    try {
      list = JSON.parse(value);
    } catch (cause) {
      throw new Error("LEANEDGE_MODELS is not valid JSON", { cause });
    }
  }
  if (!Array.isArray(list) || list.length === 0) {
    throw new Error("LEANEDGE_MODELS must be an array of at least one model");
  }
  const [first, ...rest] = list.map(parseModel);
  if (first === undefined) {
    throw new Error("LEANEDGE_MODELS must be an array of at least one model");
  }
  const ids = [first, ...rest].map((entry) => entry.model);
  const twice = ids.find((id, index) => ids.indexOf(id) !== index);
  if (twice !== undefined) {
    throw new Error(`LEANEDGE_MODELS names the model "${twice}" twice`);
  }
  const missing = [first, ...rest].find(
    ({ fallback }) => fallback !== undefined && !ids.includes(fallback.model),
  );
  if (missing !== undefined) {
    throw new Error(
      `LEANEDGE_MODELS names the fallback "${missing.fallback?.model ?? ""}", which is no model of it`,
    );
  }
  return [first, ...rest];
}

function parseModel(value: unknown, index: number): ModelConfig {
  const where = `LEANEDGE_MODELS[${index}]`;
  if (typeof value !== "object" || value === null) {
    throw new Error(`${where} must be an object`);
  }
  const fields = new Map<string, unknown>(Object.entries(value));
  const model = fields.get("model");
  if (typeof model !== "string" || !modelIdPattern.test(model)) {
    throw new Error(`${where}.model must be 1 to 128 characters of [A-Za-z0-9._-]`);
  }
  const manifest = fields.get("manifest") ?? `/models/${model}/manifest.json`;
  if (typeof manifest !== "string" || !manifest.startsWith("/")) {
    throw new Error(`${where}.manifest must be a path that starts with "/"`);
  }
  const plans = parsePlans(fields.get("plans") ?? [], manifest, where);
  const engines = fields.get("engines") ?? 1;
  if (
    typeof engines !== "number" ||
    !Number.isInteger(engines) ||
    engines < 0 ||
    engines > enginesMax
  ) {
    throw new Error(`${where}.engines must be a whole number from 0 to ${enginesMax}`);
  }
  const displayName = fields.get("displayName") ?? model;
  if (typeof displayName !== "string") {
    throw new Error(`${where}.displayName must be a string`);
  }
  const fallback = parseFallback(fields.get("fallback"), model, where);
  return { model, manifest, plans, engines, fallback, displayName };
}

/** `"fallback": "MODEL"` answers unasked, `"fallback": {"model": "MODEL", "unasked": false}` where a request allows it. */
function parseFallback(value: unknown, model: string, where: string): ModelFallback | undefined {
  if (value === undefined) {
    return undefined;
  }
  const fields: ReadonlyMap<string, unknown> = new Map(
    typeof value === "object" && value !== null ? Object.entries(value) : [["model", value]],
  );
  const other = fields.get("model");
  const unasked = fields.get("unasked") ?? true;
  if (typeof other !== "string" || !modelIdPattern.test(other) || other === model) {
    throw new Error(`${where}.fallback must name another model`);
  }
  if (typeof unasked !== "boolean") {
    throw new Error(`${where}.fallback.unasked must be true or false`);
  }
  return { model: other, unasked };
}

/** Paths that start with "/" stand for themselves, others lie in `plans/` beside the manifest. */
function parsePlans(value: unknown, manifest: string, where: string): readonly string[] {
  if (!Array.isArray(value) || value.length > plansMax) {
    throw new Error(`${where}.plans must be an array of at most ${plansMax} paths`);
  }
  const folder = manifest.slice(0, manifest.lastIndexOf("/"));
  return value.map((path: unknown, index) => {
    if (typeof path !== "string" || !/^[A-Za-z0-9._/-]{1,256}$/.test(path)) {
      throw new Error(
        `${where}.plans[${index}] must be a path of 1 to 256 characters of [A-Za-z0-9._/-]`,
      );
    }
    return path.startsWith("/") ? path : `${folder}/plans/${path}`;
  });
}

function parseIdle(value: string | undefined): number {
  if (value === undefined) {
    return snapshotIdleMsDefault;
  }
  const seconds = Number(value);
  if (!(seconds >= 0 && seconds <= snapshotIdleSecondsMax)) {
    throw new Error(
      `LEANEDGE_SNAPSHOT_IDLE_SECONDS is "${value}"; it must be a number from 0 to ${snapshotIdleSecondsMax}`,
    );
  }
  return seconds * 1_000;
}

/** The whole number of a variable. Throws where it is no such number, or outside of its bounds. */
function wholeNumber(
  name: keyof GatewayVariables,
  value: string,
  { min, max }: { readonly min: number; readonly max: number },
): number {
  const number = Number(value);
  if (!Number.isInteger(number) || number < min || number > max) {
    throw new Error(`${name} is "${value}"; it must be a whole number from ${min} to ${max}`);
  }
  return number;
}

function parseTextInterval(value: string | undefined): number {
  return value === undefined
    ? textIntervalMsMaxDefault
    : wholeNumber("LEANEDGE_TEXT_INTERVAL_MS_MAX", value, { min: 0, max: textIntervalMsMax });
}

function parseMemory(value: string | undefined): number {
  return value === undefined
    ? engineMemoryBytesDefault
    : wholeNumber("LEANEDGE_ENGINE_MEMORY_MIB", value, { min: 1, max: engineMemoryMibMax }) *
        mibBytes;
}

function parseKeys(value: string | undefined): readonly ConfiguredKey[] {
  const entries = value === undefined ? [] : value.split(",");
  if (entries.length > configuredKeysMax) {
    throw new Error(
      `LEANEDGE_KEYS has ${entries.length} keys, at most ${configuredKeysMax} are allowed`,
    );
  }
  return entries.map((entry, index) => {
    const { tenant, hash } = configuredKeyPattern.exec(entry.trim())?.groups ?? {};
    if (tenant === undefined || hash === undefined) {
      // The entry itself may be a key that was pasted by mistake: it stays out of the message.
      throw new Error(`LEANEDGE_KEYS[${index}] must read TENANT:SHA256, the hash in hexadecimal`);
    }
    return {
      tenant,
      hash: Uint8Array.from({ length: hash.length / 2 }, (_, at) =>
        Number.parseInt(hash.slice(2 * at, 2 * at + 2), 16),
      ),
    };
  });
}

function parseOrigins(value: string | undefined): readonly string[] | "*" | undefined {
  if (value === undefined || value === "*") {
    return value;
  }
  return value.split(",").map((origin) => origin.trim());
}

function parsePort(value: string | undefined): number | undefined {
  if (value === undefined) {
    return undefined;
  }
  const port = Number(value);
  if (!Number.isInteger(port) || port < 1 || port > 65_535) {
    throw new Error(`LEANEDGE_FRONT_PORT is "${value}"; it must be a port from 1 to 65535`);
  }
  return port;
}
