/**
 * The model in `models/` that is built into the gateway, and that commands, tests and benchmarks take where
 * none is named. `scripts/place-model.ts` changes it; `wrangler.toml` and some pages name it too, which a test holds
 * against this file.
 */
export const embedded = {
  /** The id that it is served by, and what its files in `models/` begin with. */
  model: "leanedge-29m",
  /** Its name for people. */
  displayName: "leanedge 29M",
  /** The plan that it is served under: `models/MODEL.PLAN.json`. */
  plan: "leank-70-int4",
} as const;

/** Its file, relative to the package's folder. */
export const embeddedFile: string = `models/${embedded.model}-q4_0.gguf`;

/** One of its plans, relative to the package's folder; the plan that is served unless another is named. */
export function embeddedPlanFile(plan: string = embedded.plan): string {
  return `models/${embedded.model}.${plan}.json`;
}
