/** Names of plans by content: docs/plan-format.md section 2. */
import { sha256Hex } from "../sha256.js";
import { planVersion, type CachePlan } from "./plan.js";

/**
 * The canonical form of a plan: JSON of the fields that decide what is stored or attended to, keys
 * in alphabetical order, no white space.
 */
export function canonicalPlan(plan: CachePlan): string {
  const selection = plan.pageSelection;
  // JSON.stringify keeps the order in which keys are written here.
  return JSON.stringify({
    evicting: plan.evicting,
    head_dim: plan.headDim,
    kept: plan.kept,
    kv_heads: plan.kvHeads,
    layers: plan.layers,
    page_selection:
      selection === undefined
        ? "off"
        : { pages_floor: selection.pagesFloor, pages_per_step: selection.pagesPerStep },
    recent: plan.recent,
    sink: plan.sink,
    storage: { k: plan.storage.k, v: plan.storage.v },
    version: planVersion,
  });
}

/** SHA-256 of the canonical form, lower-case hexadecimal. */
export function planFingerprint(plan: CachePlan): Promise<string> {
  // A copy, because not every runtime's types say that an encoder's buffer is its own.
  return sha256Hex(Uint8Array.from(new TextEncoder().encode(canonicalPlan(plan))));
}
