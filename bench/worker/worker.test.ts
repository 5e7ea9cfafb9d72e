/** The benchmark in its tiny mode: its figures mean nothing, but it runs, and what is no speed is right. */
import { expect, it } from "vitest";
import { runWorker } from "./index.js";

it("measures a worker against its engine", { timeout: 240_000 }, async () => {
  const section = await runWorker({ rounds: 1, full: false, tiny: true, log: () => undefined });
  expect(section.markdown).toMatch(/^\| worker, over Connect \| \d/m);
  const [speed, gap, firstToken, cancel, cached] = section.figures;
  expect(speed?.measured).toBeGreaterThan(0);
  expect(gap?.measured).toBeGreaterThan(0);
  // Steps are short here, and the tests share the machine: each time that the client waits for it, some go by.
  expect(firstToken?.measured).toBeLessThan(40);
  expect(cancel?.measured).toBeLessThan(40);
  expect(cached?.measured).toBe(1);
});
