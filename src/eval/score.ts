/** How a reply counts: RULER's two string matches, the whole reply; or how likely a text is. */

/**
 * `all`: the share of answers that occur in the reply, case ignored; `any`: 1 if one occurs;
 * `exact`: 1 if the reply, trimmed, is one of them; `loss`: nothing is said, the sample's last ids
 * are read one by one, and the score is exp(-mean negative log-likelihood) of them.
 */
export type ScoreKind = "all" | "any" | "exact" | "loss";

/** How a task counts: something is said. */
export type ReplyScoreKind = Exclude<ScoreKind, "loss">;

/** All of them. */
export const scoreKinds: readonly ScoreKind[] = ["all", "any", "exact", "loss"];

/** Score of a reply, 0 .. 1. @throws RangeError without answers */
export function scoreOf(kind: ReplyScoreKind, answers: readonly string[], reply: string): number {
  if (answers.length === 0) throw new RangeError("0 answers, at least 1 needed");
  if (kind === "exact") return answers.includes(reply.trim()) ? 1 : 0;
  const lower = reply.toLowerCase();
  const found = answers.filter((answer) => lower.includes(answer.toLowerCase())).length;
  return kind === "all" ? found / answers.length : Math.min(1, found);
}
