/**
 * ThinK (Xu et al. 2024): K channels chosen per prompt, a baseline for evaluations of learned masks. A
 * channel's score in a KV head is the mean square of its queries times the mean square of its keys: the
 * cheap form of ||Q[:, c] K[:, c]^T||. Queries are the prompt's last ones, after RoPE, of all query
 * heads that share the KV head. The best channels stay, equally many in every head.
 *
 * An engine adds the squares up (BoundaryEngine.observe) while it reads the prompt under any plan; the plan
 * made here is then for a second engine, or a second load of the same one: plans are fixed when an
 * engine starts. It is no serving path.
 */
import { PlanError } from "./errors.js";
import { widthStep, type CacheGeometry, type CachePlan } from "./plan.js";

/** Queries at the end of a prompt that are looked at, as in the paper. */
export const thinkQueries = 32;

/** Sums of squares of one layer's channels, after RoPE. Their scales do not matter. */
export interface ChannelSums {
  /** (kvHeads, headDim), over all rows. */
  readonly k: Float64Array;
  /** (heads, headDim), over the last queries. */
  readonly q: Float64Array;
}

/** Scores [layer][kvHead][channel] up to one factor per layer. */
export function thinkScores(
  { kvHeads, headDim }: CacheGeometry,
  sums: readonly ChannelSums[],
): number[][][] {
  return sums.map(({ k, q }) => {
    const group = q.length / k.length;
    return Array.from({ length: kvHeads }, (_, head) =>
      Array.from({ length: headDim }, (_unused, channel) => {
        let queries = 0;
        for (let i = 0; i < group; i++) {
          queries += q[(head * group + i) * headDim + channel] ?? NaN;
        }
        return queries * (k[head * headDim + channel] ?? NaN);
      }),
    );
  });
}

/**
 * The plan that keeps the best `width` channels of each head, everything else as in `base`. Of equal
 * scores the lower channel stays.
 *
 * @param width a multiple of 16, or headDim
 * @throws PlanError for another width, or sums of another shape
 */
export function thinkPlan(base: CachePlan, sums: readonly ChannelSums[], width: number): CachePlan {
  const { layers, kvHeads, headDim } = base;
  const legal = width === headDim || (width > 0 && width < headDim && width % widthStep === 0);
  if (!legal) {
    throw new PlanError(
      "width",
      `is ${width}, must be a multiple of ${widthStep} below ${headDim}, or ${headDim}`,
      width,
      headDim,
    );
  }
  const fits = sums.every(
    ({ k, q }) => k.length === kvHeads * headDim && q.length > 0 && q.length % k.length === 0,
  );
  if (sums.length !== layers || !fits) {
    throw new PlanError(
      "sums",
      `are of ${sums.length} layers, must be of ${layers} with ${kvHeads} KV heads of ${headDim}`,
      sums.length,
      layers,
    );
  }
  const kept = thinkScores(base, sums).map((heads) =>
    heads.map((scores) =>
      scores
        .map((score, channel) => ({ score, channel }))
        .sort((a, b) => b.score - a.score || a.channel - b.channel)
        .slice(0, width)
        .map(({ channel }) => channel)
        .sort((a, b) => a - b),
    ),
  );
  return { ...base, name: `think-${width}`, source: "ThinK scores of one prompt", kept };
}
