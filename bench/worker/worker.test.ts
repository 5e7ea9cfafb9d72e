/** The benchmark in its tiny mode: its figures mean nothing, but it runs, and what is no speed is right. */
import { expect, it } from "vitest";
import { isMet } from "../support/figures.js";
import { runWorker } from "./index.js";

it("measures a worker against its engine", { timeout: 240_000 }, async () => {
  const section = await runWorker({ rounds: 1, full: false, tiny: true, log: () => undefined });
  expect(section.markdown).toMatch(/^\| worker, over Connect \| \d/m);
  const [speed, gap, ...counted] = section.figures;
  expect(speed?.measured).toBeGreaterThan(0);
  expect(gap?.measured).toBeGreaterThan(0);
  for (const figure of counted)
    expect([figure.name, figure.measured, isMet(figure)]).toEqual([
      figure.name,
      figure.measured,
      true,
    ]);
});
