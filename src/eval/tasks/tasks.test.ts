import { describe, expect, it } from "vitest";
import { depthSteps } from "../haystack.js";
import { scoreOf } from "../score.js";
import { nouns } from "../words.js";
import { commonWords, occurrences } from "./common-words.js";
import { fillMark, frequentWords, rankCounts } from "./frequent-words.js";
import { tasks, taskOf } from "./index.js";
import { hops } from "./tracking.js";

const seeds = Array.from({ length: 12 }, (_, index) => `s${index}`);
const size = 200;

function draft(name: string, seed: string, units = size): { text: string; answers: string[] } {
  const { text, answers } = taskOf(name).draft(seed, units);
  return { text, answers: [...answers] };
}

/** Key and value of every needle, in the order of the text. */
function needles(text: string): { key: string; value: string; at: number }[] {
  const lines = text.matchAll(
    /^One of the special magic (?:number|uuid)s for (\S+) is: (\S+)\.$/gm,
  );
  return [...lines].map(({ 1: key = "", 2: value = "", index }) => ({ key, value, at: index }));
}

function question(text: string): string {
  return text.split("\n").at(-1) ?? "";
}

const uuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

describe("every task", () => {
  it("has a name of its own", () => {
    expect(new Set(tasks.map(({ name }) => name)).size).toBe(13);
    expect(() => taskOf("singel-1")).toThrow(/no task singel-1: single-1, /);
  });

  it.each(tasks.map((task) => [task.name, task] as const))(
    "%s: is the same for the same seed, another for another, and has its answers in the text",
    (_, task) => {
      for (const seed of seeds) {
        const made = task.draft(seed, size);
        expect(task.draft(seed, size)).toEqual(made);
        expect(made.answers.length).toBeGreaterThan(0);
        expect(new Set(made.answers).size).toBe(made.answers.length);
        // Above the question: what it says gives nothing away.
        const body = made.text.split("\n").slice(0, -1).join("\n");
        for (const answer of made.answers) expect(body).toContain(answer);
        expect(scoreOf(task.score, made.answers, question(made.text))).toBe(0);
        expect(scoreOf(task.score, made.answers, made.answers.join(", "))).toBe(1);
      }
      expect(new Set(seeds.map((seed) => task.draft(seed, size).text)).size).toBe(seeds.length);
      // Two people may be born in one city.
      const answers = new Set(seeds.map((seed) => task.draft(seed, size).answers.join()));
      expect(answers.size).toBeGreaterThan(seeds.length / 2);
    },
  );

  it.each(tasks.map((task) => [task.name, task] as const))(
    "%s: a larger size asks the same of a longer text",
    (_, task) => {
      const short = task.draft("s", task.sizeMin);
      const long = task.draft("s", size);
      expect(long.text.length).toBeGreaterThan(short.text.length);
      expect(question(long.text)).toBe(question(short.text));
      expect(long.answers).toEqual(short.answers);
    },
  );
});

describe("needles", () => {
  it.each([
    ["single-1", 1, 1, /^\w+-\w+$/, /^\d{7}$/],
    ["single-2", 1, 1, /^\w+-\w+$/, /^\d{7}$/],
    ["single-3", 1, 1, /^\w+-\w+$/, uuid],
    ["multi-key-1", 4, 1, /^\w+-\w+$/, /^\d{7}$/],
    ["multi-key-2", size + 1, 1, /^\w+-\w+$/, /^\d{7}$/],
    ["multi-key-3", size + 1, 1, uuid, uuid],
    ["multi-value", 4, 4, /^\w+-\w+$/, /^\d{7}$/],
    ["multi-query", 4, 4, /^\w+-\w+$/, /^\d{7}$/],
  ])("%s: %d needles, %d answers", (name, count, answers, key, value) => {
    for (const seed of seeds) {
      const made = draft(name, seed);
      const found = needles(made.text);
      expect(found).toHaveLength(count);
      for (const one of found) {
        expect(one.key).toMatch(key);
        expect(one.value).toMatch(value);
      }
      expect(new Set(found.map((one) => one.value)).size).toBe(count);
      expect(new Set(found.map((one) => one.key)).size).toBe(name === "multi-value" ? 1 : count);
      expect(made.answers).toHaveLength(answers);
      const asked = found.filter((one) => question(made.text).includes(one.key));
      expect(asked.map((one) => one.value).sort()).toEqual([...made.answers].sort());
    }
  });

  it("lie at all depths", () => {
    for (const name of ["single-1", "single-2", "multi-key-1", "multi-key-2"]) {
      const fifths = [0, 0, 0, 0, 0];
      const many = 300;
      for (let seed = 0; seed < many; seed++) {
        const { text: whole, answers } = draft(name, String(seed), 60);
        const text = whole.split("\n").slice(1, -1).join("\n");
        const fifth = Math.min(4, Math.floor((5 * text.indexOf(answers[0] ?? "?")) / text.length));
        fifths[fifth] = (fifths[fifth] ?? 0) + 1;
      }
      for (const count of fifths) expect(count).toBeGreaterThan(many / 10);
    }
  });

  it("hide four needles at four of forty depths", () => {
    const { text } = draft("multi-key-1", "s", depthSteps * 10);
    const lines = text.split("\n").slice(1, -1);
    const places = lines.flatMap((line, index) => (line.includes("magic") ? [index] : []));
    // Different depths: sentences lie between all of them.
    expect(
      places.every((place, index) => index === 0 || place > (places[index - 1] ?? 0) + 1),
    ).toBe(true);
  });

  it("have noise around single-1 and essays around the others", () => {
    expect(draft("single-1", "s").text.match(/The field is wide\./g)).toHaveLength(size / 5);
    const words = new Set(draft("single-2", "s").text.split(/[^a-z]+/));
    expect(nouns.filter((noun) => words.has(noun)).length).toBeGreaterThan(100);
  });
});

describe("tracking", () => {
  it("hands one value on, in order, from name to name", () => {
    for (const seed of seeds) {
      const { text, answers } = draft("tracking", seed);
      const steps = [...text.matchAll(/^VAR ([A-Z]{5}) = (?:VAR ([A-Z]{5})|(\d{5}))$/gm)];
      expect(steps).toHaveLength(hops + 1);
      expect(steps.map(({ 1: name }) => name)).toEqual(answers);
      expect(steps.map(({ 2: from }) => from)).toEqual([undefined, ...answers.slice(0, -1)]);
      expect(question(text)).toContain(` ${steps[0]?.[3] ?? "?"} `);
    }
  });
});

describe("common words", () => {
  function listed(seed: string, units: number): Map<string, number> {
    const counts = new Map<string, number>();
    const { text } = draft("common-words", seed, units);
    const words = [...text.matchAll(/\d+\. (\w+)/g)].map(({ 1: word = "" }) => word);
    expect(words).toHaveLength(units);
    for (const word of words) counts.set(word, (counts.get(word) ?? 0) + 1);
    return counts;
  }

  it.each([40, 200, 599, 600, 9_000])("occur more often than all others among %d", (units) => {
    const { often, rare } = occurrences(units);
    const counts = listed("s", units);
    const { answers } = draft("common-words", "s", units);
    expect(answers).toHaveLength(commonWords);
    for (const answer of answers) {
      expect(counts.get(answer)).toBe(often);
      // Replies are searched for answers, so none is part of another word.
      expect([...counts.keys()].filter((word) => word.includes(answer))).toEqual([answer]);
      counts.delete(answer);
    }
    expect(Math.max(...counts.values())).toBeLessThanOrEqual(rare);
    expect(rare).toBeLessThan(often);
  });

  it("occur 30 and 3 times in long lists, as the paper says", () => {
    expect(occurrences(600)).toEqual({ often: 30, rare: 3 });
    expect(occurrences(9_000)).toEqual({ often: 30, rare: 3 });
  });
});

describe("frequent words", () => {
  it("follow a zeta distribution with exponent 2", () => {
    const counts = rankCounts(6_000);
    const all = counts.reduce((sum, count) => sum + count, 0);
    for (const rank of [1, 2, 3, 4, 5]) {
      expect((counts[rank - 1] ?? 0) / 6_000).toBeCloseTo(6 / Math.PI ** 2 / rank ** 2, 3);
    }
    expect(all).toBeGreaterThan(5_800);
    expect(all).toBeLessThanOrEqual(6_000);
  });

  it.each([8, 30, 64, 500])("has a clear first three among %d", (units) => {
    const { text, answers } = draft("frequent-words", "s", units);
    const counts = new Map<string, number>();
    for (const word of (text.split("\n")[1] ?? "").split(" ")) {
      counts.set(word, (counts.get(word) ?? 0) + 1);
    }
    const ranked = [...counts].sort((a, b) => b[1] - a[1]);
    expect(ranked[0]?.[0]).toBe(fillMark);
    expect(ranked.slice(1, 1 + frequentWords).map(([word]) => word)).toEqual(answers);
    expect(ranked[3]?.[1]).toBeGreaterThan(ranked[4]?.[1] ?? 0);
    for (const answer of answers) expect(answer).toMatch(/^[a-z]{6}$/);
  });
});

describe("questions", () => {
  interface Person {
    readonly place: string;
    readonly friend: string;
  }

  function people(text: string): Map<string, Person> {
    const lines = text.matchAll(
      /^(\w+ \w+) was born in (\w+) in \d{4}\. .* The best friend of \1 is (\w+ \w+)\.$/gm,
    );
    return new Map(
      [...lines].map(({ 1: name = "", 2: place = "", 3: friend = "" }) => [
        name,
        { place, friend },
      ]),
    );
  }

  it("are answered by one paragraph, and by two", () => {
    for (const seed of seeds) {
      const direct = draft("questions-1", seed);
      const indirect = draft("questions-2", seed);
      const [, name = ""] = /^Where was (.*) born\?$/.exec(question(direct.text)) ?? [];
      expect(people(direct.text).size).toBe(size + 2);
      expect(people(direct.text).get(name)?.place).toBe(direct.answers[0]);
      const [, of = ""] =
        /^Where was the best friend of (.*) born\?$/.exec(question(indirect.text)) ?? [];
      const all = people(indirect.text);
      const asked = all.get(of);
      expect(all.get(asked?.friend ?? "")?.place).toBe(indirect.answers[0]);
      expect(asked?.place).not.toBe(indirect.answers[0]);
    }
  });

  it("names everybody's friend among the people of the text", () => {
    const all = people(draft("questions-2", "s").text);
    for (const [name, { friend }] of all) {
      expect(friend).not.toBe(name);
      expect(all.has(friend)).toBe(true);
    }
  });
});
