/** The first-time user's conversation as a page, and what of it the README shows. */
import type { Turn } from "./converse.js";
import { recalls } from "./first-use-turns.js";
import { wrap } from "./page.js";

/** What the page says beside the conversation. */
export type FirstUseFacts = {
  readonly model: string;
  /** The plan that it is served under. */
  readonly plan: string;
  readonly command: string;
  /** Day, `2026-01-31`. */
  readonly date: string;
  readonly device: string;
};

/** Where the README's part begins and ends. */
export const readmeMarks = ["<!-- CONVERSATION-START -->", "<!-- CONVERSATION-END -->"] as const;

/** The first and the last turns that the README shows. */
const shownTurns = recalls.length;

function said({ question, answer }: Turn): string {
  return [...wrap(`> ${question}`), ...wrap(answer.trim())].join("\n");
}

/** The whole conversation, Markdown. */
export function renderFirstUse(facts: FirstUseFacts, turns: readonly Turn[]): string {
  const last = turns.at(-1);
  const rows = recalls.map(({ told, asked, has }) => {
    const answer = turns[asked - 1]?.answer ?? "";
    return `| ${has} | ${told} | ${asked} | ${answer.includes(has) ? "yes" : "no"} |`;
  });
  return `# A first conversation with ${facts.model}

${turns.length} turns, as they came out of the gateway that \`npm start\` runs: no answer was chosen, shortened or mended, and
lines are broken for reading only.

- Command: \`${facts.command}\`
- Date: ${facts.date}, on ${facts.device}
- Model: ${facts.model} in the gateway's own engine (WASM), under its plan \`${facts.plan}\`; temperature 0
- At the end: ${(last?.promptTokens ?? 0) + (last?.completionTokens ?? 0)} tokens, ${((last?.cacheBytes ?? 0) / 2 ** 20).toFixed(1)} MiB of cache

| fact | told in turn | asked for in turn | in the answer |
| --- | --- | --- | --- |
${rows.join("\n")}

\`\`\`text
${turns.map(said).join("\n\n")}
\`\`\`
`;
}

/** The README's part: the turns that tell, and those that ask. */
export function renderReadme(turns: readonly Turn[]): string {
  const first = turns.slice(0, shownTurns).map(said);
  const last = turns.slice(-shownTurns).map(said);
  const between = turns.length - 2 * shownTurns;
  return [
    readmeMarks[0],
    "",
    "```text",
    [...first, `   ... ${between} turns of other things ...`, ...last].join("\n\n"),
    "```",
    "",
    readmeMarks[1],
  ].join("\n");
}

/** A README with the part in its place. @throws Error if it has no place for it */
export function withConversation(readme: string, part: string): string {
  const [start, end] = readmeMarks.map((mark) => readme.indexOf(mark));
  if (start === undefined || end === undefined || start < 0 || end < start) {
    throw new Error(`README.md has no ${readmeMarks.join(" ... ")}`);
  }
  return readme.slice(0, start) + part + readme.slice(end + readmeMarks[1].length);
}
