import { describe, expect, it } from "vitest";
import { workerDoubtAskMs, workerDoubtMs, workerSilenceMsMax } from "../limits.js";
import { workerWithoutPool, type Standing } from "../pool/standing.js";
import { SteeredClock } from "../testing/steered-clock.js";
import { WorkerFault } from "./worker-fault.js";
import { WorkerSilence } from "./worker-silence.js";

/** A watch over a worker that says nothing unless told, and a pool that stands as told. */
function bench() {
  const clock = new SteeredClock();
  const asked: number[] = [];
  const startMs = clock.nowMs();
  let kind: Standing["kind"] = "serving";
  const silence = new WorkerSilence({
    worker: "w",
    directory: {
      standing: () => ({ ...workerWithoutPool, kind }),
      refresh: () => {
        asked.push(clock.nowMs() - startMs);
        return Promise.resolve();
      },
    },
    clock,
    background: (work) => void work,
  });
  return {
    clock,
    asked,
    silence,
    becomes: (next: Standing["kind"]) => {
      kind = next;
    },
  };
}

/** Takes note of how a wait ends. */
function outcome(wait: Promise<unknown>): { value: unknown } {
  const seen: { value: unknown } = { value: undefined };
  wait.then(
    (value) => (seen.value = value),
    (error: unknown) => (seen.value = error),
  );
  return seen;
}

const never = new Promise<string>(() => undefined);

describe("WorkerSilence", () => {
  it("asks no pool as long as the worker says something", async () => {
    const { asked, clock, silence } = bench();
    for (let event = 0; event < 5; event++) {
      const { promise, resolve } = Promise.withResolvers<string>();
      const seen = outcome(silence.wait(promise));
      await clock.advance(workerDoubtMs - 1);
      resolve("tokens");
      await clock.advance(0);
      expect(seen.value).toBe("tokens");
    }
    expect(asked).toEqual([]);
  });

  it("believes a pool that counts the worker as gone, once it was asked", async () => {
    const { asked, becomes, clock, silence } = bench();
    // An old view may say so of a worker that is there again.
    becomes("gone");
    const seen = outcome(silence.wait(never));
    await clock.advance(workerDoubtMs);
    expect(seen.value).toBeUndefined();
    expect(asked).toEqual([workerDoubtMs]);
    await clock.advance(workerDoubtAskMs);
    expect(seen.value).toBeInstanceOf(WorkerFault);
    expect(seen.value).toMatchObject({
      message: `worker w was silent for ${workerDoubtMs + workerDoubtAskMs} ms, and its pool counts it as gone`,
    });
  });

  it("asks again and again, and waits for a worker that its pool hears until the limit", async () => {
    const { asked, clock, silence } = bench();
    const seen = outcome(silence.wait(never));
    await clock.advance(workerDoubtMs);
    const looks = (workerSilenceMsMax - workerDoubtMs) / workerDoubtAskMs;
    for (let look = 0; look < looks; look++) {
      expect(seen.value).toBeUndefined();
      expect(asked).toHaveLength(look + 1);
      await clock.advance(workerDoubtAskMs);
    }
    expect(seen.value).toMatchObject({
      message: `worker w was silent for ${workerSilenceMsMax} ms`,
    });
  });

  it("begins anew when something else was done meanwhile", async () => {
    const { asked, clock, silence } = bench();
    await clock.advance(workerSilenceMsMax);
    silence.heard();
    const seen = outcome(silence.wait(never));
    await clock.advance(workerDoubtMs - 1);
    expect(seen.value).toBeUndefined();
    expect(asked).toEqual([]);
    await clock.advance(1);
    expect(asked).toEqual([workerSilenceMsMax + workerDoubtMs]);
  });
});
