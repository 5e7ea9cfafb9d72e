/** The rounds of this benchmark, with programs that lie anywhere: in the repository, or packed on another machine. */
import { readFileSync } from "node:fs";
import { alternate } from "../support/child.js";
import { wanted, type BenchOptions } from "../support/section.js";
import { digits } from "../support/stats.js";
import { startTurns, type TurnTaker } from "../support/turns.js";
import { serveGateway, type GatewayProgram, type Server } from "./serve-gateway.js";
import { portkeyHeaders, servePortkey } from "./serve-portkey.js";
import { variantNames, type Round, type VariantName } from "./report.js";
import { instantModel, pacedModel } from "./workload.js";
import type { Load, LoadResult, StubAddresses, Target } from "./workload.js";

/** Turns a second while times are taken: a fraction of what any of them carries, so that times are not those of a queue. */
export const arrivalsPerSecond = 10;
const tokens = 16;
const turns = 10;
const key = "le-dev-benchmark";

/** How long each part of a round takes, and with how many clients at once turns are counted. */
export type Plan = {
  warmMs: number;
  warmTurns: number;
  /** Turns that begin when they are due, and do not count: until the objects of sessions before them are put away. */
  settleMs: number;
  arrivalsMs: number;
  rateMs: number;
  /**
   * Turns at least, all clients together, for each of them, however long they take: first turns cost more, and a few turns of many
   * clients are mostly those.
   */
  turnsOfClientMin: number;
  streams: readonly number[];
  openingStreams: number;
};

/** Rounds that count. */
export const wholePlan: Plan = {
  ...{ warmMs: 2_000, warmTurns: 150, settleMs: 0, arrivalsMs: 4_000, rateMs: 1_200 },
  turnsOfClientMin: turns,
  ...{ streams: [1, 16, 128], openingStreams: 16 },
};
/** Rounds within the tests. */
export const tinyPlan: Plan = {
  ...{ warmMs: 100, warmTurns: 2, settleMs: 1, arrivalsMs: 300, rateMs: 100 },
  turnsOfClientMin: 2,
  ...{ streams: [1, 2], openingStreams: 1 },
};

/** What is run, and where. */
export type Programs = {
  gateway: GatewayProgram;
  /** Portkey's server; undefined: it is not measured. */
  portkey: string | undefined;
  /** Cores that processes have to themselves; undefined: they share those of the machine. */
  cores: Cores | undefined;
};

/** Lists of cores, as taskset takes them. */
export type Cores = {
  /** Of the gateway's process, whichever is measured. */
  gateway: string;
  stub: string;
  clients: string;
};

/** Rounds of each variant so far. */
export type Results = ReadonlyMap<VariantName, readonly Round[]>;

type Variant = { name: VariantName; rounds: number };

/**
 * Runs all variants in turn, in a fresh process each; stub and clients stay.
 *
 * @param onRound told of all results after each round of a variant
 */
export async function measureGateway(
  options: BenchOptions,
  plan: Plan,
  programs: Programs,
  onRound: (results: Results) => void = () => undefined,
): Promise<Results> {
  const names = wanted("variant", variantNames, options.variants).filter(
    (name) => name !== "portkey" || programs.portkey !== undefined,
  );
  const results = new Map<VariantName, Round[]>(names.map((name) => [name, []]));
  const { cores } = programs;
  const start = <T>(script: string, own: string | undefined): Promise<TurnTaker<T>> =>
    startTurns<T>(new URL(script, import.meta.url), {}, own);
  const stub = await start<StubAddresses>("./run-stub.ts", cores?.stub);
  const clients = await start<LoadResult>("./run-clients.ts", cores?.clients);
  try {
    const addresses = await stub.turn("addresses");
    await alternate(
      names.map((name): Variant => ({ name, rounds: options.rounds })),
      async ({ name }, round) => {
        const measured = await runRound(name, round, { programs, addresses, stub, clients, plan });
        results.get(name)?.push(measured);
        options.log(
          `gateway, ${name}: ${measured.saturated.map((rate) => digits(rate.turnsPerSecond)).join(" ")} turns/s`,
        );
        onRound(results);
      },
      options.deadlineMs,
    );
  } finally {
    await Promise.all([stub.stop(), clients.stop()]);
  }
  return results;
}

type Bench = {
  programs: Programs;
  addresses: StubAddresses;
  stub: TurnTaker<StubAddresses>;
  clients: TurnTaker<LoadResult>;
  plan: Plan;
};

async function runRound(name: VariantName, round: number, bench: Bench): Promise<Round> {
  const { clients, plan, stub } = bench;
  const server = await serve(name, bench);
  try {
    const target = targetOf(name, server, bench.addresses);
    let loads = 0;
    const load = (part: Partial<Load> & Pick<Load, "model" | "ms">): Promise<LoadResult> =>
      clients.turn(
        JSON.stringify({
          ...{ target, tokens, turns, label: `${name}-${round}-${loads++}` },
          ...{ streams: 0, arrivalsPerSecond: 0, turnsMin: 1 },
          ...part,
        } satisfies Load),
      );
    const rate = (model: string, streams: number): Promise<LoadResult> =>
      load({ model, streams, ms: plan.rateMs, turnsMin: plan.turnsOfClientMin * streams });
    await load({
      ...{ model: instantModel, streams: 16, ms: plan.warmMs, turnsMin: plan.warmTurns },
    });
    // Without a gateway there is nothing to be put away.
    if (plan.settleMs > 0 && name !== "direct") {
      await load({ model: pacedModel, arrivalsPerSecond, ms: plan.settleMs });
    }
    const arrivals = await load({ model: pacedModel, arrivalsPerSecond, ms: plan.arrivalsMs });
    const pids = { gateway: server.pids, stub: [stub.pid], clients: [clients.pid] };
    const paced: LoadResult[] = [];
    const pacedProcessorMs: number[] = [];
    for (const streams of plan.streams) {
      const begun = processorsMs(pids);
      const seen = await rate(pacedModel, streams);
      paced.push(seen);
      pacedProcessorMs.push(processorsMs(pids, begun).gateway / seen.turns);
    }
    const saturated: LoadResult[] = [];
    const beginMs = performance.now();
    const before = processorsMs(pids);
    for (const streams of plan.streams) saturated.push(await rate(instantModel, streams));
    const mixed = processorsMs(pids, before);
    const wallMs = performance.now() - beginMs;
    const mixedMs = mixed.gateway;
    const openings = await load({
      ...{ model: instantModel, streams: plan.openingStreams, ms: plan.rateMs, turns: 1 },
    });
    const openingsMs = processorsMs(pids, before).gateway - mixedMs;
    return {
      ...{ arrivals, paced, pacedProcessorMs, saturated, openings },
      processorMs: mixedMs / saturated.reduce((sum, one) => sum + one.turns, 0),
      openingProcessorMs: openingsMs / openings.turns,
      residentMib: residentMib(server.pids),
      cores: {
        ...{ gateway: mixed.gateway / wallMs, stub: mixed.stub / wallMs },
        clients: mixed.clients / wallMs,
      },
    };
  } finally {
    await server.stop();
  }
}

async function serve(name: VariantName, { addresses, programs }: Bench): Promise<Server> {
  switch (name) {
    case "direct":
      return { url: addresses.openAiUrl, pids: [], stop: () => Promise.resolve() };
    case "portkey":
      return servePortkey(programs.portkey ?? "", programs.cores?.gateway);
    default:
      return serveGateway(
        programs.gateway,
        {
          LEANEDGE_MODELS: JSON.stringify(
            [pacedModel, instantModel].map((model) => ({ model, engines: 0 })),
          ),
          LEANEDGE_WORKERS: [pacedModel, instantModel]
            .map((model) => `${model}=${addresses.workerUrl}`)
            .join(","),
          LEANEDGE_DEV_KEY: key,
        },
        name === "leanedge-processes" ? programs.gateway.processes : 1,
        programs.cores?.gateway,
      );
  }
}

function targetOf(name: VariantName, { url }: Server, { openAiUrl }: StubAddresses): Target {
  const form = name === "leanedge-connect" ? "connect" : "openai";
  const headers =
    name === "direct"
      ? {}
      : name === "portkey"
        ? portkeyHeaders(openAiUrl)
        : { authorization: `Bearer ${key}` };
  return { form, url, headers };
}

/** Ticks of the kernel's clock a second, as /proc counts. */
const ticksPerSecond = 100;

/** Processes of a round. */
type Pids = Readonly<Record<keyof Round["cores"], readonly number[]>>;

/** Processor time that all processes of each part have taken, since `before` if given. */
function processorsMs(
  pids: Pids,
  before: Round["cores"] = { gateway: 0, stub: 0, clients: 0 },
): Round["cores"] {
  return {
    gateway: total(pids.gateway, processorMs) - before.gateway,
    stub: total(pids.stub, processorMs) - before.stub,
    clients: total(pids.clients, processorMs) - before.clients,
  };
}

/** Sum over processes; NaN for none. */
function total(pids: readonly number[], of: (pid: number) => number): number {
  return pids.length === 0 ? NaN : pids.reduce((sum, pid) => sum + of(pid), 0);
}

/** Processor time that a process has taken. */
function processorMs(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  // Fields from the third on: the second is a name that may hold anything, in brackets.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return ((Number(fields[11]) + Number(fields[12])) * 1000) / ticksPerSecond;
}

function residentMib(pids: readonly number[]): number {
  return total(pids, residentMibOf);
}

function residentMibOf(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  return Number(/^VmRSS:\s+(?<kib>\d+) kB$/m.exec(status)?.groups?.["kib"]) / 1024;
}
