/** What the gateway adds to a worker's answers, next to Portkey's gateway. See README.md beside this file. */
import { readFileSync } from "node:fs";
import { alternate } from "../support/child.js";
import type { Figure } from "../support/figures.js";
import { barChart } from "../support/plot.js";
import { wanted, type BenchOptions, type Section } from "../support/section.js";
import { digits, median, rounds } from "../support/stats.js";
import { startTurns, type TurnTaker } from "../support/turns.js";
import { bundleGateway, serveGateway, type GatewayBundle, type Server } from "./serve-gateway.js";
import { portkey, portkeyHeaders, servePortkey } from "./serve-portkey.js";
import { instantModel, pacedModel } from "./workload.js";
import type { Load, LoadResult, StubAddresses, Target } from "./workload.js";

const addedMsMedianMax = 2;
const addedMsTailMax = 10;
/** Clients at once while times are taken: few, so that times are not those of a queue. */
const pacedStreams = 4;
const tokens = 16;
const turns = 10;
const key = "le-dev-benchmark";
const image = "bench-gateway.svg";

const variantNames = ["direct", "portkey", "leanedge", "leanedge-connect"] as const;
type VariantName = (typeof variantNames)[number];

const titles: Readonly<Record<VariantName, string>> = {
  direct: "the stub, no gateway",
  portkey: "Portkey, OpenAI's form",
  leanedge: "leanedge, OpenAI's form",
  "leanedge-connect": "leanedge, Connect",
};

/** How long each part of a round takes, and with how many clients at once turns are counted. */
type Plan = {
  warmMs: number;
  warmTurns: number;
  pacedMs: number;
  rateMs: number;
  streams: readonly number[];
};

const wholePlan: Plan = {
  ...{ warmMs: 2_000, warmTurns: 150, pacedMs: 2_500, rateMs: 1_200 },
  streams: [1, 16, 128],
};
const tinyPlan: Plan = {
  ...{ warmMs: 100, warmTurns: 2, pacedMs: 300, rateMs: 100 },
  streams: [1, 2],
};

/** One round of one variant. */
type Round = {
  paced: LoadResult;
  /** By Plan.streams. */
  rates: LoadResult[];
  /** Processor time of the gateway's process in the rates, a turn; NaN without a gateway. */
  processorMs: number;
  /** What its process holds at the end; NaN without a gateway. */
  residentMib: number;
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
          `gateway, ${name}: ${measured.rates.map((rate) => digits(rate.turnsPerSecond)).join(" ")} turns/s`,
        );
      },
      options.deadlineMs,
    );
  } finally {
    await Promise.all([stub.stop(), clients.stop(), bundle.remove()]);
  }
  return section(results, plan.streams);
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
    const load = (part: Pick<Load, "model" | "streams" | "ms" | "turnsMin">): Promise<LoadResult> =>
      clients.turn(
        JSON.stringify({
          ...{ target, tokens, turns, label: `${name}-${round}-${loads++}` },
          ...part,
        } satisfies Load),
      );
    await load({
      ...{ model: instantModel, streams: 16, ms: plan.warmMs, turnsMin: plan.warmTurns },
    });
    const paced = await load({
      ...{ model: pacedModel, streams: pacedStreams, ms: plan.pacedMs, turnsMin: pacedStreams },
    });
    const rates: LoadResult[] = [];
    const beginMs = processorMs(server.pid);
    for (const streams of plan.streams) {
      const turnsMin = 2 * streams;
      rates.push(await load({ model: instantModel, streams, ms: plan.rateMs, turnsMin }));
    }
    const spentMs = processorMs(server.pid) - beginMs;
    return {
      paced,
      rates,
      processorMs: spentMs / rates.reduce((sum, rate) => sum + rate.turns, 0),
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

/** A share of the values, the smallest first. */
function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? NaN;
}

/** All rounds of a variant. */
class Summary {
  readonly #rounds: readonly Round[];
  readonly #firstTokenMs: readonly number[];
  readonly #lagMs: readonly number[];

  constructor(all: readonly Round[]) {
    this.#rounds = all;
    this.#firstTokenMs = all.flatMap(({ paced }) => paced.firstTokenMs);
    this.#lagMs = all.flatMap(({ paced }) => paced.tokenLagMs);
  }

  /** Of all first tokens; the rate run's own times are those of a queue. */
  firstTokenMs(share: number): number {
    return quantile(this.#firstTokenMs, share);
  }

  /** From sent to seen, of all tokens but the first. */
  lagMs(share: number): number {
    return quantile(this.#lagMs, share);
  }

  /** Turns a second of each round, with Plan.streams[index] clients. */
  rates(index: number): number[] {
    return this.#rounds.map(({ rates }) => rates[index]?.turnsPerSecond ?? NaN);
  }

  /** Processor time of a turn. */
  get processorMs(): number {
    return median(this.#rounds.map((round) => round.processorMs));
  }

  /** Memory of the process. */
  get residentMib(): number {
    return median(this.#rounds.map((round) => round.residentMib));
  }

  /** Share of all turns that failed. */
  get failed(): number {
    const all = this.#rounds.flatMap(({ paced, rates }) => [paced, ...rates]);
    const failed = all.reduce((sum, one) => sum + one.failed, 0);
    return failed / (failed + all.reduce((sum, one) => sum + one.turns, 0));
  }

  /** The smallest share of later turns that found their cache, in any round. */
  get affinity(): number {
    return Math.min(
      ...this.#rounds.flatMap(({ paced, rates }) => [paced, ...rates].map((one) => one.affinity)),
    );
  }
}

function section(
  results: ReadonlyMap<VariantName, readonly Round[]>,
  streamCounts: readonly number[],
): Section {
  const summaries = new Map<VariantName, Summary>();
  for (const [name, all] of results) if (all.length > 0) summaries.set(name, new Summary(all));
  const direct = summaries.get("direct");
  // Against the stub's median, whatever the quantile: its own tail is this machine's, and no merit of a gateway.
  const addedFirstMs = (of: Summary, share: number): number =>
    of.firstTokenMs(share) - (direct?.firstTokenMs(0.5) ?? NaN);
  const addedLagMs = (of: Summary, share: number): number =>
    of.lagMs(share) - (direct?.lagMs(0.5) ?? NaN);
  const cell = (value: number): string => (Number.isNaN(value) ? "-" : digits(value));
  const rows = [...summaries].map(([name, of]) => {
    const times =
      name === "direct"
        ? [`(${cell(of.firstTokenMs(0.5))})`, `(${cell(of.firstTokenMs(0.99))})`]
        : [cell(addedFirstMs(of, 0.5)), cell(addedFirstMs(of, 0.99))];
    const lags =
      name === "direct"
        ? [`(${cell(of.lagMs(0.5))})`, `(${cell(of.lagMs(0.99))})`]
        : [cell(addedLagMs(of, 0.5)), cell(addedLagMs(of, 0.99))];
    const rates = streamCounts.map((_, index) => cell(median(of.rates(index))));
    return `| ${[titles[name], ...times, ...lags, ...rates, cell(of.processorMs), cell(of.residentMib)].join(" | ")} |`;
  });
  const each = [...summaries].map(
    ([name, of]) =>
      `| ${titles[name]} | ${streamCounts.map((_, index) => rounds(of.rates(index))).join(" | ")} |`,
  );
  const heads = streamCounts.map((streams) => `turns/s, ${clientsOf(streams)}`).join(" | ");
  const markdown = [
    [
      `| gateway | first token, ms added: p50 | p99 | each token, ms added: p50 | p99 | ${heads} | processor, ms a turn | memory, MiB |`,
      `| --- | --- | --- | --- | --- | ${streamCounts.map(() => "---").join(" | ")} | --- | --- |`,
      ...rows,
    ].join("\n"),
    "In brackets: what the stub takes without a gateway; the others count from its median.",
    ["| turns/s, each round | 1 client | 16 | 128 |", "| --- | --- | --- | --- |", ...each].join(
      "\n",
    ),
  ].join("\n\n");
  return {
    name: "gateway",
    markdown,
    figures: figuresOf(summaries, streamCounts, addedFirstMs),
    images: new Map([[image, chart(summaries, streamCounts)]]),
  };
}

function clientsOf(streams: number): string {
  return `${streams} client${streams === 1 ? "" : "s"}`;
}

function figuresOf(
  summaries: ReadonlyMap<VariantName, Summary>,
  streamCounts: readonly number[],
  addedFirstMs: (of: Summary, share: number) => number,
): Figure[] {
  const ours = summaries.get("leanedge");
  const peer = summaries.get("portkey");
  const figures: Figure[] = [];
  if (ours === undefined) return figures;
  if (summaries.has("direct")) {
    for (const [name, share, bound] of [
      ["p50", 0.5, addedMsMedianMax],
      ["p99", 0.99, addedMsTailMax],
    ] as const) {
      figures.push({
        name: `gateway, time added to the first token, ${name}`,
        measured: addedFirstMs(ours, share),
        ...{ bound, sense: "at most", unit: "ms" },
      });
    }
  }
  for (const [index, streams] of peer === undefined ? [] : streamCounts.entries()) {
    figures.push({
      name: `gateway, turns a second with ${clientsOf(streams)}, against Portkey`,
      // Each round by itself: its halves had the same machine.
      measured: median(
        ours.rates(index).map((rate, round) => rate / (peer?.rates(index)[round] ?? NaN)),
      ),
      ...{ bound: 1, sense: "at least", unit: "x" },
    });
  }
  figures.push({
    name: "gateway, turns that failed",
    measured: ours.failed,
    ...{ bound: 0, sense: "exactly", unit: "share" },
  });
  figures.push({
    name: "gateway, later turns of a session that found their cache",
    measured: ours.affinity,
    ...{ bound: 1, sense: "exactly", unit: "share" },
  });
  return figures;
}

function chart(
  summaries: ReadonlyMap<VariantName, Summary>,
  streamCounts: readonly number[],
): string {
  const shown = [...summaries].filter(([name]) => name !== "direct");
  return barChart({
    title: "Turns a second through a gateway",
    series: shown.map(([name]) => titles[name]),
    scale: "each",
    groups: streamCounts.map((streams, index) => ({
      label: clientsOf(streams),
      values: shown.map(([, of]) => median(of.rates(index))),
    })),
  });
}
