/**
 * Reads plan files: JSON, then schema/plan.schema.json, then the rules that a schema cannot state.
 * Everything is refused with a PlanError; nothing else is thrown, whatever the text.
 */
import { Validator, type OutputUnit, type Schema } from "@cfworker/json-schema";
import schema from "../../../schema/plan.schema.json" with { type: "json" };
import { pageLayout } from "../page/layout.js";
import { PlanError } from "./errors.js";
import {
  defaultRecent,
  defaultSink,
  planLimits,
  storageBits,
  widthStep,
  type CachePlan,
  type PageSelection,
  type PageStorage,
} from "./plan.js";

/** A plan file after the schema. */
interface PlanFile {
  readonly name?: string;
  readonly model: string;
  readonly source?: string;
  readonly layers: number;
  readonly kv_heads: number;
  readonly head_dim: number;
  readonly sink?: number;
  readonly recent?: number;
  readonly kept: readonly (readonly (readonly number[])[])[];
  readonly kept_fraction?: number;
  readonly storage?: { readonly k?: PageStorage; readonly v?: PageStorage };
  readonly page_selection?:
    "off" | { readonly pages_per_step: number; readonly pages_floor?: number };
  readonly context?: { readonly min_tokens?: number; readonly max_tokens?: number };
  readonly evicting?: boolean;
}

/** How far `kept_fraction` may be from the share that `kept` really names. */
const keptFractionTolerance = 0.001;

const validator = new Validator(schema as Schema, "2020-12", true);

/**
 * Parses a plan file.
 *
 * @param text the file
 * @param defaultName name of a plan that does not name itself, as a rule the file's stem
 * @throws PlanError that names path, value and bound
 */
export function parsePlan(text: string, defaultName = "plan"): CachePlan {
  if (text.length > planLimits.textMax) {
    throw new PlanError(
      "",
      `has ${text.length} characters, at most ${planLimits.textMax}`,
      text.length,
      planLimits.textMax,
    );
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new PlanError("", `is not JSON: ${String(error)}`);
  }
  return planFromJson(value, defaultName);
}

/** `parsePlan` for a value that is already parsed. */
export function planFromJson(value: unknown, defaultName = "plan"): CachePlan {
  let problem: PlanError | undefined;
  try {
    const result = validator.validate(value);
    if (!result.valid) problem = schemaError(value, result.errors);
  } catch (error) {
    // The validator itself fails on what no plan contains, such as unpaired surrogates in keys.
    const reason = String(error);
    problem = new PlanError("", `cannot be read: ${reason}`);
  }
  if (problem !== undefined) throw problem;
  // The schema has just checked every field that PlanFile names.
  const file = value as PlanFile;
  const plan: CachePlan = {
    name: file.name ?? defaultName,
    model: file.model,
    source: file.source,
    layers: file.layers,
    kvHeads: file.kv_heads,
    headDim: file.head_dim,
    sink: file.sink ?? defaultSink,
    recent: file.recent ?? defaultRecent,
    kept: file.kept,
    storage: { k: file.storage?.k ?? "f16", v: file.storage?.v ?? "f16" },
    pageSelection: selectionOf(file.page_selection ?? "off"),
    context: {
      minTokens: file.context?.min_tokens ?? 0,
      maxTokens: file.context?.max_tokens ?? planLimits.contextTokensMax,
    },
    evicting: file.evicting ?? false,
  };
  checkPlan(plan);
  if (file.kept_fraction !== undefined) checkKeptFraction(plan, file.kept_fraction);
  return plan;
}

/**
 * Checks the rules that the schema cannot state, for plans from any source. Ranges of single
 * numbers are the schema's.
 *
 * @throws PlanError
 */
export function checkPlan(plan: CachePlan): void {
  const multiple = storageBits(plan.storage.v) < 8 ? 8 : 2;
  if (plan.headDim % multiple !== 0) {
    throw new PlanError(
      "head_dim",
      `is ${plan.headDim}, must be a multiple of ${multiple} with V in ${plan.storage.v}`,
      plan.headDim,
      multiple,
    );
  }
  checkCount("kept", plan.kept.length, plan.layers, "layers");
  plan.kept.forEach((heads, layer) => {
    checkCount(`kept[${layer}]`, heads.length, plan.kvHeads, "kv_heads");
    heads.forEach((channels, head) => {
      checkChannels(`kept[${layer}][${head}]`, channels, plan.headDim);
    });
  });
  const { minTokens, maxTokens } = plan.context;
  checkAtLeast("context.max_tokens", maxTokens, minTokens, "context.min_tokens");
  if (plan.pageSelection !== undefined) {
    const { pagesFloor, pagesPerStep } = plan.pageSelection;
    checkAtLeast("page_selection.pages_floor", pagesFloor, pagesPerStep, "pages_per_step");
  }
  const { pageBytes } = pageLayout(plan);
  if (pageBytes > planLimits.pageBytesMax) {
    throw new PlanError(
      "",
      `has pages of ${pageBytes} bytes, at most ${planLimits.pageBytesMax}`,
      pageBytes,
      planLimits.pageBytesMax,
    );
  }
}

function selectionOf(
  selection: NonNullable<PlanFile["page_selection"]>,
): PageSelection | undefined {
  if (selection === "off") return undefined;
  return {
    pagesPerStep: selection.pages_per_step,
    pagesFloor: selection.pages_floor ?? selection.pages_per_step,
  };
}

function checkCount(path: string, count: number, wanted: number, what: string): void {
  if (count === wanted) return;
  throw new PlanError(path, `has ${count} entries, ${what} is ${wanted}`, count, wanted);
}

function checkAtLeast(path: string, value: number, least: number, what: string): void {
  if (value >= least) return;
  throw new PlanError(path, `is ${value}, must be at least ${what}, ${least}`, value, least);
}

function checkChannels(path: string, channels: readonly number[], headDim: number): void {
  const width = channels.length;
  if (width > headDim || (width !== headDim && width % widthStep !== 0)) {
    throw new PlanError(
      path,
      `keeps ${width} channels, must be 0, a multiple of ${widthStep} or head_dim, ${headDim}`,
      width,
      headDim,
    );
  }
  let previous = -1;
  channels.forEach((channel, index) => {
    if (channel >= headDim) {
      throw new PlanError(
        `${path}[${index}]`,
        `is ${channel}, must be below head_dim, ${headDim}`,
        channel,
        headDim,
      );
    }
    if (channel <= previous) {
      throw new PlanError(
        `${path}[${index}]`,
        `is ${channel}, must be above the channel before it, ${previous}`,
        channel,
        previous,
      );
    }
    previous = channel;
  });
}

function checkKeptFraction(plan: CachePlan, stated: number): void {
  const kept = plan.kept.flat().reduce((sum, channels) => sum + channels.length, 0);
  const share = kept / (plan.layers * plan.kvHeads * plan.headDim);
  if (Math.abs(share - stated) <= keptFractionTolerance) return;
  throw new PlanError(
    "kept_fraction",
    `is ${stated}, but kept names ${share.toFixed(4)} of all channels`,
    stated,
    share,
  );
}

/** Turns the validator's deepest finding into an error that shows the value and the rule. */
function schemaError(value: unknown, errors: readonly OutputUnit[]): PlanError {
  let deepest = errors[0];
  for (const error of errors) {
    if (error.instanceLocation.length >= (deepest?.instanceLocation.length ?? 0)) deepest = error;
  }
  if (deepest === undefined) return new PlanError("", "does not match the schema");
  const keys = pointerKeys(deepest.instanceLocation);
  const found = keys.reduce(member, value);
  const path = keys
    .map((key, index) => (/^\d+$/.test(key) ? `[${key}]` : index === 0 ? key : `.${key}`))
    .join("");
  if (deepest.keyword === "required") {
    const absent = /"(.*)"/.exec(deepest.error)?.[1] ?? "a field";
    return new PlanError([path, absent].filter((part) => part !== "").join("."), "is absent");
  }
  const bound = pointerKeys(deepest.keywordLocation).reduce<unknown>(member, schema);
  return new PlanError(
    path,
    `is ${shown(found)}, ${ruleOf(deepest, bound)}`,
    typeof found === "number" ? found : 0,
    typeof bound === "number" ? bound : 0,
  );
}

/** What a schema's keyword with this bound asks for. */
function ruleOf(error: OutputUnit, bound: unknown): string {
  const text = shown(bound);
  switch (error.keyword) {
    case "type":
      return `must be of type ${String(bound)}`;
    case "const":
      return `must be ${text}`;
    case "enum":
      return `must be one of ${Array.isArray(bound) ? bound.join(", ") : text}`;
    case "minimum":
    case "minLength":
    case "minItems":
      return `at least ${text}`;
    case "maximum":
    case "maxLength":
    case "maxItems":
      return `at most ${text}`;
    case "multipleOf":
      return `must be a multiple of ${text}`;
    case "pattern":
      return `must match ${text}`;
    case "false":
      return "but plans have no such field";
    default:
      return error.error.replace(/\.$/, "");
  }
}

function pointerKeys(pointer: string): string[] {
  return pointer
    .split("/")
    .slice(1)
    .map((key) => decodeURIComponent(key).replaceAll("~1", "/").replaceAll("~0", "~"));
}

function member(value: unknown, key: string): unknown {
  return typeof value === "object" && value !== null ? Reflect.get(value, key) : undefined;
}

/** A value in at most 60 characters. */
function shown(value: unknown): string {
  if (value === undefined) return "absent";
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (typeof value === "object" && value !== null) return "an object";
  const text = JSON.stringify(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}
