import { describe, expect, it } from "vitest";
import { renderPage, wrap, type PageFacts } from "./page.js";
import type { Conversation, Turn } from "./converse.js";

const facts: PageFacts = {
  model: "a model",
  command: "npm run conversation",
  date: "2026-01-31",
  device: "a processor",
  file: "model.gguf",
  system: "Be brief.",
  maxTokens: 8,
};

const turn: Turn = {
  question: "Why?",
  answer: "Because.",
  finishReason: "STOP",
  promptTokens: 30,
  cachedTokens: 20,
  completionTokens: 3,
  firstMs: 120.4,
  restMs: 100,
  cacheBytes: 2 ** 20,
};

function conversation(storage: string, turns: readonly Turn[]): Conversation {
  return { storage, backend: "wasm", turns };
}

describe("the page of a conversation", () => {
  it("compares others with the first", () => {
    const other: Turn = { ...turn, answer: "Why not?", cacheBytes: 2 ** 19 };
    const page = renderPage(facts, [
      conversation("f16", [turn, turn]),
      conversation("int4", [turn, other]),
    ]);
    expect(page).toContain(
      "| f16 | 33 | 1.0 | 20.0 | 2 of 2 |\n| int4 | 33 | 0.5 | 20.0 | 1 of 2 |\n",
    );
  });

  it("has a row and a section for each turn", () => {
    const cut: Turn = { ...turn, question: "And?", finishReason: "LENGTH", completionTokens: 1 };
    const page = renderPage(facts, [conversation("f16", [turn, cut])]);
    expect(page).toContain("| 1 | 30 | 20 | 10 | 3 | ended | 120 | 20.0 | 1.0 |");
    expect(page).toContain("| 2 | 30 | 20 | 10 | 1 | cut | 120 | - | 1.0 |");
    expect(page).toContain("### 2. And?\n\n```text\nBecause.\n```\n");
  });

  it("shows an answer with a fence in it inside of a longer one", () => {
    const answer = "```js\n1\n```";
    const page = renderPage(facts, [conversation("f16", [{ ...turn, answer }])]);
    expect(page).toContain("````text\n```js\n1\n```\n````\n");
  });
});

describe("breaking lines", () => {
  it.each([
    "",
    "one",
    "  - indented  twice ",
    "a\n\nb",
    `${"word ".repeat(60)}end`,
    `${"x".repeat(150)} ${"y".repeat(150)}`,
  ])("loses nothing of %j", (text) => {
    const lines = wrap(text);
    // Breaks stand where a space or a break stood.
    expect(lines.join(" ")).toBe(text.replaceAll("\n", " "));
  });

  it("keeps lines short where there are spaces", () => {
    const lines = wrap(`${"word ".repeat(60)}end\n${"z".repeat(150)}`);
    expect(lines.map((line) => line.length)).toEqual([99, 99, 99, 3, 150]);
  });
});
