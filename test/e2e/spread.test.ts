/**
 * A bundled gateway whose sessions are moved between numbers of objects and of processes, with all else that it stored; and what
 * keeps a gateway and a move from running over the same storage, or one that looks for sessions where they are not.
 */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setImmediate as tick } from "node:timers/promises";
import { Code, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { packagePath } from "../../src/cli/repository.js";
import { spreadObjects } from "../../src/cli/spread-objects.js";
import { bearerToken } from "../../src/client/bearer-token.js";
import { createLeanedgeClient, type LeanedgeClient } from "../../src/client/index.js";
import { KeyService } from "../../src/gen/leanedge/admin/v1/key_pb.js";
import { bundledGateway, type BundledGateway } from "../support/bundled-gateway.js";
import {
  poolTokenVars,
  poolWorkers,
  writePoolTokens,
  type PoolWorkers,
} from "../support/pool-workers.js";
import { poolVars, poolWorkerOptions, writePoolModel } from "../support/workerd-pool.js";
import { runPlaced, talkPlaced } from "./seen-turn.js";
import { transcript, type StoredMessage, type TurnPlan } from "./talk.js";

const plans: readonly TurnPlan[] = [
  { text: "What is at the harbor?", maxTokens: 10 },
  { text: "Who lives in the garden?", maxTokens: 8 },
];
const next: TurnPlan = { text: "And what comes after that?", maxTokens: 6 };
/** Tenant of the keys that are made. */
const tenant = "acme";

let gateway: BundledGateway;
let workers: PoolWorkers;

beforeAll(async () => {
  gateway = await bundledGateway(poolVars);
  const tokens = await writePoolTokens();
  const model = await writePoolModel(tokens.folder);
  workers = poolWorkers(gateway.url, tokens, poolWorkerOptions(model));
});

afterAll(async () => {
  await workers.close();
  await gateway.close();
});

describe("what a bundled gateway stored", () => {
  const sessionIds = Array.from({ length: 7 }, (_, index) => `session ${index}`);
  /** Clients by their keys: of the configuration, without limits, and with one turn a day. */
  let clients: Record<"dev" | "open" | "limited", LeanedgeClient>;
  let told: readonly TurnPlan[] = plans;
  const seen = new Map<string, StoredMessage[]>();

  async function listed(client: LeanedgeClient): Promise<string[]> {
    const { sessions } = await client.sessions.listSessions({ pageSize: 100 });
    return sessions.map(({ sessionId }) => sessionId).sort();
  }

  beforeAll(async () => {
    expect(await gateway.bundle("--session-objects", "0")).toContain("sessions: an object each");
    await gateway.start();
    await workers.start("one");
    const keys = createClient(
      KeyService,
      createConnectTransport({
        baseUrl: gateway.url,
        httpVersion: "1.1",
        interceptors: bearerToken(poolTokenVars.LEANEDGE_ADMIN_TOKEN),
      }),
    );
    const made = async (name: string, sessions: number): Promise<LeanedgeClient> => {
      const { key } = await keys.createKey({ tenant, name, limits: { sessions } });
      return createLeanedgeClient({ baseUrl: gateway.url, key });
    };
    clients = {
      dev: createLeanedgeClient({ baseUrl: gateway.url, key: gateway.key }),
      open: await made("open", 0),
      limited: await made("limited", 1),
    };
    for (const id of sessionIds) await talkPlaced(clients.dev, id, 1, plans);
    await talkPlaced(clients.open, "of acme", 1, plans);
    await runPlaced(clients.limited, "only one", 1, next);
    await clients.dev.sessions.forkSession({
      ...{ sessionId: sessionIds[0] ?? "", turn: 1, newSessionId: "fork" },
    });
    for (const id of [...sessionIds, "fork"]) seen.set(id, await transcript(clients.dev, id));
  });

  it("is in its tenants' lists", async () => {
    await expect.poll(() => listed(clients.dev)).toEqual([...seen.keys()].sort());
    await expect.poll(() => listed(clients.open)).toEqual(["of acme", "only one"]);
  });

  it.each([
    { processes: 1, objects: 1 },
    { processes: 2, objects: 2 },
    { processes: 3, objects: 7 },
    { processes: 1, objects: 16 },
    { processes: 2, objects: 0 },
    { processes: 1, objects: 1 },
  ])("is all there with $processes processes and $objects objects", async (counts) => {
    const { processes, objects } = counts;
    const options = ["--processes", `${processes}`, "--session-objects", `${objects}`];
    await gateway.stop();
    await gateway.spread(...options);
    await gateway.bundle(...options);
    await gateway.start();
    await workers.ready("one");

    const { dev, open, limited } = clients;
    expect(await listed(dev)).toEqual([...seen.keys()].sort());
    expect(await listed(open)).toEqual(["of acme", "only one"]);
    for (const [id, messages] of seen) expect(await transcript(dev, id)).toEqual(messages);
    await expect(runPlaced(limited, "one too many", 1, next)).rejects.toMatchObject({
      code: Code.ResourceExhausted,
    });

    // All go on, each as one would that was told the same anew.
    told = [...told, next];
    const anew = await talkPlaced(dev, `told anew ${told.length}`, 1, told);
    for (const id of sessionIds) {
      const went = await runPlaced(dev, id, told.length, next);
      expect(went.text).toBe(anew.at(-1)?.text);
      expect(went.promptTokens).toBe(anew.at(-1)?.promptTokens);
    }
    expect((await runPlaced(open, "of acme", told.length, next)).text).toBe(anew.at(-1)?.text);
    await dev.sessions.deleteSession({ sessionId: `told anew ${told.length}` });
    for (const id of seen.keys()) seen.set(id, await transcript(dev, id));
    await expect.poll(() => listed(dev)).toEqual([...seen.keys()].sort());
  });
});

describe("a bundle of one process", () => {
  it("does not start over sessions in another number of objects than it was written for", async () => {
    await gateway.stop();
    await gateway.spread("--processes", "1", "--session-objects", "3");
    await expect(gateway.start()).rejects.toThrow(
      `the sessions in ${gateway.storage} are kept in 3 objects that they share, not in 1 object that they share: ` +
        `"leanedge spread --storage ${gateway.storage} --processes 1 --session-objects 1" moves them`,
    );
  });

  it("loses nothing that plain workerd stored where no gateway of the other number looks", async () => {
    const client = createLeanedgeClient({ baseUrl: gateway.url, key: gateway.key });
    const config = join(gateway.folder, "workerd.capnp");
    const plain = spawn("workerd", ["serve", config], { env: gateway.env, stdio: "ignore" });
    const ended = once(plain, "exit");
    await expect
      .poll(() =>
        fetch(`${gateway.url}/healthz`).then(
          ({ status }) => status,
          () => 0,
        ),
      )
      .toBe(200);
    await workers.ready("one");
    await talkPlaced(client, "astray", 1, plans);
    const told = await transcript(client, "astray");
    plain.kill("SIGKILL");
    await ended;

    await gateway.bundle();
    await gateway.start();
    await expect(transcript(client, "astray")).rejects.toMatchObject({ code: Code.NotFound });
    await gateway.stop();
    const counts = ["--processes", "1", "--session-objects", "3"];
    expect(await gateway.spread(...counts)).toContain("sessions moved to other objects");
    await gateway.start();
    expect(await transcript(client, "astray")).toEqual(told);
    expect(told).toHaveLength(2 * plans.length);
    await gateway.stop();
  });
});

describe("a storage", () => {
  it("is not moved, and has no other gateway, while one runs", async () => {
    await gateway.start();
    const left = readdirSync(gateway.storage);
    const refused = `a gateway runs over ${gateway.storage}: end it first`;
    await expect(gateway.spread("--processes", "1", "--session-objects", "2")).rejects.toThrow(
      refused,
    );
    expect(startedBeside("start.mjs")).toContain(refused);
    expect(readdirSync(gateway.storage)).toEqual(left);
    await gateway.stop();
  });

  it("has no process of a gateway any more that was ended while it started", async () => {
    const starter = spawn(process.execPath, [join(gateway.folder, "start.mjs")], {
      ...{ env: gateway.env, stdio: "ignore" },
    });
    const ended = once(starter, "exit");
    const children = `/proc/${starter.pid}/task/${starter.pid}/children`;
    while (readFileSync(children, "utf8") === "") await tick();
    starter.kill("SIGTERM");
    await ended;
    await gateway.start();
    await gateway.stop();
  });

  it("has no gateway while it is moved, plain workerd neither", async () => {
    const moved = spreadObjects(gateway.storage, 1, 2);
    while (!readdirSync(gateway.storage).includes("moving")) await tick();
    // The move waits meanwhile.
    const refused = `"leanedge spread" is moving the sessions in ${gateway.storage}: wait until it has ended`;
    expect(startedBeside("start.mjs")).toContain(refused);
    expect(startedBeside("workerd.capnp")).toContain("database is locked");
    expect(bundledBeside()).toContain(refused);
    expect(readdirSync(gateway.storage)).toContain("moving");
    expect(await moved).toMatchObject({ sessions: 11 });
    await gateway.bundle();
    await gateway.start();
  });

  /** Starts the bundle once more, by its starter or as workerd's configuration, and gives what it says when it ends by itself. */
  function startedBeside(file: string): string {
    const path = join(gateway.folder, file);
    const [command, words] =
      file === "start.mjs" ? [process.execPath, [path]] : ["workerd", ["serve", path]];
    const { status, stderr } = spawnSync(command, words, {
      ...{ env: gateway.env, encoding: "utf8", timeout: 30_000 },
    });
    expect(status).toBe(1);
    return stderr;
  }

  /** Writes another bundle for the storage, and gives what that says when it fails. */
  function bundledBeside(): string {
    const { status, stderr } = spawnSync(
      process.execPath,
      [
        ...["--import", "tsx", packagePath("src/cli/main.ts"), "bundle"],
        ...["--storage", gateway.storage, "--out", join(gateway.folder, "other")],
      ],
      { env: gateway.env, encoding: "utf8", timeout: 30_000 },
    );
    expect(status).toBe(1);
    return stderr;
  }
});
