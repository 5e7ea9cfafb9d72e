import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { packagePath } from "./repository.js";
import { holdStorage, holdersFolder, refuseHeld } from "./storage-hold.js";

let folder: string;
let storage: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "leanedge-hold-"));
  // A socket's own path would be too long.
  storage = join(folder, "s".repeat(120));
  await mkdir(storage);
});

afterEach(() => rm(folder, { recursive: true }));

const runs = (): string => `a gateway runs over ${storage}: end it first`;
const moves = (): string =>
  `"leanedge spread" is moving the sessions in ${storage}: wait until it has ended`;

describe("a storage", () => {
  it("has one gateway or one move at a time, and nothing in it afterwards", async () => {
    const gateway = await holdStorage(storage, "gateway");
    await expect(holdStorage(storage, "gateway")).rejects.toThrow(runs());
    await expect(holdStorage(storage, "spread")).rejects.toThrow(runs());
    await expect(refuseHeld(storage, "gateway")).rejects.toThrow(runs());
    await refuseHeld(storage, "spread");
    await gateway.release();
    await gateway.release();
    expect(await readdir(storage)).toEqual([]);

    const spread = await holdStorage(storage, "spread");
    await expect(holdStorage(storage, "gateway")).rejects.toThrow(moves());
    await expect(refuseHeld(storage, "spread")).rejects.toThrow(moves());
    await spread.release();
    expect(await readdir(storage)).toEqual([]);
  });

  it("has one of many that begin at the same time, or none", async () => {
    for (let round = 0; round < 10; round++) {
      const begun = await Promise.allSettled(
        Array.from({ length: 8 }, () => holdStorage(storage, "gateway")),
      );
      const holds = begun.flatMap((each) => (each.status === "fulfilled" ? [each.value] : []));
      expect(holds.length).toBeLessThanOrEqual(1);
      for (const each of begun) {
        if (each.status === "rejected") expect(String(each.reason)).toContain(runs());
      }
      for (const hold of holds) await hold.release();
    }
    await (await holdStorage(storage, "gateway")).release();
    expect(await readdir(storage)).toEqual([]);
  });
});

describe("a process that has a storage", () => {
  const program = `
    import { spawn } from "node:child_process";
    import { holdStorage } from ${JSON.stringify(pathToFileURL(packagePath("src/cli/storage-hold.ts")).href)};
    const { fd } = await holdStorage(process.argv[1], "gateway");
    const child = process.argv[2] === "with" ? spawn("sleep", ["600"], { stdio: ["ignore", "ignore", "ignore", fd] }) : undefined;
    console.log(child?.pid ?? 0);
    setInterval(() => undefined, 1000);`;

  /** Starts one, and resolves when it holds the storage: with the id of the process that it started, too. */
  async function start(...words: readonly string[]): Promise<[ChildProcess, number]> {
    const child = spawn(
      process.execPath,
      ["--import", "tsx", "--input-type=module", "--eval", program, storage, ...words],
      { cwd: packagePath("."), stdio: ["ignore", "pipe", "inherit"] },
    );
    const [said] = (await once(child.stdout, "data")) as [Buffer];
    return [child, Number(said.toString())];
  }

  it("has it no more when it crashed", async () => {
    const [child] = await start();
    await expect(holdStorage(storage, "spread")).rejects.toThrow(runs());
    child.kill("SIGKILL");
    await once(child, "exit");
    expect(await readdir(join(storage, holdersFolder))).toHaveLength(1);
    await (await holdStorage(storage, "spread")).release();
    expect(await readdir(storage)).toEqual([]);
  });

  it("leaves it to those that it started", async () => {
    const [child, started] = await start("with");
    child.kill("SIGKILL");
    await once(child, "exit");
    await expect(holdStorage(storage, "spread")).rejects.toThrow(runs());
    process.kill(started, "SIGKILL");
    await expect
      .poll(() => refuseHeld(storage, "gateway").then(() => "free", String), { timeout: 10_000 })
      .toBe("free");
  });
});
