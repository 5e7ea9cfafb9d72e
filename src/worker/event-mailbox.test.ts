import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { EventMailbox } from "./event-mailbox.js";

const timeoutMs = 250;
const over = new Error("over");

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "performance"] });
});

afterEach(() => {
  vi.useRealTimers();
});

/**
 * When the reader of a mailbox is told of wake-ups, in milliseconds, up to the failure.
 * @param wakesMs when its writer wakes it
 * @param end what it does at the end, and when
 */
async function told(
  mailbox: EventMailbox,
  wakesMs: readonly number[],
  end: [ms: number, what: "end" | "fail"],
): Promise<number[]> {
  const beginMs = performance.now();
  const times: number[] = [];
  const reading = (async () => {
    for (;;) if (await mailbox.wait(timeoutMs)) times.push(performance.now() - beginMs);
  })();
  const failed = expect(reading).rejects.toBe(over);
  for (const ms of wakesMs) setTimeout(() => mailbox.wake(), ms);
  const [endMs, what] = end;
  setTimeout(() => {
    if (what === "end") mailbox.end();
    else mailbox.fail(over);
  }, endMs);
  await vi.advanceTimersByTimeAsync(endMs);
  if (what === "end") mailbox.fail(over);
  await failed;
  return times;
}

const eachTen = Array.from({ length: 12 }, (_, index) => 10 * (index + 1));

describe("EventMailbox", () => {
  it("tells of each wake-up where it has no interval", async () => {
    expect(await told(new EventMailbox(), eachTen, [125, "fail"])).toEqual(eachTen);
  });

  it("tells of the first at once, and of the others an interval after the one before", async () => {
    const times = await told(new EventMailbox(50), eachTen, [125, "fail"]);
    // 110 and 120 are held when it fails: the reader looks at them first.
    expect(times).toEqual([10, 60, 110, 125]);
  });

  it("tells of one that comes after a long silence at once", async () => {
    const wakes = [10, 20, 900, 910];
    expect(await told(new EventMailbox(50), wakes, [2_000, "fail"])).toEqual([10, 60, 900, 950]);
  });

  it("holds nothing at the end", async () => {
    expect(await told(new EventMailbox(1_000), eachTen, [123, "end"])).toEqual([10, 123]);
    expect(await told(new EventMailbox(1_000), [], [5, "end"])).toEqual([5]);
  });

  it("fails at once where nothing is held", async () => {
    expect(await told(new EventMailbox(50), [], [3, "fail"])).toEqual([]);
    expect(await told(new EventMailbox(50), [10], [300, "fail"])).toEqual([10]);
  });

  it("does not hold for ever where the clock stands still", async () => {
    const mailbox = new EventMailbox(50, () => 0);
    // An interval from when something is there to be held.
    expect(await told(mailbox, eachTen, [125, "fail"])).toEqual([10, 70, 125]);
  });

  it("holds nothing for a reader that comes later than the interval", async () => {
    const mailbox = new EventMailbox(50);
    mailbox.wake();
    expect(await mailbox.wait(timeoutMs)).toBe(true);
    mailbox.wake();
    await vi.advanceTimersByTimeAsync(60);
    // No time passes any more: this would wait for ever.
    expect(await mailbox.wait(timeoutMs)).toBe(true);
  });
});
