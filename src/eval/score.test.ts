import { describe, expect, it } from "vitest";
import { scoreOf } from "./score.js";

describe("scores", () => {
  it.each([
    ["all", ["12", "34"], "They are 12 and 34.", 1],
    ["all", ["12", "34"], "It is 34.", 0.5],
    ["all", ["12", "34"], "I do not know.", 0],
    ["all", ["Rome"], "rome, of course", 1],
    ["any", ["Rome", "Roma"], "In ROMA.", 1],
    ["any", ["Rome", "Roma"], "Rome or Roma", 1],
    ["any", ["Rome"], "Paris", 0],
    ["exact", ["You live in Rome."], " You live in Rome.\n", 1],
    ["exact", ["You live in Rome."], "You live in rome.", 0],
    ["exact", ["Rome"], "In Rome", 0],
  ] as const)("%s of %j in %j is %d", (kind, answers, reply, score) => {
    expect(scoreOf(kind, answers, reply)).toBe(score);
  });

  it("needs an answer", () => {
    expect(() => scoreOf("all", [], "x")).toThrow("0 answers, at least 1 needed");
  });
});
