/** The conversation as a page of the documentation, word for word. */
import type { Conversation, Turn } from "./converse.js";

/** Where the page breaks lines: answers come as paragraphs of any length. */
const columns = 100;

/** What the page says beside the conversation. */
export type PageFacts = {
  readonly model: string;
  readonly command: string;
  /** Day, `2026-01-31`. */
  readonly date: string;
  /** Processor, cores, runtime, and what else it had to do. */
  readonly device: string;
  readonly file: string;
  readonly system: string;
  readonly maxTokens: number;
};

/** Breaks a text between words; what it already breaks stays. */
export function wrap(text: string): string[] {
  return text.split("\n").flatMap((line) => {
    const [first = "", ...words] = line.split(" ");
    const lines: string[] = [];
    let current = first;
    for (const word of words) {
      if (current.trim() !== "" && `${current} ${word}`.length > columns) {
        lines.push(current);
        current = word;
      } else {
        current = `${current} ${word}`;
      }
    }
    return [...lines, current];
  });
}

/** Tokens a second behind the first. */
function rateOf(turns: readonly Turn[]): string {
  const tokens = turns.reduce((sum, turn) => sum + turn.completionTokens - 1, 0);
  const ms = turns.reduce((sum, turn) => sum + turn.restMs, 0);
  return tokens > 0 && ms > 0 ? ((1_000 * tokens) / ms).toFixed(1) : "-";
}

function mebibytes(bytes: number): string {
  return (bytes / 2 ** 20).toFixed(1);
}

function row(turn: Turn, index: number): string {
  return [
    index + 1,
    turn.promptTokens,
    turn.cachedTokens,
    turn.promptTokens - turn.cachedTokens,
    turn.completionTokens,
    turn.finishReason === "STOP" ? "ended" : "cut",
    turn.firstMs.toFixed(0),
    rateOf([turn]),
    mebibytes(turn.cacheBytes),
  ].join(" | ");
}

/** A fence that is longer than any in the text. */
function fenceOf(text: string): string {
  const longest = (text.match(/`{3,}/g) ?? []).reduce(
    (most, each) => Math.max(most, each.length),
    2,
  );
  return "`".repeat(longest + 1);
}

/** The same conversation under other plans, in one table. */
function comparison(first: Conversation, others: readonly Conversation[]): string {
  if (others.length === 0) return "";
  const rows = [first, ...others].map(({ storage, turns }) => {
    const same = turns.filter((turn, index) => turn.answer === first.turns[index]?.answer).length;
    const last = turns.at(-1);
    return `| ${[
      storage,
      (last?.promptTokens ?? 0) + (last?.completionTokens ?? 0),
      mebibytes(last?.cacheBytes ?? 0),
      rateOf(turns),
      `${same} of ${turns.length}`,
    ].join(" | ")} |`;
  });
  return `
## The same questions under other plans

A storage keeps every channel, and archive pages in these bits; a name is that of a plan that ships. Sink and recent stay in f16. At temperature 0 one word
that turns out otherwise changes what follows, in this answer and in later ones.

| plan | tokens at the end | cache at the end, MiB | tokens/s, all turns | answers as above, word for word |
| --- | --- | --- | --- | --- |
${rows.join("\n")}
`;
}

/** The page, Markdown. The first conversation is printed, the others are compared with it. */
export function renderPage(facts: PageFacts, conversations: readonly Conversation[]): string {
  const [first, ...others] = conversations;
  if (first === undefined) throw new Error("there is no conversation to print");
  const { turns } = first;
  const spoken = turns.map((turn, index) => {
    const fence = fenceOf(turn.answer);
    return `### ${index + 1}. ${turn.question}\n\n${fence}text\n${wrap(turn.answer).join("\n")}\n${fence}\n`;
  });
  return `# A conversation with ${facts.model}

${turns.length} turns through the gateway, as they came out: no answer was chosen, shortened or mended.
\`bench/conversation/\` asks and writes this page; lines are broken for reading, nothing else is changed. A model of this
size gets facts wrong, repeats itself and contradicts itself, the more so at temperature 0; what is shown here is that
a conversation holds together over its turns.

- Command: \`${facts.command}\`
- Date: ${facts.date}, on ${facts.device}
- Model: ${facts.file}; plan \`${first.storage}\`, backend ${first.backend}, one thread, \`leanedge worker\` behind \`leanedge dev\`
- System prompt: "${facts.system}" Temperature 0, at most ${facts.maxTokens} tokens an answer

Every turn after the first finds all earlier tokens in the worker's cache and computes only what is new: the end of the
last answer, the question, and the template around them. Times are those of the client's clock; a longer context costs
time for every token.

| turn | prompt tokens | cached | computed | answer tokens | answer | first text, ms | tokens/s | cache, MiB |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
${turns.map((turn, index) => `| ${row(turn, index)} |`).join("\n")}

## The conversation

${spoken.join("\n")}${comparison(first, others)}`;
}
