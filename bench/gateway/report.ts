/** What the rounds of this benchmark come to: tables, figures with a target, and a picture. */
import { textIntervalMsMaxDefault } from "../../src/gateway/limits.js";
import type { Figure } from "../support/figures.js";
import { barChart } from "../support/plot.js";
import type { Section } from "../support/section.js";
import { digits, median, percent, quantile, rounds } from "../support/stats.js";
import type { LoadResult } from "./workload.js";

const addedMsMedianMax = 2;
const addedMsTailMax = 10;
const image = "bench-gateway.svg";

/** What is measured, in the order of the tables. */
export const variantNames = [
  "direct",
  "portkey",
  "leanedge",
  "leanedge-connect",
  "leanedge-processes",
] as const;
/** See variantNames. */
export type VariantName = (typeof variantNames)[number];

const titles: Readonly<Record<VariantName, string>> = {
  direct: "the stub, no gateway",
  portkey: "Portkey, OpenAI's form",
  leanedge: "leanedge, OpenAI's form",
  "leanedge-connect": "leanedge, Connect",
  "leanedge-processes": "leanedge, several processes, OpenAI's form",
};

/** One round of one variant. */
export type Round = {
  /** The model of a fixed rate, turns that begin when they are due. */
  arrivals: LoadResult;
  /** The same model, by numbers of clients. */
  paced: LoadResult[];
  /** Processor time of the gateway's processes in each of these, a turn; NaN without a gateway. */
  pacedProcessorMs: number[];
  /** The model that answers at once, by numbers of clients. */
  saturated: LoadResult[];
  /** The same with sessions of one turn. */
  openings: LoadResult;
  /** Processor time of the gateway's processes in `saturated`, a turn; NaN without a gateway. */
  processorMs: number;
  /** The same in `openings`. */
  openingProcessorMs: number;
  /** What its processes hold at the end; NaN without a gateway. */
  residentMib: number;
  /** Cores that each process has kept busy in `saturated`: 1 is one core all the time; NaN for none. */
  cores: { gateway: number; stub: number; clients: number };
};

/** All rounds of a variant. */
class Summary {
  readonly #rounds: readonly Round[];

  constructor(all: readonly Round[]) {
    this.#rounds = all;
  }

  /** First tokens of turns that began when they were due. */
  firstTokenMs(share: number): number {
    return quantile(
      this.#rounds.flatMap(({ arrivals }) => arrivals.firstTokenMs),
      share,
    );
  }

  /** From sent to seen, of all tokens of such turns but the first. */
  lagMs(share: number): number {
    return quantile(
      this.#rounds.flatMap(({ arrivals }) => arrivals.tokenLagMs),
      share,
    );
  }

  /** From sent to seen, of all tokens of the paced model but the first, with the index-th number of clients. */
  pacedLagMs(index: number, share: number): number {
    return quantile(
      this.#rounds.flatMap(({ paced }) => paced[index]?.tokenLagMs ?? []),
      share,
    );
  }

  /** Processor time of a turn of the paced model, with the index-th number of clients. */
  pacedProcessorMs(index: number): number {
    return median(this.#rounds.map((round) => round.pacedProcessorMs[index] ?? NaN));
  }

  /** First tokens at saturation, with the index-th number of clients: times of a queue. */
  queuedMs(index: number, share: number): number {
    return quantile(
      this.#rounds.flatMap(({ saturated }) => saturated[index]?.firstTokenMs ?? []),
      share,
    );
  }

  /** Turns a second of each round, with the index-th number of clients. */
  rates(kind: "paced" | "saturated", index: number): number[] {
    return this.#rounds.map((round) => round[kind][index]?.turnsPerSecond ?? NaN);
  }

  /** First turns a second, each of a new session. */
  get openingRate(): number {
    return median(this.#rounds.map(({ openings }) => openings.turnsPerSecond));
  }

  /** Share of first turns at saturation, with the index-th number of clients. */
  openingShare(index: number): number {
    const all = this.#rounds.flatMap(({ saturated }) => saturated[index] ?? []);
    const turns = all.reduce((sum, one) => sum + one.turns, 0);
    return all.reduce((sum, one) => sum + one.openings, 0) / turns;
  }

  /** Processor time of a turn at saturation. */
  get processorMs(): number {
    return median(this.#rounds.map((round) => round.processorMs));
  }

  /** Processor time of a session's first turn. */
  get openingProcessorMs(): number {
    return median(this.#rounds.map((round) => round.openingProcessorMs));
  }

  /** Memory of the process. */
  get residentMib(): number {
    return median(this.#rounds.map((round) => round.residentMib));
  }

  /** Cores that a process kept busy at saturation. */
  cores(process: keyof Round["cores"]): number {
    return median(this.#rounds.map(({ cores }) => cores[process]));
  }

  /** Share of all turns that failed. */
  get failed(): number {
    const failed = this.#loads().reduce((sum, one) => sum + one.failed, 0);
    return failed / (failed + this.#loads().reduce((sum, one) => sum + one.turns, 0));
  }

  /** The smallest share of later turns that found their cache, in any load. */
  get affinity(): number {
    return Math.min(...this.#loads().map((one) => one.affinity));
  }

  #loads(): LoadResult[] {
    return this.#rounds.flatMap((round) => [
      ...[round.arrivals, round.openings],
      ...[...round.paced, ...round.saturated],
    ]);
  }
}

/**
 * The benchmark's part of the report.
 *
 * @param streamCounts clients at once, as the rounds have them
 */
export function section(
  results: ReadonlyMap<VariantName, readonly Round[]>,
  streamCounts: readonly number[],
  arrivalsPerSecond: number,
): Section {
  const summaries = new Map<VariantName, Summary>();
  for (const [name, all] of results) if (all.length > 0) summaries.set(name, new Summary(all));
  const markdown = [
    `Turns of a worker of a fixed rate that begin ${arrivalsPerSecond} times a second, far from what any of them carries.`,
    addedTable(summaries),
    "In brackets: what the stub takes without a gateway; the others count from its median.",
    "Turns a second of the same worker, by clients at once.",
    rateTable(summaries, "paced", streamCounts),
    `The same with ${clientsOf(streamCounts.at(-1) ?? 0)}: a gateway that is busy asks its workers for text in pieces of up to ` +
      `${textIntervalMsMaxDefault} ms, so that a token comes later by up to that; Portkey's passes on what comes.`,
    busyTable(summaries, streamCounts.length - 1),
    "Saturated: a worker that answers at once, by clients at once; times to the first token are those of a queue.",
    saturationTable(summaries, streamCounts),
    `Cores that they keep busy (gateway, stub, clients): ${busyCores(summaries)}.`,
    `First turns among them: ${openingShares(summaries, streamCounts)}. Turns a second at saturation, each round:`,
    rateTable(summaries, "saturated", streamCounts),
  ].join("\n\n");
  return {
    name: "gateway",
    markdown,
    figures: figuresOf(summaries, streamCounts, arrivalsPerSecond),
    images: new Map([[image, chart(summaries, streamCounts)]]),
  };
}

type Summaries = ReadonlyMap<VariantName, Summary>;

function cell(value: number): string {
  return Number.isNaN(value) ? "-" : digits(value);
}

function row(cells: readonly string[]): string {
  return `| ${cells.join(" | ")} |`;
}

function table(
  heads: readonly string[],
  summaries: Summaries,
  cells: (of: Summary, name: VariantName) => readonly string[],
): string {
  return [
    row(["gateway", ...heads]),
    row(["gateway", ...heads].map(() => "---")),
    ...[...summaries].map(([name, of]) => row([titles[name], ...cells(of, name)])),
  ].join("\n");
}

/** Against the stub's median, whatever the quantile: its own tail is this machine's, and no merit of a gateway. */
function addedFirstMs(summaries: Summaries, of: Summary, share: number): number {
  return of.firstTokenMs(share) - (summaries.get("direct")?.firstTokenMs(0.5) ?? NaN);
}

function addedTable(summaries: Summaries): string {
  const directLagMs = summaries.get("direct")?.lagMs(0.5) ?? NaN;
  const heads = ["first token, ms added: p50", "p99", "each token, ms added: p50", "p99"];
  return table(heads, summaries, (of, name) =>
    name === "direct"
      ? [of.firstTokenMs(0.5), of.firstTokenMs(0.99), of.lagMs(0.5), of.lagMs(0.99)].map(
          (ms) => `(${cell(ms)})`,
        )
      : [
          ...[0.5, 0.99].map((share) => cell(addedFirstMs(summaries, of, share))),
          ...[0.5, 0.99].map((share) => cell(of.lagMs(share) - directLagMs)),
        ],
  );
}

function busyTable(summaries: Summaries, index: number): string {
  const directLagMs = summaries.get("direct")?.pacedLagMs(index, 0.5) ?? NaN;
  const heads = ["each token, ms added: p50", "p99", "processor, ms a turn"];
  return table(heads, summaries, (of, name) =>
    [0.5, 0.99]
      .map((share) => of.pacedLagMs(index, share))
      .map((ms) => (name === "direct" ? `(${cell(ms)})` : cell(ms - directLagMs)))
      .concat(cell(of.pacedProcessorMs(index))),
  );
}

function rateTable(
  summaries: Summaries,
  kind: "paced" | "saturated",
  streamCounts: readonly number[],
): string {
  return table(streamCounts.map(clientsOf), summaries, (of) =>
    streamCounts.map((_, index) => rounds(of.rates(kind, index))),
  );
}

function saturationTable(summaries: Summaries, streamCounts: readonly number[]): string {
  const heads = [
    ...streamCounts.map((streams) => `turns/s, ${clientsOf(streams)}`),
    ...streamCounts.map((streams) => `first token, ms: p50, ${clientsOf(streams)}`),
    ...["first turns/s", "processor, ms a turn", "ms a first turn", "memory, MiB"],
  ];
  return table(heads, summaries, (of) =>
    [
      ...streamCounts.map((_, index) => median(of.rates("saturated", index))),
      ...streamCounts.map((_, index) => of.queuedMs(index, 0.5)),
      ...[of.openingRate, of.processorMs, of.openingProcessorMs, of.residentMib],
    ].map(cell),
  );
}

function openingShares(summaries: Summaries, streamCounts: readonly number[]): string {
  return [...summaries]
    .map(([name, of]) => {
      const shares = streamCounts.map((_, index) => `${percent(of.openingShare(index))} %`);
      return `${titles[name]} ${shares.join(", ")}`;
    })
    .join("; ");
}

function busyCores(summaries: Summaries): string {
  return [...summaries]
    .map(([name, of]) => {
      const busy = (["gateway", "stub", "clients"] as const).map((one) => cell(of.cores(one)));
      return `${titles[name]} ${busy.join(", ")}`;
    })
    .join("; ");
}

function clientsOf(streams: number): string {
  return `${streams} client${streams === 1 ? "" : "s"}`;
}

function figuresOf(
  summaries: Summaries,
  streamCounts: readonly number[],
  arrivalsPerSecond: number,
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
        name: `gateway, time added to the first token at ${arrivalsPerSecond} turns a second, ${name}`,
        measured: addedFirstMs(summaries, ours, share),
        ...{ bound, sense: "at most", unit: "ms" },
      });
    }
  }
  if (peer !== undefined) {
    const several = summaries.get("leanedge-processes");
    figures.push(...ratesAgainst("gateway", ours, peer, streamCounts));
    if (several !== undefined) {
      figures.push(...ratesAgainst("gateway of several processes", several, peer, streamCounts));
    }
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

const loads = [
  ["paced", "of a worker of a fixed rate"],
  ["saturated", "at saturation"],
] as const;

/** Turns a second of a gateway next to another one's. */
function ratesAgainst(
  name: string,
  of: Summary,
  peer: Summary,
  streamCounts: readonly number[],
): Figure[] {
  return loads.flatMap(([kind, load]) =>
    streamCounts.map((streams, index): Figure => {
      const rates = peer.rates(kind, index);
      return {
        name: `${name}, turns a second ${load} with ${clientsOf(streams)}, against Portkey`,
        // Each round by itself: its halves had the same machine.
        measured: median(of.rates(kind, index).map((rate, round) => rate / (rates[round] ?? NaN))),
        ...{ bound: 1, sense: "at least", unit: "x" },
      };
    }),
  );
}

function chart(summaries: Summaries, streamCounts: readonly number[]): string {
  const shown = [...summaries].filter(([name]) => name !== "direct");
  return barChart({
    title: "Turns a second through a gateway, saturated",
    series: shown.map(([name]) => titles[name]),
    scale: "each",
    groups: streamCounts.map((streams, index) => ({
      label: clientsOf(streams),
      values: shown.map(([, of]) => median(of.rates("saturated", index))),
    })),
  });
}
