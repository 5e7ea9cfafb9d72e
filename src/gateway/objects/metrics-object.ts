/**
 * The sums of all that the gateway's isolates counted, one object in all.
 *
 * Survives eviction: the sums as they were stored last, in one row. They are stored metricsStoreMs after a change, and
 * before they are told: what a reader has seen never goes back, so that a counter that falls means what Prometheus takes it to
 * mean. An eviction loses at most what came in since, metricsStoreMs of counts. The alarm stores.
 */
import { DurableObject } from "cloudflare:workers";
import type { GatewayEnv } from "../bindings.js";
import { metricSeriesMax, metricsStoreMs } from "../limits.js";
import type { Sums } from "../metrics/meter.js";
import { text } from "./sql-row.js";

/** See the head of this file. */
export class MetricsObject extends DurableObject<GatewayEnv> {
  readonly #sums: Map<string, number>;
  #stored = true;

  constructor(ctx: DurableObjectState, env: GatewayEnv) {
    super(ctx, env);
    ctx.storage.sql.exec(
      // JSON of Sums.
      "CREATE TABLE IF NOT EXISTS sums (one INTEGER PRIMARY KEY CHECK (one = 1), json TEXT NOT NULL)",
    );
    const [row] = ctx.storage.sql.exec("SELECT json FROM sums").toArray();
    const stored: Sums = row === undefined ? {} : (JSON.parse(text(row, "json")) as Sums);
    this.#sums = new Map(Object.entries(stored));
  }

  /** Adds what an isolate counted. */
  async add(sums: Sums): Promise<void> {
    for (const [series, value] of Object.entries(sums)) {
      const before = this.#sums.get(series);
      if (before !== undefined || this.#sums.size < metricSeriesMax) {
        this.#sums.set(series, (before ?? 0) + value);
      }
    }
    if (this.#stored) {
      this.#stored = false;
      await this.ctx.storage.setAlarm(Date.now() + metricsStoreMs);
    }
  }

  /** All sums. */
  async sums(): Promise<Sums> {
    await this.#store();
    return Object.fromEntries(this.#sums);
  }

  /** Stores what came in. */
  override async alarm(): Promise<void> {
    await this.#store();
  }

  async #store(): Promise<void> {
    if (this.#stored) {
      return;
    }
    this.ctx.storage.sql.exec(
      "INSERT OR REPLACE INTO sums (one, json) VALUES (1, ?)",
      JSON.stringify(Object.fromEntries(this.#sums)),
    );
    this.#stored = true;
    await this.ctx.storage.sync();
  }
}
