/**
 * The two question-answering tasks (RULER, section 3.4): RULER hides a paragraph of a data set among
 * others; here the paragraphs are generated facts about people. The first task asks about one
 * person, the second about the friend of one: two paragraphs have to be put together.
 */
import { depths } from "../haystack.js";
import { SeededRandom } from "../random.js";
import { firstNames, hobbies, jobs, places, surnames } from "../words.js";
import type { Draft, Task } from "./task.js";

interface Person {
  readonly name: string;
  readonly place: string;
  readonly friend: string;
}

function paragraph(random: SeededRandom, { name, place, friend }: Person): string {
  const job = random.pick(jobs);
  const article = /^[aeiou]/.test(job) ? "an" : "a";
  return (
    `${name} was born in ${place} in ${1900 + random.below(106)}. ${name} works as ${article} ${job}. ` +
    `${name} likes ${random.pick(hobbies)}. The best friend of ${name} is ${friend}.`
  );
}

function draft(hops: 1 | 2, seed: string, size: number): Draft {
  const random = new SeededRandom(`questions-${hops}/${seed}`);
  const filler = new SeededRandom(`questions-${hops}/${seed}/filler`);
  const draw = (): string => `${filler.pick(firstNames)} ${filler.pick(surnames)}`;
  const [asked = "", friend = "", ...others] = filler.different(size + 2, draw);
  const [place = "", friendPlace = ""] = random.sample(places, 2);
  const [friendOfFriend = asked] = others;
  const [first = 0, second = 0] = depths(random, 2);
  // Distractors are nobody's second hop: the friends of the two people are the two named above.
  const people: Person[] = others.map((name, index) => ({
    name,
    place: filler.pick(places),
    friend: others[(index + 1) % others.length] ?? friend,
  }));
  people.splice(Math.round(first * people.length), 0, { name: asked, place, friend });
  people.splice(Math.round(second * people.length), 0, {
    name: friend,
    place: friendPlace,
    friend: friendOfFriend,
  });
  const lines = people.map((person) => paragraph(filler, person)).join("\n");
  const question =
    hops === 1 ? `Where was ${asked} born?` : `Where was the best friend of ${asked} born?`;
  return {
    text: `Answer the questions from these facts.\n${lines}\n${question}`,
    answers: [hops === 1 ? place : friendPlace],
  };
}

/** Questions over one paragraph, and over two. */
export const questionTasks: readonly Task[] = ([1, 2] as const).map((hops) => ({
  name: `questions-${hops}`,
  score: "any",
  maxTokens: 48,
  sizeMin: 3,
  draft: (seed, size) => draft(hops, seed, size),
}));
