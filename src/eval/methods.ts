/**
 * Methods of compression by name, one line each: `leank-70+k4+v2+quest-16`. Parts combine: a channel
 * stays if every part keeps it. The reference evaluator of the training package knows the same names
 * (`train/leanedge_train/methods.py`).
 *
 * | part | meaning |
 * | --- | --- |
 * | full | everything is kept |
 * | sink | sink and recent only |
 * | low-70 | the slowest RoPE pairs, the same in every head; 70 % of K goes |
 * | think-70 | ThinK: channels by the queries and keys of each prompt |
 * | k8 k4 k2, v8 v4 v2 | page storage of K and V (KIVI) |
 * | quest-16 | a step reads 16 pages of each KV head (Quest) |
 * | any other name | a plan file, NAME.json or MODEL.NAME.json: leank-70, duo-50, magnitude-70 ... |
 */
import {
  identityPlan,
  widthStep,
  type CacheGeometry,
  type CachePlan,
} from "../engine/plan/plan.js";
import type { PageStorage } from "../engine/plan/plan.js";

/** Name of the method that the others are compared with. */
export const fullMethod = "full";

/** A method, and the plan that it is on an engine. */
export interface Method {
  readonly name: string;
  /** Where its channels come from, for people. */
  readonly origin: string;
  /** Its plan; where channels are chosen for each prompt, one of the same bytes. */
  readonly plan: CachePlan;
  /** K channels of each head that are chosen for each prompt; undefined: those of the plan. */
  readonly promptWidth: number | undefined;
}

type Kept = CachePlan["kept"];

/** What a part of a name changes. */
interface Part {
  readonly kept?: Kept;
  readonly k?: PageStorage;
  readonly v?: PageStorage;
  readonly pages?: number;
  readonly promptWidth?: number;
  readonly origin?: string;
  /** A plan file: zones, storage and page selection are its own. */
  readonly base?: CachePlan;
}

const storages: ReadonlyMap<string, PageStorage> = new Map([
  ["8", "int8"],
  ["4", "int4"],
  ["2", "int2"],
]);

/** Width of every head where `pruned` of K goes: the nearest multiple of 16, at least 16. */
export function evenWidth(headDim: number, pruned: number): number {
  const width = Math.round(((1 - pruned) * headDim) / widthStep) * widthStep;
  return Math.min(headDim, Math.max(widthStep, width));
}

/** The slowest RoPE pairs: channel i turns with i + headDim / 2, pair 0 is the fastest. */
function slowestPairs({ layers, kvHeads, headDim }: CacheGeometry, width: number): Kept {
  const half = headDim / 2;
  const channels = Array.from({ length: headDim }, (_, channel) => channel).filter(
    (channel) => channel % half >= half - width / 2,
  );
  const heads = Array.from({ length: kvHeads }, () => channels);
  return Array.from({ length: layers }, () => heads);
}

function empty({ layers, kvHeads }: CacheGeometry): Kept {
  return Array.from({ length: layers }, () => Array.from({ length: kvHeads }, () => []));
}

function both(a: Kept, b: Kept): Kept {
  return a.map((heads, layer) =>
    heads.map((channels, head) => {
      const other = new Set(b[layer]?.[head]);
      return channels.filter((channel) => other.has(channel));
    }),
  );
}

function partOf(
  text: string,
  geometry: CacheGeometry,
  plans: ReadonlyMap<string, CachePlan>,
): Part {
  const plan = plans.get(text);
  if (plan !== undefined) {
    return { base: plan, kept: plan.kept, origin: plan.source ?? "a plan file" };
  }
  if (text === fullMethod) return {};
  if (text === "sink") return { kept: empty(geometry), origin: "no archive" };
  const [, kind = "", bits = ""] = /^([kv])([842])$/.exec(text) ?? [];
  const storage = storages.get(bits);
  if (storage !== undefined) return kind === "k" ? { k: storage } : { v: storage };
  const [, name = "", digits = ""] = /^(low|think|quest)-([0-9]{1,5})$/.exec(text) ?? [];
  const number = Number(digits);
  if (name === "quest" && number > 0) return { pages: number };
  if ((name === "low" || name === "think") && number <= 100) {
    const width = evenWidth(geometry.headDim, number / 100);
    const kept = slowestPairs(geometry, width);
    return name === "low"
      ? { kept, origin: "the slowest RoPE pairs" }
      : { kept, promptWidth: width, origin: "queries and keys of each prompt" };
  }
  throw new Error(
    `no method "${text}": full, sink, low-PERCENT, think-PERCENT, k8 k4 k2, v8 v4 v2, quest-PAGES, ` +
      `or a plan: ${[...plans.keys()].join(", ") || "none is there"} ` +
      "(python3 -m leanedge_train.make_plans makes them)",
  );
}

/**
 * Reads a method's name.
 *
 * @param plans by name: what the plan files of a folder hold
 * @throws Error that says which part is no method, and which there are
 */
export function parseMethod(
  name: string,
  geometry: CacheGeometry,
  plans: ReadonlyMap<string, CachePlan>,
): Method {
  const { layers, kvHeads, headDim } = geometry;
  let plan = identityPlan({ layers, kvHeads, headDim });
  let promptWidth: number | undefined;
  const origins: string[] = [];
  for (const text of name.split("+")) {
    const part = partOf(text, geometry, plans);
    const { base, kept, k, v, pages, origin } = part;
    if (promptWidth !== undefined && kept !== undefined) {
      throw new Error(`"${name}": channels that a prompt chooses go with no other choice`);
    }
    const zones = base ?? plan;
    plan = {
      ...zones,
      kept: kept === undefined ? plan.kept : both(plan.kept, kept),
      storage: { k: k ?? zones.storage.k, v: v ?? zones.storage.v },
      pageSelection:
        pages === undefined ? zones.pageSelection : { pagesPerStep: pages, pagesFloor: pages },
    };
    if (part.promptWidth !== undefined) {
      if (origins.length > 0) {
        throw new Error(`"${name}": channels that a prompt chooses go with no other choice`);
      }
      promptWidth = part.promptWidth;
    }
    if (origin !== undefined) origins.push(origin);
  }
  return {
    name,
    origin: origins.join("; ") || "all channels",
    // A plan's name has no plus sign.
    plan: { ...plan, name: name.replaceAll("+", "_") },
    promptWidth,
  };
}
