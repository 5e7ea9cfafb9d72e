import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { objectId } from "./object-id.js";
import { settleSessionObjects, storedSessionObjects } from "./session-objects.js";
import { storageOf } from "./storage-parts.js";

let storage: string;

beforeEach(async () => {
  storage = join(await mkdtemp(join(tmpdir(), "leanedge-objects-")), "storage");
});

afterEach(() => rm(join(storage, ".."), { recursive: true }));

/** What the storage says. */
function said(): Promise<string> {
  return readFile(join(storage, "sessions.json"), "utf8");
}

/** Stores an object of a class as process `index` of `count` does. */
async function store(className: string, index = 0, count = 1): Promise<void> {
  const folder = join(storageOf(storage, index, count), className);
  await mkdir(folder, { recursive: true });
  // workerd's own, which it makes before there is any object.
  await writeFile(join(folder, "metadata.sqlite"), "");
  await writeFile(join(folder, `${objectId(className, "a name")}.sqlite`), "");
}

describe("a storage without sessions", () => {
  it("has one object a process unless another number is asked for, which it then keeps", async () => {
    expect(await settleSessionObjects(storage, undefined, 1)).toBe(1);
    expect(await said()).toBe('{"objects":1}\n');
    await store("leanedge-TenantObject");
    for (const asked of [64, 0]) {
      expect(await settleSessionObjects(storage, asked, 1)).toBe(asked);
      expect(await settleSessionObjects(storage, undefined, 1)).toBe(asked);
      expect(await said()).toBe(`{"objects":${asked}}\n`);
    }
  });

  it("has at least one object a process", async () => {
    for (const [processes, objects] of [
      [1, 1],
      [4, 4],
      [2, 4],
      [24, 24],
    ] as const) {
      expect(await settleSessionObjects(storage, undefined, processes)).toBe(objects);
    }
    await expect(settleSessionObjects(storage, 3, 4)).rejects.toThrow(
      `4 gateway processes cannot serve ${storage}: its sessions are kept in 3 objects that they share, each by one process; ` +
        `"leanedge spread --storage ${storage} --processes 4" moves them`,
    );
    expect(await said()).toBe('{"objects":24}\n');
    expect(await settleSessionObjects(storage, 0, 4)).toBe(0);
  });
});

describe.each([
  [0, 1],
  [1, 2],
])("a storage with sessions of process %i of %i", (index, count) => {
  it("keeps its number of objects", async () => {
    await settleSessionObjects(storage, 8, count);
    await store("leanedge-SessionObject", index, count);
    expect(await settleSessionObjects(storage, undefined, count)).toBe(8);
    expect(await settleSessionObjects(storage, 8, count)).toBe(8);
    await expect(settleSessionObjects(storage, 16, count)).rejects.toThrow(
      `the sessions in ${storage} are kept in 8 objects that they share, not in 16 objects that they share: ` +
        `"leanedge spread --storage ${storage} --processes ${count} --session-objects 16" moves them`,
    );
    await expect(settleSessionObjects(storage, 0, count)).rejects.toThrow(
      "are kept in 8 objects that they share, not in an object each: " +
        `"leanedge spread --storage ${storage} --processes ${count} --session-objects 0" moves them`,
    );
    await expect(settleSessionObjects(storage, undefined, 9)).rejects.toThrow(
      "9 gateway processes cannot serve",
    );
    expect(await said()).toBe('{"objects":8}\n');
  });

  it("has an object each where it does not say anything else", async () => {
    await store("leanedge-SessionObject", index, count);
    await expect(settleSessionObjects(storage, 16, count)).rejects.toThrow(
      "are kept in an object each, not in 16 objects that they share",
    );
    expect(await storedSessionObjects(storage)).toBe(0);
    expect(await settleSessionObjects(storage, undefined, count)).toBe(0);
    expect(await said()).toBe('{"objects":0}\n');
  });
});

it.each(["", "{}", '{"objects":"16"}', '{"objects":1025}', "null"])(
  "a storage that says %j is refused",
  async (text) => {
    await mkdir(storage);
    await writeFile(join(storage, "sessions.json"), text);
    await expect(settleSessionObjects(storage, undefined, 1)).rejects.toThrow(
      `${join(storage, "sessions.json")} does not say how many objects hold the sessions`,
    );
  },
);
