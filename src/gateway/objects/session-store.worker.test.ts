import { describe, expect, it } from "vitest";
import { SegmentKind } from "../../gen/leanedge/worker/v1/worker_pb.js";
import { keptCharsMax, keptIdsBytesMax } from "../limits.js";
import { accept, begin, changes, end, keyOf, seen, withStorage } from "../testing/store-changes.js";
import { SessionStore } from "./session-store.js";
import { SessionTables } from "./session-tables.js";

describe.each([
  { place: "of an object of its own", number: 1, others: [] },
  { place: "among those of other sessions", number: 2, others: [1, 3] },
])("a store $place", ({ number, others }) => {
  /** Runs a test on the store's storage; `open` reads it anew. The other sessions' stores say the same after it as before. */
  function withStore(
    test: (open: () => SessionStore, storage: DurableObjectStorage) => void,
  ): Promise<void> {
    return withStorage((storage) => {
      const tables = new SessionTables(storage);
      const open = (of = number) => new SessionStore(storage, keyOf(of), tables);
      const before = others.map((other) => {
        const store = open(other);
        // The first of them with an answer that runs, the other with all that a session can have.
        for (const [, change] of changes.slice(0, other === 1 ? 14 : 28)) change(store);
        return seen(store);
      });
      test(open, storage);
      expect(others.map((other) => seen(open(other)))).toEqual(before);
    });
  }

  it("says after each change what a store says that reads all of it anew", () =>
    withStore((open) => {
      const kept = open();
      for (const [name, change] of changes) {
        change(kept);
        expect(seen(kept), name).toEqual(seen(open()));
      }
    }));

  it("goes on from any change as one that lost nothing", () =>
    withStore((open) => {
      const states: unknown[] = [];
      const kept = open();
      for (const [, change] of changes) {
        change(kept);
        states.push(seen(kept));
      }
      for (const [index, [name, change]] of changes.entries()) {
        // Nothing is remembered from one change to the next.
        change(open());
        expect(seen(open()), name).toEqual(states[index]);
      }
    }));

  it("writes nothing of a transaction that throws, and forgets it", () =>
    withStore((open) => {
      const kept = open();
      for (const [, change] of changes.slice(0, 12)) change(kept);
      const before = seen(kept);
      expect(() =>
        kept.atomically(() => {
          kept.appendPiece(1, [20], "lost");
          kept.bind({ worker: "lost", address: "" }, 9, 9);
          end(kept, 1, "lost");
          // Reads in between see it.
          expect(kept.answerText(1)).toContain("lost");
          throw new Error("no");
        }),
      ).toThrow("no");
      expect(seen(kept)).toEqual(before);
      expect(seen(open())).toEqual(before);
    }));

  it("stores what was put off with the next change, all of it at once", () =>
    withStore((open) => {
      const kept = open();
      kept.later(() => {
        for (const [, change] of changes.slice(0, 3)) change(kept);
      });
      kept.later(() => accept(kept, 1, [1, 2, 3]));
      expect(kept.turn(1)?.accepted).toBe(true);
      const other = open();
      expect(other.session()).toBeUndefined();
      kept.appendPiece(1, [10], "a");
      expect(other.session()).toBeUndefined();
      kept.touch(2_000);
      expect(seen(open())).toEqual(seen(kept));
    }));

  it("says whenever something waits, until it is stored", () =>
    withStore((open, storage) => {
      const kept = open();
      for (const [, change] of changes.slice(0, 2)) change(kept);
      let told = 0;
      kept.onWaiting(() => told++);
      kept.setTitle("stored at once");
      expect([told, kept.waiting]).toEqual([0, false]);
      kept.appendPiece(1, [10], "a");
      kept.appendPiece(1, [11], "b");
      expect([told, kept.waiting]).toEqual([2, true]);
      kept.commit();
      expect([told, kept.waiting]).toEqual([2, false]);
      // What came between two commits is one row, and no row is left of an answer that has ended.
      const query = "SELECT * FROM piece WHERE session = ?";
      expect(storage.sql.exec(query, number).toArray()).toHaveLength(1);
      end(kept, 1, "c");
      expect(storage.sql.exec(query, number).toArray()).toEqual([]);
      expect(open().answerText(1)).toBe("abc");
    }));

  it("keeps what waits when a later change is refused before it changed anything", () =>
    withStore((open) => {
      const kept = open();
      kept.later(() => {
        for (const [, change] of changes.slice(0, 3)) change(kept);
      });
      const refuse = (): void => {
        throw new Error("refused");
      };
      expect(() => kept.later(refuse)).toThrow("refused");
      kept.commit();
      expect(open().turn(1)).toEqual(kept.turn(1));
      expect(kept.turn(1)?.running).toBe(true);
    }));

  it("reads what is too long to keep", () =>
    withStore((open) => {
      const kept = open();
      changes[0]?.[1](kept);
      begin(kept, 1, "x".repeat(keptCharsMax));
      accept(
        kept,
        1,
        Array.from({ length: keptIdsBytesMax / 4 }, () => 1),
      );
      end(kept, 1, "yz");
      begin(kept, 2, "short");
      accept(kept, 2, [2, 3]);
      expect(seen(kept)).toEqual(seen(open()));
      expect(kept.messageCount()).toBe(3);
      expect(kept.segments().map(({ kind }) => kind)).toEqual([
        SegmentKind.PROMPT,
        SegmentKind.GENERATED,
        SegmentKind.PROMPT,
      ]);
      expect(kept.logName().segmentTokens).toEqual([keptIdsBytesMax / 4, 2, 2]);
    }));
});
