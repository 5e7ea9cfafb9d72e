/** The report of a folder: Markdown and charts from result files, plans and what masks were made from. */
import { mkdir, readFile, readdir, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { embedded } from "../../embedded-model.js";
import { parsePlan } from "../../engine/plan/parse.js";
import { planFingerprint } from "../../engine/plan/fingerprint.js";
import { resultText } from "../pack-results.js";
import { readResults } from "../samples-file.js";
import { readMaskScores, type MaskScores, type PublishedRates } from "./masks.js";
import { claimsNote, embeddedClaims, pretrainedClaims, renderClaims } from "./claims.js";
import { bandsChart, factorsChart, maskChart, svgOf, widthChart, type NamedPlan } from "./plots.js";
import { renderCheck, splitSections } from "./cross-check.js";
import { renderHead, renderSection } from "./render.js";
import { bytesChart, lengthChart } from "./score-plots.js";
import { sectionsOf, type Section } from "./sections.js";

/** Files of a report by their path in its folder. */
export type ReportFiles = ReadonlyMap<string, string>;

/** What a report is made from, in its folder. */
const parts = { results: "results", plans: "plans", masks: "masks" } as const;

/** The file of rates of published masks, among the masks. */
const publishedFile = "published.json";

/** The pretrained model that is compared, as its results name it. */
const pretrainedModel = "smollm2-135m-instruct";

/** Most plans of a section whose masks are compared by frequency. */
const plansMax = 6;

/** The method whose mask is drawn head by head, where a section has it. */
const drawnMethod = "leank-70";

/** A model's name as part of a file's. */
function fileStem(model: string): string {
  return model.toLowerCase().replace(/[^a-z0-9]+/g, "-");
}

type Chart = Parameters<typeof svgOf>[0] | undefined;

async function filesOf(folder: string, suffix: RegExp): Promise<string[]> {
  const names = await readdir(folder).catch(() => []);
  return names
    .filter((name) => suffix.test(name))
    .sort()
    .map((name) => join(folder, name));
}

/**
 * Makes a report.
 *
 * @param folder with results/*.jsonl or .jsonl.gz, and beside them plans/*.json and masks/*.json where there are any
 * @param plansFolder further plans, those that are shipped
 * @throws Error that names the file that is refused
 */
export async function reportOf(folder: string, plansFolder?: string): Promise<ReportFiles> {
  const paths = await filesOf(join(folder, parts.results), /\.jsonl(\.gz)?$/);
  if (paths.length === 0) throw new Error(`no result files in ${join(folder, parts.results)}`);
  const results = await Promise.all(
    paths.map(async (path) => readResults(await resultText(path), path)),
  );
  const plans = new Map<string, NamedPlan>();
  const folders = [plansFolder, join(folder, parts.plans)].filter((one) => one !== undefined);
  for (const path of (await Promise.all(folders.map((one) => filesOf(one, /\.json$/)))).flat()) {
    const plan = parsePlan(await readFile(path, "utf8"), basename(path, ".json"));
    plans.set(await planFingerprint(plan), { name: plan.name, plan });
  }
  const masks: MaskScores[] = [];
  let published: readonly PublishedRates[] = [];
  for (const path of await filesOf(join(folder, parts.masks), /\.json$/)) {
    const text = await readFile(path, "utf8");
    if (basename(path) === publishedFile) published = JSON.parse(text) as PublishedRates[];
    else masks.push(readMaskScores(text, path));
  }
  const files = new Map<string, string>();
  const { sections, checks } = splitSections(sectionsOf(results));
  const page = [
    ...renderHead(),
    "## What it must show",
    claimsNote,
    ...renderClaims(embedded.model, embeddedClaims(sections, masks, embedded.model)),
    ...renderClaims(pretrainedModel, pretrainedClaims(sections, pretrainedModel)),
  ];
  const drawn = new Set<string>();
  for (const section of sections) {
    const { modelFingerprint } = section;
    const charts = scoreCharts(section);
    // Masks are the same on every engine.
    if (!drawn.has(modelFingerprint)) {
      const scores = masks.find((one) => one.modelFingerprint === modelFingerprint);
      for (const chart of maskCharts(section, plans, scores, published)) charts.push(chart);
      drawn.add(modelFingerprint);
    }
    const lines: string[] = [];
    for (const { name, chart, words } of charts) {
      if (chart === undefined) continue;
      const path = `images/${fileStem(section.model)}-${section.backend}-${name}.svg`;
      files.set(path, await svgOf(chart));
      lines.push(`![${words}](${path})`);
    }
    page.push(...renderSection(section, lines));
    for (const check of checks) if (check.other === section) page.push(...renderCheck(check));
  }
  files.set("results.md", `${page.join("\n\n")}\n`);
  return files;
}

/** A chart, its name in its file's, and what it shows. */
interface NamedChart {
  readonly name: string;
  /** Undefined: there is nothing to draw it from. */
  readonly chart: Chart;
  readonly words: string;
}

/** Charts of what methods score. */
function scoreCharts(section: Section): NamedChart[] {
  const has = section.replies.length > 0;
  return [
    {
      name: "bytes",
      chart: has ? bytesChart(section) : undefined,
      words: "Score against archive bytes a token, a line a family of methods",
    },
    {
      name: "lengths",
      chart: has ? lengthChart(section) : undefined,
      words: "Score by length, a panel a family of methods",
    },
  ];
}

/** Charts of what the LeanK masks of a section keep. */
function maskCharts(
  section: Section,
  plans: ReadonlyMap<string, NamedPlan>,
  scores: MaskScores | undefined,
  published: readonly PublishedRates[],
): NamedChart[] {
  const learned = section.methods
    .filter(({ method }) => /^leank-\d+$/.test(method))
    .flatMap(({ planFingerprint: hash, method }) => {
      const plan = plans.get(hash)?.plan;
      return plan === undefined ? [] : [{ name: method, plan }];
    })
    .slice(0, plansMax);
  const drawn = learned.find(({ name }) => name === drawnMethod) ?? learned[0];
  return [
    {
      name: "mask",
      chart: drawn && maskChart(drawn),
      words: "Channels kept by layer, head and RoPE pair",
    },
    {
      name: "bands",
      chart: learned.length > 0 ? bandsChart(learned, published) : undefined,
      words: "Share of K channels kept by band of RoPE frequency, beside the two published masks",
    },
    {
      name: "widths",
      chart: drawn && scores && widthChart(drawn, scores.magnitude),
      words: "Width of each head against its high-frequency ratio",
    },
    {
      name: "factors",
      chart: scores && factorsChart(scores),
      words: "Factors learned from two kinds of data",
    },
  ];
}

/** Writes a report into its folder. @returns the paths of its files there */
export async function writeReport(folder: string, plansFolder?: string): Promise<string[]> {
  const files = await reportOf(folder, plansFolder);
  await mkdir(join(folder, "images"), { recursive: true });
  for (const [path, text] of files) await writeFile(join(folder, path), text);
  return [...files.keys()];
}
