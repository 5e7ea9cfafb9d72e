/** `leanedge pool`: look at the workers of a gateway, and take them out of service and back. */
import { readFile } from "node:fs/promises";
import { createClient, type Client } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import type { Command } from "commander";
import { bearerToken } from "../client/bearer-token.js";
import {
  BreakerState,
  PoolAdminService,
  WorkerOrigin,
  WorkerState,
  type PoolWorker,
} from "../gen/leanedge/pool/v1/pool_pb.js";

/** Deadline of one call. */
const callMsMax = 30_000;

interface PoolFlags {
  readonly gateway: string;
  readonly adminTokenFile: string;
  readonly pool: string;
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
      .option("--pool <name>", "name of the pool (default: all to list, else the first one)", "");
  add("list", "list the workers with their state and load").action(list);
  const operate = (
    name: string,
    description: string,
    call: (client: AdminClient, request: { pool: string; name: string }) => Promise<PoolWorker>,
  ): void => {
    add(name, description)
      .argument("<worker>", "name of the worker, as the list shows it")
      .action(async (worker: string, flags: PoolFlags) => {
        const client = await adminClient(flags);
        print([await call(client, { pool: flags.pool, name: worker })]);
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
  const client = await adminClient(flags);
  print((await client.listWorkers({ pool: flags.pool })).workers);
}

async function adminClient({ gateway, adminTokenFile }: PoolFlags): Promise<AdminClient> {
  const token = (await readFile(adminTokenFile, "utf8")).trim();
  return createClient(
    PoolAdminService,
    createConnectTransport({
      baseUrl: gateway,
      httpVersion: "1.1",
      defaultTimeoutMs: callMsMax,
      interceptors: bearerToken(token),
    }),
  );
}

function known(worker: PoolWorker | undefined): PoolWorker {
  if (worker === undefined) {
    throw new Error("the gateway answers without the worker");
  }
  return worker;
}

const columns: readonly (readonly [head: string, cell: (worker: PoolWorker) => string])[] = [
  ["POOL", ({ pool }) => pool],
  ["WORKER", ({ name }) => name],
  ["ORIGIN", ({ origin }) => words(WorkerOrigin[origin])],
  ["STATE", ({ state }) => words(WorkerState[state])],
  ["BREAKER", ({ breaker }) => words(BreakerState[breaker])],
  ["RUNNING", ({ load }) => String(load?.running ?? 0)],
  ["QUEUED", ({ load }) => String(load?.queued ?? 0)],
  ["SEQUENCES", ({ load }) => String(load?.sequences ?? 0)],
  ["PAGES FREE", ({ load }) => `${load?.pagesFree ?? 0}/${load?.pages ?? 0}`],
  ["TOKENS/S", ({ load }) => (load?.tokensPerSecond ?? 0).toFixed(0)],
  ["PLACED", ({ placed }) => String(placed)],
  ["FAILURES", ({ failures }) => String(failures)],
  ["MODELS", ({ models }) => models.map(({ model }) => model).join(",")],
  ["ADDRESS", ({ address }) => address],
  ["REASON", ({ reason }) => reason],
];

/** One line a worker, columns aligned. */
export function poolTable(workers: readonly PoolWorker[]): string[] {
  const rows = [
    columns.map(([head]) => head),
    ...workers.map((worker) => columns.map(([, cell]) => cell(worker))),
  ];
  const widths = columns.map((_, at) => Math.max(...rows.map((row) => row[at]?.length ?? 0)));
  return rows.map((row) =>
    row
      .map((cell, at) => cell.padEnd(widths[at] ?? 0))
      .join("  ")
      .trimEnd(),
  );
}

function print(workers: readonly PoolWorker[]): void {
  for (const line of poolTable(workers)) console.log(line);
}

/** A name of an enum's value, as people read it. */
function words(name: string): string {
  return name.toLowerCase().replaceAll("_", " ");
}
