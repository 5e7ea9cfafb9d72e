/** What methods cost: differences of scores and losses to the full cache, and between storages of weights. */
import { pairedBootstrap } from "../bootstrap.js";
import { fullMethod } from "../methods.js";
import type { MethodLine } from "../samples-file.js";
import { most, scoreVerdict, told, unmeasured, verdictOf, type Claim } from "./claim.js";
import { contentKey, unique, valuesOf, type NamedResult, type Section } from "./sections.js";
import { evaluatorOf, points, signed, wholeCacheRatio } from "./tables.js";

/** From this factor on an archive counts as ten times smaller. */
const smallArchive = 10;

/** Shortest prompts of a pretrained model that count, in tokens. */
export const longPromptTokens = 1_900;

/** What a method costs in points, on all samples that some replies have in common with the full cache. */
export function costClaim(
  sections: readonly Section[],
  figure: string,
  method: string,
  bound: number | undefined,
  counts: (reply: NamedResult) => boolean = () => true,
): Claim {
  const wanted = bound === undefined ? "" : `at most ${points(bound)} points worse`;
  const best = most(
    sections.flatMap((section) => {
      const replies = section.replies.filter(counts);
      const [full, own] = [valuesOf(replies, fullMethod), valuesOf(replies, method)];
      if (![...own.keys()].some((key) => full.has(key))) return [];
      const difference = pairedBootstrap(full, own);
      return [{ section, difference, count: difference.count }];
    }),
  );
  if (best === undefined) return { figure, wanted, ...unmeasured };
  return {
    figure,
    wanted,
    found: told(best.difference, signed),
    count: best.count,
    by: evaluatorOf(best.section),
    verdict: bound === undefined ? "reported" : scoreVerdict(best.difference, bound),
  };
}

/** How much larger a method makes the perplexity of texts. */
export function textClaim(
  sections: readonly Section[],
  figure: string,
  method: string,
  bound: number | undefined,
): Claim {
  const wanted = bound === undefined ? "" : `at most ${points(bound)} % more`;
  const loss = (result: NamedResult): number => result.loss ?? NaN;
  const best = most(
    sections.flatMap((section) => {
      const texts = section.texts.filter(({ length }) => length >= longPromptTokens);
      const [full, own] = [valuesOf(texts, fullMethod, loss), valuesOf(texts, method, loss)];
      if (![...own.keys()].some((key) => full.has(key))) return [];
      const difference = pairedBootstrap(full, own);
      return [{ section, difference, count: difference.count }];
    }),
  );
  if (best === undefined) return { figure, wanted, ...unmeasured };
  const percent = (difference: number): string => `${signed(Math.expm1(difference))} %`;
  return {
    figure,
    wanted,
    found: told(best.difference, percent),
    count: best.count,
    by: evaluatorOf(best.section),
    verdict: bound === undefined ? "reported" : verdictOf(best.difference, Math.log1p(bound)),
  };
}

/**
 * Weights of two storages on the same samples, whichever series name them: pairs are made by task, length, seed and the
 * hash of a sample's ids and answers.
 */
export function storageClaim(sections: readonly Section[], model: string): Claim {
  const figure = "Q4_0 weights against F16 ones, all tasks, full cache";
  const bound = 0.005;
  const wanted = `at most ${points(bound)} points worse`;
  const best = most(
    sections
      .filter((section) => section.model === `${model}-f16`)
      .flatMap((exact) =>
        sections
          .filter((section) => section.model === `${model}-q4_0`)
          .flatMap((rounded) => {
            const [before, after] = [sharedValues(exact), sharedValues(rounded)];
            if (![...after.keys()].some((key) => before.has(key))) return [];
            const difference = pairedBootstrap(before, after);
            return [{ exact, rounded, difference, count: difference.count }];
          }),
      ),
  );
  if (best === undefined) return { figure, wanted, ...unmeasured };
  return {
    figure,
    wanted,
    found: told(best.difference, signed),
    count: best.count,
    by: unique([evaluatorOf(best.exact), evaluatorOf(best.rounded)]).join(" and "),
    verdict: scoreVerdict(best.difference, bound),
  };
}

/** Scores under the full cache of the samples that have a hash, by what they are in every series. */
function sharedValues({ replies }: Section): Map<string, number> {
  return new Map(
    replies
      .filter(({ method, sample }) => method === fullMethod && sample !== undefined)
      .map((reply) => [contentKey(reply), reply.score]),
  );
}

/** Archive bytes within this factor of each other count as the same, in either direction. */
const sameBytesFactor = 1.3;

/** An archive ten times smaller, of the learned plans of that size the largest; and what others cost at its bytes. */
export function archiveClaims(sections: readonly Section[]): Claim[] {
  const times = ({ denseBytesPerToken, bytesPerToken }: MethodLine): number =>
    denseBytesPerToken / bytesPerToken;
  const methods = unique(sections.flatMap((section) => section.methods))
    .filter((line) => /^(leank|bytes)-/.test(line.method) && line.bytesPerToken > 0)
    .filter((line) => times(line) >= smallArchive)
    .sort((a, b) => times(a) - times(b));
  const claims = methods.map((line) => {
    const ratios = [4_096, 16_384].map(
      (tokens) => `${wholeCacheRatio(line, tokens).toFixed(1)} times at ${tokens / 1_024}K`,
    );
    const figure = `an archive ${times(line).toFixed(1)} times smaller, \`${line.method}\` (the whole cache: ${ratios.join(", ")})`;
    const claim = costClaim(sections, figure, line.method, 0.015);
    return { line, claim, count: claim.count };
  });
  const figure = "an archive 10 times smaller";
  const best = most(claims);
  if (best === undefined) return [{ figure, wanted: "at most 1.5 points worse", ...unmeasured }];
  return [best.claim, sameBytesClaim(sections, best.line)];
}

/** What every other method costs whose archive takes about as many bytes as one's. */
function sameBytesClaim(
  sections: readonly Section[],
  { method, bytesPerToken }: MethodLine,
): Claim {
  const [least, largest] = [bytesPerToken / sameBytesFactor, bytesPerToken * sameBytesFactor];
  const figure = `other methods at about its bytes, ${least.toFixed(0)} to ${largest.toFixed(0)} a token`;
  const bytes = new Map(
    sections
      .flatMap((section) => section.methods)
      .filter((line) => line.method !== method && line.method !== fullMethod)
      .filter((line) => line.bytesPerToken >= least && line.bytesPerToken <= largest)
      .sort((a, b) => a.bytesPerToken - b.bytesPerToken)
      .map((line) => [line.method, line.bytesPerToken.toFixed(0)]),
  );
  const costs = [...bytes]
    .map(([name, own]) => ({ name, own, claim: costClaim(sections, "", name, undefined) }))
    .filter(({ claim }) => claim.count > 0);
  if (costs.length === 0) return { figure, wanted: "", ...unmeasured };
  return {
    figure,
    wanted: "",
    found: costs.map(({ name, own, claim }) => `\`${name}\` (${own}) ${claim.found}`).join("; "),
    count: Math.min(...costs.map(({ claim }) => claim.count)),
    by: unique(costs.map(({ claim }) => claim.by)).join(", "),
    verdict: "reported",
  };
}
