import { Code } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import { keyWatchMs } from "../limits.js";
import { SteeredClock, settle } from "../testing/steered-clock.js";
import { KeyGuard } from "./key-guard.js";

/** A guard, and the keyring that it asks. */
class GuardBench {
  readonly clock = new SteeredClock();
  /** Keys that have ended. */
  readonly ends = new Map<string, string>();
  /** Keys that were asked for. */
  readonly asked: string[] = [];
  /** The keyring cannot be reached. */
  failing = false;
  readonly guard = new KeyGuard({
    keyEnd: (keyId) => {
      this.asked.push(keyId);
      return this.failing
        ? Promise.reject(new Error("away"))
        : Promise.resolve(this.ends.get(keyId));
    },
    lasts: (keyId) => keyId === "configured",
    clock: this.clock,
    background: () => undefined,
  });
}

describe("KeyGuard", () => {
  it("ends all that is held under a key that has ended, and nothing else", async () => {
    const { clock, ends, guard } = new GuardBench();
    const heard: string[] = [];
    for (const name of ["a1", "a2", "b1"]) {
      guard.hold(name.slice(0, 1), (error) =>
        heard.push(`${name} ${Code[error.code]} ${error.rawMessage}`),
      );
    }
    await clock.advance(keyWatchMs);
    expect(heard).toEqual([]);
    ends.set("a", "the API key was revoked");
    await clock.advance(keyWatchMs);
    expect(heard).toEqual([
      "a1 Unauthenticated the API key was revoked",
      "a2 Unauthenticated the API key was revoked",
    ]);
  });

  it("asks once for each key, and stops at the first look while it holds nothing", async () => {
    const { clock, asked, guard } = new GuardBench();
    const releases = ["a", "a", "b"].map((keyId) => guard.hold(keyId, () => undefined));
    await clock.advance(keyWatchMs);
    expect(asked).toEqual(["a", "b"]);
    for (const release of releases) release();
    // Turns that follow each other have one timer.
    guard.hold("b", () => undefined)();
    await settle();
    expect(clock.sleeping).toEqual([keyWatchMs]);
    await clock.advance(keyWatchMs);
    expect(asked).toEqual(["a", "b"]);
    expect(clock.sleeping).toEqual([]);
    guard.hold("c", () => undefined);
    await clock.advance(keyWatchMs);
    expect(asked).toEqual(["a", "b", "c"]);
  });

  it("ends nothing while the keyring cannot be reached", async () => {
    const bench = new GuardBench();
    let ended = false;
    bench.ends.set("a", "the API key was revoked");
    bench.failing = true;
    bench.guard.hold("a", () => (ended = true));
    await bench.clock.advance(keyWatchMs);
    expect(ended).toBe(false);
    bench.failing = false;
    await bench.clock.advance(keyWatchMs);
    expect(ended).toBe(true);
  });

  it("looks after nothing without a key, or under one that never ends", () => {
    const { clock, guard } = new GuardBench();
    guard.hold("", () => undefined)();
    guard.hold("configured", () => undefined);
    expect(clock.sleeping).toEqual([]);
  });
});
