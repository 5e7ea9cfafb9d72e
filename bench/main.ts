/**
 * Runs benchmarks and says what meets its target. `--write` puts tables, figures and pictures into
 * docs/benchmarks.md. See README.md beside this file.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { benchmarks } from "./benchmarks.js";
import { isProgram } from "./support/child.js";
import { figureTable, isMet } from "./support/figures.js";
import type { Figure } from "./support/figures.js";
import { deadlines, heading, load, replaceSection } from "./support/section.js";

const document = fileURLToPath(new URL("../docs/benchmarks.md", import.meta.url));
const images = new URL("../docs/images/", import.meta.url);

/** What the command line asks for. */
export type Request = {
  names: readonly string[];
  rounds: number;
  full: boolean;
  tiny: boolean;
  write: boolean;
  /** What the run may take; Infinity: as long as it takes. */
  minutes: number;
  models?: readonly string[];
  variants?: readonly string[];
};

/** Reads the command line. Throws for what is not there. */
export function readRequest(args: readonly string[]): Request {
  const { values } = parseArgs({
    args: [...args],
    options: {
      only: { type: "string" },
      minutes: { type: "string" },
      models: { type: "string" },
      variants: { type: "string" },
      rounds: { type: "string", default: "5" },
      full: { type: "boolean", default: false },
      tiny: { type: "boolean", default: false },
      write: { type: "boolean", default: false },
    },
  });
  const known = benchmarks.map(({ name }) => name);
  const names = values.only?.split(",") ?? known;
  const unknown = names.find((name) => !known.includes(name));
  if (unknown !== undefined) throw new Error(`no benchmark ${unknown}: ${known.join(", ")}`);
  const rounds = Number(values.rounds);
  if (!Number.isInteger(rounds) || rounds < 1)
    throw new Error(`${values.rounds} rounds, at least 1`);
  if (values.tiny && values.write) throw new Error("figures of tiny models are not written down");
  const minutes = Number(values.minutes ?? Infinity);
  if (!(minutes > 0)) throw new Error(`${values.minutes ?? ""} minutes, must be above 0`);
  const { full, tiny, write, models, variants } = values;
  return {
    ...{ names, rounds, full, tiny, write, minutes },
    ...(models === undefined ? {} : { models: models.split(",") }),
    ...(variants === undefined ? {} : { variants: variants.split(",") }),
  };
}

async function main(): Promise<void> {
  const args = process.argv.slice(2);
  const request = readRequest(args);
  const shown = args.filter((argument) => argument !== "--write");
  const command = ["npm run bench:all", ...(shown.length > 0 ? ["--", ...shown] : [])].join(" ");
  const figures: Figure[] = [];
  const start = performance.now();
  const seconds = (): string => ((performance.now() - start) / 1000).toFixed(0).padStart(4);
  const log = (line: string): void => console.log(`${seconds()} s  ${line}`);
  const startHeading = heading(command, load());
  const chosen = benchmarks.filter((one) => request.names.includes(one.name));
  const ends = deadlines(
    start,
    start + 60_000 * request.minutes,
    chosen.map(({ weight }) => weight),
  );
  for (const [i, { name, run }] of chosen.entries()) {
    const before = heading(command, load());
    const section = await run({ ...request, deadlineMs: ends[i] ?? Infinity, log });
    figures.push(...section.figures);
    const table = section.figures.length === 0 ? [] : [figureTable(section.figures)];
    const content = [before, section.markdown, ...table].join("\n\n");
    console.log(`\n${content}\n`);
    if (!request.write) continue;
    for (const [file, svg] of section.images) writeFileSync(new URL(file, images), svg);
    writeFileSync(document, replaceSection(readFileSync(document, "utf8"), name, content));
  }
  if (request.write && request.names.length === benchmarks.length) {
    const content = `${startHeading}\n\n${figureTable(figures)}`;
    writeFileSync(document, replaceSection(readFileSync(document, "utf8"), "targets", content));
  }
  const missed = figures.filter((figure) => !isMet(figure));
  log(`${figures.length - missed.length} of ${figures.length} targets met`);
  for (const { name } of missed) log(`missed: ${name}`);
}

if (isProgram(import.meta.url)) await main();
