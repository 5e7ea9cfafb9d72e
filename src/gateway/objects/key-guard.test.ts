import { Code } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import { keyWatchMs } from "../limits.js";
import { SteeredClock, settle } from "../testing/steered-clock.js";
import { KeyGuard } from "./key-guard.js";

function guarded(): {
  readonly clock: SteeredClock;
  readonly ends: Map<string, string>;
  readonly asked: string[];
  readonly guard: KeyGuard;
  failing: boolean;
} {
  const clock = new SteeredClock();
  const ends = new Map<string, string>();
  const asked: string[] = [];
  const bench = {
    clock,
    ends,
    asked,
    failing: false,
    guard: new KeyGuard({
      keyEnd: (keyId) => {
        asked.push(keyId);
        return bench.failing ? Promise.reject(new Error("away")) : Promise.resolve(ends.get(keyId));
      },
      clock,
      background: () => undefined,
    }),
  };
  return bench;
}

describe("KeyGuard", () => {
  it("ends all that is held under a key that has ended, and nothing else", async () => {
    const { clock, ends, guard } = guarded();
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

  it("asks once for each key, and not at all while it holds nothing", async () => {
    const { clock, asked, guard } = guarded();
    const releases = ["a", "a", "b"].map((keyId) => guard.hold(keyId, () => undefined));
    await clock.advance(keyWatchMs);
    expect(asked).toEqual(["a", "b"]);
    for (const release of releases) release();
    await settle();
    expect(clock.sleeping).toEqual([]);
    await clock.advance(keyWatchMs);
    expect(asked).toEqual(["a", "b"]);
    guard.hold("c", () => undefined);
    await clock.advance(keyWatchMs);
    expect(asked).toEqual(["a", "b", "c"]);
  });

  it("ends nothing while the keyring cannot be reached", async () => {
    const bench = guarded();
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

  it("looks after nothing without a key", () => {
    const { clock, guard } = guarded();
    guard.hold("", () => undefined)();
    expect(clock.sleeping).toEqual([]);
  });
});
