/** Sessions that share an object: two objects keep all of them here. */
import { evictDurableObject, runInDurableObject } from "cloudflare:test";
import type { Client } from "@connectrpc/connect";
import { Code } from "@connectrpc/connect";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { SessionService } from "../../gen/leanedge/v1/session_pb.js";
import { sharedIdleMs, turnWatchMs } from "../limits.js";
import {
  errorOf,
  inStorage,
  newTenant,
  ringAlarm,
  runTurn,
  scripted,
  sequenceOf,
  sessionClient,
  sessionObject,
  setAlarm,
  testEnv,
  user,
} from "../testing/gateway-clients.js";
import { handedHeader, notHandedHeader } from "./hand-over.js";
import { Occupants } from "./occupants.js";
import { sessionObjectName, sessionPlace } from "./session-name.js";

let tenant: string;
let client: Client<typeof SessionService>;

beforeEach(async () => {
  const made = await newTenant();
  tenant = made.tenant;
  client = sessionClient(made.key);
});

afterEach(() => {
  vi.restoreAllMocks();
});

/** Ids of sessions that share one object. */
function together(count: number): string[] {
  const place = sessionPlace(testEnv, tenant, "s0");
  const ids: string[] = [];
  for (let index = 0; ids.length < count; index++) {
    if (sessionPlace(testEnv, tenant, `s${index}`) === place) ids.push(`s${index}`);
  }
  return ids;
}

function say(sessionId: string, turn: number, text: string): ReturnType<typeof runTurn> {
  return runTurn(client, { sessionId, model: "scripted", turn, messages: [scripted({}, text)] });
}

async function transcript(sessionId: string): Promise<(string | undefined)[]> {
  const { messages } = await client.listMessages({ sessionId });
  return messages.map(({ message }) => message?.text);
}

/** Loses the object of a session, with all that its memory held. */
async function crash(sessionId: string): Promise<void> {
  await runInDurableObject(sessionObject(tenant, sessionId), (_instance, state) => {
    state.abort("a crash, as the test wants it");
  }).catch(() => undefined);
}

/** What the object of a session stores of its own about a session. */
function occupant(sessionId: string): Promise<{ number: number; dueMs: number } | undefined> {
  return inStorage(tenant, sessionId, ({ sql }) =>
    new Occupants(sql).named(sessionObjectName(tenant, sessionId)),
  );
}

describe("sessions of one object", () => {
  it("know nothing of each other", async () => {
    const ids = together(3);
    for (const turn of [1, 2]) {
      await Promise.all(ids.map((id) => say(id, turn, `${id} ${turn}`)));
    }
    const numbers = await Promise.all(ids.map(async (id) => (await occupant(id))?.number));
    expect(new Set(numbers).size).toBe(3);
    const sequences = await Promise.all(ids.map((id) => sequenceOf(tenant, id)));
    expect(new Set(sequences).size).toBe(3);
    const [first = "", second = "", third = ""] = ids;
    await client.deleteSession({ sessionId: second });
    for (const id of [first, third]) {
      const said = (await transcript(id)).filter((text) => text?.startsWith("!"));
      expect(said).toEqual([1, 2].map((turn) => scripted({}, `${id} ${turn}`).text));
    }
    const missing = await errorOf(client.listMessages({ sessionId: second }));
    expect(missing.code).toBe(Code.NotFound);
    const other = await newTenant();
    const stranger = await errorOf(sessionClient(other.key).getSession({ sessionId: first }));
    expect(stranger.code).toBe(Code.NotFound);
  });

  it("go on after their object was evicted, each with its own", async () => {
    const ids = together(2);
    for (const id of ids) await say(id, 1, id);
    const before = await Promise.all(ids.map(transcript));
    const sequences = await Promise.all(ids.map((id) => sequenceOf(tenant, id)));
    await evictDurableObject(sessionObject(tenant, ids[0] ?? ""));
    expect(await Promise.all(ids.map(transcript))).toEqual(before);
    expect(await Promise.all(ids.map((id) => sequenceOf(tenant, id)))).toEqual(sequences);
    for (const id of [...ids].reverse()) {
      expect((await say(id, 2, "more")).started[0]?.turn).toBe(2);
    }
  });

  it("are begun, forked and ended while others run", async () => {
    const [busy = "", from = "", to = ""] = together(3);
    const slow = runTurn(client, {
      ...{ sessionId: busy, turn: 1 },
      messages: [scripted({ tokens: 40, delayMs: 10 })],
    });
    await say(from, 1, "one");
    await client.forkSession({ sessionId: from, turn: 1, newSessionId: to });
    expect(await transcript(to)).toEqual(await transcript(from));
    const again = await client.forkSession({ sessionId: from, turn: 1, newSessionId: to });
    expect(again.session?.forkedFrom).toBe(from);
    await say(to, 2, "two");
    await client.deleteSession({ sessionId: from });
    expect((await transcript(to)).length).toBe(4);
    expect((await slow).finished?.usage?.completionTokens).toBe(40);
  });

  it("leave nothing behind when they are gone, or never were", async () => {
    const [known = "", unknown = ""] = together(2);
    await errorOf(client.getSession({ sessionId: unknown }));
    expect(await occupant(unknown)).toBeUndefined();
    await client.createSession({ sessionId: known });
    expect(await occupant(known)).toBeDefined();
    await client.deleteSession({ sessionId: known });
    await vi.waitFor(async () => expect(await occupant(known)).toBeUndefined());
    await client.createSession({ sessionId: known, title: "again" });
    expect((await client.getSession({ sessionId: known })).session?.title).toBe("again");
  });

  it("leave nothing behind when a reader that stopped outlives them", async () => {
    const [gone = ""] = together(1);
    const leave = new AbortController();
    const messages = [scripted({ tokens: 512 })];
    const request = { sessionId: gone, model: "scripted", turn: 1, messages };
    await client.generate(request, { signal: leave.signal })[Symbol.asyncIterator]().next();
    await vi.waitFor(async () =>
      expect((await client.getSession({ sessionId: gone })).session?.runningTurn).toBe(0),
    );
    await client.deleteSession({ sessionId: gone });
    // What workers are told is over, too.
    await new Promise((resolve) => setTimeout(resolve, 200));
    await ringAlarm(tenant, gone);
    expect(await occupant(gone)).toBeDefined();
    leave.abort();
    await crash(gone);
    await ringAlarm(tenant, gone);
    expect(await occupant(gone)).toBeUndefined();
  });

  it("are deleted where storage does not let their number go, and it goes later", async () => {
    const [stays = "", stuck = ""] = together(2);
    await say(stays, 1, "here");
    await client.createSession({ sessionId: stuck });
    await inStorage(tenant, stuck, ({ sql }, number) => {
      sql.exec(
        `CREATE TRIGGER stuck BEFORE DELETE ON occupant WHEN old.number = ${number} BEGIN SELECT RAISE(ABORT, 'stuck'); END`,
      );
    });
    await client.deleteSession({ sessionId: stuck });
    expect((await errorOf(client.getSession({ sessionId: stuck }))).code).toBe(Code.NotFound);
    expect((await transcript(stays)).length).toBe(2);
    await ringAlarm(tenant, stuck);
    expect(await occupant(stuck)).toBeDefined();
    await inStorage(tenant, stuck, ({ sql }) => {
      sql.exec("DROP TRIGGER stuck");
    });
    await ringAlarm(tenant, stuck);
    expect(await occupant(stuck)).toBeUndefined();
  });
});

describe("a call that is handed over in memory", () => {
  it("is told apart where the object does not find it, and runs nothing", async () => {
    const headers = { [handedHeader]: "999999999" };
    const answer = await sessionObject(tenant, "s0").fetch("http://session/", {
      ...{ method: "POST", headers },
    });
    expect(answer.headers.get(notHandedHeader)).toBe("1");
    expect(await answer.text()).toBe("");
  });

  it("with a text that UTF-8 changes is stored as it is told", async () => {
    const half = "half a character: \ud83d";
    await runTurn(client, { sessionId: "s0", turn: 1, messages: [user("one")] });
    await runTurn(client, { sessionId: "s0", turn: 2, messages: [user(half)] });
    const told = (await transcript("s0"))[2];
    expect(told).toBe("half a character: \ufffd");
    await evictDurableObject(sessionObject(tenant, "s0"));
    expect((await transcript("s0"))[2]).toBe(told);
  });
});

describe("memory", () => {
  it("forgets a session that nobody calls, and reads it again", async () => {
    const [idle = "", other = ""] = together(2);
    await client.createSession({ sessionId: idle, title: "before" });
    // As if somebody else could write: what memory holds is told from what is stored.
    await inStorage(tenant, idle, ({ sql }, number) => {
      sql.exec("UPDATE session SET title = 'stored' WHERE session = ?", number);
    });
    expect((await client.getSession({ sessionId: idle })).session?.title).toBe("before");
    const now = Date.now;
    vi.spyOn(Date, "now").mockImplementation(() => now() + sharedIdleMs + 1);
    await client.createSession({ sessionId: other });
    expect((await client.getSession({ sessionId: idle })).session?.title).toBe("stored");
  });

  it("keeps a session whose turn runs", async () => {
    const [running = "", other = ""] = together(2);
    const turn = runTurn(client, {
      ...{ sessionId: running, turn: 1 },
      messages: [scripted({ tokens: 60, delayMs: 10 })],
    });
    await vi.waitFor(async () =>
      expect((await client.getSession({ sessionId: running })).session?.runningTurn).toBe(1),
    );
    const now = Date.now;
    vi.spyOn(Date, "now").mockImplementation(() => now() + sharedIdleMs + 1);
    await client.createSession({ sessionId: other });
    // Two of one session would begin it twice, or not know its runner.
    const busy = await errorOf(
      runTurn(client, { sessionId: running, turn: 2, messages: [user("next")] }),
    );
    expect(busy.rawMessage).toBe("turn 1 is still running");
    expect((await turn).finished?.usage?.completionTokens).toBe(60);
  });
});

describe("the alarm", () => {
  it("is for every session that is due, and for no other", async () => {
    const ids = together(3);
    for (const id of ids) await say(id, 1, id);
    const [first = "", second = "", third = ""] = ids;
    const farMs = Date.now() + 60_000;
    for (const id of ids) {
      await inStorage(tenant, id, ({ sql }, number) => {
        sql.exec(
          "UPDATE occupant SET due_ms = ? WHERE number = ?",
          id === third ? farMs : 1,
          number,
        );
      });
    }
    await ringAlarm(tenant, first);
    for (const id of [first, second]) {
      const { dueMs = 0 } = (await occupant(id)) ?? {};
      expect(dueMs === 0 || dueMs > Date.now()).toBe(true);
      expect(dueMs).not.toBe(1);
    }
    expect((await occupant(third))?.dueMs).toBe(farMs);
    // And it comes again for the one that is left.
    const nextMs = await runInDurableObject(
      sessionObject(tenant, third),
      (_instance, { storage }) => storage.getAlarm(),
    );
    expect(nextMs).toBeLessThanOrEqual(farMs);
  });

  it("comes in time for a session that was due before the object began anew", async () => {
    const [due = "", other = ""] = together(2);
    await say(due, 1, "here");
    // What it tells the index is through.
    await ringAlarm(tenant, due);
    await crash(due);
    const dueMs = Date.now() + 20_000;
    await inStorage(tenant, due, (storage, number) => setAlarm(storage, number, dueMs));
    await client.createSession({ sessionId: other });
    const alarmMs = await runInDurableObject(sessionObject(tenant, due), (_instance, { storage }) =>
      storage.getAlarm(),
    );
    expect(alarmMs).toBeLessThanOrEqual(dueMs);
  });

  it("finds what a lost object left undone", async () => {
    const [lost = "", other = ""] = together(2);
    await say(other, 1, "here");
    const leave = new AbortController();
    const messages = [scripted({ tokens: 60, delayMs: 20 })];
    const stream = client.generate(
      { sessionId: lost, turn: 1, messages, detach: true },
      { signal: leave.signal },
    );
    await stream[Symbol.asyncIterator]().next();
    await crash(lost);
    leave.abort();
    const { dueMs = 0 } = (await occupant(lost)) ?? {};
    expect(dueMs).toBeGreaterThan(0);
    expect(dueMs).toBeLessThanOrEqual(Date.now() + turnWatchMs);
    expect(await ringAlarm(tenant, lost)).toBe(true);
    await vi.waitFor(async () => expect((await transcript(lost)).length).toBe(2), {
      timeout: 15_000,
    });
    expect((await transcript(other)).length).toBe(2);
  });
});
