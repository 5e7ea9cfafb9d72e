import { describe, expect, it } from "vitest";
import { sessionDistances, sessionDraft, tellTurnsMax } from "./session.js";

const seeds = Array.from({ length: 40 }, (_, index) => String(index));

describe("session test", () => {
  it.each(sessionDistances)("asks %d turns after it told", (distance) => {
    for (const seed of seeds) {
      const { turns, toldIn, question, answers } = sessionDraft(seed, distance);
      const [answer = "?"] = answers;
      // The question is the turn behind the last one.
      expect(turns.length + 1 - toldIn).toBe(distance);
      expect(turns[toldIn - 1]?.user).toContain(answer);
      expect(question.endsWith("?")).toBe(true);
      expect(question.toLowerCase()).not.toContain(answer.toLowerCase());
      // Nobody else says it, so that only the fact can be its source.
      const naming = turns
        .flatMap(({ user, assistant }) => [user, assistant])
        .filter((text) => text.toLowerCase().includes(answer.toLowerCase()));
      expect(naming).toHaveLength(1);
    }
  });

  it("tells in each of the first turns", () => {
    const told = new Set(seeds.map((seed) => sessionDraft(seed, 5).toldIn));
    expect([...told].sort()).toEqual(Array.from({ length: tellTurnsMax }, (_, at) => at + 1));
  });

  it("is the same for the same seed, and another for another", () => {
    expect(sessionDraft("1", 20)).toEqual(sessionDraft("1", 20));
    expect(new Set(seeds.map((seed) => JSON.stringify(sessionDraft(seed, 20)))).size).toBe(
      seeds.length,
    );
  });

  it("has other facts, questions and small talk in between", () => {
    const { turns } = sessionDraft("2", 60);
    const replies = turns.map(({ assistant }) => assistant);
    expect(
      replies.filter((reply) => /^(Noted|I see|Understood|Good)/.test(reply)).length,
    ).toBeGreaterThan(5);
    expect(
      replies.filter((reply) => reply.startsWith("Your ") || / lives in /.test(reply)).length,
    ).toBeGreaterThan(1);
    expect(turns.filter(({ user }) => user.endsWith("?")).length).toBeGreaterThan(5);
  });

  it.each([0, 61, 1.5])("refuses a distance of %d turns", (distance) => {
    expect(() => sessionDraft("1", distance)).toThrow(
      `distance of ${distance} turns, 1 to 60 expected`,
    );
  });
});
