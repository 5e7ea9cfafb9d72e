import { describe, expect, it } from "vitest";
import { unlessAborted } from "./unless-aborted.js";

describe("unlessAborted", () => {
  it("gives the promise's value, or its error", async () => {
    const { signal } = new AbortController();
    expect(await unlessAborted(Promise.resolve(7), signal)).toBe(7);
    await expect(unlessAborted(Promise.reject(new Error("broken")), signal)).rejects.toThrow(
      "broken",
    );
  });

  it("ends with the signal, before or while it waits, and leaves no rejection behind", async () => {
    const stop = new AbortController();
    let fail: (error: Error) => void = () => undefined;
    const never = new Promise<number>((_, reject) => {
      fail = reject;
    });
    const waiting = unlessAborted(never, stop.signal);
    stop.abort(new Error("cancelled"));
    await expect(waiting).rejects.toThrow("cancelled");
    await expect(unlessAborted(never, stop.signal)).rejects.toThrow("cancelled");
    fail(new Error("nobody hears it"));
    await new Promise((resolve) => setTimeout(resolve, 10));
  });
});
