import { describe, expect, it } from "vitest";
import { changes, keyOf, seen, withStorage } from "../testing/store-changes.js";
import { SessionStore } from "./session-store.js";
import { text } from "./sql-row.js";
import type { Row } from "./sql-row.js";

/** What made the tables of objects before rows had a session's number. */
const tablesBefore = {
  session: `CREATE TABLE session ( one INTEGER PRIMARY KEY CHECK (one = 1), tenant TEXT NOT NULL, session_id TEXT NOT NULL,
    model TEXT NOT NULL, title TEXT NOT NULL, title_given INTEGER NOT NULL, implicit INTEGER NOT NULL, create_ms INTEGER NOT NULL,
    update_ms INTEGER NOT NULL, forked_from TEXT NOT NULL, forked_turn INTEGER NOT NULL,
    messages_covered INTEGER NOT NULL DEFAULT 0, cache_bytes INTEGER NOT NULL DEFAULT 0,
    fingerprint_model TEXT NOT NULL DEFAULT '', fingerprint_template TEXT NOT NULL DEFAULT '',
    fingerprint_plan TEXT NOT NULL DEFAULT '', index_version INTEGER NOT NULL DEFAULT 0,
    indexed_version INTEGER NOT NULL DEFAULT 0, key_id TEXT NOT NULL DEFAULT '' )`,
  binding: `CREATE TABLE binding ( one INTEGER PRIMARY KEY CHECK (one = 1), worker TEXT NOT NULL, generation INTEGER NOT NULL,
    issued INTEGER NOT NULL, expires_ms INTEGER NOT NULL, address TEXT NOT NULL )`,
  turn: `CREATE TABLE turn ( number INTEGER PRIMARY KEY, running INTEGER NOT NULL, messages_hash BLOB NOT NULL,
    request_hash BLOB NOT NULL, idempotency_key TEXT NOT NULL, sampling BLOB NOT NULL, detach INTEGER NOT NULL,
    request_id TEXT NOT NULL, start_ms INTEGER NOT NULL, end_ms INTEGER NOT NULL DEFAULT 0,
    orphan_ms INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0, accepted INTEGER NOT NULL DEFAULT 0,
    prompt_tokens INTEGER NOT NULL DEFAULT 0, cached_tokens INTEGER NOT NULL DEFAULT 0,
    completion_tokens INTEGER NOT NULL DEFAULT 0, text_bytes INTEGER NOT NULL DEFAULT 0,
    finish_reason INTEGER NOT NULL DEFAULT 0, error_message TEXT NOT NULL DEFAULT '', model TEXT NOT NULL DEFAULT '',
    backend INTEGER NOT NULL DEFAULT 0, worker TEXT NOT NULL DEFAULT '', cache_bytes INTEGER NOT NULL DEFAULT 0,
    placement INTEGER NOT NULL DEFAULT 0, fallback INTEGER NOT NULL DEFAULT 0, ticket TEXT NOT NULL DEFAULT '' )`,
  message: `CREATE TABLE message ( position INTEGER PRIMARY KEY, turn INTEGER NOT NULL, role INTEGER NOT NULL,
    text TEXT NOT NULL, answer INTEGER NOT NULL, create_ms INTEGER NOT NULL )`,
  segment: `CREATE TABLE segment ( position INTEGER PRIMARY KEY, turn INTEGER NOT NULL, kind INTEGER NOT NULL,
    ids BLOB NOT NULL )`,
  piece: `CREATE TABLE piece ( number INTEGER PRIMARY KEY, byte_offset INTEGER NOT NULL, byte_length INTEGER NOT NULL,
    tokens_end INTEGER NOT NULL, text TEXT NOT NULL, ids BLOB NOT NULL )`,
  cache: `CREATE TABLE cache ( one INTEGER PRIMARY KEY CHECK (one = 1), plan TEXT NOT NULL DEFAULT '',
    plan_pages_max INTEGER NOT NULL DEFAULT 0, plan_bytes_max INTEGER NOT NULL DEFAULT 0,
    pages INTEGER NOT NULL DEFAULT 0, save_due_ms INTEGER NOT NULL DEFAULT 0 )`,
  snapshot: `CREATE TABLE snapshot ( one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER NOT NULL,
    tokens INTEGER NOT NULL, sha256 BLOB NOT NULL, fingerprint_model TEXT NOT NULL, fingerprint_template TEXT NOT NULL,
    fingerprint_plan TEXT NOT NULL, engine_version TEXT NOT NULL, bytes INTEGER NOT NULL )`,
  snapshot_row: `CREATE TABLE snapshot_row ( number INTEGER NOT NULL, position INTEGER NOT NULL, bytes BLOB NOT NULL,
    PRIMARY KEY (number, position) )`,
  left_worker: `CREATE TABLE left_worker ( worker TEXT NOT NULL, address TEXT NOT NULL, generation INTEGER NOT NULL,
    tries INTEGER NOT NULL )`,
  deletion: `CREATE TABLE deletion ( one INTEGER PRIMARY KEY CHECK (one = 1), tenant TEXT NOT NULL,
    session_id TEXT NOT NULL, version INTEGER NOT NULL )`,
} as const;

const tables = Object.keys(tablesBefore) as (keyof typeof tablesBefore)[];
const withOne = ["session", "binding", "cache", "snapshot", "deletion"];

/** Rows of all tables that are there, in the order of their keys. */
function rowsOf(storage: DurableObjectStorage): Map<string, Row[]> {
  const query =
    "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '\\_cf%' ESCAPE '\\'";
  const names = storage.sql
    .exec(query)
    .toArray()
    .map((row) => text(row, "name"));
  return new Map(
    names
      .sort()
      .map((name) => [name, storage.sql.exec(`SELECT * FROM ${name} ORDER BY 1, 2, 3`).toArray()]),
  );
}

/** Stores rows of today's tables in those of before. */
function storeBefore(storage: DurableObjectStorage, rows: ReadonlyMap<string, Row[]>): void {
  for (const table of tables.filter((name) => rows.has(name))) {
    storage.sql.exec(tablesBefore[table]);
    for (const { session, position, ...row } of rows.get(table) ?? []) {
      // Row ids of left workers had gaps, since their rows were written anew.
      const place = table === "left_worker" ? { rowid: 10 + 3 * Number(position) } : { position };
      const old = {
        ...(withOne.includes(table) ? { one: session } : {}),
        ...(position === undefined ? {} : place),
        ...row,
      };
      const marks = Object.keys(old).map(() => "?");
      storage.sql.exec(
        `INSERT INTO ${table} (${Object.keys(old).join(", ")}) VALUES (${marks.join(", ")})`,
        ...(Object.values(old) as SqlStorageValue[]),
      );
    }
  }
}

/** A session with rows in all tables: a running answer of two stored pieces, two workers that it has left, a saved cache. */
function fill(store: SessionStore): void {
  const before = changes.findIndex(([name]) => name === "is cancelled");
  for (const [, change] of changes.slice(0, before)) change(store);
  store.left.note({ worker: "y", address: "d", generation: 8 });
  store.left.note({ worker: "v", address: "e", generation: 9 });
  store.left.countTry("y");
  for (const [id, piece] of ["ä", "b", "c"].entries()) {
    store.appendPiece(3, [id], piece);
    store.commit();
  }
}

/** What a session stored, all of its rows as they are today, and what its store says of them. */
async function filled(): Promise<{ readonly rows: Map<string, Row[]>; readonly said: unknown }> {
  const { promise, resolve } = Promise.withResolvers<{ rows: Map<string, Row[]>; said: unknown }>();
  await withStorage((storage) => {
    const store = new SessionStore(storage);
    fill(store);
    storage.sql.exec("CREATE TABLE deletion (session, tenant, session_id, version)");
    storage.sql.exec("INSERT INTO deletion VALUES (1, 't', 's', 77)");
    resolve({ rows: rowsOf(storage), said: seen(new SessionStore(storage)) });
  });
  return promise;
}

/** Left workers are counted on from where their row ids were. */
function withoutPlaces(rows: ReadonlyMap<string, Row[]>): unknown[] {
  return [...rows].map(([table, all]) => [
    table,
    all.map((row) => (table === "left_worker" ? { ...row, position: undefined } : row)),
  ]);
}

describe("an object that was stored before rows had a session's number", () => {
  it("says all that it said, with rows in every table", async () => {
    const { rows, said } = await filled();
    expect([...rows.keys()]).toEqual([...tables].sort());
    expect([...rows.values()].filter((all) => all.length === 0)).toEqual([]);
    await withStorage((storage) => {
      storeBefore(storage, rows);
      expect(seen(new SessionStore(storage))).toEqual(said);
      expect(withoutPlaces(rowsOf(storage))).toEqual(withoutPlaces(rows));
      // Nothing of them is another session's.
      expect(seen(new SessionStore(storage, keyOf(2)))).not.toEqual(said);
      expect(new SessionStore(storage, keyOf(2)).session()).toBeUndefined();
    });
  });

  it("has the tables that a new one has", async () => {
    const { rows } = await filled();
    const shapes = (storage: DurableObjectStorage): Row[] =>
      storage.sql
        .exec(
          "SELECT type, name, sql FROM sqlite_master WHERE tbl_name <> 'deletion' ORDER BY name",
        )
        .toArray();
    const seenShapes: Row[][] = [];
    await withStorage((storage) => {
      fill(new SessionStore(storage));
      seenShapes.push(shapes(storage));
    });
    await withStorage((storage) => {
      storeBefore(storage, rows);
      new SessionStore(storage).session();
      seenShapes.push(shapes(storage));
    });
    expect(seenShapes[1]).toEqual(seenShapes[0]);
    expect(seenShapes[0]?.length).toBeGreaterThanOrEqual(tables.length - 1);
  });

  it("goes on from any change", async () => {
    for (let count = 1; count < changes.length; count++) {
      const states: unknown[] = [];
      let rows = new Map<string, Row[]>();
      await withStorage((storage) => {
        const store = new SessionStore(storage);
        for (const [index, [, change]] of changes.entries()) {
          change(store);
          if (index + 1 === count) rows = rowsOf(storage);
          if (index === count) states.push(seen(store));
        }
      });
      await withStorage((storage) => {
        storeBefore(storage, rows);
        const store = new SessionStore(storage);
        changes[count]?.[1](store);
        expect([seen(store)], changes[count]?.[0]).toEqual(states);
        expect([seen(new SessionStore(storage))], changes[count]?.[0]).toEqual(states);
      });
    }
  });

  it("is as it was where its first transaction throws", async () => {
    const { rows, said } = await filled();
    await withStorage((storage) => {
      storeBefore(storage, rows);
      const store = new SessionStore(storage);
      expect(() =>
        store.atomically(() => {
          store.setTitle("lost");
          expect(store.turnByIdempotencyKey("key-1")?.number).toBe(1);
          throw new Error("no");
        }),
      ).toThrow("no");
      expect(storage.sql.exec("SELECT one FROM session").toArray()).toEqual([{ one: 1 }]);
      expect(seen(store)).toEqual(said);
      store.setTitle("kept");
      expect(new SessionStore(storage).session()?.title).toBe("kept");
    });
  });

  it("is as it was where the migration fails halfway", async () => {
    const { rows, said } = await filled();
    await withStorage((storage) => {
      storeBefore(storage, rows);
      const before = rowsOf(storage);
      // In the way of the last table that is renamed.
      storage.sql.exec("CREATE TABLE deletion_before (a)");
      expect(() => new SessionStore(storage).session()).toThrow("deletion_before");
      storage.sql.exec("DROP TABLE deletion_before");
      expect(rowsOf(storage)).toEqual(before);
      expect(seen(new SessionStore(storage))).toEqual(said);
    });
  });
});
