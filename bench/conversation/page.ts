/** The conversation as a page of the documentation, word for word. */
import type { Conversation, Turn } from "./converse.js";

/** Where the page breaks lines: answers come as paragraphs of any length. */
const columns = 100;

/** What the page says beside the conversation. */
export type PageFacts = {
  readonly title: string;
  readonly command: string;
  /** Day, `2026-01-31`. */
  readonly date: string;
  /** Processor, cores, runtime. */
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

function row(turn: Turn, index: number): string {
  const rate = (1_000 * (turn.completionTokens - 1)) / turn.restMs;
  return [
    index + 1,
    turn.promptTokens,
    turn.cachedTokens,
    turn.promptTokens - turn.cachedTokens,
    turn.completionTokens,
    turn.finishReason === "STOP" ? "ended" : "cut",
    turn.firstMs.toFixed(0),
    turn.completionTokens > 1 ? rate.toFixed(1) : "-",
    (turn.cacheBytes / 2 ** 20).toFixed(1),
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

/** The page, Markdown. */
export function renderPage(facts: PageFacts, { model, backend, turns }: Conversation): string {
  const spoken = turns.map((turn, index) => {
    const fence = fenceOf(turn.answer);
    return `## ${index + 1}. ${turn.question}\n\n${fence}text\n${wrap(turn.answer).join("\n")}\n${fence}\n`;
  });
  return `# ${facts.title}

Ten turns through the gateway, as they came out: no answer was chosen, shortened or mended. \`bench/conversation/\` asks
and writes this page; lines are broken for reading, nothing else is changed. A model of this size gets facts wrong and
contradicts itself; what is shown here is that the conversation holds together over its turns.

- Command: \`${facts.command}\`
- Date: ${facts.date}, on ${facts.device}
- Model: ${model}, ${facts.file}; backend ${backend}, one thread, \`leanedge worker\` behind \`leanedge dev\`
- System prompt: "${facts.system}" Temperature 0, at most ${facts.maxTokens} tokens an answer

Every turn after the first finds all earlier tokens in the worker's cache and computes only what is new: the end of the
last answer, the question, and the template around them. Times are those of the client's clock.

| turn | prompt tokens | cached | computed | answer tokens | answer | first text, ms | tokens/s | cache, MiB |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
${turns.map((turn, index) => `| ${row(turn, index)} |`).join("\n")}

${spoken.join("\n")}`;
}
