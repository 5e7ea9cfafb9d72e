import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import * as words from "./words.js";

it("are the words of the training package", () => {
  const source = readFileSync(
    new URL("../../train/leanedge_train/words.py", import.meta.url),
    "utf8",
  );
  const theirs = new Map(
    [...source.matchAll(/^([A-Z_]+) = tuple\(\s*"+([^"]*)"/gm)].map(
      ({ 1: name = "", 2: list = "" }) => [
        name.toLowerCase().replace(/_(.)/g, (_, letter: string) => letter.toUpperCase()),
        list.trim().split(/\s+/),
      ],
    ),
  );
  expect(Object.keys(words)).toHaveLength(14);
  for (const [name, list] of Object.entries(words)) {
    expect([name, list]).toEqual([name, theirs.get(name)]);
    expect(new Set(list).size).toBe(list.length);
  }
});
