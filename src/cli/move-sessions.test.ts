import { mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { makes, sessionTables } from "../gateway/objects/session-schema.js";
import { sharedName, sharedOf } from "../gateway/objects/shared-name.js";
import {
  found,
  ownSession,
  sharedFile,
  store,
  storeShared,
} from "../../test/support/stored-sessions.js";
import { ownerOfId } from "../gateway/processes/object-owner.js";
import { endMove, moveSessions } from "./move-sessions.js";
import { objectId } from "./object-id.js";
import { sessionClassKey, settleSessionObjects } from "./session-objects.js";
import { spreadObjects } from "./spread-objects.js";
import { storageOf } from "./storage-parts.js";

const before = await readFile(
  join(import.meta.dirname, "../../test/e2e/session-before-sharing.sql"),
  "utf8",
);
/** When the alarm of the session in it comes: nanoseconds in the file. */
const beforeDueMs = 1_795_479_846_182;

let storage: string;

beforeEach(async () => {
  storage = await mkdtemp(join(tmpdir(), "leanedge-move-"));
});

afterEach(() => rm(storage, { recursive: true }));

describe("sessions of an object each", () => {
  it("come into objects that they share, all rows of each, and are due as they were", async () => {
    await store(storage, "dev/kept%20before", before);
    await store(storage, "t/early", ownSession("early", 1_795_000_000_001));
    await store(storage, "t/never", ownSession("never"));
    await store(
      storage,
      "t/deleted",
      `${makes("deletion")}; INSERT INTO deletion VALUES (1, 't', 'deleted', 7)`,
    );
    await store(storage, "t/nothing", sessionTables.map(makes).join(";"));

    expect(await spreadObjects(storage, 1, 1)).toEqual({ sessions: 4, objects: 0 });
    expect((await readdir(storage)).sort()).toEqual([sessionClassKey, "sessions.json"]);
    expect(await readFile(join(storage, "sessions.json"), "utf8")).toBe('{"objects":1}\n');
    const { sessions, alarms } = await found(storage);
    expect(Object.keys(sessions).sort()).toEqual([
      "dev/kept%20before",
      "t/deleted",
      "t/early",
      "t/never",
    ]);
    expect(sessions["dev/kept%20before"]).toMatchObject({ dueMs: beforeDueMs });
    expect(sessions["dev/kept%20before"]?.rows["message"]?.map((row) => row[3])).toEqual([
      "What is at the harbor?",
      "(JuqLsPlsPlX(C(C",
      "Who lives in the garden?",
      "HnDlwMJ,A?(ClZ",
    ]);
    expect(sessions["t/deleted"]?.rows["deletion"]).toEqual([["t", "deleted", 7]]);
    expect(sessions["t/never"]).toMatchObject({ dueMs: 0 });
    expect(sessions["t/early"]).toMatchObject({
      dueMs: 1_795_000_000_001,
      rows: {
        message: [
          [0, 1, 2, "ask of early", 0, 5],
          [1, 1, 3, "answer to early", 1, 6],
        ],
        segment: [[0, 1, 1, new Uint8Array([1, 0, 0, 0])]],
        snapshot_row: [[1, 0, new Uint8Array([0, 255])]],
        left_worker: [[0, "left by early", "", 3, 0]],
      },
    });
    const id = objectId(sessionClassKey, sharedName(0));
    expect(alarms).toEqual({ [id]: 1_795_000_000_001_000_000n });
    const object = new DatabaseSync(join(storage, sessionClassKey, sharedFile(0)));
    const alarm = object.prepare(
      "SELECT typeof(value) AS type, value FROM _cf_METADATA WHERE key = 1",
    );
    alarm.setReadBigInts(true);
    expect(alarm.get()).toEqual({ type: "integer", value: 1_795_000_000_001_000_000n });
    object.close();
  });

  it("have their workers that were left in the order of before, from when they had no number", async () => {
    const rows = "('later', '', 1, 0), ('last', '', 2, 1)";
    await store(
      storage,
      "dev/kept%20before",
      `${before}; CREATE TABLE left_worker (worker TEXT PRIMARY KEY, address TEXT, generation INTEGER, tries INTEGER);
      INSERT INTO left_worker VALUES ${rows}`,
    );
    await spreadObjects(storage, 1, 4);
    const { sessions } = await found(storage);
    expect(sessions["dev/kept%20before"]?.rows["left_worker"]).toEqual([
      [1, "later", "", 1, 0],
      [2, "last", "", 2, 1],
    ]);
  });

  it("stay so where no number is asked for", async () => {
    const path = await store(storage, "t/stays", ownSession("stays"));
    expect(await spreadObjects(storage, 1)).toEqual({ objects: 0 });
    expect(await readFile(path)).not.toHaveLength(0);
  });

  it("are read with the log that a crash and a move to other processes left elsewhere", async () => {
    const path = await store(storage, "t/crashed", ownSession("crashed"));
    const database = new DatabaseSync(path);
    database.exec("PRAGMA wal_autocheckpoint = 0; UPDATE session SET title = 'in the log'");
    // As they are while it is open, as after a crash.
    const [main, log] = [await readFile(path), await readFile(`${path}-wal`)];
    database.close();
    const elsewhere = join(storageOf(storage, 1, 2), sessionClassKey);
    await mkdir(elsewhere, { recursive: true });
    await writeFile(path, main);
    await writeFile(join(elsewhere, `${objectId(sessionClassKey, "t/crashed")}.sqlite-wal`), log);
    await spreadObjects(storage, 2, 2);
    const { sessions } = await found(storage);
    expect(sessions["t/crashed"]?.rows["session"]?.[0]).toContain("in the log");
  });
});

describe("sessions that share objects", () => {
  it("move to other objects, and to the processes that will keep them", async () => {
    await storeShared(storage, 2, 30, 2);
    const { sessions: had } = await found(storage);
    expect(await spreadObjects(storage, 3)).toEqual({ sessions: 30, objects: 0 });
    expect((await readdir(storage)).sort()).toEqual([
      "0-of-3",
      "1-of-3",
      "2-of-3",
      "sessions.json",
    ]);
    for (const index of [0, 1, 2]) {
      const files = await readdir(join(storageOf(storage, index, 3), sessionClassKey));
      expect(files.filter((file) => file !== "metadata.sqlite")).toEqual([sharedFile(index)]);
    }
    const { sessions, alarms } = await found(storage);
    expect(Object.keys(sessions).sort()).toEqual(Object.keys(had).sort());
    let kept = 0;
    for (const [name, { rows, dueMs, number, file }] of Object.entries(had)) {
      expect(sessions[name]).toMatchObject({ rows, dueMs, file: sharedFile(sharedOf(name, 3)) });
      if (sessions[name]?.file !== file) continue;
      // Workers know its cache by object and number.
      expect(sessions[name].number).toBe(number);
      kept++;
    }
    expect(kept).toBeGreaterThan(0);
    const numbers = Object.values(had).map(({ file, number }) => `${file} ${number}`);
    for (const [name, { file, number }] of Object.entries(sessions)) {
      const same = numbers.includes(`${file} ${number}`);
      expect(same).toBe(had[name]?.file === file);
    }
    expect(Object.keys(alarms)).toHaveLength(3);
    for (const [id, time] of Object.entries(alarms)) {
      const due = Object.values(sessions).filter(({ file }) => file === `${id}.sqlite`);
      const first = Math.min(...due.flatMap(({ dueMs }) => (dueMs === 0 ? [] : [dueMs])));
      expect(time).toBe(BigInt(first) * 1_000_000n);
    }
  });

  it("get an object each again, as they were before they shared any", async () => {
    await store(
      storage,
      "t/deleted",
      `${makes("deletion")}; INSERT INTO deletion VALUES (1, 't', 'deleted', 7)`,
    );
    for (const [id, dueMs] of [
      ["s0", 0],
      ["s1", 1_795_000_000_001],
      ["s2", 0],
    ] as const) {
      await store(storage, `t/${id}`, ownSession(id, dueMs));
    }
    const each = async (processes: number): Promise<unknown> => {
      const names = ["t/s0", "t/s1", "t/s2", "t/deleted"];
      const objects: unknown[] = [];
      for (const name of names) {
        const id = objectId(sessionClassKey, name);
        const part = storageOf(storage, ownerOfId(id, processes), processes);
        const database = new DatabaseSync(join(part, sessionClassKey, `${id}.sqlite`));
        const tables = database
          .prepare("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
          .all();
        for (const { name: table } of tables) {
          const query = database.prepare(`SELECT * FROM ${String(table)}`);
          query.setReadBigInts(true);
          const rows = query.all();
          if (rows.length > 0) objects.push({ id, table, rows });
        }
        database.close();
      }
      return objects;
    };
    const before = await each(1);
    await spreadObjects(storage, 2, 3);
    await expect(spreadObjects(storage, 3, 2)).rejects.toThrow("3 gateway processes cannot serve");
    expect(await spreadObjects(storage, 2, 0)).toEqual({ sessions: 4, objects: 0 });
    expect(await readFile(join(storage, "sessions.json"), "utf8")).toBe('{"objects":0}\n');
    expect(await each(2)).toEqual(before);
    const id = objectId(sessionClassKey, "t/s1");
    for (const process of [0, 1]) {
      const path = join(storageOf(storage, process, 2), sessionClassKey, "metadata.sqlite");
      const database = new DatabaseSync(path);
      const alarms = database
        .prepare("SELECT actor_id AS id, actor_name AS name FROM _cf_ALARM")
        .all();
      database.close();
      expect(alarms).toEqual(process === ownerOfId(id, 2) ? [{ id, name: "t/s1" }] : []);
    }
  });

  it("leave nothing on the disk where it takes no more of them", async () => {
    await storeShared(storage, 2, 3);
    const { sessions: had } = await found(storage);
    const path = join(storage, sessionClassKey, sharedFile(1));
    const broken = new DatabaseSync(path);
    // Nothing may be stored without it, as on a full disk.
    broken.exec("ALTER TABLE message DROP COLUMN text");
    broken.close();
    await expect(spreadObjects(storage, 1)).rejects.toThrow("NOT NULL constraint failed");
    expect((await readdir(storage)).sort()).toEqual([sessionClassKey, "sessions.json"]);
    expect(Object.keys((await found(storage)).sessions)).toEqual(Object.keys(had));
  });

  it.each([0, 2, 3])(
    "are found again where a gateway with %i objects stored one",
    async (other) => {
      await storeShared(storage, 1, 3);
      const { sessions: had } = await found(storage);
      const elsewhere = sharedFile(1);
      if (other === 0) await store(storage, "t/strange", ownSession("strange"));
      else {
        const aside = join(storage, "aside");
        await storeShared(aside, 1, 5);
        const database = new DatabaseSync(join(aside, sessionClassKey, sharedFile(0)));
        database.exec("DELETE FROM occupant WHERE name <> 't/s4'");
        for (const table of sessionTables) {
          database.exec(`DELETE FROM ${table} WHERE session NOT IN (SELECT number FROM occupant)`);
        }
        database.exec("UPDATE occupant SET name = 't/strange'");
        database.close();
        await rename(
          join(aside, sessionClassKey, sharedFile(0)),
          join(storage, sessionClassKey, elsewhere),
        );
        await rm(aside, { recursive: true });
      }
      // Nobody asks for so many.
      expect(await spreadObjects(storage, 1)).toEqual({ objects: 0 });
      expect(await spreadObjects(storage, 1, 1)).toEqual({ sessions: 4, objects: 0 });
      const { sessions } = await found(storage);
      expect(Object.keys(sessions).sort()).toEqual([...Object.keys(had), "t/strange"].sort());
      for (const { file } of Object.values(sessions)) expect(file).toBe(sharedFile(0));
      for (const [name, { rows, number }] of Object.entries(had)) {
        expect(sessions[name]).toMatchObject({ rows, number });
      }
      expect(await spreadObjects(storage, 1, 1)).toEqual({ objects: 0 });
    },
  );

  it("are not moved where there are two of the same name", async () => {
    await storeShared(storage, 2, 3);
    const path = await store(storage, "t/s1", ownSession("s1"));
    await expect(spreadObjects(storage, 1)).rejects.toThrow(/ both have session t\/s1: /);
    expect((await readdir(storage)).sort()).toEqual([sessionClassKey, "sessions.json"]);
    await rm(path);
    expect(await spreadObjects(storage, 1)).toEqual({ sessions: 3, objects: 0 });
  });

  it("get one each again also where a gateway shared some", async () => {
    await store(storage, "t/own", ownSession("own"));
    expect(await spreadObjects(storage, 1, 0)).toEqual({ objects: 0 });
    await storeShared(storage, 2, 3);
    await writeFile(join(storage, "sessions.json"), '{"objects":0}\n');
    expect(await spreadObjects(storage, 1, 0)).toEqual({ sessions: 4, objects: 0 });
    const files = ["own", "s0", "s1", "s2"].map(
      (id) => `${objectId(sessionClassKey, `t/${id}`)}.sqlite`,
    );
    expect((await readdir(join(storage, sessionClassKey))).sort()).toEqual(
      [...files, "metadata.sqlite"].sort(),
    );
  });

  it("are moved wherever a move is interrupted, and no gateway starts before", async () => {
    await storeShared(storage, 2, 9, 2);
    const { sessions: had } = await found(storage);
    let renames = 0;
    for (let interrupted = true; interrupted;) {
      await rm(storage, { recursive: true });
      await mkdir(storage);
      await storeShared(storage, 2, 9, 2);
      const last = renames++;
      let calls = 0;
      const move = async (from: string, to: string): Promise<void> => {
        if (calls++ === last) throw new Error("interrupted");
        await rename(from, to);
      };
      interrupted = await moveSessions(storage, 3, 3, move).then(
        () => false,
        () => true,
      );
      const ends = (await readdir(storage)).includes("moved");
      if (ends) {
        await expect(settleSessionObjects(storage, undefined, 3)).rejects.toThrow(
          `a move of the sessions in ${storage} was interrupted; "leanedge spread --storage ${storage} --processes 3" moves them`,
        );
        // Its end is interrupted as well, after each of its steps.
        for (let ended = false; !ended;) {
          let steps = 0;
          const once = async (from: string, to: string): Promise<void> => {
            if (steps++ > 0) throw new Error("interrupted again");
            await rename(from, to);
          };
          ended = await endMove(storage, once).then(
            () => true,
            () => false,
          );
        }
      } else if (interrupted) {
        expect((await found(storage)).sessions).toEqual(had);
      }
      await spreadObjects(storage, 3);
      const { sessions } = await found(storage);
      expect(Object.keys(sessions).sort()).toEqual(Object.keys(had).sort());
      for (const [name, { rows, dueMs }] of Object.entries(had)) {
        expect(sessions[name]).toMatchObject({ rows, dueMs });
      }
      expect((await readdir(storage)).sort()).toEqual([
        ...["0-of-3", "1-of-3", "2-of-3"],
        "sessions.json",
      ]);
    }
    // To `moved`, two old folders, the number, three new folders.
    expect(renames).toBe(8);
  });

  it("are there where only the deletion of the old objects was interrupted", async () => {
    await storeShared(storage, 1, 2);
    await mkdir(join(storage, "moved", "old", "0-of-1"), { recursive: true });
    await writeFile(join(storage, "moved", "old", "0-of-1", sharedFile(0)), "");
    expect(await spreadObjects(storage, 1)).toEqual({ objects: 0 });
    expect((await readdir(storage)).sort()).toEqual([sessionClassKey, "sessions.json"]);
    expect(Object.keys((await found(storage)).sessions)).toEqual(["t/s0", "t/s1"]);
  });
});
