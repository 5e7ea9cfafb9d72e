/** leanedge.admin.v1.KeyService: the API keys of the gateway, for those who run it. */
import { create } from "@bufbuild/protobuf";
import type { Timestamp } from "@bufbuild/protobuf/wkt";
import { timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import { ApiKeySchema, KeyOrigin, KeyState } from "../../gen/leanedge/admin/v1/key_pb.js";
import type { ApiKey, KeyService } from "../../gen/leanedge/admin/v1/key_pb.js";
import type { GatewayEnv } from "../bindings.js";
import { gatewayConfig } from "../config.js";
import { getCall } from "../connect/call.js";
import type { CallKey } from "../connect/call.js";
import {
  alreadyExists,
  failedPrecondition,
  invalidArgument,
  notFound,
  resourceExhausted,
} from "../errors.js";
import { configuredKeys } from "../keys/key-standing.js";
import type { ConfiguredKeyPlace } from "../keys/key-standing.js";
import { effectiveLimits, readKeyLimits, wireKeyLimits } from "../keys/key-limits.js";
import type { KeyLimits } from "../keys/key-limits.js";
import { keysMax, keysPageSizeDefault } from "../limits.js";
import { isActive, keyringName } from "../objects/keyring-object.js";
import type { KeyPosition, KeyRecord, KeyringObject } from "../objects/keyring-object.js";
import { readPageToken, writePageToken } from "../objects/page-token.js";
import { checkPageSize } from "../objects/request-rules.js";
import { objectNamed } from "../processes/objects.js";

const keysList = "keys";
const namePattern = /^[A-Za-z0-9._-]{1,64}$/;
/** The last moment that a timestamp has in JSON. */
const timeMsMax = Date.UTC(9999, 11, 31, 23, 59, 59, 999);

/** The service; `key` finds the HTTP request that carries a call. */
export function createKeyService(key: CallKey<GatewayEnv>): ServiceImpl<typeof KeyService> {
  function open(context: HandlerContext): Opened {
    const { env } = getCall(context, key);
    return { env, keyring: objectNamed(env, "KEYRING", keyringName) };
  }
  return {
    async createKey(request, context) {
      const { env, keyring } = open(context);
      const { tenant, name } = request;
      checkName("tenant", tenant);
      checkName("name", name);
      const made = await keyring.createKey({
        tenant,
        name,
        expireMs: expireMs(request.expireTime),
        limits: readKeyLimits(request.limits),
      });
      switch (made.kind) {
        case "made":
          return { key: made.key, apiKey: madeKey(made.record, gatewayConfig(env).keyLimits) };
        case "taken":
          throw alreadyExists(`tenant "${tenant}" has an active key "${name}"`);
        default:
          throw resourceExhausted(
            `the gateway has ${made.keys} keys, at most ${keysMax} are allowed`,
          );
      }
    },
    async listKeys(request, context) {
      const { env, keyring } = open(context);
      const limit = checkPageSize(request.pageSize, keysPageSizeDefault);
      const after = request.pageToken === "" ? undefined : readPosition(request.pageToken);
      const { keyLimits } = gatewayConfig(env);
      // One more than asked for tells whether there is another page.
      const records = await keyring.list(request.tenant, limit + 1, after);
      const page = records.slice(0, limit);
      const last = page.at(-1);
      const configured =
        after === undefined
          ? configuredKeys(env).filter(
              ({ tenant }) => request.tenant === "" || tenant === request.tenant,
            )
          : [];
      return {
        keys: [
          ...configured.map((place) => configuredKey(place, keyLimits)),
          ...page.map((record) => madeKey(record, keyLimits)),
        ],
        nextPageToken:
          records.length > limit && last !== undefined
            ? writePageToken(keysList, [last.createMs, last.keyId])
            : "",
      };
    },
    async revokeKey({ keyId }, context) {
      const { env, keyring } = open(context);
      const place = configuredKeys(env).find((known) => known.keyId === keyId);
      if (place !== undefined) {
        throw failedPrecondition(`key "${keyId}" cannot be revoked: ${whyNot(place)}`);
      }
      const record = await keyring.revoke(keyId);
      if (record === undefined) {
        throw notFound(`there is no key "${keyId}"`);
      }
      return { apiKey: madeKey(record, gatewayConfig(env).keyLimits) };
    },
  };
}

interface Opened {
  readonly env: GatewayEnv;
  readonly keyring: DurableObjectStub<KeyringObject>;
}

function checkName(field: string, value: string): void {
  if (!namePattern.test(value)) {
    throw invalidArgument(
      `${field} is "${value}"; it must have 1 to 64 characters of [A-Za-z0-9._-]`,
    );
  }
}

function expireMs(time: Timestamp | undefined): number {
  if (time === undefined) {
    return 0;
  }
  const ms = timestampMs(time);
  if (ms > timeMsMax) {
    throw invalidArgument(
      `expire_time is ${time.seconds} s after 1970, it must be before the year 10000`,
    );
  }
  if (!(ms > Date.now())) {
    const date = new Date(ms);
    const text = Number.isNaN(date.getTime()) ? `${time.seconds} s after 1970` : date.toISOString();
    throw invalidArgument(`expire_time is ${text}, which is not in the future`);
  }
  return ms;
}

function readPosition(token: string): KeyPosition {
  const [createMs, keyId] = readPageToken(keysList, token);
  if (typeof createMs !== "number" || typeof keyId !== "string") {
    throw invalidArgument("page_token was not given out by this list");
  }
  return { createMs, keyId };
}

function madeKey(record: KeyRecord, defaults: KeyLimits): ApiKey {
  const { keyId, tenant, name, limits, createMs, useMs, revokeMs } = record;
  return create(ApiKeySchema, {
    keyId,
    tenant,
    name,
    origin: KeyOrigin.CREATED,
    state: stateOf(record),
    createTime: timestampFromMs(createMs),
    limits: wireKeyLimits(limits),
    effectiveLimits: wireKeyLimits(effectiveLimits(defaults, limits)),
    ...(useMs === 0 ? {} : { lastUseTime: timestampFromMs(useMs) }),
    ...(record.expireMs === 0 ? {} : { expireTime: timestampFromMs(record.expireMs) }),
    ...(revokeMs === 0 ? {} : { revokeTime: timestampFromMs(revokeMs) }),
  });
}

function stateOf(record: KeyRecord): KeyState {
  if (record.revokeMs > 0) {
    return KeyState.REVOKED;
  }
  return isActive(record, Date.now()) ? KeyState.ACTIVE : KeyState.EXPIRED;
}

function configuredKey(place: ConfiguredKeyPlace, defaults: KeyLimits): ApiKey {
  return create(ApiKeySchema, {
    keyId: place.keyId,
    tenant: place.tenant,
    name: place.variable,
    origin: KeyOrigin.CONFIGURED,
    state: KeyState.ACTIVE,
    limits: wireKeyLimits({}),
    effectiveLimits: wireKeyLimits(effectiveLimits(defaults, {})),
    notRevocableReason: whyNot(place),
  });
}

function whyNot({ variable }: ConfiguredKeyPlace): string {
  return `the configuration has it in ${variable}; take it out there`;
}
