/** What the gateway adds to a worker's answers, next to Portkey's gateway. See README.md beside this file. */
import { readFileSync } from "node:fs";
import { alternate } from "../support/child.js";
import { wanted, type BenchOptions, type Section } from "../support/section.js";
import { digits } from "../support/stats.js";
import { startTurns, type TurnTaker } from "../support/turns.js";
import { bundleGateway, serveGateway, type GatewayBundle, type Server } from "./serve-gateway.js";
import { portkey, portkeyHeaders, servePortkey } from "./serve-portkey.js";
import { section, variantNames, type Round, type VariantName } from "./report.js";
import { instantModel, pacedModel } from "./workload.js";
import type { Load, LoadResult, StubAddresses, Target } from "./workload.js";

/** Turns a second while times are taken: a fraction of what any of them carries, so that times are not those of a queue. */
const arrivalsPerSecond = 10;
const tokens = 16;
const turns = 10;
const key = "le-dev-benchmark";

/** How long each part of a round takes, and with how many clients at once turns are counted. */
type Plan = {
  warmMs: number;
  warmTurns: number;
  arrivalsMs: number;
  rateMs: number;
  streams: readonly number[];
  openingStreams: number;
};

const wholePlan: Plan = {
  ...{ warmMs: 2_000, warmTurns: 150, arrivalsMs: 4_000, rateMs: 1_200 },
  ...{ streams: [1, 16, 128], openingStreams: 16 },
};
const tinyPlan: Plan = {
  ...{ warmMs: 100, warmTurns: 2, arrivalsMs: 300, rateMs: 100 },
  ...{ streams: [1, 2], openingStreams: 1 },
};

type Variant = { name: VariantName; rounds: number };

/** Runs all variants in turn, in a fresh process each; stub and clients stay. */
export async function runGateway(options: BenchOptions): Promise<Section> {
  const names = wanted("variant", variantNames, options.variants).filter(
    (name) => name !== "portkey" || portkey.present,
  );
  const results = new Map<VariantName, Round[]>(names.map((name) => [name, []]));
  const plan = options.tiny ? tinyPlan : wholePlan;
  const bundle = await bundleGateway();
  const stub = await startTurns<StubAddresses>(new URL("./run-stub.ts", import.meta.url), {});
  const clients = await startTurns<LoadResult>(new URL("./run-clients.ts", import.meta.url), {});
  try {
    const addresses = await stub.turn("addresses");
    await alternate(
      names.map((name): Variant => ({ name, rounds: options.rounds })),
      async ({ name }, round) => {
        const measured = await runRound(name, round, { bundle, addresses, clients, plan });
        results.get(name)?.push(measured);
        options.log(
          `gateway, ${name}: ${measured.saturated.map((rate) => digits(rate.turnsPerSecond)).join(" ")} turns/s`,
        );
      },
      options.deadlineMs,
    );
  } finally {
    await Promise.all([stub.stop(), clients.stop(), bundle.remove()]);
  }
  return section(results, plan.streams, arrivalsPerSecond);
}

type Bench = {
  bundle: GatewayBundle;
  addresses: StubAddresses;
  clients: TurnTaker<LoadResult>;
  plan: Plan;
};

async function runRound(name: VariantName, round: number, bench: Bench): Promise<Round> {
  const { clients, plan } = bench;
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
      load({ model, streams, ms: plan.rateMs, turnsMin: 2 * streams });
    await load({
      ...{ model: instantModel, streams: 16, ms: plan.warmMs, turnsMin: plan.warmTurns },
    });
    const arrivals = await load({ model: pacedModel, arrivalsPerSecond, ms: plan.arrivalsMs });
    const paced: LoadResult[] = [];
    for (const streams of plan.streams) paced.push(await rate(pacedModel, streams));
    const saturated: LoadResult[] = [];
    const beginMs = processorMs(server.pid);
    for (const streams of plan.streams) saturated.push(await rate(instantModel, streams));
    const mixedMs = processorMs(server.pid) - beginMs;
    const openings = await load({
      ...{ model: instantModel, streams: plan.openingStreams, ms: plan.rateMs, turns: 1 },
    });
    const openingsMs = processorMs(server.pid) - beginMs - mixedMs;
    return {
      ...{ arrivals, paced, saturated, openings },
      processorMs: mixedMs / saturated.reduce((sum, one) => sum + one.turns, 0),
      openingProcessorMs: openingsMs / openings.turns,
      residentMib: residentMib(server.pid),
    };
  } finally {
    await server.stop();
  }
}

async function serve(name: VariantName, { addresses, bundle }: Bench): Promise<Server> {
  switch (name) {
    case "direct":
      return { url: addresses.openAiUrl, pid: 0, stop: () => Promise.resolve() };
    case "portkey":
      return servePortkey();
    default:
      return serveGateway(bundle, {
        LEANEDGE_MODELS: JSON.stringify(
          [pacedModel, instantModel].map((model) => ({ model, engines: 0 })),
        ),
        LEANEDGE_WORKERS: [pacedModel, instantModel]
          .map((model) => `${model}=${addresses.workerUrl}`)
          .join(","),
        LEANEDGE_DEV_KEY: key,
      });
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

/** Processor time that a process has taken; NaN for none. */
function processorMs(pid: number): number {
  if (pid === 0) return NaN;
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  // Fields from the third on: the second is a name that may hold anything, in brackets.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return ((Number(fields[11]) + Number(fields[12])) * 1000) / ticksPerSecond;
}

function residentMib(pid: number): number {
  if (pid === 0) return NaN;
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  return Number(/^VmRSS:\s+(?<kib>\d+) kB$/m.exec(status)?.groups?.["kib"]) / 1024;
}
