import { mkdtemp, readdir, readFile, rm, utimes, writeFile } from "node:fs/promises";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { withLock } from "./file-lock.js";

const limits = { lockStaleMs: 200 };

let folder: string;
let path: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "leanedge-lock-"));
  path = join(folder, "model.lock");
});
afterEach(() => rm(folder, { recursive: true, force: true }));

function work(): Promise<string> {
  return Promise.resolve("done");
}

describe("a lock", () => {
  it("is held by one at a time, and let go also when the work fails", async () => {
    const failed = withLock(path, limits, async () => {
      await expect(withLock(path, limits, work)).rejects.toMatchObject({
        code: "locked",
        message: expect.stringContaining(`process ${process.pid}`) as unknown,
      });
      throw new Error("the work failed");
    });
    await expect(failed).rejects.toThrow("the work failed");
    expect(await readdir(folder)).toEqual([]);
    expect(await withLock(path, limits, work)).toBe("done");
  });

  it("stays held for as long as the work takes", async () => {
    await withLock(path, limits, async () => {
      await sleep(2 * limits.lockStaleMs);
      await expect(withLock(path, limits, work)).rejects.toMatchObject({ code: "locked" });
    });
  });

  it("of a process that is gone is taken over", async () => {
    // Ids end far below this on every system.
    await writeFile(path, JSON.stringify({ id: "a", pid: 2 ** 30, host: hostname() }));
    expect(await withLock(path, limits, work)).toBe("done");
    expect(await readdir(folder)).toEqual([]);
  });

  it("of another machine is taken over when it was not touched for long", async () => {
    await writeFile(path, JSON.stringify({ id: "a", pid: 1, host: "elsewhere" }));
    await expect(withLock(path, limits, work)).rejects.toMatchObject({ code: "locked" });
    const before = new Date(Date.now() - 2 * limits.lockStaleMs);
    await utimes(path, before, before);
    expect(await withLock(path, limits, work)).toBe("done");
  });

  it("that says nothing is taken over when it is old", async () => {
    await writeFile(path, "");
    await expect(withLock(path, limits, work)).rejects.toMatchObject({ code: "locked" });
    const before = new Date(Date.now() - 2 * limits.lockStaleMs);
    await utimes(path, before, before);
    expect(await withLock(path, limits, work)).toBe("done");
  });

  it("that others took over is left to them", async () => {
    const theirs = JSON.stringify({ id: "b", pid: 1, host: "elsewhere" });
    await withLock(path, limits, () => writeFile(path, theirs));
    expect(await readFile(path, "utf8")).toBe(theirs);
  });

  it("is taken by one of many who find it abandoned", async () => {
    await writeFile(path, JSON.stringify({ id: "a", pid: 2 ** 30, host: hostname() }));
    let running = 0;
    let most = 0;
    let refused = 0;
    const others = 9;
    const all = Array.from({ length: 1 + others }, () =>
      withLock(path, limits, async () => {
        running += 1;
        most = Math.max(most, running);
        // Whoever comes once it is free again would rightly get it.
        await expect.poll(() => refused).toBe(others);
        running -= 1;
      }).catch((error: unknown) => {
        refused += 1;
        throw error;
      }),
    );
    const results = await Promise.allSettled(all);
    expect(most).toBe(1);
    expect(results.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
  });

  it("in a folder that is not there is an error of the disk", async () => {
    const lost = join(folder, "none", "model.lock");
    await expect(withLock(lost, limits, work)).rejects.toMatchObject({ code: "disk" });
  });
});
