/** The row of the binding, kept in memory (store-writes.ts). */
import { bindingSlackMs } from "../limits.js";
import type { BindingRecord } from "./session-records.js";
import { int, text } from "./sql-row.js";
import type { KeptTable, StoreWrites } from "./store-writes.js";

/** See the head of this file. */
export class BindingRow implements KeptTable {
  readonly #writes: StoreWrites;
  #kept: { readonly record: BindingRecord | undefined } | undefined;
  /** Expiry as it is stored. */
  #storedMs = 0;

  /** Reads nothing yet. */
  constructor(writes: StoreWrites) {
    this.#writes = writes;
    writes.register(this);
  }

  /** The binding; undefined before the first attempt. */
  get record(): BindingRecord | undefined {
    if (this.#kept === undefined) {
      const row = this.#writes.first("binding", "SELECT * FROM binding");
      this.#kept = {
        record:
          row === undefined
            ? undefined
            : {
                worker: text(row, "worker"),
                address: text(row, "address"),
                generation: int(row, "generation"),
                issued: int(row, "issued"),
                expiresMs: int(row, "expires_ms"),
              },
      };
      this.#storedMs = this.#kept.record?.expiresMs ?? 0;
    }
    return this.#kept.record;
  }

  /** Changes it, or makes it. An expiry that alone moves on by less than bindingSlackMs is not stored. */
  change(change: Partial<BindingRecord>): void {
    const { record: before } = this;
    const unbound = { worker: "", address: "", generation: 0, issued: 0, expiresMs: 0 };
    const record = { ...unbound, ...before, ...change };
    this.#kept = { record };
    const same =
      before?.worker === record.worker &&
      before.address === record.address &&
      before.generation === record.generation &&
      before.issued === record.issued;
    const movedMs = record.expiresMs - this.#storedMs;
    if (!same || movedMs < 0 || movedMs >= bindingSlackMs) {
      this.#writes.changed(this);
    }
  }

  look(): unknown {
    return this.record;
  }

  write(): void {
    const record = this.#kept?.record;
    if (record === undefined) {
      return;
    }
    this.#storedMs = record.expiresMs;
    this.#writes.run(
      "binding",
      `INSERT INTO binding (one, worker, address, generation, issued, expires_ms) VALUES (1, ?, ?, ?, ?, ?)
       ON CONFLICT (one) DO UPDATE SET worker = excluded.worker, address = excluded.address,
         generation = excluded.generation, issued = excluded.issued, expires_ms = excluded.expires_ms`,
      record.worker,
      record.address,
      record.generation,
      record.issued,
      record.expiresMs,
    );
  }

  reset(): void {
    this.#kept = undefined;
  }
}
