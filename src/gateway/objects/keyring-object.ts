/**
 * The API keys of this gateway that were made, not configured. Owns one row a key: its hash, tenant, name, limits and times,
 * never the key itself. Everything is in storage and survives eviction; there is no alarm: rows of keys that ended long ago go
 * when others are made.
 */
import { toHex } from "../../engine/sha256.js";
import { DurableObject } from "cloudflare:workers";
import type { GatewayEnv } from "../bindings.js";
import { keyLimitsOf } from "../keys/key-limits.js";
import type { KeyLimits } from "../keys/key-limits.js";
import { keyForgetMs, keyUseMs, keysMax } from "../limits.js";
import { drawApiKey, equalInConstantTime, hashApiKey } from "./api-key.js";
import { blob, bytes, int, text } from "./sql-row.js";
import type { Row } from "./sql-row.js";

/** Name of the one object. */
export const keyringName = "keyring";

/** Bytes of a hash that are looked up; the rest is compared in constant time. */
const lookupBytes = 8;

/** A key, without the key itself. Times in milliseconds since 1970; 0: never. */
export interface KeyRecord {
  readonly keyId: string;
  readonly tenant: string;
  readonly name: string;
  /** Limits of its own. */
  readonly limits: KeyLimits;
  readonly createMs: number;
  /** Last use, to keyUseMs. */
  readonly useMs: number;
  /** When it ends by itself. */
  readonly expireMs: number;
  readonly revokeMs: number;
}

/** A key to be made. */
export interface NewKey {
  readonly tenant: string;
  readonly name: string;
  /** When it ends by itself; 0: never. */
  readonly expireMs: number;
  /** Limits of its own. */
  readonly limits: KeyLimits;
}

/** What became of a new key. */
export type KeyMade =
  | { readonly kind: "made"; readonly key: string; readonly record: KeyRecord }
  | { readonly kind: "taken" }
  | { readonly kind: "full"; readonly keys: number };

/** Where a page of keys ends. */
export interface KeyPosition {
  readonly createMs: number;
  readonly keyId: string;
}

/** See the head of this file. */
export class KeyringObject extends DurableObject<GatewayEnv> {
  readonly #sql: SqlStorage;

  constructor(ctx: DurableObjectState, env: GatewayEnv) {
    super(ctx, env);
    this.#sql = ctx.storage.sql;
    ctx.storage.transactionSync(() => this.#createTables());
  }

  #createTables(): void {
    this.#sql.exec(
      `CREATE TABLE IF NOT EXISTS made_key (
        key_id TEXT PRIMARY KEY,
        lookup TEXT NOT NULL,
        hash BLOB NOT NULL UNIQUE,
        tenant TEXT NOT NULL,
        name TEXT NOT NULL,
        limits TEXT NOT NULL,
        create_ms INTEGER NOT NULL,
        use_ms INTEGER NOT NULL DEFAULT 0,
        expire_ms INTEGER NOT NULL DEFAULT 0,
        revoke_ms INTEGER NOT NULL DEFAULT 0
      )`,
    );
    this.#sql.exec("CREATE INDEX IF NOT EXISTS by_hash ON made_key (lookup)");
    this.#sql.exec(
      "CREATE INDEX IF NOT EXISTS by_creation ON made_key (create_ms DESC, key_id DESC)",
    );
    // Keys from before they had ids and limits. The development key is in the configuration alone now.
    const old = this.#sql.exec("SELECT name FROM sqlite_master WHERE name = 'api_key'").toArray();
    if (old.length > 0) {
      this.#sql.exec(
        `INSERT OR IGNORE INTO made_key (key_id, lookup, hash, tenant, name, limits, create_ms)
         SELECT 'key-' || lower(hex(randomblob(8))), lookup, hash, tenant, name, '{}', create_ms FROM api_key
         WHERE NOT (tenant = 'dev' AND name = 'development')`,
      );
      this.#sql.exec("DROP TABLE api_key");
    }
  }

  /** The key with this hash, ended or not, and notes that it is used; undefined if there is none. */
  find(hash: Uint8Array): KeyRecord | undefined {
    let found: KeyRecord | undefined;
    for (const row of this.#sql.exec("SELECT * FROM made_key WHERE lookup = ?", lookup(hash))) {
      if (equalInConstantTime(bytes(row, "hash"), hash)) {
        found = keyRecord(row);
      }
    }
    const nowMs = Date.now();
    if (found !== undefined && isActive(found, nowMs) && nowMs - found.useMs >= keyUseMs) {
      this.#sql.exec("UPDATE made_key SET use_ms = ? WHERE key_id = ?", nowMs, found.keyId);
    }
    return found;
  }

  /** The key of an id; undefined if there is none. */
  get(keyId: string): KeyRecord | undefined {
    const row = this.#sql.exec("SELECT * FROM made_key WHERE key_id = ?", keyId).toArray()[0];
    return row === undefined ? undefined : keyRecord(row);
  }

  /** Makes a key. It is returned once and stored only as a hash. */
  createKey(wanted: NewKey): KeyMade {
    const nowMs = Date.now();
    this.#sql.exec(
      "DELETE FROM made_key WHERE (revoke_ms > 0 AND revoke_ms < ?1) OR (expire_ms > 0 AND expire_ms < ?1)",
      nowMs - keyForgetMs,
    );
    const alike = this.#sql
      .exec("SELECT * FROM made_key WHERE tenant = ? AND name = ?", wanted.tenant, wanted.name)
      .toArray();
    if (alike.some((row) => isActive(keyRecord(row), nowMs))) {
      return { kind: "taken" };
    }
    const keys = int(this.#sql.exec("SELECT COUNT(*) AS n FROM made_key").one(), "n");
    if (keys >= keysMax) {
      return { kind: "full", keys };
    }
    const key = drawApiKey();
    return { kind: "made", key, record: this.importKey(hashApiKey(key), wanted) };
  }

  /** Stores the hash of a key that was made elsewhere. */
  importKey(hash: Uint8Array, wanted: NewKey): KeyRecord {
    const record: KeyRecord = {
      ...wanted,
      keyId: `key-${toHex(crypto.getRandomValues(new Uint8Array(8)))}`,
      createMs: Date.now(),
      useMs: 0,
      revokeMs: 0,
    };
    this.#sql.exec(
      `INSERT INTO made_key (key_id, lookup, hash, tenant, name, limits, create_ms, expire_ms)
       VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
      record.keyId,
      lookup(hash),
      blob(hash),
      record.tenant,
      record.name,
      JSON.stringify(record.limits),
      record.createMs,
      record.expireMs,
    );
    return record;
  }

  /** Keys after a position, latest first; of one tenant, or of all if it is empty. */
  list(tenant: string, limit: number, after: KeyPosition | undefined): KeyRecord[] {
    return this.#sql
      .exec(
        `SELECT * FROM made_key WHERE (?1 = '' OR tenant = ?1) AND (create_ms, key_id) < (?2, ?3)
         ORDER BY create_ms DESC, key_id DESC LIMIT ?4`,
        tenant,
        after?.createMs ?? Number.MAX_SAFE_INTEGER,
        after?.keyId ?? "",
        limit,
      )
      .toArray()
      .map(keyRecord);
  }

  /** Ends a key for good. The key as it is now; undefined if there is none. */
  revoke(keyId: string): KeyRecord | undefined {
    this.#sql.exec(
      "UPDATE made_key SET revoke_ms = ? WHERE key_id = ? AND revoke_ms = 0",
      Date.now(),
      keyId,
    );
    return this.get(keyId);
  }
}

/** Whether a key works. */
export function isActive(key: KeyRecord, nowMs: number): boolean {
  return key.revokeMs === 0 && (key.expireMs === 0 || key.expireMs > nowMs);
}

function keyRecord(row: Row): KeyRecord {
  return {
    keyId: text(row, "key_id"),
    tenant: text(row, "tenant"),
    name: text(row, "name"),
    limits: keyLimitsOf(JSON.parse(text(row, "limits"))),
    createMs: int(row, "create_ms"),
    useMs: int(row, "use_ms"),
    expireMs: int(row, "expire_ms"),
    revokeMs: int(row, "revoke_ms"),
  };
}

function lookup(hash: Uint8Array): string {
  return toHex(hash.subarray(0, lookupBytes));
}
