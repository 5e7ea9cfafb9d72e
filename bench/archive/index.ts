/** What a token in the archive costs: computed from the plan, and as an engine takes it. See README.md. */
import { planCost } from "../../src/engine/plan/cost.js";
import { archivePages, pageSlots } from "../../src/engine/plan/plan.js";
import type { PageStorage } from "../../src/engine/plan/plan.js";
import type { Figure } from "../support/figures.js";
import { modelPath } from "../support/models.js";
import { openEngine } from "../support/open-engine.js";
import { dense, planOf, prunedChoices } from "../support/plans.js";
import type { PlanChoice } from "../support/plans.js";
import type { BenchOptions, Section } from "../support/section.js";
import { percent } from "../support/stats.js";
import { syntheticSnapshot } from "../support/synthetic-cache.js";

/** Most of a dense token's bytes that a pruned one may take. */
const sharesMax: Partial<Record<PageStorage, number>> = { int4: 1 / 5, int2: 1 / 8 };

/** Bytes of a token in the archive. */
type Row = { choice: PlanChoice; planned: number; allocated: number; dense: number };

/** Pages between the two caches whose difference is what pages take. */
const pagesBetween = 16;

async function measure(choice: PlanChoice, tiny: boolean): Promise<Row> {
  const plan = planOf(choice, tiny);
  const plans = choice.pruned ? [plan] : [];
  const path = modelPath(tiny ? "tiny-f16" : "embedded");
  const { engine } = await openEngine(path, { sequencesMax: 2, plans });
  const usedAfter = async (tokens: number): Promise<number> => {
    const sequence = engine.restore(plans.length, await syntheticSnapshot(plan, tokens));
    const { cacheBytes, pages } = engine.sequenceStats(sequence);
    if (pages !== archivePages(tokens, plan.sink, plan.recent)) {
      throw new Error(`${choice.name}: ${pages} pages for ${tokens} tokens`);
    }
    engine.freeSequence(sequence);
    return cacheBytes;
  };
  const start = plan.sink + plan.recent + 3 * pageSlots;
  const more = pagesBetween * pageSlots;
  const allocated = ((await usedAfter(start + more)) - (await usedAfter(start))) / more;
  engine.close();
  const { archiveBytesPerToken, denseBytesPerToken } = planCost(plan);
  return { choice, planned: archiveBytesPerToken, allocated, dense: denseBytesPerToken };
}

/** Measures all plans; nothing is timed, so once is enough. */
export async function runArchive({ tiny, log }: BenchOptions): Promise<Section> {
  const rows: Row[] = [];
  for (const choice of [dense, ...prunedChoices]) {
    const row = await measure(choice, tiny);
    log(`archive, ${choice.name}: ${row.allocated} bytes a token`);
    rows.push(row);
  }
  const figures = rows.flatMap(({ choice, planned, allocated, dense: denseBytes }): Figure[] => {
    const shareMax = choice.pruned ? sharesMax[choice.storage] : undefined;
    return [
      {
        name: `archive bytes a token, ${choice.name}, as allocated; target: as planned`,
        ...{ measured: allocated, bound: planned, sense: "exactly", unit: "bytes" },
      },
      ...(shareMax === undefined
        ? []
        : [
            {
              name: `archive bytes a token, ${choice.name}, of dense f16`,
              ...{ measured: allocated / denseBytes, bound: shareMax },
              ...{ sense: "at most", unit: "share" },
            } satisfies Figure,
          ]),
    ];
  });
  return {
    name: "archive",
    markdown: [
      "| plan | bytes a token, planned | allocated | of dense f16 |",
      "| --- | --- | --- | --- |",
      ...rows.map(
        ({ choice, planned, allocated, dense: denseBytes }) =>
          `| ${choice.name} | ${planned} | ${allocated} | ${percent(allocated / denseBytes)} % |`,
      ),
    ].join("\n"),
    figures,
    images: new Map(),
  };
}
