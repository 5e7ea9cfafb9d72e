/** Evaluators beside each other: what two of them answered to the same samples under the same plans. */
import { pairedBootstrap } from "../bootstrap.js";
import { evaluatorOf, signedInterval, table } from "./tables.js";
import { contentKey, type NamedResult, type Section } from "./sections.js";

/** Replies of one evaluator, each beside another's to the same sample under the same plan. */
export interface CrossCheck {
  /** Whose replies these are: all of them have another's beside them. */
  readonly section: Section;
  /** Who answers more. */
  readonly other: Section;
  readonly pairs: readonly ReplyPair[];
}

/** Two replies to one sample. */
export interface ReplyPair {
  readonly method: string;
  readonly key: string;
  readonly own: NamedResult;
  readonly other: NamedResult;
}

/** Sections that have something to say, and those that only repeat a part of one of them on another evaluator. */
export interface SplitSections {
  readonly sections: readonly Section[];
  readonly checks: readonly CrossCheck[];
}

/** Takes out sections all of whose replies another evaluator of the same model gave, too. */
export function splitSections(all: readonly Section[]): SplitSections {
  const checks = all.flatMap((section) => {
    const covering = all
      .filter((other) => replyCount(other) > replyCount(section))
      .flatMap((other) => checkOf(section, other) ?? []);
    return covering.slice(0, 1);
  });
  const covered = new Set(checks.map(({ section }) => section));
  return { sections: all.filter((section) => !covered.has(section)), checks };
}

function replyCount({ replies, stretched, texts }: Section): number {
  return replies.length + stretched.length + texts.length;
}

/** Undefined where another evaluator lacks one of the replies. */
function checkOf(section: Section, other: Section): CrossCheck | undefined {
  if (section.modelFingerprint !== other.modelFingerprint) return undefined;
  if (section.replies.length === 0 || section.replies.length < replyCount(section)) {
    return undefined;
  }
  const theirs = new Map(other.replies.map((reply) => [pairKey(reply, other), reply]));
  const pairs: ReplyPair[] = [];
  for (const own of section.replies) {
    const key = pairKey(own, section);
    const found = theirs.get(key);
    if (own.sample === undefined || found === undefined) return undefined;
    pairs.push({ method: own.method, key, own, other: found });
  }
  return { section, other, pairs };
}

/** The sample and the plan, whatever series name them. */
function pairKey(reply: NamedResult, { methods }: Section): string {
  const line = methods.find(({ method }) => method === reply.method);
  return [contentKey(reply), reply.method, line?.planFingerprint ?? ""].join("/");
}

/** How many pairs there are, how many of them are alike, and by how much their scores differ. */
function checkCells(pairs: readonly ReplyPair[], hasWords: boolean): string[] {
  const same = pairs.filter(({ own, other }) => own.score === other.score);
  const words = pairs.filter(({ own, other }) => own.text === other.text);
  const counts = [pairs, same, ...(hasWords ? [words] : [])];
  const difference = pairedBootstrap(
    new Map(pairs.map(({ key, other }) => [key, other.score])),
    new Map(pairs.map(({ key, own }) => [key, own.score])),
  );
  return [...counts.map(({ length }) => String(length)), signedInterval(difference)];
}

/** A table of a check, a line a method. */
export function renderCheck({ section, other, pairs }: CrossCheck): string[] {
  const [own, their] = [evaluatorOf(section), evaluatorOf(other)];
  const hasWords = pairs.every((pair) => pair.own.text !== "" && pair.other.text !== "");
  const names = section.methods
    .map(({ method }) => method)
    .filter((name) => pairs.some(({ method }) => method === name));
  const rows = [
    ...names.map((name) => [
      name,
      ...checkCells(
        pairs.filter(({ method }) => method === name),
        hasWords,
      ),
    ]),
    ["all", ...checkCells(pairs, hasWords)],
  ];
  return [
    `## ${section.model}: ${own} beside ${their}`,
    `The same samples under the same plans, all of them counted above with the replies of ${their}: this table only shows how alike the two answer.`,
    table(
      [
        "method",
        "replies of both",
        "same score",
        ...(hasWords ? ["same words"] : []),
        `${own} against ${their}`,
      ],
      rows,
    ),
  ];
}
