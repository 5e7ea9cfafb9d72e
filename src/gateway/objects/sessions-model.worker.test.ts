/**
 * Many people's sessions at once, in objects of their own or shared, whatever happens to the objects: each session holds what its own
 * calls put there, and nothing is left of those that were deleted.
 */
import { runDurableObjectAlarm, runInDurableObject } from "cloudflare:test";
import { afterEach, describe, expect, it, vi } from "vitest";
import { sharedIdleMs } from "../limits.js";
import { seededRandom } from "../pool/testing/seeded-random.js";
import { newTenant, sessionClient, sessionObject, testEnv } from "../testing/gateway-clients.js";
import { SessionActor } from "../testing/session-actor.js";
import { sharesObjects } from "./session-name.js";
import { text } from "./sql-row.js";

const tenants = 3;
const actorsEach = 4;
const idsEach = 3;
const steps = 10;
/** More of them are for who changed something of what sessions share. */
const seeds = sharesObjects(testEnv) ? [1, 2] : [1];
const lossesMax = 4;
/** Together less than a client is waited for. */
const jumpsMax = 4;

afterEach(() => {
  vi.restoreAllMocks();
});

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** An object, by a session that it keeps. */
interface Place {
  readonly tenant: string;
  readonly id: string;
}

/** Calls an object's alarm now, for all that are due at any time. */
async function ring({ tenant, id }: Place): Promise<void> {
  const stub = sessionObject(tenant, id);
  await runInDurableObject(stub, (_instance, { storage }) => {
    const { sql } = storage;
    if (sql.exec("SELECT 1 FROM sqlite_master WHERE name = 'occupant'").toArray().length > 0) {
      sql.exec("UPDATE occupant SET due_ms = 1 WHERE due_ms > 0");
    }
  });
  await runDurableObjectAlarm(stub);
}

async function lose({ tenant, id }: Place): Promise<void> {
  await runInDurableObject(sessionObject(tenant, id), (_instance, state) => {
    state.abort("a crash, as the test wants it");
  }).catch(() => undefined);
}

/** Tables of an object that have rows. */
function left({ tenant, id }: Place): Promise<Record<string, unknown>> {
  return runInDurableObject(sessionObject(tenant, id), (_instance, { storage: { sql } }) => {
    const tables = sql
      .exec(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '\\_%' ESCAPE '\\'",
      )
      .toArray()
      .map((row) => text(row, "name"));
    return Object.fromEntries(
      tables
        .map((table) => [table, sql.exec(`SELECT * FROM ${table}`).toArray()] as const)
        .filter(([, rows]) => rows.length > 0),
    );
  });
}

describe("sessions of many people", () => {
  it.each(seeds)(
    "hold what each of them said, and leave nothing (seed %i)",
    { timeout: 60_000 },
    async (seed) => {
      const random = seededRandom(seed);
      let losses = 0;
      /** An object is being lost: what a call meets meanwhile counts as that. */
      let losing = false;
      let lost = 0;
      const people: { tenant: string; ids: string[]; actors: SessionActor[]; key: string }[] = [];
      for (let index = 0; index < tenants; index++) {
        const { tenant, key } = await newTenant();
        const client = sessionClient(key);
        // The same ids for all tenants.
        const all = Array.from({ length: actorsEach * idsEach }, (_, number) => `s${number}`);
        const actors = Array.from({ length: actorsEach }, (_, actor) => {
          const ids = all.filter((_id, number) => number % actorsEach === actor);
          const own = seededRandom(Math.floor(random() * 2 ** 32));
          return new SessionActor({
            client,
            ids,
            random: own,
            losses: () => (losing ? ++losses : losses),
          });
        });
        people.push({ tenant, ids: all, actors, key });
      }
      const actors = people.flatMap((person) => person.actors);
      const places = people.flatMap(({ tenant, ids }) => ids.map((id) => ({ tenant, id })));
      const objects = sharesObjects(testEnv)
        ? [
            ...new Map(
              places.map((at) => [sessionObject(at.tenant, at.id).id.toString(), at]),
            ).values(),
          ]
        : places;

      let busy = true;
      let jumps = 0;
      const now = Date.now;
      vi.spyOn(Date, "now").mockImplementation(() => now() + jumps * (sharedIdleMs + 1));
      const chance = async (): Promise<void> => {
        while (busy) {
          await pause(20 + random() * 60);
          const at = places[Math.floor(random() * places.length)];
          if (at === undefined) continue;
          const what = random();
          if (what < 0.1 && lost < lossesMax) {
            lost++;
            losing = true;
            await lose(at);
            losing = false;
            losses++;
          } else if (what < 0.15 && jumps < jumpsMax) {
            jumps++;
          } else if (what < 0.7) {
            await ring(at).catch(() => undefined);
          }
        }
      };
      const chances = chance();
      try {
        await Promise.all(
          actors.map(async (actor) => {
            for (let step = 0; step < steps; step++) await actor.step();
            await actor.readAll();
          }),
        );
      } finally {
        busy = false;
        await chances;
      }
      const check = async (): Promise<void> => {
        for (const { ids, actors: all } of people) {
          for (const [number, id] of ids.entries()) await all[number % actorsEach]?.check(id);
        }
      };
      await check();
      for (const at of objects) await lose(at);
      await check();

      const ringAll = async (): Promise<void> => {
        for (const at of objects) await ring(at);
      };
      for (const { actors: all, key } of people) {
        const known = all.flatMap((actor) =>
          [...actor.known].map(([id, { turns }]) => `${id} ${turns.length}`),
        );
        await vi.waitFor(async () => {
          await ringAll();
          const { sessions } = await sessionClient(key).listSessions({ pageSize: 100 });
          expect(
            sessions.map(({ lastTurn, sessionId }) => `${sessionId} ${lastTurn}`).sort(),
          ).toEqual(known.sort());
        });
      }

      await Promise.all(
        actors.map(async (actor) => {
          for (const id of [...actor.known.keys()]) await actor.delete(id);
        }),
      );
      await vi.waitFor(async () => {
        await ringAll();
        expect(await Promise.all(objects.map(left))).toEqual(objects.map(() => ({})));
      });
      for (const { key } of people) {
        expect((await sessionClient(key).listSessions({})).sessions).toEqual([]);
      }
    },
  );
});
