import { afterEach, describe, expect, it, vi } from "vitest";
import { SteeredClock, settle } from "../testing/steered-clock.js";
import { ObjectClock } from "./object-clock.js";
import { Stop } from "./stop.js";

afterEach(() => {
  vi.restoreAllMocks();
});

/** Sets the machine's clock. */
function setTo(ms: number): void {
  const now = Date.now;
  vi.spyOn(Date, "now").mockImplementation(() => now() + ms);
}

describe("ObjectClock", () => {
  it("wakes a timer in time though the machine's clock was set forward", async () => {
    const clock = new ObjectClock();
    const drop = clock.timer(60_000, () => undefined);
    setTo(60 * 60_000);
    await new Promise<void>((resolve) => clock.timer(5, resolve));
    drop();
  });

  it("wakes a timer in time though the machine's clock was set back", async () => {
    const clock = new ObjectClock();
    const woken = new Promise<void>((resolve) => clock.timer(5, resolve));
    setTo(-60 * 60_000);
    await woken;
  });

  it("wakes each of its timers in time, with one timer of the clock below", async () => {
    const below = new SteeredClock();
    const clock = new ObjectClock(below);
    const woken: string[] = [];
    clock.timer(5_000, () => woken.push("last"));
    clock.timer(250, () => woken.push("first"));
    clock.timer(1_000, () => woken.push("second"));
    expect(below.sleeping).toEqual([250]);
    await below.advance(249);
    expect(woken).toEqual([]);
    await below.advance(1);
    expect(woken).toEqual(["first"]);
    expect(below.sleeping).toEqual([750]);
    await below.advance(4_750);
    expect(woken).toEqual(["first", "last", "second"]);
    expect(below.sleeping).toEqual([]);
  });

  it("has no timer once all of its own were dropped, and drops one only then", async () => {
    const below = new SteeredClock();
    const clock = new ObjectClock(below);
    let woken = 0;
    const wake = (): void => {
      woken++;
    };
    const drops = [clock.timer(100, wake), clock.timer(200, wake)];
    drops[0]?.();
    drops[0]?.();
    expect(below.sleeping).toEqual([100]);
    drops[1]?.();
    expect(below.sleeping).toEqual([]);
    await below.advance(1_000);
    expect(woken).toBe(0);
  });

  it("does not wake what another one dropped in the same moment", async () => {
    const below = new SteeredClock();
    const clock = new ObjectClock(below);
    const woken: string[] = [];
    clock.timer(10, () => {
      woken.push("a");
      drop();
    });
    const drop = clock.timer(10, () => woken.push("b"));
    await below.advance(10);
    expect(woken).toEqual(["a"]);
  });

  it("wakes the others where one throws", async () => {
    const below = new SteeredClock();
    const clock = new ObjectClock(below);
    let woken = 0;
    clock.timer(10, () => {
      throw new Error("a bug");
    });
    clock.timer(20, () => woken++);
    await expect(below.advance(10)).rejects.toThrow("a bug");
    await below.advance(10);
    expect(woken).toBe(1);
  });

  it("ends a sleep in time or with its signal, and keeps nothing of it", async () => {
    const below = new SteeredClock();
    const clock = new ObjectClock(below);
    const stop = new Stop();
    const ended: string[] = [];
    void clock.sleep(50).then(() => ended.push("in time"));
    void clock.sleep(5_000, stop).then(() => ended.push("stopped"));
    await below.advance(50);
    expect(ended).toEqual(["in time"]);
    stop.stop();
    await settle();
    expect(ended).toEqual(["in time", "stopped"]);
    await clock.sleep(5_000, stop);
    expect(below.sleeping).toEqual([]);
  });
});
