import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdir, mkdtemp, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { sharedName } from "../gateway/objects/shared-name.js";
import { ownerOfId } from "../gateway/processes/object-owner.js";
import { objectId } from "./object-id.js";
import { packagePath } from "./repository.js";
import { holdStorage } from "./storage-hold.js";

const className = "leanedge-SessionObject";
const ids = Array.from({ length: 9 }, (_, index) =>
  createHash("sha256").update(`${index}`).digest("hex"),
);
/** An object's database, and what may lie beside it after a crash. */
const kinds = ["", "-wal", "-journal"];

let storage: string;

beforeAll(async () => {
  storage = await mkdtemp(join(tmpdir(), "leanedge-spread-"));
});

afterAll(() => rm(storage, { recursive: true, force: true }));

/** Writes files of objects, with their names in them or some text, into the folder of process `index` of two. */
async function write(index: number, files: readonly string[], text?: string): Promise<void> {
  const folder = join(storage, `${index}-of-2`, className);
  await mkdir(folder, { recursive: true });
  for (const file of files) await writeFile(join(folder, file), text ?? file);
}

function databaseOf(id: string): string {
  return `${id}.sqlite`;
}

async function spread(processes: number, ...options: readonly string[]): Promise<string> {
  const { stdout } = await promisify(execFile)(process.execPath, [
    ...["--import", "tsx", packagePath("src/cli/main.ts"), "spread"],
    ...["--storage", storage, "--processes", String(processes), ...options],
  ]);
  return stdout;
}

describe("leanedge spread", () => {
  it("moves each object with what a crash left beside its database, also where it was interrupted", async () => {
    const files = ids.flatMap((id) => kinds.map((kind) => `${id}.sqlite${kind}`));
    // A move that was broken off in the middle of an object: its database went, and its journal did not.
    const [moved = ""] = ids;
    const there = join(storage, `${ownerOfId(moved, 3)}-of-3`, className);
    await mkdir(there, { recursive: true });
    await writeFile(join(there, `${moved}.sqlite`), `${moved}.sqlite`);
    await write(0, [...files.filter((file) => file !== `${moved}.sqlite`), `${moved}.sqlite-shm`]);
    await write(1, []);

    expect(await spread(3)).toContain("8 objects moved");
    expect((await readdir(storage)).sort()).toEqual(["0-of-3", "1-of-3", "2-of-3"]);
    for (const id of ids) {
      const folder = join(storage, `${ownerOfId(id, 3)}-of-3`, className);
      for (const kind of kinds) {
        const file = `${id}.sqlite${kind}`;
        expect(await readFile(join(folder, file), "utf8")).toBe(file);
      }
    }
    const left = await readdir(storage, { recursive: true });
    expect(left.filter((name) => name.endsWith("-shm"))).toEqual([]);
  });

  it("leaves all where it is for as many processes as before", async () => {
    const before = (await readdir(storage, { recursive: true })).sort();
    expect(await spread(3)).toContain("0 objects moved");
    expect((await readdir(storage, { recursive: true })).sort()).toEqual(before);
  });

  it("says what a folder has that is no object's", async () => {
    await write(0, ["notes.txt"]);
    await expect(spread(3)).rejects.toThrow(/ENOTEMPTY.*0-of-2/);
  });

  it("moves objects that sessions share by their index, and all others by their id", async () => {
    await rm(storage, { recursive: true });
    await mkdir(storage);
    await writeFile(join(storage, "sessions.json"), '{"objects":5}\n');
    const shared = Array.from({ length: 5 }, (_, index) => objectId(className, sharedName(index)));
    const others = ids.slice(0, 4);
    await write(0, [shared[0] ?? "", shared[2] ?? "", shared[4] ?? ""].map(databaseOf), "");
    await write(1, [shared[1] ?? "", shared[3] ?? "", ...others].map(databaseOf), "");

    expect(await spread(3, "--session-objects", "5")).toContain("9 objects moved");
    for (const index of [0, 1, 2]) {
      const kept = [
        ...shared.filter((_, at) => at % 3 === index),
        ...others.filter((id) => ownerOfId(id, 3) === index),
      ];
      const folder = join(storage, `${index}-of-3`, className);
      expect((await readdir(folder)).sort()).toEqual(kept.map(databaseOf).sort());
    }
    expect(await readFile(join(storage, "sessions.json"), "utf8")).toBe('{"objects":5}\n');
    await expect(spread(6, "--session-objects", "5")).rejects.toThrow(
      /6 gateway processes cannot serve .*: its sessions are kept in 5 objects that they share/,
    );
  });

  it("moves nothing while a gateway has the storage, or where there is none", async () => {
    const gateway = await holdStorage(storage, "gateway");
    await expect(spread(2)).rejects.toThrow(`a gateway runs over ${storage}: end it first`);
    await gateway.release();
    await expect(spread(2, "--storage", join(storage, "none"))).rejects.toThrow(
      `there is no storage in ${join(storage, "none")}`,
    );
  });

  it("replaces no object by one of the same name", async () => {
    await rm(storage, { recursive: true });
    const [id = ""] = ids;
    // Of the gateway of before a move, which somebody has started once more.
    const stray = join(storage, className);
    await mkdir(stray, { recursive: true });
    await writeFile(join(stray, databaseOf(id)), "begun anew");
    await write(ownerOfId(id, 2), [databaseOf(id)]);
    const own = join(storage, `${ownerOfId(id, 2)}-of-2`, className);
    const left = (await readdir(storage, { recursive: true })).sort();
    await expect(spread(2)).rejects.toThrow("are the same object");
    expect((await readdir(storage, { recursive: true })).sort()).toEqual(left);
    expect(await readFile(join(own, databaseOf(id)), "utf8")).toBe(databaseOf(id));

    await rm(stray, { recursive: true });
    // An engine is where its name leads, which may be two processes: it stores nothing.
    for (const index of [0, 1]) {
      const engines = join(storage, `${index}-of-2`, "leanedge-EngineObject");
      await mkdir(engines, { recursive: true });
      await writeFile(join(engines, databaseOf(id)), "");
    }
    expect(await spread(1)).toContain("3 objects moved");
    expect(await readdir(join(storage, "leanedge-EngineObject"))).toEqual([databaseOf(id)]);
  });
});
