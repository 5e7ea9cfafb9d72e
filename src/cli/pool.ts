/** `leanedge pool`: look at the workers of a gateway, and take them out of service and back. */
import { toJson } from "@bufbuild/protobuf";
import type { Client } from "@connectrpc/connect";
import type { Command } from "commander";
import {
  BreakerState,
  PoolAdminService,
  PoolWorkerSchema,
  WorkerOrigin,
  WorkerState,
  type PoolWorker,
} from "../gen/leanedge/pool/v1/pool_pb.js";
import { adminClient, type AdminFlags } from "./admin-client.js";
import { alignedTable, type Column } from "./table.js";

interface PoolFlags extends AdminFlags {
  readonly pool: string;
  readonly json: boolean;
}

/** Adds the commands to the program. */
export function addPoolCommands(program: Command): void {
  const pool = program.command("pool").description("workers of a gateway");
  const add = (name: string, description: string): Command =>
    pool
      .command(name)
      .description(description)
      .option("--gateway <url>", "address of the gateway", "http://127.0.0.1:8787")
      .requiredOption("--admin-token-file <file>", "file with the gateway's admin token")
      .option("--pool <name>", "name of the pool (default: all to list, else the first one)", "")
      .option("--json", "print JSON", false);
  add("list", "list the workers with their state and load").action(list);
  const operate = (
    name: string,
    description: string,
    call: (client: AdminClient, request: { pool: string; name: string }) => Promise<PoolWorker>,
  ): void => {
    add(name, description)
      .argument("<worker>", "name of the worker, as the list shows it")
      .action(async (worker: string, flags: PoolFlags) => {
        const client = await adminClient(PoolAdminService, flags);
        print([await call(client, { pool: flags.pool, name: worker })], flags.json);
      });
  };
  operate(
    "drain",
    "give a worker no new session, and move its sessions with their next turn",
    async (client, request) => known((await client.drainWorker(request)).worker),
  );
  operate("resume", "take a drain back", async (client, request) =>
    known((await client.resumeWorker(request)).worker),
  );
  operate("evict", "take a worker's process out for good", async (client, request) =>
    known((await client.evictWorker(request)).worker),
  );
}

type AdminClient = Client<typeof PoolAdminService>;

async function list(flags: PoolFlags): Promise<void> {
  const client = await adminClient(PoolAdminService, flags);
  print((await client.listWorkers({ pool: flags.pool })).workers, flags.json);
}

function known(worker: PoolWorker | undefined): PoolWorker {
  if (worker === undefined) {
    throw new Error("the gateway answers without the worker");
  }
  return worker;
}

const columns: readonly Column<PoolWorker>[] = [
  ["POOL", ({ pool }) => pool],
  ["WORKER", ({ name }) => name],
  ["ORIGIN", ({ origin }) => words(WorkerOrigin[origin])],
  ["STATE", ({ state }) => words(WorkerState[state])],
  ["BREAKER", ({ breaker }) => words(BreakerState[breaker])],
  ["STATE FOR", ({ stateMs }) => age(stateMs)],
  ["HEARD", ({ heardMsAgo, origin }) => (origin === WorkerOrigin.EMBEDDED ? "-" : age(heardMsAgo))],
  ["RUNNING", ({ load }) => String(load?.running ?? 0)],
  ["QUEUED", ({ load }) => String(load?.queued ?? 0)],
  ["SEQUENCES", ({ load }) => String(load?.sequences ?? 0)],
  ["PAGES FREE", ({ load }) => `${load?.pagesFree ?? 0}/${load?.pages ?? 0}`],
  ["TOKENS/S", ({ load }) => (load?.tokensPerSecond ?? 0).toFixed(0)],
  ["CROWDED", ({ crowded }) => (crowded ? "yes" : "no")],
  ["PLACED", ({ placed }) => String(placed)],
  ["MOVED", ({ moved }) => String(moved)],
  ["FAILURES", ({ failures }) => String(failures)],
  ["MODELS", ({ models }) => models.map(({ model }) => model).join(",")],
  ["ADDRESS", ({ address }) => address],
  ["REASON", ({ reason }) => reason],
];

/** One line a worker, columns aligned. */
export function poolTable(workers: readonly PoolWorker[]): string[] {
  return alignedTable(columns, workers);
}

/** The workers as JSON, with all fields of each. */
export function poolJson(workers: readonly PoolWorker[]): string {
  const list = workers.map((worker) =>
    toJson(PoolWorkerSchema, worker, { alwaysEmitImplicit: true }),
  );
  return JSON.stringify({ workers: list }, undefined, 2);
}

function print(workers: readonly PoolWorker[], json: boolean): void {
  if (json) {
    console.log(poolJson(workers));
    return;
  }
  for (const line of poolTable(workers)) console.log(line);
}

/** A time as people read it: 950ms, 12s, 5m, 3h, 2d. */
function age(ms: bigint): string {
  const units = [
    ["ms", 1n],
    ["s", 1_000n],
    ["m", 60_000n],
    ["h", 3_600_000n],
    ["d", 86_400_000n],
  ] as const;
  const [unit, length] = units.findLast(([, from]) => ms >= from) ?? units[0];
  return `${ms / length}${unit}`;
}

/** A name of an enum's value, as people read it. */
function words(name: string): string {
  return name.toLowerCase().replaceAll("_", " ");
}
