import { describe, expect, it } from "vitest";
import { Stop, controllerOf } from "./stop.js";

describe("Stop", () => {
  it("tells who listens, once, and not who has left", () => {
    const stop = new Stop();
    const heard: string[] = [];
    const leaves = (): void => void heard.push("left");
    stop.addEventListener("abort", () => heard.push("a"));
    stop.addEventListener("abort", leaves);
    stop.removeEventListener("abort", leaves);
    expect([stop.aborted, stop.reason]).toEqual([false, undefined]);
    stop.throwIfAborted();
    stop.stop();
    stop.stop();
    expect(heard).toEqual(["a"]);
    expect(stop.aborted).toBe(true);
    expect(() => stop.throwIfAborted()).toThrow("stopped");
  });

  it("tells a listener that is added while others are told nothing", () => {
    const stop = new Stop();
    let late = 0;
    stop.addEventListener("abort", () => stop.addEventListener("abort", () => late++));
    stop.stop();
    expect(late).toBe(0);
  });
});

describe("controllerOf", () => {
  it("aborts with its signal until it is released", () => {
    const stop = new Stop();
    const one = controllerOf(stop);
    const other = controllerOf(stop);
    other.release();
    stop.stop();
    expect([one.controller.signal.aborted, other.controller.signal.aborted]).toEqual([true, false]);
  });

  it("is aborted from the start where its signal is", () => {
    expect(controllerOf(AbortSignal.abort()).controller.signal.aborted).toBe(true);
  });
});
