/** The conversation in its tiny mode: the embedded model, which asks for no download, and two short turns. */
import { expect, it } from "vitest";
import { modelPath } from "../support/models.js";
import { holdConversations } from "./hold.js";
import { renderPage } from "./page.js";

it("holds a conversation under two plans, and compares them", { timeout: 240_000 }, async () => {
  const said: string[] = [];
  const conversations = await holdConversations({
    modelPath: modelPath("embedded"),
    storages: ["f16", "int4"],
    system: "Answer in a few sentences.",
    questions: ["What is the capital of France?", "And which river runs through it?"],
    maxTokens: 12,
    log: (line) => said.push(line),
  });
  expect(said).toHaveLength(4);
  const [first, second] = conversations;
  expect(conversations.map(({ storage, backend }) => [storage, backend])).toEqual([
    ["f16", "wasm"],
    ["int4", "wasm"],
  ]);
  for (const turn of first?.turns ?? []) {
    expect(turn.answer).not.toBe("");
    expect(turn.completionTokens).toBeGreaterThan(0);
    expect(turn.completionTokens).toBeLessThanOrEqual(12);
    expect(turn.firstMs).toBeGreaterThan(0);
    expect(turn.cacheBytes).toBeGreaterThan(0);
  }
  // Short contexts have no archive: both plans hold the same.
  expect(second?.turns.map(({ answer }) => answer)).toEqual(
    first?.turns.map(({ answer }) => answer),
  );
  const [opening, next] = first?.turns ?? [];
  // An end token, or the last one of an answer that was cut, was drawn and not computed.
  const known = (opening?.promptTokens ?? 0) + (opening?.completionTokens ?? 0);
  expect(next?.cachedTokens).toBeGreaterThanOrEqual(known - 1);
  const page = renderPage(
    {
      ...{ model: "embedded", command: "a test", date: "2026-01-31", device: "a machine" },
      ...{ file: "embedded.gguf", system: "Answer in a few sentences.", maxTokens: 12 },
    },
    conversations,
  );
  expect(page).toContain("### 2. And which river runs through it?");
});
