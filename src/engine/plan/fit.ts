/** Whether a plan is for a model, and which of a model's plans a context gets. */
import { PlanError } from "./errors.js";
import type { CacheGeometry, CachePlan } from "./plan.js";

/** What a plan is held against. */
export interface PlanModel extends CacheGeometry {
  /** Names the model goes by: its id, `general.name` of its file, the file's stem. */
  readonly names: readonly string[];
  /** SHA-256 of the model file, lower-case hexadecimal. */
  readonly fingerprint: string;
}

const fingerprintPrefix = "sha256:";

/**
 * Checks that a plan fits a model.
 *
 * @throws PlanError with the reason
 */
export function checkPlanFits(plan: CachePlan, model: PlanModel): void {
  const called = model.names.join(", ");
  if (plan.model.startsWith(fingerprintPrefix)) {
    if (plan.model.slice(fingerprintPrefix.length) !== model.fingerprint) {
      throw new PlanError(
        "model",
        `is ${plan.model}, the file's fingerprint is ${model.fingerprint}`,
      );
    }
  } else if (!model.names.some((name) => matchesModel(plan.model, name))) {
    throw new PlanError(
      "model",
      `is "${plan.model}", which none of the model's names matches: ${called}`,
    );
  }
  const pairs = [
    ["layers", plan.layers, model.layers],
    ["kv_heads", plan.kvHeads, model.kvHeads],
    ["head_dim", plan.headDim, model.headDim],
  ] as const;
  for (const [field, planned, actual] of pairs) {
    if (planned !== actual) {
      throw new PlanError(
        field,
        `is ${planned}, the model (${called}) has ${actual}`,
        planned,
        actual,
      );
    }
  }
}

/** Whether a name rule of a plan matches a model's name; `*` stands for any run of characters. */
export function matchesModel(rule: string, name: string): boolean {
  const parts = normalised(rule).split("*");
  const text = normalised(name);
  const first = parts[0] ?? "";
  const last = parts[parts.length - 1] ?? "";
  if (parts.length === 1) return text === first;
  if (!text.startsWith(first) || text.length < first.length + last.length) return false;
  // Each middle part at its earliest place leaves the most room for the rest.
  let at = first.length;
  for (const part of parts.slice(1, -1)) {
    const found = text.indexOf(part, at);
    if (found < 0) return false;
    at = found + part.length;
  }
  return text.length - last.length >= at && text.endsWith(last);
}

/**
 * The plan for a context of `tokens` tokens: the first in the list whose range holds it; undefined
 * if none does.
 */
export function planForContext(plans: readonly CachePlan[], tokens: number): CachePlan | undefined {
  return plans.find(({ context }) => tokens >= context.minTokens && tokens <= context.maxTokens);
}

function normalised(name: string): string {
  return name
    .slice(name.lastIndexOf("/") + 1)
    .toLowerCase()
    .replace(/[ _]+/g, "-");
}
