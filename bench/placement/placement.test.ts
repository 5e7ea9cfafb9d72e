/** The simulation in its tiny mode: its figures mean little, but what must hold of any day does. */
import { expect, it } from "vitest";
import { EventQueue } from "./event-queue.js";
import { renderImages, renderTable, spread } from "./page.js";
import { PoolRoute } from "./routes.js";
import { ownName, quietName, runDay } from "./run-day.js";
import { simulate } from "./simulate.js";
import { seededRandom, tinyDay } from "./workload.js";

const outcomes = runDay(tinyDay, () => undefined);

function outcomeOf(wanted: string) {
  const outcome = outcomes.find(({ name }) => name === wanted);
  if (outcome === undefined) throw new Error(`no outcome ${wanted}`);
  return outcome;
}

it("finds every log where nothing restarts, and nearly every one where workers drain", () => {
  const quiet = outcomeOf(quietName);
  expect(quiet.continuing).toBeGreaterThan(1_000);
  expect(quiet.hits).toBe(quiet.continuing);
  // What moves for room takes its cache along.
  expect(quiet.moves).toBeGreaterThan(0);
  const own = outcomeOf(ownName);
  expect(own.hits / own.continuing).toBeGreaterThan(0.98);
  expect(own.moves).toBeGreaterThan(0);
  expect(own.cut).toBe(0);
});

it("spreads pages more evenly than those that bind and do not move", () => {
  const median = (name: string) => spread(outcomeOf(name).samples, ({ pages }) => pages).median;
  expect(median(quietName)).toBeLessThan(1.1);
  for (const other of ["consistent hashing", "least loaded, bound"]) {
    expect(median(ownName)).toBeLessThan(median(other));
  }
});

it("gives every way of routing the same sessions, of which only those that bind find their caches", () => {
  expect(new Set(outcomes.map(({ sessions }) => sessions)).size).toBe(1);
  const hits = (name: string) => outcomeOf(name).hits / outcomeOf(name).continuing;
  expect(hits("consistent hashing")).toBeGreaterThan(0.9);
  expect(hits("round robin")).toBeLessThan(0.5);
  expect(hits("least loaded")).toBeLessThan(0.5);
});

it("says the same twice", () => {
  const again = simulate(tinyDay, new PoolRoute(seededRandom(tinyDay.seed)));
  expect(again).toEqual(outcomeOf(ownName));
});

it("renders a row and a line of each", () => {
  const table = renderTable(outcomes, tinyDay);
  expect(table.match(/^\| (leanedge|consistent|least|round)/gm)).toHaveLength(outcomes.length);
  const images = renderImages(outcomes, tinyDay);
  expect(images.get("placement-day.svg")?.match(/<polyline /g)).toHaveLength(outcomes.length);
  expect([...images.values()].join("")).not.toMatch(/NaN|undefined|Infinity/);
});

it("takes percentiles by nearest rank", () => {
  const samples = Array.from({ length: 200 }, (_, at) => ({
    atMs: at,
    pages: 200 - at,
    sequences: 1,
    running: 1,
    sequencesTotal: 1,
    usedShare: 0,
  }));
  expect(spread(samples, ({ pages }) => pages)).toEqual({ median: 100, p99: 198, max: 200 });
});

it("orders events by time, and those of one time as they came", () => {
  const queue = new EventQueue<string>();
  const times = [5, 1, 3, 1, 4, 3, 0];
  for (const [order, atMs] of times.entries()) queue.push(atMs, `${atMs}.${order}`);
  const popped = times.map(() => queue.pop());
  expect(popped).toEqual(["0.6", "1.1", "1.3", "3.2", "3.5", "4.4", "5.0"]);
  expect([queue.pop(), queue.nextMs]).toEqual([undefined, Infinity]);
});
