/**
 * This benchmark on a machine that has neither npm nor network, from what pack.sh has packed (run.sh starts it):
 *
 *   node gateway.mjs --pack FOLDER [--cores LIST] [--rounds N] [--seconds N] [--variants NAME,...] --out FOLDER
 *
 * Writes gateway.json and gateway.md into the folder after each round of a variant. --cores: those that are there for it, as
 * taskset takes them; where they are enough, gateway, stub and clients get a third each to themselves. --seconds: no round
 * begins that would end later. LEANEDGE_COMMIT and LEANEDGE_COMMAND say what was measured.
 */
import { execFileSync } from "node:child_process";
import {
  closeSync,
  existsSync,
  fdatasyncSync,
  mkdirSync,
  openSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { cpus, loadavg, tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { coresOf, splitCores } from "../../support/cores.js";
import { figureTable } from "../../support/figures.js";
import { digits, quantile } from "../../support/stats.js";
import { arrivalsPerSecond, measureGateway, wholePlan, type Cores } from "../measure.js";
import { section, type Round } from "../report.js";
import type { LoadResult } from "../workload.js";

const { values: options } = parseArgs({
  options: {
    pack: { type: "string", default: "." },
    cores: { type: "string", default: `0-${cpus().length - 1}` },
    rounds: { type: "string", default: "5" },
    seconds: { type: "string", default: "200" },
    variants: { type: "string" },
    out: { type: "string", default: "." },
  },
});

/**
 * Turns that begin when they are due count most here, and a tail wants many. workerd puts objects away that were idle for 10
 * seconds, with some three syncs each: those of the warm-up all at once.
 */
const plan = { ...wholePlan, settleMs: 11_500, arrivalsMs: 12_000 };

/** Processes of the gateway where there are several, as pack.sh has written their configuration. */
const processes = 4;

/** A third of the cores for each process. */
function shares(): Cores | undefined {
  const [gateway, stub, clients] = splitCores(coresOf(options.cores), 3) ?? [];
  if (gateway === undefined || stub === undefined || clients === undefined) return undefined;
  return { gateway, stub, clients };
}

/** Times that a page goes to the disk, to know what a commit of the gateway's objects costs at least. */
const syncs = 300;

/** What holds temporary files, and with them the objects: kind of file system, and what a write that is waited for takes. */
function disk(): string {
  const kind = execFileSync("stat", ["--file-system", "--format=%T", tmpdir()], {
    encoding: "utf8",
  }).trim();
  const path = join(tmpdir(), `leanedge-sync-${process.pid}`);
  const file = openSync(path, "w");
  const page = new Uint8Array(4096);
  const ms = Array.from({ length: syncs }, () => {
    const beginMs = performance.now();
    writeSync(file, page);
    fdatasyncSync(file);
    return performance.now() - beginMs;
  });
  closeSync(file);
  rmSync(path);
  return `${kind}, fdatasync ${quantile(ms, 0.5).toFixed(2)} ms p50, ${quantile(ms, 0.99).toFixed(2)} ms p99`;
}

const cores = shares();
const head = {
  device: `${cpus()[0]?.model.trim() ?? "unknown processor"}, ${cpus().length} cores`,
  placed:
    cores === undefined
      ? "processes share all cores"
      : `cores of their own: gateway ${cores.gateway}; stub ${cores.stub}; clients ${cores.clients}`,
  disk: disk(),
  ...{ cores: options.cores, load: loadavg()[0] ?? 0, node: process.version },
  date: `${new Date().toISOString().slice(0, 16).replace("T", " ")} UTC`,
  commit: process.env["LEANEDGE_COMMIT"] ?? "unknown",
  command: process.env["LEANEDGE_COMMAND"] ?? process.argv.slice(1).join(" "),
};

/** A load without the times of each of its turns. */
function brief({ firstTokenMs, tokenLagMs, ...rest }: LoadResult): object {
  const of = (values: readonly number[]): object =>
    values.length === 0
      ? {}
      : { p50: quantile(values, 0.5), p90: quantile(values, 0.9), p99: quantile(values, 0.99) };
  return { ...rest, firstTokenMs: of(firstTokenMs), tokenLagMs: of(tokenLagMs) };
}

function briefRound({ arrivals, paced, saturated, openings, ...rest }: Round): object {
  return {
    ...{ arrivals: { ...brief(arrivals), each: arrivals.firstTokenMs }, openings: brief(openings) },
    ...{ paced: paced.map(brief), saturated: saturated.map(brief), ...rest },
  };
}

const beginMs = performance.now();
mkdirSync(options.out, { recursive: true });
const pack = resolve(options.pack);
const portkey = join(pack, "portkey.mjs");
await measureGateway(
  {
    ...{ rounds: Number(options.rounds), full: false, tiny: false },
    ...(options.variants === undefined ? {} : { variants: options.variants.split(",") }),
    deadlineMs: beginMs + 1000 * Number(options.seconds),
    log: (line) => console.log(`${((performance.now() - beginMs) / 1000).toFixed(0)} s  ${line}`),
  },
  plan,
  {
    gateway: { folder: join(pack, "gateway"), workerd: join(pack, "workerd"), processes },
    portkey: existsSync(portkey) ? portkey : undefined,
    cores,
  },
  (results) => {
    const { markdown, figures } = section(results, plan.streams, arrivalsPerSecond);
    const rounds = Object.fromEntries(
      [...results].map(([name, all]) => [name, all.map(briefRound)]),
    );
    writeFileSync(
      join(options.out, "gateway.json"),
      `${JSON.stringify({ head, figures, rounds }, null, 1)}\n`,
    );
    writeFileSync(
      join(options.out, "gateway.md"),
      [
        "# The gateway's benchmark",
        "",
        `${head.device}; ${head.placed}; objects on ${head.disk}; load average ${digits(head.load)} before the first round. ` +
          `${head.date}, commit \`${head.commit.slice(0, 12)}\`, Node ${head.node}, \`${head.command}\`.`,
        ...["", markdown, "", figureTable(figures), ""],
      ].join("\n"),
    );
  },
);
