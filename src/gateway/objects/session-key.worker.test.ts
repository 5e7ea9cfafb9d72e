/** Sessions whose rows are in the same tables: each is as it would be alone. */
import { describe, expect, it } from "vitest";
import { begin, changes, end, keyOf, seen, withStorage } from "../testing/store-changes.js";
import type { SessionKey } from "./session-key.js";
import { sessionTables } from "./session-schema.js";
import { SessionStore } from "./session-store.js";
import { SessionTables } from "./session-tables.js";

/** After these there is something in every table of a session but that of pieces, and a turn runs. */
const running = changes.findIndex(([name]) => name === "is cancelled");

/** Opens stores of one storage by their numbers. */
function opener(storage: DurableObjectStorage): (number: number) => SessionStore {
  const tables = new SessionTables(storage);
  return (number) => new SessionStore(storage, keyOf(number), tables);
}

/** What a store alone says before its first change and after each. */
async function statesAlone(): Promise<unknown[]> {
  const states: unknown[] = [];
  await withStorage((storage) => {
    const store = new SessionStore(storage);
    states.push(seen(store));
    for (const [, change] of changes) {
      change(store);
      states.push(seen(store));
    }
  });
  return states;
}

function rowsOf(storage: DurableObjectStorage, number: number): unknown[][] {
  return sessionTables.map((table) =>
    storage.sql.exec(`SELECT * FROM ${table} WHERE session = ?`, number).toArray(),
  );
}

describe("sessions of one object", () => {
  it.each([0, 1, 13, 20])("change in turns, one %i changes behind the other", async (behind) => {
    const states = await statesAlone();
    await withStorage((storage) => {
      const open = opener(storage);
      const numbers = [7, 4];
      const [first, second] = numbers.map(open);
      for (let step = 0; step < changes.length + behind; step++) {
        changes[step]?.[1](first as SessionStore);
        changes[step - behind]?.[1](second as SessionStore);
        const expected = [step + 1, Math.max(0, step - behind + 1)].map(
          (count) => states[Math.min(count, changes.length)],
        );
        expect([first, second].map((store) => seen(store as SessionStore))).toEqual(expected);
        expect(numbers.map((number) => seen(open(number)))).toEqual(expected);
      }
    });
  });

  it("are whole, row for row, when another is deleted", () =>
    withStorage((storage) => {
      const open = opener(storage);
      for (const number of [1, 2, 3]) {
        const store = open(number);
        for (const [, change] of changes.slice(0, running)) change(store);
        store.appendPiece(3, [1], "x");
        store.commit();
      }
      const before = [1, 3].map((number) => rowsOf(storage, number));
      expect(before.flat().filter((rows) => rows.length === 0)).toEqual([]);
      open(2).deleteSession(9_000);
      open(2).forgetDeletion();
      expect([1, 3].map((number) => rowsOf(storage, number))).toEqual(before);
      expect(rowsOf(storage, 2).flat()).toEqual([]);
      expect(storage.sql.exec("SELECT * FROM deletion").toArray()).toEqual([]);
    }));

  it("keep what waits when a transaction of another throws", () =>
    withStorage((storage) => {
      const open = opener(storage);
      const [thrower, other] = [open(1), open(2)];
      for (const store of [thrower, other]) {
        for (const [, change] of changes.slice(0, 12)) change(store);
      }
      const before = seen(thrower);
      other.appendPiece(1, [30], "waits");
      expect(() =>
        thrower.atomically(() => {
          thrower.bind({ worker: "lost", address: "" }, 9, 9);
          end(thrower, 1, "lost");
          throw new Error("no");
        }),
      ).toThrow("no");
      expect(seen(thrower)).toEqual(before);
      expect(seen(open(1))).toEqual(before);
      expect(other.waiting).toBe(true);
      other.commit();
      expect(other.pieces().at(-1)?.text).toBe("waits");
      expect(seen(open(2))).toEqual(seen(other));
    }));

  it("make tables again that were undone with the transaction of another", () =>
    withStorage((storage) => {
      const open = opener(storage);
      const [first, second] = [open(1), open(2)];
      expect(() =>
        first.atomically(() => {
          begin(first, 1);
          expect(first.turn(1)?.running).toBe(true);
          throw new Error("no");
        }),
      ).toThrow("no");
      begin(second, 1);
      expect(open(2).turn(1)).toEqual(second.turn(1));
      expect(open(1).lastTurn()).toBe(0);
    }));
});

describe("the number of a session", () => {
  /** A key that notes in storage that its number is taken. */
  function notedKey(storage: DurableObjectStorage): SessionKey & { undos: number } {
    storage.sql.exec("CREATE TABLE noted (number INTEGER PRIMARY KEY)");
    return {
      number: 5,
      undos: 0,
      taken() {
        storage.sql.exec("INSERT OR IGNORE INTO noted VALUES (?)", this.number);
      },
      undone() {
        this.undos++;
      },
    };
  }

  function noted(storage: DurableObjectStorage): unknown[] {
    return storage.sql.exec("SELECT number FROM noted").toArray();
  }

  it("is taken with the first row, by no reading and no deletion", () =>
    withStorage((storage) => {
      const key = notedKey(storage);
      const store = new SessionStore(storage, key);
      seen(store);
      store.deleteSession(1);
      store.later(() => begin(store, 1));
      expect(noted(storage)).toEqual([]);
      store.commit();
      expect(noted(storage)).toEqual([{ number: 5 }]);
      expect(key.undos).toBe(0);
    }));

  it("is not taken by what is undone", () =>
    withStorage((storage) => {
      const key = notedKey(storage);
      const store = new SessionStore(storage, key);
      expect(() =>
        store.atomically(() => {
          begin(store, 1);
          // Reads in between have it written.
          expect(store.turnByIdempotencyKey("key-1")?.number).toBe(1);
          expect(noted(storage)).toEqual([{ number: 5 }]);
          throw new Error("no");
        }),
      ).toThrow("no");
      expect(noted(storage)).toEqual([]);
      expect(key.undos).toBe(1);
      begin(store, 1);
      expect(noted(storage)).toEqual([{ number: 5 }]);
    }));
});
