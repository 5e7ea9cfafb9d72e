import { existsSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { packagePath } from "../../src/cli/repository.js";
import type { Turn } from "./converse.js";
import { readmeMarks, renderFirstUse, renderReadme, withConversation } from "./first-use-page.js";
import { firstUse, recalls } from "./first-use-turns.js";

const facts = {
  model: "m",
  plan: "p",
  command: "a command",
  date: "2026-01-31",
  device: "a machine",
};

function answered(answer: (turn: number) => string): Turn[] {
  return firstUse.map((question, index) => ({
    ...{ question, answer: answer(index + 1), finishReason: "STOP" },
    ...{ promptTokens: 900, cachedTokens: 880, completionTokens: 12 },
    ...{ firstMs: 100, restMs: 100, cacheBytes: 3 * 2 ** 20 },
  }));
}

describe("the conversation of a first-time user", () => {
  it("asks for each of three facts twenty turns later, and the last turns are the asking ones", () => {
    expect(recalls.map(({ told, asked }) => asked - told)).toEqual([20, 20, 20]);
    expect(recalls.map(({ asked }) => asked)).toEqual([21, 22, 23]);
    expect(firstUse).toHaveLength(23);
    for (const { told, has } of recalls) expect(firstUse[told - 1]).toContain(has);
  });

  it("says which facts came back, and which did not", () => {
    const right = answered(
      (turn) => `It is ${recalls.find(({ asked }) => asked === turn)?.has ?? "so"}.`,
    );
    expect(renderFirstUse(facts, right).match(/\| yes \|/g)).toHaveLength(3);
    const page = renderFirstUse(
      facts,
      answered(() => "I do not know."),
    );
    expect(page.match(/\| no \|/g)).toHaveLength(3);
    expect(page).toContain("912 tokens, 3.0 MiB");
  });

  it("is put between the README's marks, again and again", () => {
    const turns = answered(() => "Yes.");
    const readme = `# Title\n\n${readmeMarks.join("\n")}\n\nMore.\n`;
    const once = withConversation(readme, renderReadme(turns));
    expect(once).toContain(`> ${firstUse[0]}\nYes.`);
    expect(once).toContain("... 17 turns of other things ...");
    expect(withConversation(once, renderReadme(turns))).toBe(once);
    expect(() => withConversation("# Title", "")).toThrow("README.md has no <!-- CONV");
  });
});

const page = packagePath("docs/conversations/first-use.md");

describe("the README's conversation", () => {
  it("has the words of the page", () => {
    expect(existsSync(page)).toBe(true);
    const readme = readFileSync(packagePath("README.md"), "utf8");
    const [, part = ""] = /CONVERSATION-START -->\n\n```text\n([^`]+)```/.exec(readme) ?? [];
    const shown = part
      .trim()
      .split("\n\n")
      .filter((turn) => !turn.startsWith("   ..."));
    expect(shown).toHaveLength(2 * recalls.length);
    const text = readFileSync(page, "utf8");
    for (const turn of shown) expect(text).toContain(turn);
  });
});
