/**
 * The API keys of this gateway. Owns one row a key: its hash, tenant and name, never the key itself. Everything is in
 * storage and survives eviction; there is no alarm.
 */
import { DurableObject } from "cloudflare:workers";
import type { GatewayEnv } from "../bindings.js";
import { drawApiKey, equalInConstantTime, hashApiKey } from "./api-key.js";
import { blob, bytes, text } from "./sql-row.js";

/** Name of the one object. */
export const keyringName = "keyring";

/** Bytes of a hash that are looked up; the rest is compared in constant time. */
const lookupBytes = 8;

/** See the head of this file. */
export class KeyringObject extends DurableObject<GatewayEnv> {
  readonly #sql: SqlStorage;

  constructor(ctx: DurableObjectState, env: GatewayEnv) {
    super(ctx, env);
    this.#sql = ctx.storage.sql;
    this.#sql.exec(
      `CREATE TABLE IF NOT EXISTS api_key (
        lookup TEXT NOT NULL,
        hash BLOB NOT NULL UNIQUE,
        tenant TEXT NOT NULL,
        name TEXT NOT NULL,
        create_ms INTEGER NOT NULL,
        UNIQUE (tenant, name)
      )`,
    );
    this.#sql.exec("CREATE INDEX IF NOT EXISTS by_lookup ON api_key (lookup)");
  }

  /** Tenant of the key with this hash; undefined if there is none. */
  tenantOf(hash: Uint8Array): string | undefined {
    let tenant: string | undefined;
    for (const row of this.#sql.exec(
      "SELECT hash, tenant FROM api_key WHERE lookup = ?",
      lookup(hash),
    )) {
      if (equalInConstantTime(bytes(row, "hash"), hash)) {
        tenant = text(row, "tenant");
      }
    }
    return tenant;
  }

  /** Stores the hash of a key that was made elsewhere. A key of the same tenant and name is replaced. */
  importKey(hash: Uint8Array, tenant: string, name: string): void {
    this.#sql.exec(
      "DELETE FROM api_key WHERE (tenant = ? AND name = ?) OR hash = ?",
      tenant,
      name,
      blob(hash),
    );
    this.#sql.exec(
      "INSERT INTO api_key (lookup, hash, tenant, name, create_ms) VALUES (?, ?, ?, ?, ?)",
      lookup(hash),
      blob(hash),
      tenant,
      name,
      Date.now(),
    );
  }

  /** Makes a key. It is returned once and stored only as a hash. A key of the same tenant and name is replaced. */
  createKey(tenant: string, name: string): string {
    const key = drawApiKey();
    this.importKey(hashApiKey(key), tenant, name);
    return key;
  }

  /** Removes a key by its name. Returns whether there was one. */
  revokeKey(tenant: string, name: string): boolean {
    const cursor = this.#sql.exec(
      "DELETE FROM api_key WHERE tenant = ? AND name = ? RETURNING name",
      tenant,
      name,
    );
    return cursor.toArray().length > 0;
  }
}

function lookup(hash: Uint8Array): string {
  return Array.from(hash.subarray(0, lookupBytes), (byte) =>
    byte.toString(16).padStart(2, "0"),
  ).join("");
}
