import { runInDurableObject } from "cloudflare:test";
import { describe, expect, it } from "vitest";
import { leftTriesMax, leftWorkersMax } from "../limits.js";
import { testEnv } from "../testing/gateway-clients.js";
import type { WorkerClient } from "../worker-client/worker-client.js";
import type { WorkerDirectory } from "../worker-client/directory.js";
import { releaseAt, type LeftWorker } from "./left-workers.js";
import { SessionStore } from "./session-store.js";

const laterMs = 1_000_000;

/** Runs a test on the tables of a session of its own. */
function withStore(test: (store: SessionStore) => void): Promise<void> {
  const stub = testEnv.SESSION.getByName(crypto.randomUUID());
  return runInDurableObject(stub, (_instance, state) => {
    test(new SessionStore(state.storage));
  });
}

function place(name: string): { readonly worker: string; readonly address: string } {
  return { worker: `pool:default/${name}`, address: `http://${name}` };
}

describe("the workers that a session has left", () => {
  it("get the one that a new binding leaves, with every generation that it may have seen", () =>
    withStore((store) => {
      store.bind(place("one"), store.issueGeneration(), laterMs);
      expect(store.left.all()).toEqual([]);
      store.issueGeneration();
      store.bind(place("two"), store.issueGeneration(), laterMs);
      expect(store.left.all()).toEqual([{ ...place("one"), generation: 3 }]);
    }));

  it("lose one where the session is bound again", () =>
    withStore((store) => {
      for (const name of ["one", "two", "one"]) {
        store.bind(place(name), store.issueGeneration(), laterMs);
      }
      expect(store.left.all().map(({ worker }) => worker)).toEqual([place("two").worker]);
    }));

  it("get one that was asked in vain, but not the one that is bound", () =>
    withStore((store) => {
      store.bind(place("one"), store.issueGeneration(), laterMs);
      store.noteTried(place("one"), store.issueGeneration());
      store.noteTried(place("two"), store.issueGeneration());
      expect(store.left.all()).toEqual([{ ...place("two"), generation: 3 }]);
    }));

  it(`are ${leftWorkersMax} at most: the first one goes`, () =>
    withStore((store) => {
      for (let index = 0; index <= leftWorkersMax; index++) {
        store.noteTried(place(`number-${index}`), index);
      }
      expect(store.left.all().map(({ generation }) => generation)).toEqual(
        Array.from({ length: leftWorkersMax }, (_, index) => index + 1),
      );
    }));

  it(`lose one that was told ${leftTriesMax} times in vain, and all when the session is deleted`, () =>
    withStore((store) => {
      store.noteTried(place("one"), 1);
      store.noteTried(place("two"), 2);
      for (let tries = 1; tries <= leftTriesMax; tries++) {
        expect(store.left.all()).toHaveLength(2);
        store.left.countTry(place("one").worker);
      }
      expect(store.left.all().map(({ worker }) => worker)).toEqual([place("two").worker]);
      store.deleteSession(laterMs);
      expect(store.left.all()).toEqual([]);
    }));
});

describe("releaseAt", () => {
  it("tells each its own generation, and says who answered", async () => {
    const asked: unknown[] = [];
    const directory = {
      open: (worker: string) =>
        ({
          release: (request: unknown) => {
            asked.push(request);
            return worker === place("gone").worker
              ? Promise.reject(new Error("connection refused"))
              : Promise.resolve({ released: true });
          },
        }) as unknown as WorkerClient,
    } as unknown as WorkerDirectory;
    const heard: [string, boolean][] = [];
    const places: LeftWorker[] = [
      { ...place("one"), generation: 3 },
      { ...place("gone"), generation: 5 },
    ];
    await releaseAt(places, "sequence", directory, ({ worker }, answered) => {
      heard.push([worker, answered]);
    });
    expect(asked).toEqual([
      { sequenceId: "sequence", generation: 3n },
      { sequenceId: "sequence", generation: 5n },
    ]);
    expect(heard).toEqual(
      expect.arrayContaining([
        [place("one").worker, true],
        [place("gone").worker, false],
      ]),
    );
  });
});
